"""Planned work on a node: whether it may be taken away now, what is in the way, and forgetting one that is retired.

An intent loosens nothing. A node that is silent is judged, and fenced if pods are left on it, as any other; a leg is
recorded before it is done without; the last copy stays. What an intent changes is who waits for whom:

    Reboot   its legs are waited for until ``until``, and the grace period of each volume begins then
    Replace  its legs leave as from a device that is to be emptied, with all copies at every step
    Retire   the same; the StorageNode is deleted once it is silent, and people have deleted its StorageDevices
    Shutdown every node is switched off: nothing is attached there, no pod started, and its legs are waited for, until
             it has booted anew

    MaintenanceReady  reason          what it means
    True              CopiesElsewhere reads and writes go on without it
    True              Empty           no leg lies there any more
    False             Over            ``until`` has passed, or was never said
    False             OneCopy         a volume has no other copy, and is to have none
    False             OtherNode       the other copies lie on a node that is in maintenance
    False             LastCopy        the other copies are not in sync, or not in reach
    False             Rebuilding      a leg is being rebuilt, with a part of it on this node
    False             LegsHere        legs have not left yet
    False             OrphanedLegs    its disks have legs that no mapping knows
    True              Down            Shutdown: no volume with a part here is attached anywhere
    False             InUse           Shutdown: some are
    False             Back            Shutdown: it has booted since

Of two nodes that may not both be away, the one that was found ready first is ready until its work is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from millpond_core import names
from millpond_core.instants import clock, parse
from millpond_core.master import conditions
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Delete
from millpond_core.master.world import World
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import Leg

READY = "MaintenanceReady"

STAYS: Final = frozenset({"Over", "OneCopy", "OrphanedLegs"})
"""Reasons for not being ready that do not end by themselves."""

LOOK_SECONDS = 3.0
"""How often to look: what is in the way stands in other objects."""

_ORDER = ("OneCopy", "OrphanedLegs", "OtherNode", "LastCopy", "Rebuilding", "LegsHere")


class Hindrance(NamedTuple):
    """Why the node may not be taken away."""

    reason: str
    message: str


def says(world: World, node: StorageNode, now: float) -> list[Says]:
    """The condition of a node with an intent; nothing for one without."""
    work, name = node.spec.maintenance, node.metadata.name
    if work.intent == "None":
        return []
    if work.intent == "Shutdown":
        return [_down(world, node)]
    if work.intent == "Reboot" and now >= world.back_at(name):
        until = parse(work.until)
        when = f"was to be over at {clock(until)}" if until is not None else "has no end (spec.maintenance.until)"
        message = (
            f"the planned work {when}: legs here are waited for no longer than others, and none is placed here until "
            f"it is ended: kubectl millpond maintain {name} --done"
        )
        return [Says(READY, False, "Over", message)]
    found = sorted(_hindrances(world, node, now), key=lambda one: _ORDER.index(one.reason))
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        message = f"not yet: {'; '.join(one.message for one in found[:5])}{more}"
        return [Says(READY, False, found[0].reason, message)]
    if work.intent == "Reboot":
        back = clock(world.back_at(name))
        message = f"it may be away until {back}: each volume with a leg here has a copy in sync elsewhere"
        return [Says(READY, True, "CopiesElsewhere", message)]
    disks = sorted(device.metadata.name for device in _devices(world, name))
    delete = f"kubectl delete sdev {' '.join(disks)}, and " if disks else ""
    then = f"{delete}it is forgotten once it is off" if work.intent == "Retire" else "its disks may go"
    return [Says(READY, True, "Empty", f"no leg lies here any more: {then}")]


def _down(world: World, node: StorageNode) -> Says:
    """Of a node that is shut down with all others."""
    if node.intent() == "None":
        return Says(READY, False, "Back", "it is back from the shutdown, and as any other node again")
    there = (world.volumes[one] for one in sorted(world.volumes_at(node.metadata.name)))
    used = [f"{volume_title(volume)} on {at}" for volume in there if (at := volume.status.attachment.node)]
    if used:
        more = f" and {len(used) - 5} more" if len(used) > 5 else ""
        return Says(READY, False, "InUse", f"not yet: in use are {', '.join(used[:5])}{more}, until their pods end")
    return Says(READY, True, "Down", "no volume with a part here is in use: it may be switched off")


def forget(world: World, node: StorageNode) -> Act | None:
    """The end of a retired node; None: it is not retired, not empty, or still there."""
    name, health = node.metadata.name, world.state_of(node.metadata.name)
    if node.spec.maintenance.intent != "Retire" or node.metadata.deletion_timestamp:
        return None
    # While many are silent it may be us who do not see, and a node that is there would only be made anew.
    if health.state == "Ready" or health.reason == "ManySilent":
        return None
    if world.volumes_at(name) or node.status.orphaned_legs or _devices(world, name):
        return None
    return Act(Delete(StorageNode, name), f"{name} is retired, empty and silent: it is forgotten")


def _hindrances(world: World, node: StorageNode, now: float) -> Iterator[Hindrance]:
    name = node.metadata.name
    volumes = [world.volumes[one] for one in sorted(world.volumes_at(name))]
    if node.spec.maintenance.intent == "Reboot":
        for volume in volumes:
            yield from away(world, volume, name, now)
        return
    for volume in volumes:
        yield from _here(volume, name)
    if node.status.orphaned_legs:
        kept = ", ".join(node.status.orphaned_legs[:5])
        yield Hindrance("OrphanedLegs", f"its disks have legs that no mapping knows, kept for their volumes: {kept}")


def _devices(world: World, node: str) -> list[StorageDevice]:
    return [device for device in world.devices.values() if device.spec.node_name == node]


def _here(volume: VirtualVolume, node: str) -> Iterator[Hindrance]:
    """Legs that have not left the node, those that are being given back included."""
    there = [leg for leg in (*volume.status.mapping.legs, *volume.status.spares) if leg.node == node]
    if not there:
        return
    legs = f"leg {', '.join(leg.id for leg in there)} of {volume_title(volume)}"
    if any(not leg.releasing for leg in there) and not volume.status.attachment.node:
        yield Hindrance("LegsHere", f"{legs} is copied to another node when a pod uses the volume")
    else:
        yield Hindrance("LegsHere", f"{legs} moves off: {volume.status.message or 'it is being given back'}")


def away(world: World, volume: VirtualVolume, node: str, now: float) -> Iterator[Hindrance]:
    """What of a volume is in the way of taking the node away for a while."""
    here = any(leg.node == node and leg.state == "InSync" for leg in v.legs(volume))
    elsewhere = [leg for leg in v.in_reach(world, volume) if leg.node != node and v.reached(volume, leg)]
    stay = [leg for leg in elsewhere if not _may_go(world, leg.node, now)]
    enough = volume.spec.on_failure.min_in_sync
    title = volume_title(volume)
    if here and len(stay) < enough:
        if volume.spec.layout.copies <= enough:
            yield Hindrance("OneCopy", f"{title} cannot be read or written without its copy here: {_ADD}")
        elif len(elsewhere) >= enough:
            other = ", ".join(leg.node for leg in elsewhere if leg not in stay)
            yield Hindrance("OtherNode", f"the other copy of {title} is on {other}, which is in maintenance too")
        else:
            why = volume.status.message or "its other copies are not in sync in reach"
            yield Hindrance("LastCopy", f"the last copy of {title} in reach is here: {why}")
        return
    for leg in v.legs(volume):
        if _is_copied(world, volume, leg):
            yield Hindrance("Rebuilding", f"leg {leg.id} of {title} on {leg.node} is being rebuilt: it ends first")


def _may_go(world: World, node: str, now: float) -> bool:
    """Whether another node has been told that it may be away now."""
    said = conditions.find(world.nodes[node].status.conditions, READY) if node in world.nodes else None
    return now < world.back_at(node) and said is not None and said.status == "True"


def _is_copied(world: World, volume: VirtualVolume, leg: Leg) -> bool:
    """Whether a leg is being rebuilt: nothing is copied before the volume is attached, to a leg that is away, or by a
    copy that has stopped.
    """
    path = v.path_report(volume, leg)
    stopped = path is not None and path.member == "Stopped"
    there = bool(volume.status.attachment.node) and v.loss(world, volume, leg) is None
    return leg.state == "Rebuilding" and there and not stopped


def volume_title(volume: VirtualVolume) -> str:
    """A volume for a sentence: its name, and its claim where it has one."""
    claim = volume.metadata.annotations.get(names.ANNOTATION_CLAIM)
    return f"{volume.metadata.name} ({claim})" if claim else volume.metadata.name


_ADD = "give it another (spec.layout.copies), or do without it meanwhile"
