"""Reports to the API server: each status in the background, the newest only, and only when it differs from the last.

A report never delays what it reports on, and an API server that does not answer delays nothing but reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from millpond_core.errors import NotFound
from millpond_core.model import VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.ports import Kube
from millpond_node.work import Work

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Reports of volumes on their way at a time. When hundreds go still together each has something to say, and what all
wait for, the node's own acknowledgement, must not stand in line behind them.
"""


class Writer:
    """Server-side apply under this node's field manager."""

    def __init__(self, kube: Kube, manager: str) -> None:
        self._kube, self._manager = kube, manager
        self._wanted: dict[str, tuple[type[Wire], str, dict[str, Any]]] = {}
        self._written: dict[str, dict[str, Any]] = {}
        self._work = Work("report", self._write)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.applied: Callable[[Wire], None] = lambda obj: None
        """Called with each object as the API server has it after a report."""

    def write(self, kind: type[Wire], name: str, status: dict[str, Any]) -> bool:
        """Have ``status`` (wire form) written; False: it says nothing new."""
        key = f"{kind.__name__}/{name}"
        wanted = self._wanted.get(key)
        if (wanted[2] if wanted else self._written.get(key)) == status:
            return False
        self._wanted[key] = (kind, name, status)
        self._work.ask(key)
        return True

    def again(self, kind: type[Wire], name: str) -> None:
        """Forget what was written: the object is not what it was (made anew, restored)."""
        self._written.pop(f"{kind.__name__}/{name}", None)

    async def _write(self, key: str) -> float | None:
        if key not in self._wanted:
            return None
        try:
            async with self._turns if self._wanted[key][0] is VirtualVolume else contextlib.nullcontext():
                kind, name, status = self._wanted[key]
                obj = await self._kube.apply_status(kind, name, status, manager=self._manager)
        except NotFound:
            self._wanted.pop(key, None)
            return None
        self._written[key] = status
        if self._wanted.get(key, (None, None, None))[2] == status:
            del self._wanted[key]
        else:
            self._work.ask(key)
        self.applied(obj)
        return None

    async def settle(self) -> None:
        await self._work.settle()

    async def stop(self) -> None:
        await self._work.stop()
