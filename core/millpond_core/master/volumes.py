"""Questions about one volume that every planner asks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from millpond_core import machine, names, quiesce
from millpond_core.errors import Invalid
from millpond_core.instants import clock, parse, span
from millpond_core.master.conditions import find, wire
from millpond_core.master.world import World
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.model.virtualvolume import (
    Leg,
    LegReport,
    NodeReport,
    PathReport,
    Progress,
    VirtualVolumeStatus,
    VolumePhase,
)
from millpond_core.units import leg_units, parse_quantity, round_up

NO_SPARE = "no spare can be placed"
"""Words of status.message while there is no device for one more leg: others look for them, as no condition says it."""


class Loss(NamedTuple):
    """A leg is out of reach."""

    since: float
    """Seconds since the epoch; infinite: only just, no one has noted it yet; or it does not matter."""
    why: str
    node_failed: bool = False
    back_at: float = -math.inf
    """When its node is to be back from planned work (seconds since the epoch); it is waited for until then."""

    def patience_ends(self, grace: float) -> float:
        """When the leg is given up: the grace period of planned work begins with the return that was stated."""
        return max(self.since, self.back_at) + grace

    def when(self) -> str:
        """For a sentence."""
        return f" at {clock(self.since)}" if math.isfinite(self.since) else ""


def size_bytes(volume: VirtualVolume) -> int:
    """Usable bytes. Raises Invalid when the spec gives no size."""
    try:
        return round_up(parse_quantity(volume.spec.size))
    except ValueError as error:
        raise Invalid(f"spec.size: {error}") from error


def units_per_stripe(volume: VirtualVolume) -> int:
    """Units that a leg needs on each of its devices: of the size that is mapped, once it is."""
    size = volume.status.mapped_bytes if volume.status.mapping.generation else 0
    return -(-leg_units(size or size_bytes(volume)) // volume.spec.layout.stripes)


def legs(volume: VirtualVolume) -> list[Leg]:
    """The legs that are part of the volume."""
    return [leg for leg in volume.status.mapping.legs if not leg.releasing]


def spares(volume: VirtualVolume) -> list[Leg]:
    """Legs being prepared for the next generation."""
    return [leg for leg in volume.status.spares if not leg.releasing]


def report(volume: VirtualVolume, node: str) -> NodeReport | None:
    """What a node last said of the volume."""
    return next((entry for entry in volume.status.nodes if entry.node == node), None)


def leg_report(volume: VirtualVolume, leg: Leg) -> LegReport | None:
    """What a leg's node last said of it."""
    entry = report(volume, leg.node)
    return next((one for one in entry.legs if one.id == leg.id), None) if entry else None


def path_report(volume: VirtualVolume, leg: Leg) -> PathReport | None:
    """What the attach node says of a leg, under the present epoch."""
    attachment = volume.status.attachment
    entry = report(volume, attachment.node) if attachment.node else None
    if entry is None or entry.epoch != attachment.epoch:
        return None
    return next((one for one in entry.paths if one.id == leg.id), None)


def holding(volume: VirtualVolume) -> dict[str, float]:
    """Since when the attach node holds I/O for legs (seconds since the epoch), by id; those that wait for nothing are
    not there.
    """
    said = report(volume, volume.status.attachment.node)
    return {path.id: at for path in said.paths if (at := parse(path.holding_since)) is not None} if said else {}


def progress(volume: VirtualVolume, leg: str = "") -> Progress | None:
    """What the attach node tells of a leg that is rebuilt; of a comparison without one."""
    said = report(volume, volume.status.attachment.node)
    return next((one for one in said.progress if one.leg == leg), None) if said else None


def how_far(progress: Progress) -> str:
    """What is done of a long operation and how long it still takes, such as ``35%, ~4 min``: too coarse to be news at
    every look.
    """
    percent = 100 * progress.done_bytes // progress.total_bytes
    text = f"{percent - percent % 5}%"
    if progress.halted:
        return f"{text}, halted by a quiescence"
    if progress.rate > 0:
        left = (progress.total_bytes - progress.done_bytes) / progress.rate
        text += f", ~{span(max(10.0, left - left % 10) if left < 100 else left)}"
    return text


def without_how_far(text: str) -> str:
    """A sentence without what ``how_far`` put into it."""
    return re.sub(r", \d+%(, (halted|~)[^;,]*)?", "", text)


def prepared(volume: VirtualVolume, leg: Leg) -> bool:
    """Whether a leg's node has it zeroed, labelled and mapped."""
    said = leg_report(volume, leg)
    return said is not None and said.prepared


def served(world: World, volume: VirtualVolume, leg: Leg) -> bool:
    """Whether the attach node can use a leg: prepared, and exported under the present epoch when it is remote."""
    said, entry = leg_report(volume, leg), report(volume, leg.node)
    if said is None or entry is None or not said.prepared or world.state_of(leg.node).state != "Ready":
        return False
    attachment = volume.status.attachment
    if attachment.node in ("", leg.node):
        return True
    parsed = names.parse_nqn(said.nqn)
    return entry.epoch == attachment.epoch and parsed is not None and parsed[2] == attachment.epoch


def loss(world: World, volume: VirtualVolume, leg: Leg) -> Loss | None:
    """Why a leg is out of reach; None: it is not, as far as anyone says.

    A leg that is recorded InSync while only its path is down is the attach node's to judge. One that is Stale waits to
    be offered again by its node; the attach node has let it go.
    """
    found = _loss(world, volume, leg)
    return found._replace(back_at=world.back_at(leg.node)) if found else None


def _loss(world: World, volume: VirtualVolume, leg: Leg) -> Loss | None:
    for device in world.devices_of(leg):
        seen = device.status.observation
        if seen.state in ("Failed", "Absent", "Refused"):
            where = f"{device.metadata.name} on {leg.node}"
            what = {"Failed": "failed", "Absent": "is not there", "Refused": "is refused"}[seen.state]
            return Loss(_since(volume, seen.since), f"{where} {what}{': ' + seen.message if seen.message else ''}")
    health = world.state_of(leg.node)
    if health.state == "Failed":
        return Loss(health.since, f"node {leg.node} has failed", node_failed=True)
    path = path_report(volume, leg)
    if leg.state == "Rebuilding" and path is not None and path.path == "Down":
        return Loss(_since(volume, path.since), f"{volume.status.attachment.node} does not reach {leg.node}")
    if leg.state == "Stale" and health.state == "Ready" and not served(world, volume, leg):
        said = leg_report(volume, leg)
        why = f": {said.message}" if said and said.message else ""
        return Loss(_since(volume), f"{leg.node} does not offer it{why}")
    return None


def back(world: World, volume: VirtualVolume, leg: Leg) -> bool:
    """Whether a leg that was lost is offered again by a node that has been heard of since: what a node without power
    said last stands in the record for a while.
    """
    lost = _since(volume) + 1.0  # conditions tell whole seconds
    appeared = (parse(device.status.observation.since) or 0.0 for device in world.devices_of(leg))
    return served(world, volume, leg) and max([world.state_of(leg.node).heard, *appeared]) > lost


def _since(volume: VirtualVolume, told: str = "") -> float:
    """When something was lost: as its observer says, else since the volume is known to be degraded, else only just."""
    if (at := parse(told)) is not None:
        return at
    degraded = find(volume.status.conditions, "Degraded")
    noted = parse(degraded.last_transition_time) if degraded and degraded.status == "True" else None
    return math.inf if noted is None else noted


def in_reach(world: World, volume: VirtualVolume) -> list[Leg]:
    """Legs recorded InSync that nothing speaks against."""
    return [leg for leg in legs(volume) if leg.state == "InSync" and loss(world, volume, leg) is None]


def reached(volume: VirtualVolume, leg: Leg) -> bool:
    """Whether the attach node reaches the leg right now; true as well while the volume is attached nowhere."""
    path = path_report(volume, leg)
    return not volume.status.attachment.node or (path is not None and path.path == "Up")


def leaving(world: World, volume: VirtualVolume, leg: Leg) -> bool:
    """Whether people want the leg moved, a device under it emptied or its node, or the disk warns of its own end."""
    return (
        leg.id in volume.spec.placement.moving
        or world.leaves(leg.node)
        or any(_is_emptied(device) for device in world.devices_of(leg))
    )


def _is_emptied(device: StorageDevice) -> bool:
    return bool(device.metadata.deletion_timestamp or device.spec.desired_state != "InService" or device.dying())


def copied_from(world: World, volume: VirtualVolume) -> str:
    """Name of the volume whose spec.uuid this one has too; empty: it is its own.

    Everything on nodes and disks is named after the uuid, so only one can have it: the one with a mapping, else the
    older one.
    """
    mine = _seniority(volume)
    older = [other for name in world.namesakes(volume) if _seniority(other := world.volumes[name]) < mine]
    return min(older, key=_seniority).metadata.name if older else ""


def _seniority(volume: VirtualVolume) -> tuple[bool, str, str]:
    metadata = volume.metadata
    return volume.status.mapping.generation == 0, metadata.creation_timestamp or "", metadata.name


def mapping_lost(world: World, volume: VirtualVolume) -> str:
    """Why a volume without a mapping must not be given one: it was allocated before. Empty: it was not."""
    if volume.status.mapping.generation:
        return ""
    noted = volume.metadata.annotations.get(names.ANNOTATION_ALLOCATED)
    if noted:
        return f"it was allocated (annotation {names.ANNOTATION_ALLOCATED}: {noted}) but has no mapping"
    uuid = volume.spec.uuid
    for node in world.nodes.values():
        found = next((leg for leg in node.status.orphaned_legs if uuid and leg.startswith(f"{uuid}/")), None)
        if found:
            return f"a label on {node.metadata.name} holds its leg {found.removeprefix(uuid + '/')}"
    return ""


def newer_label(volume: VirtualVolume) -> str:
    """What a node says of a label that knows more than the record; empty: none does."""
    return next((f"{said.node}: {said.newer_label}" for said in volume.status.nodes if said.newer_label), "")


def phase(world: World, volume: VirtualVolume) -> VolumePhase:
    """The phase that follows from what is known."""
    there = legs(volume)
    reachable = in_reach(world, volume)
    done = [leg for leg in there if prepared(volume, leg) or loss(world, volume, leg)]
    preparing = volume.status.phase in ("Pending", "Preparing")
    good = [leg for leg in reachable if prepared(volume, leg)] if preparing else reachable
    noted = names.ANNOTATION_ALLOCATED in volume.metadata.annotations
    facts = machine.VolumeFacts(
        deleting=volume.metadata.deletion_timestamp is not None,
        mapped=volume.status.mapping.generation > 0,
        mapping_lost=bool(mapping_lost(world, volume)),
        legs=len(there),
        # Nobody is to write to it before the note stands that tells a lost mapping from a new volume.
        prepared=len(done) if noted else -1,
        in_sync=len(good),
        copies=volume.spec.layout.copies,
    )
    return machine.step(volume.status.phase, facts)


def covering(world: World, name: str) -> list[str]:
    """Names of the quiescences that are under way for a volume."""
    return [
        q.metadata.name
        for q in world.quiescences.values()
        if q.status.phase in quiesce.RUNNING and name in q.status.volumes
    ]


def record_tests(volume: VirtualVolume, changed: Sequence[Leg] = ()) -> list[dict[str, Any]]:
    """``test`` operations for what a change of the record was decided from."""
    mapping, attachment = volume.status.mapping, volume.status.attachment
    tests = [
        _test("/status/mapping/generation", mapping.generation),
        _test("/status/mapping/recordSeq", mapping.record_seq),
        _test("/status/attachment/epoch", attachment.epoch),
        _test("/status/attachment/node", attachment.node),
    ]
    ids = {leg.id for leg in changed}
    for index, leg in enumerate(mapping.legs):
        if leg.id in ids:
            tests += [
                _test(f"/status/mapping/legs/{index}/id", leg.id),
                _test(f"/status/mapping/legs/{index}/state", leg.state),
            ]
    return tests


def spare_tests(volume: VirtualVolume) -> list[dict[str, Any]]:
    """``test`` operations for the spares as they are known, and for there being no newer one."""
    tests = [_test("/status/nextLeg", volume.status.next_leg)]
    for index, spare in enumerate(volume.status.spares):
        tests += [
            _test(f"/status/spares/{index}/id", spare.id),
            _test(f"/status/spares/{index}/releasing", spare.releasing),
        ]
    return tests


def put(path: str, value: Any) -> dict[str, Any]:
    """An operation that sets a member, there or not."""
    return {"op": "add", "path": path, "value": wire(value)}


def begin_status(volume: VirtualVolume, **members: Any) -> list[dict[str, Any]]:
    """Operations that set members of a status that may not be there yet: nothing can be added to what is not."""
    if volume.status == VirtualVolumeStatus():
        return [put("/status", members)]
    return [put(f"/status/{name}", value) for name, value in members.items()]


def put_legs(volume: VirtualVolume, legs: Iterable[Leg], *, commit: bool, size_bytes: int = 0) -> list[dict[str, Any]]:
    """Operations that replace the legs, for a volume of another size where one is given: ``commit`` raises the
    generation, every change raises recordSeq.
    """
    mapping = volume.status.mapping
    return [
        put(
            "/status/mapping",
            msgspec.structs.replace(
                mapping,
                generation=mapping.generation + (1 if commit else 0),
                record_seq=mapping.record_seq + 1,
                size_bytes=size_bytes or volume.status.mapped_bytes,
                legs=list(legs),
            ),
        )
    ]


def _test(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}
