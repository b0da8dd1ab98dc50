"""``kubectl millpond plan expand``: what a larger size would bring each leg, told from a rehearsal."""

from __future__ import annotations

import msgspec

from millpond_core import names
from millpond_core.errors import Invalid, NotFound
from millpond_core.master import volumes as v
from millpond_core.master.conditions import find
from millpond_core.master.rehearsal import Rehearsal
from millpond_core.master.world import World
from millpond_core.model import VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.units import UNIT_BYTES, format_bytes, leg_units, parse_quantity, round_up


class Part(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What one leg gets."""

    leg: str
    node: str
    devices: list[str]
    bytes: int
    """To be zeroed; reads and writes go on meanwhile."""


class Enlargement(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What will become of one volume, which keeps all of its copies at every step."""

    volume: str
    claim: str
    """``namespace/name``; empty: it serves none."""
    pods: tuple[str, ...] = ()
    """``namespace/name`` of those that have the claim; known to who asks for them alone."""
    from_bytes: int
    to_bytes: int
    wanted: int
    copies: int
    """In sync and in reach, before as well as meanwhile."""
    parts: list[Part]
    bytes: int
    """To be zeroed in all."""
    seconds: float
    """For the leg with most of it: they are zeroed side by side."""
    ends: str
    """The reason of the condition Resized in the end."""
    obstacle: str = ""
    """Why it does not come to its end by itself."""


def plan(world: World, name: str, size: str, now: float, *, rate: int) -> Enlargement:
    """What ``size``, a quantity, will lead to; ``rate``: bytes zeroed in a second. Raises NotFound, Invalid."""
    before = world.volumes.get(name)
    if before is None:
        raise NotFound(f"there is no VirtualVolume {name}: kubectl get vvol lists them")
    wanted, has = _bytes(size), before.status.mapped_bytes
    if wanted < has:
        raise Invalid(f"{name} has {format_bytes(has)}: a volume is never made smaller than it is")
    rehearsal = Rehearsal(world, now)
    asked = msgspec.structs.replace(before, spec=msgspec.structs.replace(before.spec, size=size))
    rehearsal.world.put(asked)
    rehearsal.run([], [name], lambda was, is_: None)
    after = rehearsal.world.volumes[name]
    said = find(after.status.conditions, "Resized")
    parts = _parts(before, after)
    grown = after.status.mapped_bytes >= wanted
    return Enlargement(
        volume=name,
        claim=before.metadata.annotations.get(names.ANNOTATION_CLAIM, ""),
        from_bytes=has,
        to_bytes=wanted,
        wanted=before.spec.layout.copies,
        copies=len(v.in_reach(world, before)),
        parts=parts,
        bytes=sum(part.bytes for part in parts),
        seconds=max((part.bytes for part in parts), default=0) / rate,
        ends="Done" if grown else said.reason if said else "",
        obstacle="" if grown else said.message if said else after.status.message,
    )


def _bytes(size: str) -> int:
    try:
        return round_up(parse_quantity(size))
    except ValueError as error:
        raise Invalid(str(error)) from error


def _parts(before: VirtualVolume, after: VirtualVolume) -> list[Part]:
    """What is zeroed is all behind the end that the volume has now."""
    used = leg_units(before.status.mapped_bytes)
    had = {leg.id: len(leg.extents) for leg in v.legs(before)}
    parts = []
    for leg in v.legs(after):
        larger = after.status.given(leg).extents
        new = larger[had.get(leg.id, len(larger)) :]
        if new:
            units = sum(extent.length for extent in larger) - used
            devices = list(dict.fromkeys(extent.device for extent in new))
            parts.append(Part(leg=leg.id, node=leg.node, devices=devices, bytes=units * UNIT_BYTES))
    return parts
