"""The labels of all nodes, put together: which volumes there are, in which legs, and what speaks against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from millpond_core import names
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan.label import overlap
from millpond_core.observed import Label, LabelLeg, PeerLeg
from millpond_core.units import leg_units
from millpond_core.vdb.seen import Finding, NodeSeen

Version = tuple[int, int, int]
"""(epoch, generation, recordSeq): the newer record is the higher one, in this order."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled disk, where it was found."""

    node: str
    path: str
    label: Label


class LegFound(msgspec.Struct, frozen=True, kw_only=True):
    """What the labels of all its devices say of one leg."""

    id: str
    parts: tuple[tuple[Device, LabelLeg], ...]

    @property
    def newest(self) -> LabelLeg:
        """All labels under a leg speak of the same bytes: the latest word counts."""
        return max((entry for _, entry in self.parts), key=version)

    @property
    def nodes(self) -> list[str]:
        return sorted({device.node for device, _ in self.parts})

    def whole(self, size_bytes: int) -> bool:
        """Every one of its extents is on a label, and they have room for a volume of that size."""
        there = {index: length for _, entry in self.parts for index, _, length in entry.extents}
        if not 0 < self.newest.extent_count == len(there):
            return False
        return sum(there.values()) >= leg_units(size_bytes)


class VolumeFound(msgspec.Struct, frozen=True, kw_only=True):
    """What labels say of one volume."""

    uuid: str
    legs: dict[str, LegFound]
    contradictions: tuple[str, ...] = ()

    @property
    def newest(self) -> LabelLeg:
        """An entry of the newest record; its ``peers`` are the legs that this record had."""
        return max((leg.newest for leg in self.legs.values()), key=version)

    @property
    def about(self) -> str:
        return f"vvol/{self.newest.volume_name or self.uuid}"


def version(entry: LabelLeg) -> Version:
    return entry.epoch, entry.generation, entry.record_seq


def devices(nodes: Iterable[NodeSeen]) -> tuple[list[Device], list[Finding]]:
    """Every labelled disk, each identity once; and what is wrong with the others."""
    found: dict[str, list[Device]] = defaultdict(list)
    wrong: list[Finding] = []
    for node in nodes:
        for disk in node.disks:
            if disk.label is None:
                todo = "what lies on it is not known; it is left as it is, and legs there count as missing"
                wrong.append(Finding(about=f"disk/{node.node}{disk.path}", what=disk.problem, todo=todo))
            else:
                found[disk.label.device_uuid].append(Device(node=node.node, path=disk.path, label=disk.label))
    for uuid, same in found.items():
        if len(same) > 1:
            places = ", ".join(f"{d.path} on {d.node}" for d in same)
            what = f"{len(same)} disks have the label of device {uuid} ({places}): one is a copy"
            todo = "take the copy away; neither is used until then"
            wrong.append(Finding(about=f"sdev/{same[0].label.device_name}", what=what, todo=todo))
    return [same[0] for _, same in sorted(found.items()) if len(same) == 1], wrong


def volumes(devices: Iterable[Device]) -> dict[str, VolumeFound]:
    """By spec.uuid."""
    parts: dict[str, dict[str, list[tuple[Device, LabelLeg]]]] = defaultdict(lambda: defaultdict(list))
    against: dict[str, list[str]] = defaultdict(list)
    for device in devices:
        for number, entry in enumerate(device.label.legs):
            parts[entry.volume][entry.leg].append((device, entry))
            for other in device.label.legs[:number]:
                if clash := overlap(other, entry):
                    what = (
                        f"units {clash[0]}-{clash[1]} of {device.label.device_name} belong to leg {entry.leg} of "
                        f"{entry.volume_name} and to leg {other.leg} of {other.volume_name}"
                    )
                    for each in {entry.volume, other.volume}:
                        against[each].append(what)
    found = {}
    for uuid, legs in sorted(parts.items()):
        made = VolumeFound(uuid=uuid, legs={id_: LegFound(id=id_, parts=tuple(p)) for id_, p in sorted(legs.items())})
        wrong = (*against[uuid], *_contradictions(made))
        found[uuid] = msgspec.structs.replace(made, contradictions=wrong)
    return found


def _contradictions(volume: VolumeFound) -> Iterator[str]:
    entries = [entry for leg in volume.legs.values() for _, entry in leg.parts]
    newest = volume.newest
    shapes = {(e.size_bytes, e.stripes, e.stripe_bytes) for e in entries}
    # It may have grown since a label was written, never the other way round.
    current = {e.size_bytes for e in entries if version(e) == version(newest)}
    layouts = {(e.stripes, e.stripe_bytes) for e in entries}
    if len(current) > 1 or len(layouts) > 1 or any(e.size_bytes > newest.size_bytes for e in entries):
        told = "; ".join(f"{size} bytes, {n} stripes of {b}" for size, n, b in sorted(shapes))
        yield f"its labels do not agree on its shape ({told})"
    if len({e.peers for e in entries if version(e) == version(newest)}) > 1:
        yield f"two different records have the same numbers {version(newest)}"
    if not newest.peers:
        yield "its newest label was written by a version that did not note which legs the volume has"
    for leg in volume.legs.values():
        if len(leg.nodes) > 1:
            yield f"leg {leg.id} is on {' and on '.join(leg.nodes)}, where a leg has one node"
        indexes = [index for _, entry in leg.parts for index, _, _ in entry.extents]
        if len(indexes) != len(set(indexes)) or len(indexes) > (leg.newest.extent_count or len(indexes)):
            yield f"extents of leg {leg.id} are told twice, or more than it has"


def record(legs: Iterable[Leg]) -> tuple[PeerLeg, ...]:
    """The legs of a record as a label has them."""
    return tuple(PeerLeg(leg=leg.id, node=leg.node, state=leg.state, releasing=leg.releasing) for leg in legs)


def next_leg(volume: VolumeFound) -> int:
    """The lowest number that no leg can have had."""
    ids = [*volume.legs, *(peer.leg for peer in volume.newest.peers)]
    return max([volume.newest.next_leg, *(names.leg_number(id_) + 1 for id_ in ids)])
