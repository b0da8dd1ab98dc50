"""A plan before the act: what becomes of each leg of a device that is to be emptied, told from a rehearsal.

The plan is made from what a rehearsal changes, the account from what is seen afterwards, and both by ``moves.steps``:
so they can be compared step by step (``departures``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.instants import span, stamp
from millpond_core.master import changes, node
from millpond_core.master import device as device_
from millpond_core.master import volumes as v
from millpond_core.master.moves import Step, sentence, steps
from millpond_core.master.rehearsal import Rehearsal
from millpond_core.master.steps import Act, Wait
from millpond_core.master.world import Object, World
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.virtualvolume import Leg
from millpond_core.units import KIB, MIB, format_bytes

Deed = Literal["Drain", "Retire", "Replace"]
"""Drain: no leg is to lie on the device. Retire: nor will one ever again. Replace: it leaves the database."""

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
    """The device's phase in the end; ``Deleted``: it is gone from the database."""
    message: str


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
    uuid = before.status.observation.device_uuid
    here = world.volumes_on(uuid) if uuid else set()
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

    there.put(asked_for(before, deed, now))
    volumes = [one for one in world.volumes.values() if one.metadata.name in here or _unsettled(world, one, now)]
    volumes.sort(key=lambda one: changes.endangered(world, one))
    for first in range(0, max(len(volumes), 1), TOGETHER):
        rehearsal.run(name, [volume.metadata.name for volume in volumes[first : first + TOGETHER]], note)
    after = there.devices.get(name)
    last = device_.remaining(there, after)[0] if after else set()
    moves = [
        _move(world, rehearsal, volume, uuid, [step for step in seen if step.volume == volume.metadata.name], rate=rate)
        for volume in volumes
        if volume.metadata.name in here
    ]
    total = sum(move.bytes for move in moves)
    return Plan(
        deed=deed,
        device=name,
        node=before.spec.node_name,
        moves=moves,
        bytes=total,
        copy_seconds=sum(move.seconds for move in moves),
        wait_seconds=ended - now,
        assumed=f"{format_bytes(rate)}/s where no spec.rebuild.maxRate is lower, one copy after the other",
        losses=sorted(last),
        at_risk=sorted(move.volume for move in moves if move.fewest <= 1),
        ends=after.status.phase if after else "Deleted",
        message=after.status.message if after else "",
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


def _move(world: World, rehearsal: Rehearsal, volume: VirtualVolume, uuid: str, its: list[Step], *, rate: int) -> Move:
    copies = len(v.in_reach(world, volume))
    ceiling = volume.spec.rebuild.max_rate * KIB
    rate = min(ceiling, rate) if ceiling else rate
    size = sum(step.bytes for step in its)
    legs = [leg for leg in (*volume.status.mapping.legs, *volume.status.spares) if _lies_on(leg, uuid)]
    after = rehearsal.world.volumes.get(volume.metadata.name)
    stays = after is not None and any(_lies_on(leg, uuid) for leg in (*after.status.mapping.legs, *after.status.spares))
    return Move(
        volume=volume.metadata.name,
        claim=volume.metadata.annotations.get(names.ANNOTATION_CLAIM, ""),
        leg=", ".join(leg.id for leg in legs),
        source=_source(world, volume) if size else "",
        wanted=volume.spec.layout.copies,
        copies=copies,
        fewest=min([copies, *(step.copies for step in its)]),
        bytes=size,
        seconds=size / rate,
        steps=its,
        obstacle=_obstacle(rehearsal, after, uuid) if after and stays else "",
    )


def _lies_on(leg: Leg, uuid: str) -> bool:
    return any(extent.device_uuid == uuid for extent in leg.extents)


def _source(world: World, volume: VirtualVolume) -> str:
    """The leg that the attach node reads: its own where it has one."""
    legs = sorted(v.in_reach(world, volume), key=lambda leg: leg.node != volume.status.attachment.node)
    return f"{legs[0].id} on {legs[0].node}" if legs else ""


def _obstacle(rehearsal: Rehearsal, volume: VirtualVolume, uuid: str) -> str:
    """Why a volume's leg is still on the device when nothing happens any more."""
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
    if all(leg.releasing for leg in (*status.mapping.legs, *status.spares) if _lies_on(leg, uuid)):
        there = world.device(uuid)
        gone = there is not None and there.status.observation.state in ("Failed", "Absent")
        why = "its disk is not there: it is given back when the StorageDevice is deleted (replace)"
        return f"its leg is given up; {why if gone else 'its node has not given it back'}"
    return status.message or f"nothing is done about it, though {span(rehearsal.now)} have passed"
