"""Level-triggered work: each key has its own worker, so that one that is stuck never keeps another waiting.

A key that is asked for again while it is being worked on is worked on once more afterwards. A failure is tried again
after a delay that doubles.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from millpond_core.errors import MillpondError

log = logging.getLogger(__name__)
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 10.0


class Work:
    """Runs ``handle(key)`` for every key asked for; it returns the seconds after which to look again, or None."""

    def __init__(self, name: str, handle: Callable[[str], Awaitable[float | None]]) -> None:
        self._name, self._handle = name, handle
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, int] = {}
        self._stopped = False

    def ask(self, key: str) -> None:
        """Have ``key`` worked on soon."""
        if self._stopped:
            return
        self._wanted.add(key)
        task = self._tasks.get(key)
        if task is None or task.done():
            self._tasks[key] = asyncio.get_running_loop().create_task(self._run(key), name=f"{self._name} {key}")

    def later(self, key: str, seconds: float) -> None:
        """Have ``key`` worked on in ``seconds``; the earliest of several counts."""
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None and not known.cancelled() and known.when() <= loop.time() + seconds:
            return
        if known is not None:
            known.cancel()
        self._timers[key] = loop.call_later(seconds, self._ring, key)

    def _ring(self, key: str) -> None:
        self._timers.pop(key, None)
        self.ask(key)

    async def _run(self, key: str) -> None:
        while key in self._wanted and not self._stopped:
            self._wanted.discard(key)
            try:
                again = await self._handle(key)
            except MillpondError as error:
                log.warning("%s %s: %s", self._name, key, error)
                again = self._delay(key)
            except Exception:
                log.exception("%s %s failed in a way that nobody foresaw; it is tried again", self._name, key)
                again = self._delay(key)
            else:
                self._failures.pop(key, None)
            if again is not None:
                self.later(key, again)

    def _delay(self, key: str) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (failures - 1)))

    async def settle(self) -> None:
        """Wait until nothing is being worked on (timers apart); for tests and for stopping."""
        while running := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.wait(running)

    async def stop(self) -> None:
        """Let what is being done end (bounded), then cancel it."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        running = [task for task in self._tasks.values() if not task.done()]
        if running:
            _, pending = await asyncio.wait(running, timeout=5.0)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
