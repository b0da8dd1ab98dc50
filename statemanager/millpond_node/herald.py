"""Events about volumes and devices: told beside the work, never waited for, lost when nobody answers."""

from __future__ import annotations

import asyncio
import contextlib

from millpond_core.errors import MillpondError
from millpond_core.model.meta import Wire
from millpond_core.ports import Kube


class Herald:
    """Tells people what happened, where they look for it first."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, obj: Wire, reason: str, message: str, *, warning: bool = False) -> None:
        """An Event about ``obj``: one CamelCase word, one sentence."""
        task = asyncio.get_running_loop().create_task(self._tell(obj, reason, message, warning=warning))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, obj: Wire, reason: str, message: str, *, warning: bool) -> None:
        with contextlib.suppress(MillpondError):
            await self._kube.event(obj, reason=reason, message=message, warning=warning)

    async def stop(self) -> None:
        """Give up what was not told yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
