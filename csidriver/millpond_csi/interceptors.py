"""What surrounds every call, each part a thin wrapper over the service below it: lock, error mapping, log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from millpond_core.errors import Busy, Invalid
from millpond_csi import validation
from millpond_csi.deadline import Deadline
from millpond_csi.errors import status

log = logging.getLogger("millpond.csi")

UNREADABLE = object()
"""Instead of a request: what came was no message."""

Method = Callable[[Any, Deadline], Awaitable[Any]]
"""A service's method: request and deadline to response."""

QUIET = frozenset(
    {
        "Probe",
        "GetPluginInfo",
        "GetPluginCapabilities",
        "ControllerGetCapabilities",
        "NodeGetCapabilities",
        "ListVolumes",
        "GetCapacity",
        "NodeGetVolumeStats",
    }
)
"""Called every few seconds or minutes: logged at debug level unless they fail."""

UNLOCKED = QUIET | {"ValidateVolumeCapabilities"}
"""Change nothing, and may overlap with what does."""

BESIDE = frozenset({"ControllerExpandVolume", "ControllerModifyVolume"})
"""One of each at a time for a volume, beside whatever else is done with it. They wait for what may take minutes, or for
copies that only come to be in sync while the volume is attached: a pod's start must not wait for them.
"""


def subject(request: Any) -> str:
    """The volume that a request is about: its id, or the name that is to become one; empty: none."""
    return getattr(request, "volume_id", "") or getattr(request, "name", "")


def lock_key(request: Any) -> str:
    """The id of the volume that a request is about, also of one that is yet to get its name; empty: none."""
    value = subject(request)
    if getattr(request, "volume_id", "") or not value:
        return value
    try:
        return validation.name_to_id(value)
    except Invalid:
        return value  # refused by the method, in its own words


class VolumeLocks:
    """One call at a time for each volume: the next one is told so at once.

    A caller that gives up (the kubelet does after two minutes) leaves the call running, and the lock held: a format
    or a check that is killed half way is worse than one that nobody waits for.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], tuple[str, asyncio.Task[Any]]] = {}

    def wrap(self, name: str, method: Method) -> Method:
        """``method`` under the lock of the request's volume."""

        async def locked(request: Any, deadline: Deadline) -> Any:
            volume = lock_key(request)
            if not volume:
                return await method(request, deadline)
            key = volume, name if name in BESIDE else ""
            if key in self._running:
                raise Busy(f"{self._running[key][0]} of {volume} is still running; call again when it has ended")
            task = asyncio.ensure_future(method(request, deadline))
            self._running[key] = name, task
            task.add_done_callback(lambda done: self._end(key, name, done))
            return await asyncio.shield(task)

        return locked

    async def drain(self, seconds: float) -> None:
        """Wait for what is running, at most so long."""
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def _end(self, key: tuple[str, str], name: str, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("%s of %.128r ended with %.256r", name, key[0], error)


def on_the_wire(name: str, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
    """``method`` as gRPC calls it: the context's deadline in, errors out as status, one line in the log.

    Only the method, the volume, the duration and the outcome are logged: requests carry secrets.
    """

    async def serve(request: Any, context: Any) -> Any:
        began = time.monotonic()
        volume = subject(request)[:128]
        try:
            if request is UNREADABLE:
                raise Invalid(f"what came is no {name}Request: is it another version of the interface?")
            response = await method(request, Deadline.after(context.time_remaining()))
        except asyncio.CancelledError:
            log.info("%s volume=%r %.3fs the caller gave up", name, volume, time.monotonic() - began)
            raise
        except Exception as error:
            code, message = status(error)
            unexpected = message.startswith("unexpected ")
            log.log(
                logging.ERROR if unexpected else logging.WARNING,
                "%s volume=%r %.3fs %s: %s",
                name,
                volume,
                time.monotonic() - began,
                code.name,
                message,
                exc_info=unexpected,
            )
            await context.abort(code, message)
            raise
        level = logging.DEBUG if name in QUIET else logging.INFO
        log.log(level, "%s volume=%r %.3fs OK", name, volume, time.monotonic() - began)
        return response

    return serve
