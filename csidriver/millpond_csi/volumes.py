"""What the controller makes of requests and of a VirtualVolume's state: pure decisions, and messages of the CSI."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from millpond_core import names
from millpond_core.errors import Invalid, MillpondError
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.meta import Condition
from millpond_core.model.virtualvolume import NodeReport, VirtualVolumeSpec
from millpond_core.units import format_bytes, parse_quantity, round_up
from millpond_csi.errors import AlreadyExists, NoRoom, OutOfRange
from millpond_csi.parameters import VolumeClass
from millpond_csi.sizes import quantity
from millpond_csi.stubs import csi
from millpond_csi.validation import EPOCH_KEY, UUID_KEY
from millpond_csi.waiting import Wait

ANNOTATION_NAME = "millpond.io/requested-name"
"""The name that the caller asked for, where it could not be the object's."""

REFUSALS: dict[str, type[MillpondError]] = {"NoRoom": NoRoom, "Invalid": Invalid}
"""Reasons of the condition Ready=False with which the master says that it will not place the volume as things are."""

RESIZED = "Resized"
"""Type of the condition with which the master says whether status.sizeBytes covers spec.size, and if not, why."""

NOT_AS_THINGS_ARE = {
    "NoRoom": "; it stays wanted, and comes as soon as there is room",
    "Invalid": "; asking for less takes this back",
}
"""Reasons of Resized=False that do not pass by themselves, and what follows. The others are waited for."""


class Resize(NamedTuple):
    """spec.size has to say ``size`` bytes first, in place of what ``volume`` says."""

    volume: VirtualVolume
    size: int


def wanted(volume_id: str, asked: VolumeClass, *, uuid: str, size: int, preferred: str, name: str) -> VirtualVolume:
    """The VirtualVolume that a CreateVolume of ``name`` asks for: ``size`` bytes."""
    annotations = {names.ANNOTATION_CLAIM: asked.claim} if asked.claim else {}
    if name != volume_id:
        annotations[ANNOTATION_NAME] = name
    return VirtualVolume(
        metadata=ObjectMeta(name=volume_id, annotations=annotations),
        spec=VirtualVolumeSpec(
            uuid=uuid,
            size=quantity(size),
            layout=asked.layout,
            placement=msgspec.structs.replace(asked.placement, preferred_node=preferred),
            rebuild=asked.rebuild,
            on_failure=asked.on_failure,
        ),
    )


def check_same(volume: VirtualVolume, asked: VolumeClass, required: int, limit: int) -> None:
    """AlreadyExists when ``volume`` is not what the same CreateVolume would have made.

    The preferred node does not count: a claim that is scheduled anew asks for another.
    """
    spec, size = volume.spec, parse_quantity(volume.spec.size)
    differences = [
        f"{field} is {have}, not {want}"
        for field, have, want in (
            ("layout.copies", spec.layout.copies, asked.layout.copies),
            ("layout.stripes", spec.layout.stripes, asked.layout.stripes),
            ("layout.stripeSize", spec.layout.stripe_size, asked.layout.stripe_size),
            ("placement.pool", spec.placement.pool, asked.placement.pool),
            ("placement.nodeSelector", spec.placement.node_selector, asked.placement.node_selector),
            ("placement.spreadTopology", spec.placement.spread_topology, asked.placement.spread_topology),
            ("rebuild", spec.rebuild, asked.rebuild),
            ("onFailure", spec.on_failure, asked.on_failure),
        )
        if have != want
    ]
    if size < required or (limit and size > limit):
        differences.append(f"its size is {size} bytes, asked were {required or 'any'} to {limit or 'any'}")
    if differences:
        raise AlreadyExists(f"volume {volume.metadata.name} exists and differs: {'; '.join(differences)}")


def created(volume: VirtualVolume | None) -> VirtualVolume | Wait:
    """The volume once its extents are its own, for good. Raises NoRoom or Invalid when the master refused to place it.

    Its legs are prepared meanwhile, which takes as long as it takes to zero them: attaching it waits for that.
    """
    if volume is None or volume.metadata.deletion_timestamp:
        return Wait("a volume of that name is still being deleted")
    if volume.status.mapping.generation:
        return volume
    if (refused := refusal(volume)) is not None:
        raise refused
    return Wait(volume.status.message or f"its phase is {volume.status.phase}: is the operator running?")


def refusal(volume: VirtualVolume) -> MillpondError | None:
    """Why the master does not place ``volume``; None: it has not said so, or has placed it since."""
    if volume.status.mapping.generation or volume.status.phase != "Pending":
        return None
    for condition in volume.status.conditions:
        if condition.type == "Ready" and condition.status == "False" and condition.reason in REFUSALS:
            return REFUSALS[condition.reason](condition.message or volume.status.message or "no devices can take it")
    return None


def unused(volume: VirtualVolume) -> bool:
    """Whether nobody can have been given ``volume``: never allocated, never attached, as an earlier CreateVolume of the
    same name leaves it that ran out of time.
    """
    allocated = volume.status.mapping.generation or names.ANNOTATION_ALLOCATED in volume.metadata.annotations
    return not (allocated or volume.spec.attachment.node)


def report(volume: VirtualVolume, node: str) -> NodeReport | None:
    """What ``node`` says about ``volume``."""
    return next((entry for entry in volume.status.nodes if entry.node == node), None)


def attached(volume: VirtualVolume, node: str) -> VirtualVolume | Wait:
    """The volume once its front is there on ``node``, under the epoch in force."""
    at, said = volume.status.attachment, report(volume, node)
    if at.node != node:
        before = f"it is still being detached from {at.node}" if at.node else "the master has not attached it yet"
        return Wait(f"{before}{_because(volume.status.message)}")
    if said is None or said.epoch != at.epoch or said.front != "Active":
        return Wait(
            f"node {node} is assembling it under epoch {at.epoch}"
            f"{_because((said.message if said else '') or volume.status.message)}"
        )
    return volume


def detached(volume: VirtualVolume | None, node: str, failed: Collection[str] = ()) -> bool | Wait:
    """True once nothing of the volume's assembly on ``node`` can write any more (empty: on whichever node it was).

    By its own word; or, since it was fenced, by that of every other leg node: it has confirmed the epoch in force, so
    nothing reaches its leg under an older one. ``failed``: nodes that have failed, whose word is not waited for.
    """
    if volume is None:
        return True
    at, said = volume.status.attachment, report(volume, node)
    if at.node and at.node == (node or at.node):
        return Wait(
            f"node {at.node} is taking it down, epoch {at.epoch}"
            f"{_because((said.message if said else '') or volume.status.message)}"
        )
    down = said is None or (said.front == "None" and not said.paths)
    # Taken away uncleanly, it may be assembled by a node that has said nothing since.
    if down and (at.node or at.clean or (said is not None and max(said.epoch, said.ended_epoch) >= at.epoch)):
        return True
    confirmed = {entry.node for entry in volume.status.nodes if entry.epoch >= at.epoch}
    silent = [each for each in leg_nodes(volume) if each != node and each not in failed and each not in confirmed]
    if silent:
        return Wait(
            f"it was taken from {node or 'its node'} without its word, and {', '.join(silent)} did not confirm epoch "
            f"{at.epoch} yet{_because(volume.status.message)}"
        )
    return True


def grown(volume: VirtualVolume, wanted: int) -> VirtualVolume | Resize | Wait:
    """The volume once it has ``wanted`` bytes (whole units), and its front too where it is attached.

    Raises OutOfRange when the master cannot do it as things are. That is a final answer to Kubernetes, as
    RESOURCE_EXHAUSTED is not: only after a final one does csi-resizer (2.3, ``hasFinalError``) take up a claim that was
    made smaller again. What was wanted stays in spec.size all the same, so that the master goes on by itself as soon as
    there is room, and a call that is made again finds it done. It is taken back when less is asked for, as far as
    nothing of it is under way yet.
    """
    status = volume.status
    have, said = status.size_bytes, round_up(parse_quantity(volume.spec.size))
    condition = _unresized(volume)
    final = condition is not None and condition.reason in NOT_AS_THINGS_ARE
    least = max(wanted, status.mapped_bytes, status.growth.size_bytes if status.growth else 0)
    if (have < wanted and said < wanted) or (final and said > least):
        return Resize(volume, least)
    why = condition.message if condition is not None else status.message
    if have < wanted and final and condition is not None:
        raise OutOfRange(
            f"volume {volume.metadata.name} has {format_bytes(have)} and cannot have {format_bytes(wanted)} as things "
            f"are: {why or condition.reason}{NOT_AS_THINGS_ARE[condition.reason]}"
        )
    if have < wanted:
        return Wait(f"it has {have} of {wanted} bytes{_because(why)}")
    at = status.attachment
    if at.node and at.node == volume.spec.attachment.node:
        seen = report(volume, at.node)
        if seen is None or seen.epoch < at.epoch or seen.size_bytes < wanted:
            return Wait(f"node {at.node} is enlarging it{_because((seen.message if seen else '') or why)}")
    return volume


def leg_nodes(volume: VirtualVolume) -> list[str]:
    """Nodes with a leg that is to stay, in order."""
    return sorted({leg.node for leg in volume.status.mapping.legs if not leg.releasing and leg.state != "Failed"})


def topology(node: str) -> Any:
    """The topology segment of ``node``."""
    return csi.Topology(segments={names.TOPOLOGY_KEY: node})


def message(volume: VirtualVolume, *, leg_nodes_only: bool = False) -> Any:
    """The CSI's Volume."""
    return csi.Volume(
        volume_id=volume.metadata.name,
        capacity_bytes=volume.status.size_bytes or parse_quantity(volume.spec.size),
        volume_context={UUID_KEY: volume.spec.uuid},
        accessible_topology=[topology(node) for node in leg_nodes(volume)] if leg_nodes_only else [],
    )


def publish_context(volume: VirtualVolume) -> dict[str, str]:
    """What the node needs to know to stage the volume."""
    return {UUID_KEY: volume.spec.uuid, EPOCH_KEY: str(volume.status.attachment.epoch)}


def _unresized(volume: VirtualVolume) -> Condition | None:
    """Resized=False, judged from what the spec says now: an older one is about another size."""
    for condition in volume.status.conditions:
        if condition.type == RESIZED and condition.status == "False":
            return condition if condition.observed_generation >= volume.metadata.generation else None
    return None


def _because(message: str) -> str:
    return f" ({message})" if message else ""
