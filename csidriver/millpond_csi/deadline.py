"""How long a call may take."""

from __future__ import annotations

import time
from dataclasses import dataclass

DEFAULT_SECONDS = 120.0
"""For a caller that sets no deadline."""

_MARGIN_SECONDS = 1.0


@dataclass(frozen=True)
class Deadline:
    """A point of CLOCK_MONOTONIC, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """A little before the caller's own, so that it gets our sentence and not a bare DEADLINE_EXCEEDED."""
        if seconds is None:
            return cls(time.monotonic() + DEFAULT_SECONDS)
        return cls(time.monotonic() + max(0.0, seconds - min(_MARGIN_SECONDS, seconds / 10)))

    def remaining(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self.at - time.monotonic())
