"""An event loop whose time passes only when nothing is left to do, and then at once.

A test on it takes the same steps in the same order on an idle machine and on a busy one: what would wait for a timer
is reached by moving the loop's clock, never by the machine's. A thread is not waited for: code that hands work to
threads or talks to sockets belongs on the ordinary loop.
"""

from __future__ import annotations

import asyncio
import selectors


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Where ``asyncio.sleep(s)`` moves ``time()`` by s seconds and takes none."""

    def __init__(self) -> None:
        self._seconds = 0.0
        super().__init__(_Skipping(self))

    def time(self) -> float:
        return self._seconds

    def skip(self, seconds: float) -> None:
        self._seconds += seconds


class _Skipping(selectors.DefaultSelector):
    """Asked to wait for a time, it looks whether something is there, and skips the time if not."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self._loop.skip(timeout)
        return events
