"""Waiting for a VirtualVolume to become what a call needs: by watch, never longer than the call's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar, cast

from millpond_core.errors import NotFound
from millpond_core.model import VirtualVolume
from millpond_core.ports import Kube
from millpond_csi.deadline import Deadline
from millpond_csi.errors import NotReady

Answer = TypeVar("Answer")


class Wait(NamedTuple):
    """Not yet, and why."""

    reason: str


async def present(kube: Kube, name: str) -> VirtualVolume:
    """The volume called ``name``. NotFound in words for people when there is none."""
    try:
        return await kube.get(VirtualVolume, name)
    except NotFound as error:
        raise NotFound(f"there is no volume {name}") from error


async def until(
    kube: Kube, name: str, deadline: Deadline, judge: Callable[[VirtualVolume | None], Answer | Wait]
) -> Answer:
    """The first answer that ``judge`` gives to the volume called ``name``, or to None when there is none.

    ``judge`` is called with each state that the watch shows; what it raises ends the wait. Raises NotReady with the
    last reason at the deadline.
    """
    reason = "the API server has not shown the volume yet"
    try:
        async with asyncio.timeout(deadline.remaining()):
            events = kube.watch(VirtualVolume, fields=f"metadata.name={name}")
            async with aclosing(cast(Any, events)):
                current: VirtualVolume | None = None
                async for event, volume in events:
                    if event != "SYNCED":
                        current = None if event == "DELETED" else volume
                    elif current is not None:
                        continue  # judged when it was listed
                    verdict = judge(current)
                    if not isinstance(verdict, Wait):
                        return verdict
                    reason = verdict.reason
    except TimeoutError:
        pass
    raise NotReady(f"volume {name} is not there yet: {reason}; the next call goes on waiting")
