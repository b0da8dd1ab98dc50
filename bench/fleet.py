"""The objects of a cluster of so many volumes and nodes, by arithmetic.

The first nodes, ``REAL`` at most, run real state managers in worlds of three (two or four at the end). The others
exist as objects only, in the form that their state managers and the master would have left them in. The first volumes
go still and therefore stand on real nodes: their mapping is given, the rest (labels, legs, exports, arrays) is made by
those whose work it is. The first ten stand on the same three nodes in every cluster: clusters are compared by them.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from millpond_core import names
from millpond_core.instants import stamp
from millpond_core.model import ObjectMeta, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.storagedevice import DeviceObservation, Identity, StorageDeviceSpec, StorageDeviceStatus
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.model.virtualvolume import (
    Attachment,
    DesiredAttachment,
    Extent,
    Layout,
    Leg,
    LegReport,
    NodeReport,
    OnFailure,
    PathReport,
    Placement,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.model.virtualvolume import (
    Mapping as Record,
)
from millpond_core.units import LABEL_BYTES, MIB, UNIT_BYTES, leg_units

REAL = 50
STILL = 1000
GROUP = 3
BESIDE = 10
"""Volumes on the first three nodes of every cluster."""
SLOTS = ("d1", "d2")
DISK_BYTES = LABEL_BYTES + 4096 * UNIT_BYTES
VOLUME_BYTES = 16 * MIB
GRACE_SECONDS = 0
"""A pulled device's legs are replaced at once: a quiescence follows each failure."""
OBJECTS = "objects"
"""Pool of the nodes that are objects only."""


class Size(NamedTuple):
    """So many volumes on so many nodes; ``str`` is 100x3."""

    volumes: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.volumes}x{self.nodes}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """Raises ValueError when it is no size, or one in which a volume finds no two nodes."""
        volumes, _, nodes = text.partition("x")
        size = cls(int(volumes), int(nodes))
        if size.volumes < 1 or size.nodes < GROUP:
            raise ValueError(f"{text}: VOLUMESxNODES, one volume and {GROUP} nodes at least")
        return size

    @property
    def real(self) -> int:
        """Nodes with a real state manager."""
        return min(self.nodes, REAL)

    @property
    def still(self) -> int:
        """Volumes that stand on real nodes, and can go still."""
        return self.volumes if self.nodes == self.real else min(self.volumes, STILL)

    def counts(self) -> list[int]:
        """How many volumes go still at once: 1, 10, 100 and 1,000 of them, as far as there are so many."""
        return [count for count in (1, 10, 100, 1000) if count <= self.still]


class Place(NamedTuple):
    """Where a volume is attached, the pool of its devices, and the nodes of its two legs with the disk of each."""

    attach: str
    pool: str
    legs: tuple[tuple[str, str], tuple[str, str]]


def node(number: int) -> str:
    """Names count from one."""
    return f"n{number + 1}"


def device(at: str, slot: str) -> str:
    """Name of the StorageDevice."""
    return f"{at}-{slot}"


def volume(number: int) -> str:
    """Name of the VirtualVolume."""
    return f"v{number + 1}"


def groups(count: int) -> list[list[int]]:
    """Nodes whose kernels see each other, three together; none is left alone."""
    made = [list(range(at, min(at + GROUP, count))) for at in range(0, count, GROUP)]
    if len(made[-1]) == 1:
        alone = made.pop()
        made[-1] += alone
    return made


def pool(size: Size, number: int) -> str:
    """A group's own: no leg is placed where the kernels of its volume's other nodes do not reach."""
    if number >= size.real:
        return OBJECTS
    return next(f"g{position + 1}" for position, group in enumerate(groups(size.real)) if number in group)


def place(size: Size, number: int) -> Place:
    """Attached to one node, one leg there, the other on the next node of its group; disks by turns."""
    if number < size.still:
        at = number % GROUP if number < BESIDE else number % size.real
        [mine] = [group for group in groups(size.real) if at in group]
    else:
        at = size.real + number % (size.nodes - size.real)
        mine = list(range(size.real, size.nodes))
    other = mine[(mine.index(at) + 1) % len(mine)]
    slot = SLOTS[number // GROUP % len(SLOTS)]
    return Place(node(at), pool(size, at), ((node(at), slot), (node(other), slot)))


def device_objects(size: Size) -> Iterator[StorageDevice]:
    """All; the uuid of a real one is found out later, since its state manager chooses it."""
    for number, slot in itertools.product(range(size.nodes), SLOTS):
        at = node(number)
        name = device(at, slot)
        observed = DeviceObservation(
            state="Claimed",
            device_uuid=_uuid(name),
            attach_count=1,
            boot_id=_uuid(at),
            path=f"/dev/disk/by-id/{name}",
            serial=serial(at, slot),
            capacity_bytes=DISK_BYTES - LABEL_BYTES,
            since=stamp(0.0),
        )
        yield StorageDevice(
            metadata=ObjectMeta(name=name, finalizers=[names.FINALIZER]),
            spec=StorageDeviceSpec(node_name=at, identity=Identity(serial=serial(at, slot)), pool=pool(size, number)),
            status=StorageDeviceStatus(observation=observed) if number >= size.real else StorageDeviceStatus(),
        )


def serial(at: str, slot: str) -> str:
    """Of a disk."""
    return f"{at}{slot}".upper()


def node_objects(size: Size) -> Iterator[StorageNode]:
    """Those without a state manager that would make them."""
    for number in range(size.real, size.nodes):
        at = node(number)
        status = StorageNodeStatus(
            observed_generation=1,
            api_level=1,
            addresses=[f"10.1.{number // 250}.{number % 250 + 1}"],
            host_nqn=names.host_nqn(_uuid("cluster"), at),
            host_id=names.host_id(_uuid("cluster"), at),
            boot_id=_uuid(at),
            disks=f"{len(SLOTS)} claimed, 0 unclaimed",
        )
        yield StorageNode(metadata=ObjectMeta(name=at), status=status)


def volume_objects(size: Size, uuids: Mapping[str, str]) -> Iterator[VirtualVolume]:
    """All; ``uuids`` are those of the real devices by name. Extents follow each other on a device."""
    units, next_unit = leg_units(VOLUME_BYTES), dict.fromkeys(_devices(size), 0)
    for number in range(size.volumes):
        there, legs = place(size, number), []
        for position, (at, slot) in enumerate(there.legs):
            name = device(at, slot)
            extent = Extent(
                device=name, device_uuid=uuids.get(name) or _uuid(name), start=next_unit[name], length=units
            )
            next_unit[name] += units
            legs.append(Leg(id=names.leg_id(position), node=at, state="InSync", complete=True, extents=[extent]))
        yield _volume(size, number, there, legs)


def _volume(size: Size, number: int, there: Place, legs: list[Leg]) -> VirtualVolume:
    name = volume(number)
    identity = _uuid(name)
    status = VirtualVolumeStatus(
        next_leg=len(legs),
        size_bytes=VOLUME_BYTES,
        mapping=Record(generation=1, record_seq=1, legs=legs),
    )
    if number >= size.still:
        attachment = Attachment(node=there.attach, epoch=1, clean=False, boot_id=_uuid(there.attach))
        status = VirtualVolumeStatus(
            observed_generation=1,
            next_leg=len(legs),
            size_bytes=VOLUME_BYTES,
            mapping=status.mapping,
            attachment=attachment,
            nodes=[_report(identity, leg, there.attach, legs) for leg in legs],
        )
    return VirtualVolume(
        metadata=ObjectMeta(
            name=name,
            labels={names.node_label(leg.node): "" for leg in legs},
            annotations={names.ANNOTATION_ALLOCATED: identity},
            finalizers=[names.FINALIZER],
        ),
        spec=VirtualVolumeSpec(
            uuid=identity,
            size=f"{VOLUME_BYTES // MIB}Mi",
            layout=Layout(copies=len(legs)),
            placement=Placement(pool=there.pool),
            on_failure=OnFailure(grace_period_seconds=GRACE_SECONDS),
            attachment=DesiredAttachment(node=there.attach),
        ),
        status=status,
    )


def _report(identity: str, leg: Leg, attach: str, legs: list[Leg]) -> NodeReport:
    incarnation = names.incarnation(_uuid(leg.node), [(leg.extents[0].device_uuid, 1)])
    exported = "" if leg.node == attach else names.subsystem_nqn(identity, leg.id, 1, incarnation)
    mine = leg.node == attach
    return NodeReport(
        node=leg.node,
        boot_id=_uuid(leg.node),
        epoch=1,
        generation=1,
        record_seq=1,
        front="Active" if mine else "None",
        device=names.dm_path(names.front(identity)) if mine else "",
        legs=[LegReport(id=leg.id, prepared=True, nqn=exported, incarnation=incarnation)],
        paths=[PathReport(id=each.id, gate="Holding", path="Up", member="InSync") for each in legs] if mine else [],
    )


def _devices(size: Size) -> list[str]:
    return [device(node(number), slot) for number in range(size.nodes) for slot in SLOTS]


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))
