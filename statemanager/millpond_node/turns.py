"""A few at a time, and first who began first: what all at once would only keep each other from.

Whoever comes again keeps the place, so that what was begun is done before the next begins.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """``at_once`` have their turn at the same time, in one event loop."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @property
    def taken(self) -> bool:
        """Whoever comes now has to wait."""
        return not self._free

    @asynccontextmanager
    async def turn(self, place: float) -> AsyncIterator[None]:
        """Wait for a turn; of those that wait the lowest ``place`` is next, of equals the first that came."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (place, next(self._order), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
