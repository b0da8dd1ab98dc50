"""A device from the plan to its end: what is foreseen, what is asked for, what is seen, and where the two differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Coroutine
from contextlib import aclosing
from typing import Any

from millpond_cli import claims, planned
from millpond_cli.account import STATES, Outcome, Story
from millpond_cli.follow import versions
from millpond_cli.stillness import DONE, EXPIRED, Tell
from millpond_core import names
from millpond_core.errors import Invalid, MillpondError, NotFound
from millpond_core.instants import span
from millpond_core.master import device as device_
from millpond_core.master import foresight
from millpond_core.master.foresight import Deed, Plan
from millpond_core.master.world import KINDS, World
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.ports import Kube

SILENT_SECONDS = 600.0
"""When nothing has become of a device for so long, beyond what its plan says is waited for, it is followed no more."""


async def look(kube: Kube) -> World:
    """Everything, as the master knows it."""
    return foresight.as_recorded([obj for kind in KINDS for obj in await kube.list(kind)])


async def users(kube: Kube, plan: Plan) -> Plan:
    """The plan with the pods that have its claims; without them where one may not ask."""
    return planned.with_pods(plan, await claims.pods(kube, (move.claim for move in plan.moves)))


async def ask(kube: Kube, deed: Deed, device: str) -> None:
    """Everything else is the operator's, whether anyone follows it or not."""
    if deed == "Replace":
        # What someone accepted some time ago would let the device go at once, with legs on it that can be moved.
        await kube.merge(
            StorageDevice, device, {"metadata": {"annotations": {names.ANNOTATION_ACCEPT_DATA_LOSS: None}}}
        )
        await kube.delete(StorageDevice, device)
    else:
        await kube.merge(StorageDevice, device, {"spec": {"desiredState": STATES[deed]}})


async def undo(kube: Kube, device: str) -> str:
    """Take a device into service again. Raises Invalid when it is being deleted: nothing takes that back."""
    there = await kube.get(StorageDevice, device)
    if there.metadata.deletion_timestamp:
        raise Invalid(f"{device} is being deleted, which cannot be taken back: create it again once it is gone")
    if there.spec.desired_state == "InService":
        return f"{device} is in service"
    await kube.merge(StorageDevice, device, {"spec": {"desiredState": "InService"}})
    return f"{device} is in service again; legs that were given up stay where they are now"


async def follow(kube: Kube, world: World, plan: Plan, accepted: Collection[str], tell: Tell) -> Outcome:
    """From what ``world`` knew to the end of ``plan``, or until nothing comes of it any more.

    ``accepted``: volumes that may lose their last copy; once nothing else lies on the device, its loss is accepted.
    """
    story, accepting = Story(world, plan, tell), False
    may_go = {*accepted} & {*plan.losses}  # what can be moved is moved, whatever else was named
    patience = SILENT_SECONDS + plan.wait_seconds
    try:
        async with aclosing(_changes(kube, world.devices[plan.device], story.volumes, patience)) as changes:
            async for event, obj in changes:
                story.see(event, obj)
                left = story.left()
                if story.reached() or (plan.deed != "Replace" and story.emptied(may_go)):
                    await _catch_up(kube, story)
                    if not story.copying():
                        return story.outcome(DONE, story.ended())
                if left and left <= may_go:
                    accepting = accepting or (plan.deed == "Replace" and await _accept(kube, plan, may_go, tell))
                elif left and left <= story.stuck() | may_go and story.as_planned():
                    return story.outcome(EXPIRED, story.stays())
    except asyncio.CancelledError:
        tell(f"the operator goes on with {plan.device} all the same")
        raise
    said = f"nothing has become of {plan.device} in {span(patience)}: does the operator run? It goes on without us"
    return story.outcome(EXPIRED, said)


async def _changes(
    kube: Kube, device: StorageDevice, volumes: Collection[str], patience: float
) -> AsyncGenerator[tuple[str, StorageDevice | VirtualVolume], None]:
    """Of a device and the volumes on it; ends when there was none for ``patience`` seconds."""
    queue: asyncio.Queue[tuple[str, StorageDevice | VirtualVolume] | MillpondError] = asyncio.Queue()
    mine = frozenset(volumes)

    async def watch_device() -> None:
        last = device
        async with aclosing(versions(kube, StorageDevice, device.metadata.name)) as seen:
            async for last in seen:
                queue.put_nowait(("MODIFIED", last))
        queue.put_nowait(("DELETED", last))

    async def watch_volumes() -> None:
        async for event, obj in kube.watch(VirtualVolume):
            if event != "SYNCED" and obj.metadata.name in mine:
                queue.put_nowait((event, obj))

    async def watched(watch: Coroutine[Any, Any, None]) -> None:
        try:
            await watch
        except MillpondError as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(watched(watch)) for watch in (watch_device(), watch_volumes())]
    try:
        while True:
            change = await asyncio.wait_for(queue.get(), patience)
            if isinstance(change, MillpondError):
                raise change
            yield change
    except TimeoutError:
        return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _catch_up(kube: Kube, story: Story) -> None:
    """What the watch of the volumes has not brought yet: that of the device may be ahead of it."""
    for name in [*story.volumes]:
        try:
            story.see("MODIFIED", await kube.get(VirtualVolume, name))
        except NotFound:
            story.see("DELETED", story.volumes[name])


async def _accept(kube: Kube, plan: Plan, accepted: Collection[str], tell: Tell) -> bool:
    """Looked at once more: the annotation gives up all that lies on the device, whatever people have named."""
    world = await look(kube)
    device = world.devices.get(plan.device)
    if device is None or not {*device_.remaining(world, device)[1]} <= {*accepted}:
        return False
    uuid = device.status.observation.device_uuid
    tell(f"the loss of {', '.join(sorted(accepted))} is accepted, as was said")
    annotations = {names.ANNOTATION_ACCEPT_DATA_LOSS: uuid}
    await kube.merge(StorageDevice, plan.device, {"metadata": {"annotations": annotations}})
    return True
