"""A volume is to be larger: which extents each leg gets, and whether they can count.

    spec.size raised → status.growth: extents for each leg → leg nodes prepare them
    → generation N+1: the legs have them, sizeBytes is the new one → the attach node enlarges what stands

Until the commit nothing of it is part of the volume, so whatever fails before leaves the volume as it was. A leg stays
on its devices: what it is made of says in which life it is (``nodeplan.legs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millpond_core import layout
from millpond_core.allocator import MAX_EXTENTS, Piece, Space, extend
from millpond_core.errors import Invalid
from millpond_core.machine import USABLE
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says, find
from millpond_core.master.steps import Act, Decision, Notice, Patch, Wait
from millpond_core.master.world import World
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Extent, Growth, Leg, LegGrowth
from millpond_core.units import UNIT_BYTES, format_bytes, leg_units

RETRY_SECONDS = 30.0
"""What does not fit is tried again after this, and whenever a device or another volume changes."""


def grown(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """Extents for each leg that has too few for the size asked for."""
    size = target(volume)
    if not size or v.phase(world, volume) not in USABLE:
        return None
    if reason := impossible(volume):
        return Wait("Invalid", reason)
    short = _short(volume, size)
    if volume.status.growth is not None and not short:
        return None  # they are prepared, or the commit is next
    if reason := _unsettled(world, volume):
        return Wait("Degraded", reason)
    found = _room(world, volume, size, short)
    if isinstance(found, str):
        return Wait("NoRoom", found, now + RETRY_SECONDS)
    known = volume.status.growth
    growth = Growth(size_bytes=size, legs=[*(known.legs if known else ()), *found])
    told = f"grows from {format_bytes(volume.status.mapped_bytes)} to {format_bytes(size)}"
    operations = [
        *v.record_tests(volume),
        *v.spare_tests(volume),
        {"op": "test", "path": "/metadata/resourceVersion", "value": volume.metadata.resource_version},
        v.put("/status/growth", growth),
    ]
    return Act(
        Patch(VirtualVolume, volume.metadata.name, operations), f"{told}: extents allocated", (Notice("Growing", told),)
    )


def target(volume: VirtualVolume) -> int:
    """Usable bytes that are being prepared, else those asked for; 0: the volume has what it is to have."""
    status = volume.status
    if not status.mapping.generation or volume.metadata.deletion_timestamp:
        return 0
    if status.growth is not None:
        return status.growth.size_bytes
    try:
        wanted = v.size_bytes(volume)
    except Invalid:
        return 0
    return wanted if wanted > status.mapped_bytes else 0


def impossible(volume: VirtualVolume) -> str:
    """Why no larger volume can be made of this one; empty: it can.

    One bit of the write-intent bitmap stands for more in a volume of several TiB. Legs that are away while it changes
    would be misread when they are back.
    """
    size, wanted = volume.status.mapped_bytes, target(volume)
    chunks = [layout.bitmap_chunk_bytes(layout.component_sectors(each)) for each in (size, wanted)]
    if chunks[0] == chunks[1]:
        return ""
    return (
        f"it cannot grow from {format_bytes(size)} to {format_bytes(wanted)}: its write-intent bitmap would need "
        f"{format_bytes(chunks[1])} instead of {format_bytes(chunks[0])} a bit; make a new volume and copy"
    )


def ready(world: World, volume: VirtualVolume) -> bool:
    """Whether the larger size can be committed: every leg has it, prepared, and is in sync and in reach."""
    growth = volume.status.growth
    if growth is None or _unsettled(world, volume) or _short(volume, growth.size_bytes):
        return False
    said = [v.leg_report(volume, leg) for leg in v.legs(volume)]
    return all(one is not None and one.prepared_bytes >= growth.size_bytes for one in said)


def commit(volume: VirtualVolume) -> tuple[list[dict[str, Any]], list[Leg]]:
    """What else the commit of a larger size tests and changes, and the legs with what they get. The size itself is in
    the mapping (``volumes.put_legs``).
    """
    growth = volume.status.growth
    assert growth is not None
    operations = [
        *v.spare_tests(volume),
        {"op": "test", "path": "/status/growth/sizeBytes", "value": growth.size_bytes},
        {"op": "remove", "path": "/status/growth"},
    ]
    return operations, [volume.status.given(leg) for leg in volume.status.mapping.legs]


def without(volume: VirtualVolume, legs: Sequence[str]) -> list[dict[str, Any]]:
    """Operations that take legs out of what grows."""
    growth = volume.status.growth
    if growth is None or not any(one.id in legs for one in growth.legs):
        return []
    left = [one for one in growth.legs if one.id not in legs]
    return [v.put("/status/growth", msgspec.structs.replace(growth, legs=left))]


def says(world: World, volume: VirtualVolume, now: float) -> Says | None:
    """The condition Resized: there once a larger size was asked for."""
    if not target(volume):
        asked = find(volume.status.conditions, "Resized")
        message = f"it has {format_bytes(volume.status.mapped_bytes)}"
        return Says("Resized", True, "Done", message) if asked and volume.status.mapping.generation else None
    hindrance = grown(world, volume, now)
    if isinstance(hindrance, Wait):
        return Says("Resized", False, hindrance.reason, hindrance.message)
    return Says("Resized", False, "Growing", progress(volume) or f"is to grow to {format_bytes(target(volume))}")


def progress(volume: VirtualVolume) -> str:
    """One sentence: how far it is; empty: it does not grow."""
    growth = volume.status.growth
    if growth is None:
        return ""
    left = []
    for leg in v.legs(volume):
        said = v.leg_report(volume, leg)
        if said is None or said.prepared_bytes < growth.size_bytes:
            left.append(f"{leg.id} on {leg.node}{f' ({said.message})' if said and said.message else ''}")
    where = f"waits for leg {', '.join(left)} to be prepared" if left else "all legs are prepared"
    return f"grows from {format_bytes(volume.status.mapped_bytes)} to {format_bytes(growth.size_bytes)}: {where}"


def _short(volume: VirtualVolume, size: int) -> dict[str, int]:
    """Leg → units that it lacks on each of its devices for ``size`` bytes."""
    stripes, lacking = volume.spec.layout.stripes, {}
    needed = -(-leg_units(size) // stripes)
    for leg in v.legs(volume):
        there = sum(extent.length for extent in volume.status.given(leg).extents) // stripes
        if there < needed:
            lacking[leg.id] = needed - there
    return lacking


def _unsettled(world: World, volume: VirtualVolume) -> str:
    """Why the volume is to be left as it is for now; empty: all of its copies are there and stay."""
    legs, copies = v.legs(volume), volume.spec.layout.copies
    good = [leg for leg in v.in_reach(world, volume) if not v.leaving(world, volume, leg)]
    if len(good) == len(legs) == copies and not volume.status.spares:
        return ""
    size = format_bytes(target(volume))
    return f"grows to {size} once all copies are in sync and in their places ({len(good)} of {copies} are)"


def _room(world: World, volume: VirtualVolume, size: int, short: dict[str, int]) -> list[LegGrowth] | str:
    """What each leg gets; or which has no room."""
    found, refused = [], []
    for leg in v.legs(volume):
        if leg.id not in short:
            continue
        row = [world.device(extent.device_uuid) for extent in leg.extents[: volume.spec.layout.stripes]]
        pieces = _extended(leg, [world.space(device) if device else None for device in row], short[leg.id])
        if isinstance(pieces, str):
            refused.append(
                f"leg {leg.id} on {leg.node} needs {format_bytes(short[leg.id] * UNIT_BYTES)} more: {pieces}"
            )
        else:
            extents = [Extent(device=p.device, device_uuid=p.uuid, start=p.start, length=p.length) for p in pieces]
            found.append(LegGrowth(id=leg.id, extents=extents))
    if not refused:
        return found
    ids = ", ".join(leg for leg in short)
    return (
        f"no room to grow to {format_bytes(size)}: {'; '.join(refused)}. A leg stays on its devices: move it to an "
        f"emptier one (spec.placement.moving: [{ids}]), or ask for less"
    )


def _extended(leg: Leg, row: Sequence[Space | None], units: int) -> tuple[Piece, ...] | str:
    spaces = [space for space in row if space is not None]
    if len(spaces) < len(row):
        return "its device is not known"
    return extend(spaces, units, MAX_EXTENTS - len(leg.extents))
