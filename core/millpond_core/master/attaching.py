"""Where a volume is assembled: one writer per epoch, and after an unclean end one leg is the source.

An attachment belongs to one boot of its node: after a reboot nothing of it stands and the legs may differ, so the epoch
rises as if it were attached anew. From a node that has failed a volume is taken by raising the epoch: its leg nodes
tear down the older epoch's exports and confirm, and whoever asked for the detachment waits for that.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from millpond_core.instants import clock
from millpond_core.master import volumes as v
from millpond_core.master.steps import Act, Notice, Patch, Wait
from millpond_core.master.world import World
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Attachment, Leg


def decide(world: World, volume: VirtualVolume, now: float) -> Act | Wait | None:
    """Attach, detach, or take up again after a reboot; None: it is where it is wanted."""
    wanted, at = volume.spec.attachment.node, volume.status.attachment
    if at.node and (at.node != wanted or ended(volume)):
        return _detach(world, volume)
    if not wanted:
        return None
    if at.node:
        return _again(world, volume)
    return _attach(world, volume, wanted, now)


def rebooted(world: World, at: Attachment) -> bool:
    """Whether the attach node runs another boot than the one that the epoch belongs to."""
    node = world.nodes.get(at.node)
    return bool(node and at.boot_id and node.status.boot_id and node.status.boot_id != at.boot_id)


def ended(volume: VirtualVolume) -> bool:
    """Whether the attach node has nothing of the present epoch any more: it was detached and is wanted again, or every
    leg in sync had lost power under it and nothing could go on.
    """
    at = volume.status.attachment
    said = v.report(volume, at.node)
    return said is not None and said.front == "None" and said.ended_epoch >= at.epoch


def _attach(world: World, volume: VirtualVolume, node: str, now: float) -> Act | Wait:
    health = world.state_of(node)
    if health.state != "Ready":
        return Wait("AttachNodeSilent", f"cannot be attached to {node}: it is {health.state}; {health.message}")
    there = world.nodes.get(node)
    if there is not None and there.status.shutting_down:
        return Wait("AttachNodeSilent", f"cannot be attached to {node}: it is shutting down")
    if waits := _shutdown(world, volume, node, now):
        return waits
    if names := v.covering(world, volume.metadata.name):
        return Wait("Quiescing", f"is attached to {node} when quiescence {', '.join(names)} is over")
    return _raise_epoch(world, volume, node, f"attached to {node}")


def _shutdown(world: World, volume: VirtualVolume, node: str, now: float) -> Wait | None:
    """Nothing is attached before a Shutdown, and after it only with every leg that was in sync: what is written without
    one would have to be copied. None: there is no Shutdown, or nobody is waited for any more.
    """
    if world.intent(node) == "Shutdown":
        back = "is attached when it is back, or when the shutdown is taken back: kubectl millpond shutdown --cancel"
        return Wait("Shutdown", f"cannot be attached to {node}, which is shut down with all others: {back}")
    if node not in world.nodes or world.nodes[node].spec.maintenance.intent != "Shutdown":
        return None
    legs = [leg for leg in v.legs(volume) if leg.state == "InSync"]
    away = {leg.node for leg in legs if world.intent(leg.node) == "Shutdown" and now < world.back_at(leg.node)}
    if not away:
        return None
    until = clock(max(map(world.back_at, away)))
    return Wait("Shutdown", f"is attached to {node} when {', '.join(sorted(away))} is back, without it from {until} on")


def _again(world: World, volume: VirtualVolume) -> Act | Wait | None:
    at = volume.status.attachment
    if not rebooted(world, at) or world.state_of(at.node).state != "Ready":
        return None
    return _raise_epoch(world, volume, at.node, f"attached to {at.node} again, which has rebooted")


def _raise_epoch(world: World, volume: VirtualVolume, node: str, what: str) -> Act | Wait:
    at, there = volume.status.attachment, v.legs(volume)
    boot_id = world.nodes[node].status.boot_id if node in world.nodes else ""
    if not boot_id:  # without it a reboot would go unnoticed
        return Wait("AttachNodeSilent", f"cannot be attached to {node}: it has not reported its boot yet")
    epoch = _highest_epoch(volume) + 1
    usable = v.in_reach(world, volume)
    if not usable:
        return Wait("NoCopyInReach", f"cannot be attached to {node}: no leg in sync is in reach{_whereabouts(there)}")
    operations = [
        *v.record_tests(volume, there),
        {"op": "test", "path": "/spec/attachment/node", "value": volume.spec.attachment.node},
        v.put(
            "/status/attachment",
            Attachment(node=node, epoch=epoch, clean=False, boot_id=boot_id, previous=_assembled(volume)),
        ),
    ]
    others = [leg for leg in there if leg.state == "InSync"]
    said = f"{what}, epoch {epoch}"
    if not at.clean and len(others) > 1:
        source = choose_source(world, volume, usable, node)
        rebuilt = {leg.id for leg in others} - {source.id}
        legs = [
            msgspec.structs.replace(leg, state="Rebuilding") if leg.id in rebuilt else leg
            for leg in volume.status.mapping.legs
        ]
        operations += v.put_legs(volume, legs, commit=False)
        said += f"; it was not detached cleanly: leg {source.id} is the source of {', '.join(sorted(rebuilt))}"
    return Act(
        Patch(VirtualVolume, volume.metadata.name, operations),
        said,
        (Notice("Attaching", said, warning=not at.clean),),
    )


def choose_source(world: World, volume: VirtualVolume, usable: Iterable[Leg], node: str) -> Leg:
    """The leg that the others are copied from: one whose node can confirm the epoch, of those the one whose node knows
    the latest record, then the local one.
    """

    def key(leg: Leg) -> tuple[bool, int, bool, str]:
        said, mute = v.report(volume, leg.node), world.state_of(leg.node).state != "Ready"
        return mute, -(said.record_seq if said else 0), leg.node != node, leg.id

    return min(usable, key=key)


def _detach(world: World, volume: VirtualVolume) -> Act | Wait:
    at = volume.status.attachment
    said = v.report(volume, at.node)
    if said is not None and said.front == "None" and said.clean_epoch >= at.epoch:
        return _leave(volume, Attachment(node="", epoch=at.epoch, clean=True), f"detached from {at.node}")
    if ended(volume):
        why = f"detached from {at.node}, where every leg in sync had lost power: they may differ"
        return _leave(volume, Attachment(node="", epoch=at.epoch, clean=False), why)
    if rebooted(world, at):
        why = f"detached from {at.node}, which has rebooted: its legs may differ"
        return _leave(volume, Attachment(node="", epoch=at.epoch, clean=False), why)
    if world.state_of(at.node).state == "Failed":
        epoch = _highest_epoch(volume) + 1
        why = f"taken from {at.node}, which has failed: its leg nodes fence it with epoch {epoch}"
        return _leave(volume, Attachment(node="", epoch=epoch, clean=False), why)
    more = f": {said.message}" if said and said.message else ""
    return Wait("Detaching", f"waits for {at.node} to take the volume down{more}")


def _leave(volume: VirtualVolume, after: Attachment, why: str) -> Act:
    after = msgspec.structs.replace(after, previous=_assembled(volume))
    operations = [*v.record_tests(volume), v.put("/status/attachment", after)]
    notice = Notice("Detached", why, warning=not after.clean)
    return Act(Patch(VirtualVolume, volume.metadata.name, operations), why, (notice,))


def _highest_epoch(volume: VirtualVolume) -> int:
    """The highest epoch that anyone has noted: an older record must not lead to one that was used."""
    return max([volume.status.attachment.epoch, *(entry.epoch for entry in volume.status.nodes)])


def _assembled(volume: VirtualVolume) -> int:
    """Epoch under which the volume was last assembled: what a leg missed is reckoned from there, since an epoch that
    only fenced a node had no writer. 0 when a node has noted an epoch that the record does not know.
    """
    at = volume.status.attachment
    if _highest_epoch(volume) != at.epoch:
        return 0
    return at.epoch if at.node else at.previous


def _whereabouts(legs: Iterable[Leg]) -> str:
    said = ", ".join(f"{leg.id} on {leg.node} is {leg.state}" for leg in legs)
    return f" ({said})" if said else ""
