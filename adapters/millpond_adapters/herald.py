"""Events about volumes, devices and claims: told beside the work, never waited for, lost when nobody answers."""

from __future__ import annotations

import asyncio
import logging

from millpond_core.errors import MillpondError
from millpond_core.model.meta import Wire
from millpond_core.ports import Kube, Reference

log = logging.getLogger(__name__)
AT_ONCE = 4
"""Events on their way at a time: thousands of objects may have something to tell at once."""
WAITING = 2000
"""So many wait at most; what comes then is lost, and the log says so."""


class Herald:
    """Tells people what happened, where they look for it first."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)

    def tell(self, about: Wire | Reference, reason: str, message: str, *, warning: bool = False) -> None:
        """An Event about an object: one CamelCase word, one sentence."""
        if len(self._tasks) >= WAITING:
            log.warning("%d Events wait already, one more is lost (%s: %s)", WAITING, reason, message)
            return
        task = asyncio.get_running_loop().create_task(self._tell(about, reason, message, warning=warning))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, about: Wire | Reference, reason: str, message: str, *, warning: bool) -> None:
        async with self._turns:
            try:
                await self._kube.event(about, reason=reason, message=message, warning=warning)
            except MillpondError as error:
                log.warning("an Event is lost (%s: %s): %s", reason, message, error)

    async def stop(self) -> None:
        """Give up what was not told yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
