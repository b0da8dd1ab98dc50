"""Which objects are to be looked at, and when: each stands here once, at the earliest time that anyone asked for.

Quiescences and nodes go before all that is due as well: everyone stands still until the last acknowledgement is seen,
and what a hundred volumes have to say of their holds can wait for that.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import NamedTuple

from millpond_core.master.world import Object
from millpond_core.model import Quiescence, StorageNode

URGENT: tuple[type[Object], ...] = (Quiescence, StorageNode)


class Key(NamedTuple):
    """One object."""

    kind: type[Object]
    name: str

    def __str__(self) -> str:
        return f"{self.kind.__name__}/{self.name}"


class Agenda:
    """Level-triggered: however often an object is added, it is looked at once, and again if it is added while it is.

    Times are the caller's, in seconds of one clock that never jumps.
    """

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._urgent: list[tuple[float, int, Key]] = []
        self._others: list[tuple[float, int, Key]] = []
        self._count = 0
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, at: float) -> None:
        """Look at ``key`` no later than ``at``."""
        known = self._due.get(key)
        if known is not None and known <= at:
            return
        self._due[key] = at
        self._count += 1
        heapq.heappush(self._urgent if key.kind in URGENT else self._others, (at, self._count, key))
        self._added.set()

    def drop(self, key: Key) -> None:
        """The object is gone."""
        self._due.pop(key, None)

    def pop(self, now: float) -> Key | None:
        """The next object that is due; None: none is."""
        for heap in (self._urgent, self._others):
            self._clean(heap)
            if heap and heap[0][0] <= now:
                _, _, key = heapq.heappop(heap)
                del self._due[key]
                return key
        return None

    def next_at(self) -> float | None:
        """When the next object is due."""
        for heap in (self._urgent, self._others):
            self._clean(heap)
        return min((heap[0][0] for heap in (self._urgent, self._others) if heap), default=None)

    async def changed(self, timeout: float) -> None:
        """Return when something was added, or after ``timeout`` seconds."""
        self._added.clear()
        try:
            await asyncio.wait_for(self._added.wait(), timeout)
        except TimeoutError:
            return

    def clear(self) -> None:
        """Forget everything."""
        self._due.clear()
        self._urgent.clear()
        self._others.clear()

    def _clean(self, heap: list[tuple[float, int, Key]]) -> None:
        while heap and self._due.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
