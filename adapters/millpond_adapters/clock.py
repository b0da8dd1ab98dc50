"""The clock that every process of ours goes by."""

from __future__ import annotations

import time


class SystemClock:
    """See ``ports.Clock``."""

    def now(self) -> float:
        return time.time()

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
