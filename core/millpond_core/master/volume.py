"""The next step for one volume: a ladder whose first rung with something to do answers.

Whatever a rung does is written before the next one relies on it, so that a master killed between any two steps leaves
something that another goes on from: labels before the mapping (or a leg node would not look), the mapping before the
note that it was allocated (or a kill would look like a lost mapping), the note before anyone may use it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from millpond_core import names, quiesce
from millpond_core.allocator import Need, Place, Refusal, allocate, topology_value
from millpond_core.errors import Invalid
from millpond_core.instants import stamp
from millpond_core.machine import USABLE
from millpond_core.master import attaching, changes, deleting, growth, scrub
from millpond_core.master import volumes as v
from millpond_core.master.steps import Act, Create, Decision, Merge, Notice, Patch, Refuse, Wait, resting
from millpond_core.master.world import World, concerned
from millpond_core.model import ObjectMeta, Quiescence, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.virtualvolume import Extent, Leg, Mapping

RETRY_SECONDS = 30.0
"""What does not fit is tried again after this, and whenever a device or another volume changes."""

LISTEN_SECONDS = 3.0

DEADLINE_SECONDS = 30
"""Deadline of the master's own quiescences."""

_UUIDS = uuid.UUID("0f1c87f4-4f40-5a0a-9c71-3f6f25a0a3ce")

Rung = Callable[[World, VirtualVolume, float], Decision | None]


def decide(world: World, volume: VirtualVolume, now: float) -> Decision:
    """The one next step for ``volume``, or why there is none now. ``now``: seconds since the epoch."""
    waits: list[Wait | Refuse] = []
    for rung in DELETING if volume.metadata.deletion_timestamp else LADDER:
        decision = rung(world, volume, now)
        if isinstance(decision, Act | Refuse):
            return decision
        if decision is not None:
            waits.append(decision)
    return resting(*waits)


# --- rungs ------------------------------------------------------------------------------------------------------------


def valid(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """What cannot be mapped as it is."""
    try:
        v.size_bytes(volume)
    except Invalid as error:
        return Refuse("Invalid", str(error))
    if original := v.copied_from(world, volume):
        return Refuse(
            "Invalid",
            f"spec.uuid {volume.spec.uuid} is volume {original}'s already, and with it every name on nodes and disks: "
            "nothing is done for this one; delete it, and make another without spec.uuid",
        )
    if lost := v.mapping_lost(world, volume):
        return Refuse(
            "MappingLost",
            f"{lost}; it is not allocated again, since that could hide or overwrite its data: restore the mapping "
            "with `kubectl millpond vdb import`, or delete the volume",
        )
    if newer := v.newer_label(volume):
        return Refuse(
            "RecordOld",
            f"{newer}; it stands still, since an old mapping could hide or overwrite what was written since: restore a "
            "newer backup of etcd, or see `kubectl millpond vdb import`",
        )
    return None


def identified(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """A volume made without a uuid gets one, once."""
    if volume.spec.uuid:
        return None
    made = str(uuid.uuid5(_UUIDS, f"{volume.metadata.uid}/{volume.metadata.creation_timestamp}"))
    patch = {"metadata": _unchanged(volume), "spec": {"uuid": made}}
    return Act(Merge(VirtualVolume, volume.metadata.name, patch), "the volume gets its identity")


def allocated(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """Places for all legs: labels of their nodes first, then the mapping in one commit."""
    if volume.status.mapping.generation:
        return None
    places = allocate(world.spaces(), _need(world, volume), volume.spec.layout.copies)
    if isinstance(places, Refusal):
        return Refuse("NoRoom", places.sentence(), now + RETRY_SECONDS)
    if act := _labelled(volume, {place.node for place in places}):
        return act
    legs = [
        _leg(volume.status.next_leg + number, place, state="InSync", complete=True)
        for number, place in enumerate(places)
    ]
    where = ", ".join(f"{leg.id} on {leg.node}" for leg in legs)
    name = volume.metadata.name
    return Act(
        Patch(
            VirtualVolume,
            name,
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": volume.metadata.resource_version},
                *v.begin_status(
                    volume,
                    mapping=Mapping(generation=1, record_seq=1, size_bytes=v.size_bytes(volume), legs=legs),
                    sizeBytes=v.size_bytes(volume),
                    nextLeg=volume.status.next_leg + len(legs),
                ),
            ],
        ),
        f"mapped, generation 1: leg {where}",
        (Notice("Allocated", f"leg {where}"),),
    )


def noted(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """The annotation that tells a lost mapping from a volume that never had one."""
    if volume.metadata.annotations.get(names.ANNOTATION_ALLOCATED) == volume.spec.uuid:
        return None
    note = {names.ANNOTATION_ALLOCATED: volume.spec.uuid}
    return Act(
        Merge(VirtualVolume, volume.metadata.name, {"metadata": {"annotations": note}}),
        "noted that it is allocated",
    )


def labelled(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """Each node concerned finds the volume by its label; one that has no part in it any more does not."""
    # A node that was taken for failed must find what it still has standing, however late it is back.
    standing = {entry.node for entry in volume.status.nodes if entry.front != "None" or entry.paths}
    return _labelled(volume, concerned(volume) | standing, drop=True)


def released(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """A leg that was given back leaves the record."""
    return deleting.drop_released(world, volume)


def forgotten(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """What a node said that has no part in the volume any more, and is not told of it any more, is dropped."""
    for index, entry in enumerate(volume.status.nodes):
        if names.node_label(entry.node) not in volume.metadata.labels:
            path = f"/status/nodes/{index}"
            operations = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": volume.metadata.resource_version},
                {"op": "test", "path": f"{path}/node", "value": entry.node},
                {"op": "remove", "path": path},
            ]
            return Act(
                Patch(VirtualVolume, volume.metadata.name, operations), f"{entry.node} has no part in it any more"
            )
    return None


def attached(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """The attachment follows what is wanted."""
    if v.phase(world, volume) not in USABLE and not volume.status.attachment.node:
        return None
    wanted = volume.spec.attachment.node
    if wanted and wanted != volume.status.attachment.node and (act := _labelled(volume, {wanted})):
        return act
    decision = attaching.decide(world, volume, now)
    # It may wait for a node that has no part in the volume yet, whose events do not lead here.
    return Wait(decision.reason, decision.message, now + LISTEN_SECONDS) if isinstance(decision, Wait) else decision


def spared(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """As many live spares as legs are missing; those that are not needed or lost themselves are given back."""
    if v.phase(world, volume) not in USABLE or not v.in_reach(world, volume):
        return None
    look = changes.outlook(world, volume, now)
    patience = Wait(until=look.grace_ends) if look.grace_ends is not None else None
    surplus = look.dead_spares + look.spares[max(look.missing, 0) :]
    if surplus:
        return _give_back(volume, surplus)
    short = look.missing - len(look.spares)
    if short <= 0:
        return patience
    room = min(
        changes.MAX_SPARES - len(volume.status.spares),
        changes.MAX_LEGS - len(volume.status.mapping.legs) - len(look.spares),
    )
    if room <= 0:
        return Wait("TooManyLegs", "waits for legs that are being given back before it takes a spare", None)
    places = allocate(world.spaces(), _need(world, volume, look), 1)
    if isinstance(places, Refusal):
        return Wait("NoRoom", f"{v.NO_SPARE}: {places.sentence()}", now + RETRY_SECONDS)
    if act := _labelled(volume, {places[0].node}):
        return act
    spare = _leg(volume.status.next_leg, places[0], state="Rebuilding", complete=False)
    return Act(
        Patch(
            VirtualVolume,
            volume.metadata.name,
            [
                *v.record_tests(volume),
                *v.spare_tests(volume),
                v.put("/status/spares", [*volume.status.spares, spare]),
                v.put("/status/nextLeg", volume.status.next_leg + 1),
            ],
        ),
        f"spare {spare.id} on {spare.node} allocated",
        (Notice("SpareAllocated", f"spare {spare.id} on {spare.node} is being prepared"),),
    )


def quiesced(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """A change that is ready gets its quiescence, together with those of its neighbours that have the same reason."""
    change = changes.ready(world, volume, now)
    if change is None:
        if turn := changes.queued(world, volume, now):
            return Wait("RebuildsLimited", turn, now + RETRY_SECONDS)
        # A leg that may be taken back shows first in its node's heartbeat, which is no event.
        stale = any(leg.state == "Stale" for leg in v.legs(volume))
        return Wait(until=now + LISTEN_SECONDS) if stale else None
    if hindrance := _hindered(world, volume, now):
        return hindrance
    until = changes.pause(world, volume, change)
    if now < until:
        return Wait("BackingOff", f"{change.why}; tried again shortly, after what went before", until)
    group = [(volume.metadata.name, change)]
    peers = {name for leg in v.legs(volume) if leg.extents for name in world.volumes_on(leg.extents[0].device_uuid)}
    for name in sorted(peers - {volume.metadata.name}):
        peer = world.volumes[name]
        other = changes.ready(world, peer, now)
        if other and other.reason == change.reason and not _hindered(world, peer, now):
            group += [(name, other)] if changes.pause(world, peer, other) <= now else []
    return Act(Create(_quiescence(world, group, now)), f"{change.why}: going still to commit the next generation")


LADDER: tuple[Rung, ...] = (
    valid,
    identified,
    allocated,
    noted,
    attached,
    released,
    spared,
    growth.grown,
    quiesced,
    labelled,
    forgotten,
    scrub.scrubbed,
)
DELETING: tuple[Rung, ...] = (deleting.decide,)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _need(world: World, volume: VirtualVolume, look: changes.Outlook | None = None) -> Need:
    """What one more leg asks for, next to the legs that stay."""
    placement = volume.spec.placement
    near = [*look.kept, *look.spares] if look else []
    lost = [leg for leg, _ in look.lost] if look else []
    moving = [leg for leg in look.leaving if leg.id in placement.moving] if look else []
    values = set()
    for space in world.spaces() if near else ():
        value = topology_value(space, placement.spread_topology)
        if value is not None and space.node in {leg.node for leg in near}:
            values.add(value)
    return Need(
        units=v.units_per_stripe(volume),
        stripes=volume.spec.layout.stripes,
        pool=placement.pool,
        selector=placement.node_selector,
        topology=placement.spread_topology,
        preferred=placement.preferred_node,
        doubted=frozenset(leg.node for leg in lost),
        left_devices=frozenset(extent.device_uuid for leg in (*lost, *moving) for extent in leg.extents),
        taken_nodes=frozenset(leg.node for leg in near),
        taken_values=frozenset(values),
    )


def _leg(number: int, place: Place, *, state: Any, complete: bool) -> Leg:
    extents = [Extent(device=p.device, device_uuid=p.uuid, start=p.start, length=p.length) for p in place.pieces]
    return Leg(id=names.leg_id(number), node=place.node, state=state, complete=complete, extents=extents)


def _labelled(volume: VirtualVolume, nodes: set[str], *, drop: bool = False) -> Act | None:
    """The finalizer and the labels of ``nodes``; with ``drop`` no labels of other nodes."""
    meta = volume.metadata
    wanted = {names.node_label(node): node for node in nodes | ({volume.spec.attachment.node} - {""})}
    there = {label for label in meta.labels if label.startswith(names.NODE_LABEL_PREFIX)}
    labels: dict[str, str | None] = {label: "" for label in wanted if label not in there}
    if drop:
        labels |= dict.fromkeys(sorted(there - set(wanted)))
    patch: dict[str, Any] = {}
    if labels:
        patch["labels"] = labels
    if names.FINALIZER not in meta.finalizers:
        patch["finalizers"] = [*meta.finalizers, names.FINALIZER]
    if not patch:
        return None
    return Act(
        Merge(VirtualVolume, meta.name, {"metadata": {**_unchanged(volume), **patch}}),
        "labelled for the nodes that have a part in it",
    )


def _unchanged(volume: VirtualVolume) -> dict[str, str]:
    return {"resourceVersion": volume.metadata.resource_version}


def _give_back(volume: VirtualVolume, surplus: tuple[Leg, ...]) -> Act:
    ids = {leg.id for leg in surplus}
    marked = [
        msgspec.structs.replace(spare, releasing=True) if spare.id in ids else spare for spare in volume.status.spares
    ]
    tests = [*v.record_tests(volume), *v.spare_tests(volume)]
    return Act(
        Patch(VirtualVolume, volume.metadata.name, [*tests, v.put("/status/spares", marked)]),
        f"spare {', '.join(sorted(ids))} is not needed, or lost: given back",
    )


def _hindered(world: World, volume: VirtualVolume, now: float) -> Wait | None:
    """Why no quiescence may be made for a volume now: one is under way or waits, or its attach node is silent."""
    name, node = volume.metadata.name, volume.status.attachment.node
    for q in world.quiescences.values():
        if _manual(q):
            continue  # ours waits for its end, before any that people make later
        waiting = q.status.phase == "Pending" and name in q.spec.scope.volumes
        if waiting or (q.status.phase in quiesce.RUNNING and name in q.status.volumes):
            return Wait("Quiescing", f"quiescence {q.metadata.name} is under way")
    if node and world.state_of(node).state != "Ready":
        health = world.state_of(node)
        return Wait("AttachNodeSilent", f"its attach node {node} is {health.state}: nothing is changed under it")
    return None


def _manual(q: Quiescence) -> bool:
    return q.metadata.labels.get(names.LABEL_MADE_BY) != names.MASTER


def _quiescence(world: World, group: list[tuple[str, changes.Change]], now: float) -> Quiescence:
    first = group[0][1]
    name = hashlib.sha256(f"{stamp(now)}/{group}".encode()).hexdigest()[:8]
    more = f", and {len(group) - 1} more volume(s)" if len(group) > 1 else ""
    return Quiescence(
        metadata=ObjectMeta(name=f"q-{name}", labels={names.LABEL_MADE_BY: names.MASTER}),
        spec=QuiescenceSpec(
            reason=first.reason,
            scope=Scope(volumes=[volume for volume, _ in group]),
            deadline_seconds=DEADLINE_SECONDS,
            message=f"{first.why}{more}"[:1024],
        ),
    )
