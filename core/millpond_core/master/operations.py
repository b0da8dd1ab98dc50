"""A volume's long operations as its record shows them: what is copied or compared, why, how far, and who halts it.

They follow from the legs' states, from what the attach node tells of its array, and from the quiescences under way.
What brought one about is known only while it is decided, so it is kept from the version before.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from millpond_core.instants import seconds_stamp
from millpond_core.master import changes
from millpond_core.master import volumes as v
from millpond_core.master.world import World, scrubbing
from millpond_core.model import VirtualVolume
from millpond_core.model.operation import LongOperation
from millpond_core.model.virtualvolume import Leg
from millpond_core.units import KIB

CANNOT_COPY = "cannot be copied whole"
STOPPED = (
    f"{CANNOT_COPY}, no leg in sync can be read in one place, named in the kernel's log on {{node}}: pods that "
    "read it get an error, writing it anew may heal it; tried again within the hour"
)


def of(world: World, volume: VirtualVolume, now: float) -> list[LongOperation]:
    """All of a volume's, by id."""
    if not volume.status.mapping.generation or volume.metadata.deletion_timestamp:
        return []
    return sorted([*_copies(world, volume, now), *_comparison(world, volume, now)], key=lambda one: one.id)


def waits(world: World, volume: VirtualVolume, leg: Leg, now: float) -> str:
    """Why nothing is copied to a leg that lacks something; empty: it is copied."""
    node, path = volume.status.attachment.node, v.path_report(volume, leg)
    joined = any(one.id == leg.id for one in v.legs(volume))
    if loss := v.loss(world, volume, leg):
        return loss.why
    if not joined and not v.prepared(volume, leg):
        return "its extents are being zeroed"
    if not node:
        return "begins when the volume is attached"
    if not joined or leg.state == "Stale":
        return changes.queued(world, volume, now) or "begins with the next generation of the mapping"
    if path is not None and path.member == "Stopped":
        return STOPPED.format(node=node)
    told = v.progress(volume, leg.id)
    return "" if told is not None and told.total_bytes else "is about to begin"


def _copies(world: World, volume: VirtualVolume, now: float) -> Iterator[LongOperation]:
    known = {one.target: one for one in volume.status.operations if one.target}
    sources = [leg.id for leg in v.legs(volume) if leg.state == "InSync"]
    taken = {one.replaces for one in known.values()}
    for leg in (*v.legs(volume), *v.spares(volume)):
        returning = leg.state == "Stale" and not v.loss(world, volume, leg) and v.back(world, volume, leg)
        if leg.state != "Rebuilding" and not returning:
            continue
        base = known.get(leg.id) or _begun(world, volume, leg, taken, now)
        taken.add(base.replaces)
        base = msgspec.structs.replace(base, sources=sources, max_rate=world.rebuild_rate(volume) * KIB)
        yield _at(now, world, volume, base, waits(world, volume, leg, now))


def _begun(world: World, volume: VirtualVolume, leg: Leg, taken: set[str], now: float) -> LongOperation:
    """Why a leg is to be copied, as far as it can be told now."""
    look = changes.outlook(world, volume, now)
    lost = [(one.id, loss.why) for one, loss in look.lost if one.id not in taken]
    leaving = [one for one in look.leaving if one.id not in taken]
    gone = [one for one in volume.status.mapping.legs if one.releasing and one.id not in taken]
    kind, replaces, why = "Rebuild", "", "the volume has fewer copies than asked for"
    if leg.complete:
        why = "it lacks what was written while it was out of reach"
    elif lost:
        replaces, why = lost[0]
    elif leaving:
        devices = ", ".join(dict.fromkeys(extent.device for extent in leaving[0].extents))
        kind, replaces = "Move", leaving[0].id
        asked = leaving[0].id in volume.spec.placement.moving
        why = f"leg {replaces} is to leave {devices}" if asked else f"{devices} on {leaving[0].node} is to be emptied"
    elif gone:
        replaces, why = gone[0].id, f"leg {gone[0].id} on {gone[0].node} was lost"
    return LongOperation(
        id=f"{kind.lower()}-{leg.id}",
        kind="Move" if kind == "Move" else "Rebuild",
        state="Waiting",
        why=why,
        since=seconds_stamp(now),
        target=leg.id,
        replaces=replaces,
    )


def _comparison(world: World, volume: VirtualVolume, now: float) -> Iterator[LongOperation]:
    wanted = volume.status.scrub
    if wanted is None or not scrubbing(volume):
        return
    name = f"scrub-{wanted.number}"
    base = next((one for one in volume.status.operations if one.id == name), None) or LongOperation(
        id=name,
        kind="Scrub",
        state="Waiting",
        why="somebody asked for it" if wanted.reason == "Request" else "it is on its schedule",
        since=wanted.begun_at,
    )
    base = msgspec.structs.replace(
        base,
        sources=[leg.id for leg in v.legs(volume) if leg.state == "InSync"],
        max_rate=volume.spec.scrub.max_rate * KIB,
    )
    told = v.progress(volume)
    yield _at(now, world, volume, base, "" if told is not None and told.total_bytes else "is about to begin")


def _at(now: float, world: World, volume: VirtualVolume, base: LongOperation, waiting: str) -> LongOperation:
    """An operation as it stands. ``base``: as it was, or as it begins."""
    told = v.progress(volume, base.target)
    if waiting or told is None:
        return msgspec.structs.replace(
            base,
            state="Waiting",
            message=waiting,
            done_bytes=0,
            left_bytes=0 if base.kind == "Scrub" else volume.status.mapped_bytes,
            rate=0,
            expected_end="",
            checkpoint_bytes=None,
            halted_by=[],
        )
    left = max(told.total_bytes - told.done_bytes, 0)
    end = ""
    if told.rate and not told.halted:
        same = (base.done_bytes, base.rate) == (told.done_bytes, told.rate)
        # Told anew only with what it is reckoned from: a status that changes at every look would never be at rest.
        end = base.expected_end if same and base.expected_end else seconds_stamp(now + left / told.rate)
    return msgspec.structs.replace(
        base,
        state="Halted" if told.halted else "Running",
        message="",
        delta=told.kind == "Delta",
        done_bytes=told.done_bytes,
        left_bytes=left,
        rate=told.rate,
        expected_end=end,
        checkpoint_bytes=told.done_bytes if told.halted else None,
        halted_by=sorted(v.covering(world, volume.metadata.name)) if told.halted else [],
    )
