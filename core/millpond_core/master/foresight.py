"""A plan before the act: what becomes of each leg of a device, or of a node's devices, that are to be emptied, told
from a rehearsal; and what is left of each volume while a node is away.

The plan is made from what a rehearsal changes, the account from what is seen afterwards, and both by ``moves.steps``:
so they can be compared step by step (``departures``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.instants import seconds_stamp, span, stamp
from millpond_core.master import changes, maintenance, node
from millpond_core.master import device as device_
from millpond_core.master import volumes as v
from millpond_core.master.moves import Step, sentence, steps
from millpond_core.master.rehearsal import Rehearsal
from millpond_core.master.steps import Act, Wait
from millpond_core.master.world import Object, World
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.storagenode import Maintenance
from millpond_core.model.virtualvolume import Leg
from millpond_core.units import KIB, MIB, format_bytes

Deed = Literal["Drain", "Retire", "Replace", "Reboot"]
"""Drain: no leg is to lie on the device. Retire: nor will one ever again. Replace: it leaves the database. Of a node,
as its ``spec.maintenance.intent``: Reboot, Replace, Retire.
"""

Work = Literal["Reboot", "Replace", "Retire"]
"""What may be planned of a node: a Shutdown is the cluster's."""

RATE = 100 * MIB
"""Bytes per second at which a copy is assumed to be made: about what one hard disk writes."""

TOGETHER = 25
"""Volumes that are rehearsed at a time: what they do to each other is to take room, in this order. With all at once the
time that a quiescence takes to be rehearsed grows with the square of their number.
"""


class Move(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What becomes of one volume of the device."""

    volume: str
    claim: str
    """``namespace/name``; empty: it serves none."""
    pods: tuple[str, ...] = ()
    """``namespace/name`` of those that have the claim; known to who asks for them alone."""
    leg: str
    """The one on the device."""
    source: str
    """What is read to make the copy; empty: nothing can be."""
    wanted: int
    copies: int
    """In sync and in reach before."""
    fewest: int
    """The same at the worst moment, the device counted as long as its leg is part of the volume."""
    bytes: int
    seconds: float
    steps: list[Step]
    obstacle: str = ""
    """Why it does not come to its end by itself."""


class Plan(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What the master will do, and what will be left."""

    deed: Deed
    device: str
    """Empty: the deed is one to the node."""
    node: str
    moves: list[Move]
    """In the order in which the master takes the volumes: those first that have most to lose."""
    bytes: int
    copy_seconds: float
    """One copy after the other."""
    wait_seconds: float
    """Until grace periods, pauses and others' quiescences are over that something waits for."""
    assumed: str
    losses: list[str]
    """Volumes of which no copy in reach would be left without the device."""
    at_risk: list[str]
    """Volumes with one copy or none at some moment: one more failure and they wait, or are lost."""
    ends: str
    """The device's phase in the end; ``Deleted``: it is gone from the database. Of a node the reason of its condition
    MaintenanceReady.
    """
    message: str

    @property
    def subject(self) -> str:
        """The name of what it is done to."""
        return self.device or self.node


def as_recorded(objects: Iterable[Object]) -> World:
    """The world of someone who knows the objects alone."""
    world = World(objects)
    world.health = node.recorded(world.nodes)
    return world


def plan(world: World, deed: Deed, name: str, now: float, *, rate: int = RATE) -> Plan:
    """What ``deed`` to a device will lead to. ``rate``: bytes per second where no volume says less. Raises NotFound."""
    before = world.devices.get(name)
    if before is None:
        raise NotFound(f"there is no StorageDevice {name}: kubectl get sdev lists them")
    made, there = _rehearsed(world, deed, [asked_for(before, deed, now)], [before], now=now, rate=rate)
    after = there.devices.get(name)
    return msgspec.structs.replace(
        made,
        device=name,
        ends=after.status.phase if after else "Deleted",
        message=after.status.message if after else "",
    )


def plan_node(world: World, intent: Work, name: str, now: float, *, until: float = 0.0, rate: int = RATE) -> Plan:
    """What ``intent`` with a node will lead to; ``until``: when it is to be back from a Reboot. Raises NotFound."""
    if name not in world.nodes:
        raise NotFound(f"there is no StorageNode {name}: kubectl get snode lists them")
    work = Maintenance(intent=intent, until=seconds_stamp(until) if intent == "Reboot" else None)
    before = world.nodes[name]
    asked = msgspec.structs.replace(before, spec=msgspec.structs.replace(before.spec, maintenance=work))
    if intent == "Reboot":
        made, there = _absence(world, asked, now)
    else:
        devices = [device for device in world.devices.values() if device.spec.node_name == name]
        made, there = _rehearsed(world, intent, [asked, *devices], devices, now=now, rate=rate)
    [verdict] = maintenance.says(there, asked, now)
    return msgspec.structs.replace(made, ends=verdict.reason, message=verdict.message)


def _absence(world: World, node: StorageNode, now: float) -> tuple[Plan, World]:
    """While a node is away for a while: nothing moves."""
    name = node.metadata.name
    there = Rehearsal(world, now).world
    there.put(node)
    moves = []
    for volume in sorted((there.volumes[one] for one in there.volumes_at(name)), key=lambda one: one.metadata.name):
        legs = [leg for leg in v.legs(volume) if leg.node == name]
        if not legs:
            continue
        copies = v.in_reach(there, volume)
        moves.append(
            Move(
                volume=volume.metadata.name,
                claim=volume.metadata.annotations.get(names.ANNOTATION_CLAIM, ""),
                leg=", ".join(leg.id for leg in legs),
                source="",
                wanted=volume.spec.layout.copies,
                copies=len(copies),
                fewest=sum(1 for leg in copies if leg.node != name),
                bytes=0,
                seconds=0.0,
                steps=[],
                obstacle="; ".join(one.message for one in maintenance.away(there, volume, name, now)),
            )
        )
    assumed = "what is written meanwhile, which is all that a leg gets that was away"
    return _told("Reboot", name, moves, assumed=assumed), there


def _rehearsed(
    world: World,
    deed: Deed,
    asked: Sequence[StorageDevice | StorageNode],
    devices: Sequence[StorageDevice],
    *,
    now: float,
    rate: int,
) -> tuple[Plan, World]:
    """Until nothing happens any more by itself. ``asked``: as they are once people have asked for the deed;
    ``devices``: those to be emptied. Also the world in the end.
    """
    uuids = {uuid for device in devices if (uuid := device.status.observation.device_uuid)}
    here = {name for uuid in uuids for name in world.volumes_on(uuid)}
    rehearsal = Rehearsal(world, now)
    there = rehearsal.world
    seen: list[Step] = []
    ended = now

    def note(was: VirtualVolume, is_: VirtualVolume) -> None:
        nonlocal ended
        copies = len(v.in_reach(there, is_))
        taken = [msgspec.structs.replace(step, copies=copies) for step in steps(was, is_)]
        if any(step.volume in here for step in taken):
            ended = rehearsal.now
        seen.extend(taken)

    for obj in asked:
        there.put(obj)
    volumes = [one for one in world.volumes.values() if one.metadata.name in here or _unsettled(world, one, now)]
    volumes.sort(key=lambda one: changes.endangered(world, one))
    for first in range(0, max(len(volumes), 1), TOGETHER):
        rehearsal.run(asked, [volume.metadata.name for volume in volumes[first : first + TOGETHER]], note)
    after = (there.devices.get(device.metadata.name) for device in devices)
    last = {name for device in after if device is not None for name in device_.remaining(there, device)[0]}
    moves = [
        _move(rehearsal, volume, uuids, [step for step in seen if step.volume == volume.metadata.name], rate=rate)
        for volume in volumes
        if volume.metadata.name in here
    ]
    assumed = f"{format_bytes(rate)}/s where no spec.rebuild.maxRate is lower, one copy after the other"
    node = devices[0].spec.node_name if devices else asked[0].metadata.name
    return _told(deed, node, moves, assumed=assumed, waits=ended - now, losses=last), there


def _told(
    deed: Deed, node: str, moves: list[Move], *, assumed: str, waits: float = 0.0, losses: Collection[str] = ()
) -> Plan:
    return Plan(
        deed=deed,
        device="",
        node=node,
        moves=moves,
        bytes=sum(move.bytes for move in moves),
        copy_seconds=sum(move.seconds for move in moves),
        wait_seconds=waits,
        assumed=assumed,
        losses=sorted(losses),
        at_risk=sorted(move.volume for move in moves if move.fewest <= 1),
        ends="",
        message="",
    )


def asked_for(device: StorageDevice, deed: Deed, now: float) -> StorageDevice:
    """The device once people have asked for ``deed``."""
    if deed == "Replace":
        metadata = msgspec.structs.replace(
            device.metadata,
            deletion_timestamp=device.metadata.deletion_timestamp or stamp(now),
            finalizers=list({*device.metadata.finalizers, names.FINALIZER}),
            # What was accepted once is not asked for: a plan shows what there is to accept.
            annotations={
                k: x for k, x in device.metadata.annotations.items() if k != names.ANNOTATION_ACCEPT_DATA_LOSS
            },
        )
        return msgspec.structs.replace(device, metadata=metadata)
    wanted: Literal["Drained", "Retired"] = "Drained" if deed == "Drain" else "Retired"
    return msgspec.structs.replace(device, spec=msgspec.structs.replace(device.spec, desired_state=wanted))


def departures(plan: Plan, seen: Sequence[Step]) -> list[str]:
    """Where what was done is not what was planned, a sentence each; empty: nowhere. Of a volume's steps the order says
    nothing: a watch may show several at once.
    """
    wanted = Counter(step.what for move in plan.moves for step in move.steps)
    found = Counter(step.what for step in seen)
    said = [f"planned, and not seen: {sentence(what)}" for what in (wanted - found).elements()]
    said += [f"not planned: {sentence(what)}" for what in (found - wanted).elements()]
    copied = sum(step.bytes for step in seen)
    if copied != plan.bytes:
        said.append(f"{format_bytes(copied)} copied, {format_bytes(plan.bytes)} planned")
    return said


# --- helpers ----------------------------------------------------------------------------------------------------------


def _unsettled(world: World, volume: VirtualVolume, now: float) -> bool:
    """Whether a volume may want room of its own meanwhile."""
    mapped = volume.status.mapping.generation > 0 and not volume.metadata.deletion_timestamp
    return mapped and (bool(volume.status.spares) or changes.outlook(world, volume, now).missing > 0)


def _move(rehearsal: Rehearsal, volume: VirtualVolume, uuids: Collection[str], its: list[Step], *, rate: int) -> Move:
    copies = len(v.in_reach(rehearsal.before, volume))
    ceiling = volume.spec.rebuild.max_rate * KIB
    rate = min(ceiling, rate) if ceiling else rate
    size = sum(step.bytes for step in its)
    legs = [leg for leg in (*volume.status.mapping.legs, *volume.status.spares) if _lies_on(leg, uuids)]
    after = rehearsal.world.volumes.get(volume.metadata.name)
    left = (*after.status.mapping.legs, *after.status.spares) if after is not None else ()
    stays = any(_lies_on(leg, uuids) for leg in left)
    return Move(
        volume=volume.metadata.name,
        claim=volume.metadata.annotations.get(names.ANNOTATION_CLAIM, ""),
        leg=", ".join(leg.id for leg in legs),
        source=_source(rehearsal.before, volume) if size else "",
        wanted=volume.spec.layout.copies,
        copies=copies,
        fewest=min([copies, *(step.copies for step in its)]),
        bytes=size,
        seconds=size / rate,
        steps=its,
        obstacle=_obstacle(rehearsal, after, uuids) if after and stays else "",
    )


def _lies_on(leg: Leg, uuids: Collection[str]) -> bool:
    return any(extent.device_uuid in uuids for extent in leg.extents)


def _source(world: World, volume: VirtualVolume) -> str:
    """The leg that the attach node reads: its own where it has one."""
    legs = sorted(v.in_reach(world, volume), key=lambda leg: leg.node != volume.status.attachment.node)
    return f"{legs[0].id} on {legs[0].node}" if legs else ""


def _obstacle(rehearsal: Rehearsal, volume: VirtualVolume, uuids: Collection[str]) -> str:
    """Why a volume's leg is still on a device when nothing happens any more."""
    world, status = rehearsal.world, volume.status
    decision = rehearsal.decisions.get(volume.metadata.name, Wait())
    if not isinstance(decision, Act) and decision.message:
        return decision.message
    attach = world.state_of(status.attachment.node).state if status.attachment.node else "Ready"
    if attach != "Ready":
        return f"its attach node {status.attachment.node} is {attach}: nothing is changed under it"
    if not v.in_reach(world, volume):
        return f"no copy is in reach that could be copied: {status.message}"
    if not status.attachment.node and any(leg.state == "Rebuilding" for leg in v.legs(volume)):
        return "it is not attached, and nothing is copied before it is: start a pod that uses it"
    here = [leg for leg in (*status.mapping.legs, *status.spares) if _lies_on(leg, uuids)]
    if all(leg.releasing for leg in here):
        there = [device for leg in here for device in world.devices_of(leg)]
        gone = any(device.status.observation.state in ("Failed", "Absent") for device in there)
        why = "its disk is not there: it is given back when the StorageDevice is deleted (replace)"
        return f"its leg is given up; {why if gone else 'its node has not given it back'}"
    return status.message or f"nothing is done about it, though {span(rehearsal.now)} have passed"
