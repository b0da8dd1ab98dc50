"""Which legs to move so that the devices of a pool are about equally full.

Each move is rehearsed before the next is chosen, so what is told is what the master will do: it says where a leg goes,
this module only which is to leave (``spec.placement.moving``). A move is worth its copy only where it makes the devices
more equal, so there is an end to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from millpond_core import names
from millpond_core.master import changes
from millpond_core.master import volumes as v
from millpond_core.master.rehearsal import Rehearsal
from millpond_core.master.world import World
from millpond_core.model import VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.virtualvolume import Leg
from millpond_core.units import UNIT_BYTES

TOLERANCE = 0.1
"""How far apart the fullest and the emptiest device may be, as a part of their capacity."""

MOST = 100
"""Moves in one go: who wants more asks again."""

ATTEMPTS = 300
"""Legs of which a move is rehearsed: each rehearsal is a copy of the whole world."""

Fullness = dict[str, float]
"""Device → how much of it is taken, 0 to 1."""


class Transfer(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """One leg that is to move."""

    volume: str
    claim: str
    """``namespace/name``; empty: it serves none."""
    leg: str
    source: list[str]
    """Devices that it leaves."""
    node: str
    target: list[str]
    """Devices on which the new leg will lie, and their node."""
    bytes: int


class Balance(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A plan. Fullness is of the devices that legs may be placed on."""

    pool: str
    tolerance: float
    before: Fullness
    after: Fullness
    transfers: list[Transfer]
    bytes: int
    unattached: int
    """Volumes of the fullest devices that are attached nowhere: nothing of them is copied, so none was chosen."""


def plan(world: World, pool: str, now: float, *, tolerance: float = TOLERANCE) -> Balance:
    """The moves, in the order in which they were chosen; none where the devices are within ``tolerance`` already."""
    before = fullness(world, pool)
    search = _Search(pool, now)
    transfers: list[Transfer] = []
    there = world
    while len(transfers) < MOST and spread(fullness(there, pool)) > tolerance:
        found = search.better(there)
        if found is None:
            break
        volume, leg, after = found
        transfers.append(_told(after, volume, leg))
        there = after
    return Balance(
        pool=pool,
        tolerance=tolerance,
        before=before,
        after=fullness(there, pool),
        transfers=transfers,
        bytes=sum(transfer.bytes for transfer in transfers),
        unattached=len(search.idle),
    )


def asked_to_move(volume: VirtualVolume, *legs: str) -> list[str]:
    """``spec.placement.moving`` with more legs, and without those that have left already."""
    there = {leg.id for leg in v.legs(volume)}
    return sorted({*volume.spec.placement.moving, *legs} & there)


def fullness(world: World, pool: str) -> Fullness:
    """Of each device of the pool that a leg may be placed on."""
    found: Fullness = {}
    for device in world.devices.values():
        capacity = device.status.observation.capacity_bytes // UNIT_BYTES
        if device.spec.pool == pool and capacity and not world.unfit(device):
            taken = sum(length for _, length in world.used(device.status.observation.device_uuid))
            found[device.metadata.name] = taken / capacity
    return dict(sorted(found.items()))


def spread(full: Fullness) -> float:
    """Between the fullest and the emptiest."""
    return max(full.values(), default=0.0) - min(full.values(), default=0.0)


def _unevenness(full: Fullness) -> float:
    mean = sum(full.values()) / max(len(full), 1)
    return sum((part - mean) ** 2 for part in full.values())


class _Search:
    """For moves that make the devices more equal; no leg is tried twice."""

    def __init__(self, pool: str, now: float) -> None:
        self._pool, self._now = pool, now
        self._tried: set[tuple[str, str]] = set()
        self.idle: set[str] = set()
        """Volumes that were passed over because they are attached nowhere."""

    def better(self, world: World) -> tuple[VirtualVolume, Leg, World] | None:
        """The next leg to move, and the world once it has moved; None: no other is worth it."""
        full = fullness(world, self._pool)
        for volume, leg in self._candidates(world, full):
            if not volume.status.attachment.node:
                self.idle.add(volume.metadata.name)
                continue
            if len(self._tried) >= ATTEMPTS:
                return None
            self._tried.add((volume.metadata.name, leg.id))
            after = _rehearsed(world, volume, leg, self._now)
            if after is not None and _unevenness(fullness(after, self._pool)) < _unevenness(full):
                return volume, leg, after
        return None

    def _candidates(self, world: World, full: Fullness) -> Iterator[tuple[VirtualVolume, Leg]]:
        """Legs of the devices that are fuller than most, from the fullest on, the largest first."""
        mean = sum(full.values()) / len(full)
        for name in sorted((each for each in full if full[each] > mean), key=lambda each: (-full[each], each)):
            uuid = world.devices[name].status.observation.device_uuid
            volumes = [world.volumes[one] for one in world.volumes_on(uuid)]
            for volume in sorted(volumes, key=lambda one: (-one.status.mapped_bytes, one.metadata.name)):
                legs = v.legs(volume) if _settled(world, volume, self._now) else ()
                for leg in legs:
                    there = any(extent.device_uuid == uuid for extent in leg.extents)
                    if there and (volume.metadata.name, leg.id) not in self._tried:
                        yield volume, leg


def _settled(world: World, volume: VirtualVolume, now: float) -> bool:
    """Whether it has all its copies and nothing is under way: what is in danger is not moved about."""
    look = changes.outlook(world, volume, now)
    whole = len(v.in_reach(world, volume)) == len(look.kept) == volume.spec.layout.copies
    return whole and not (look.leaving or look.spares or volume.metadata.deletion_timestamp)


def _rehearsed(world: World, volume: VirtualVolume, leg: Leg, now: float) -> World | None:
    """The world once the leg has moved; None: it would not."""
    rehearsal = Rehearsal(world, now)
    placement = msgspec.structs.replace(volume.spec.placement, moving=asked_to_move(volume, leg.id))
    asked = msgspec.structs.replace(volume, spec=msgspec.structs.replace(volume.spec, placement=placement))
    rehearsal.world.put(asked)
    rehearsal.run([], [volume.metadata.name], lambda *_: None)
    after = rehearsal.world.volumes.get(volume.metadata.name)
    if after is None or any(one.id == leg.id for one in (*after.status.mapping.legs, *after.status.spares)):
        return None
    return rehearsal.world


def _told(after: World, volume: VirtualVolume, leg: Leg) -> Transfer:
    before = {one.id for one in volume.status.mapping.legs}
    [new] = [one for one in v.legs(after.volumes[volume.metadata.name]) if one.id not in before]
    return Transfer(
        volume=volume.metadata.name,
        claim=volume.metadata.annotations.get(names.ANNOTATION_CLAIM, ""),
        leg=leg.id,
        source=_devices(leg),
        node=new.node,
        target=_devices(new),
        bytes=volume.status.mapped_bytes,
    )


def _devices(leg: Leg) -> list[str]:
    return list(dict.fromkeys(extent.device for extent in leg.extents))
