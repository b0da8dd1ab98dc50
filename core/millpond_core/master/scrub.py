"""When a volume's legs are compared, and what was found.

A comparison is due at a time of the schedule (UTC; one that was missed is made up for, once) or at the time that a
person asks for. It is instructed, by ``status.scrub``, when all copies are in sync and nothing else is compared on the
nodes that have a part in the volume; the attach node does it (``nodeplan/scrubbing.py``), and what it found becomes
``status.lastScrub``. Legs that differ are both kept, and so told: the record calls both of them in sync.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from cronsim import CronSim, CronSimError

from millpond_core.errors import Invalid
from millpond_core.instants import clock, parse, stamp
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Decision, Notice, Patch, Wait
from millpond_core.master.world import World, concerned, scrubbing
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import ScrubInstruction, ScrubReason, ScrubReport, ScrubResult
from millpond_core.units import format_bytes

RETRY_SECONDS = 30.0

_NAMED = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}


class Due(NamedTuple):
    """The next comparison."""

    at: float
    """Seconds since the epoch."""
    reason: ScrubReason


def scrubbed(world: World, volume: VirtualVolume, now: float) -> Decision | None:
    """Instruct the comparison that is due; take in what one has found."""
    if scrubbing(volume):
        said = _said(volume)
        return _taken_in(volume, said, now) if said is not None and said.ended else None
    try:
        due = next_due(volume)
    except Invalid as error:
        return Wait("NoScrub", str(error))
    if due is None:
        return None
    if now < due.at:
        return Wait(until=due.at)
    if hindrance := _hindrance(world, volume):
        return Wait("ScrubWaits", f"its legs are to be compared: {hindrance}", now + RETRY_SECONDS)
    known = volume.status.scrub
    number = known.number + 1 if known else 1
    instruction = ScrubInstruction(number=number, reason=due.reason, begun_at=stamp(now))
    step = Patch(VirtualVolume, volume.metadata.name, [*v.record_tests(volume), v.put("/status/scrub", instruction)])
    return Act(step, f"its legs are compared ({due.reason.lower()})")


def next_due(volume: VirtualVolume) -> Due | None:
    """The next comparison after the last that was instructed; None: none is asked for. Raises Invalid."""
    spec, known = volume.spec.scrub, volume.status.scrub
    if volume.spec.layout.copies == 1:
        return None  # nothing to compare with
    last = parse(known.begun_at) if known else None
    asked = parse(spec.requested_at)
    found = [Due(asked, "Request")] if asked is not None and (last is None or asked > last) else []
    if spec.schedule:
        since = last if last is not None else parse(volume.metadata.creation_timestamp) or 0.0
        found.append(Due(_scheduled(spec.schedule, since), "Schedule"))
    return min(found, default=None)


def _scheduled(schedule: str, since: float) -> float:
    """The first time of a schedule after ``since``."""
    try:
        times = CronSim(_NAMED.get(schedule, schedule), datetime.fromtimestamp(since, UTC))
        return next(times).timestamp()
    except (CronSimError, StopIteration) as error:
        why = str(error) or "it names no time within 50 years"
        raise Invalid(f"spec.scrub.schedule {schedule!r} is no schedule ({why}): the legs are not compared") from None


def _hindrance(world: World, volume: VirtualVolume) -> str:
    """Why not now; empty: now."""
    if not volume.status.attachment.node:
        return "that waits until it is attached"
    if len(v.in_reach(world, volume)) < volume.spec.layout.copies:
        return "that waits until all copies are in sync"
    if names := v.covering(world, volume.metadata.name):
        return f"that waits for quiescence {', '.join(names)}"
    for node in sorted(concerned(volume)):
        if others := world.scrubbed_at(node) - {volume.metadata.name}:
            return f"that waits for its turn, on {node} volume {min(others)} is compared"
    return ""


def _said(volume: VirtualVolume) -> ScrubReport | None:
    """What the attach node says of the comparison that is instructed."""
    entry, wanted = v.report(volume, volume.status.attachment.node), volume.status.scrub
    said = entry.scrub if entry else None
    return said if said is not None and wanted is not None and said.number == wanted.number else None


def _taken_in(volume: VirtualVolume, said: ScrubReport, now: float) -> Act:
    wanted = volume.status.scrub
    assert wanted is not None
    result = ScrubResult(
        number=wanted.number,
        reason=wanted.reason,
        begun_at=wanted.begun_at,
        ended_at=stamp(now),
        places=said.places,
        more=said.more,
    )
    said_of_it = told(result)
    reason = "LegsDiffer" if result.places else "LegsEqual"
    step = Patch(VirtualVolume, volume.metadata.name, [*v.record_tests(volume), v.put("/status/lastScrub", result)])
    differ = bool(result.places)
    return Act(step, said_of_it, (Notice(reason, said_of_it, warning=differ, claim=differ),))


# --- what is said of it -----------------------------------------------------------------------------------------------


def says(volume: VirtualVolume) -> Says | None:
    """The condition LegsEqual; None: they were never compared."""
    last = volume.status.last_scrub
    if last is None:
        return None
    return Says("LegsEqual", not last.places, "Differ" if last.places else "Compared", told(last))


def progress(volume: VirtualVolume) -> str:
    """How far a comparison is; empty: there is none."""
    if not scrubbing(volume):
        return ""
    one = v.progress(volume)
    if one is None or not one.total_bytes:
        return "its legs are about to be compared"
    return f"its legs are compared, {v.how_far(one)}"


def told(result: ScrubResult) -> str:
    """What a comparison has found, for people."""
    ended = parse(result.ended_at)
    when = f"compared on {result.ended_at[:10]} at {clock(ended)} UTC" if ended is not None else "compared"
    if not result.places:
        return f"all copies are equal, {when}"
    first = result.places[0]
    count = f"more than {len(result.places)}" if result.more else f"{len(result.places)}"
    return (
        f"copies differ in {count} place(s), {when}, the first within {format_bytes(first.length_bytes)} from byte "
        f"{first.start_bytes}: the record calls them all in sync, so nothing was repaired; find out which is right "
        "(docs/scrubbing.md), then `kubectl millpond scrub --keep LEG`"
    )
