"""Comparing the legs, a region at a time, as the record instructs it (``status.scrub``).

md counts what differs and says nothing of where. So a region in which anything differed is looked at once more in
smaller parts, down to the finest, which are what is told: each was seen to differ several times. Nothing is written:
two legs that are both recorded InSync are equals, and nobody here knows which of them is right. A sector that cannot be
read on one leg is md's to write anew from another.

md is given one run after the other (``Md.check``), each remembered before. Where it has stopped tells what became of
it: it waits at the end of the run; or has ended by itself, at the end of the array; or was interrupted, and goes on.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec

from millpond_core import layout
from millpond_core.model.virtualvolume import Place, Progress, ScrubReport
from millpond_core.nodeplan.attaching import Attaching
from millpond_core.nodeplan.stack import in_sync
from millpond_core.nodeplan.steps import Check, EndCheck, Remember
from millpond_core.nodeplan.view import ScrubMemory
from millpond_core.observed import Array
from millpond_core.units import MIB, SECTOR

REGION = 1024 * MIB // SECTOR
"""Compared in one go: what is compared again, at most, after an interruption."""
PARTS = 16
"""Into so many a run is split that differed."""
FINEST = MIB // SECTOR
MOST_PLACES = 16

LOOK_SECONDS = 1.0
"""md says nothing when it has come to the end of a run."""

Run = tuple[int, int]


def under_way(plan: Attaching) -> bool:
    """Whether a comparison is instructed, and has not ended here."""
    wanted, known = plan.volume.status.scrub, plan.memory.scrub
    last = plan.volume.status.last_scrub
    if wanted is None or (last is not None and last.number >= wanted.number):
        return False
    return known.number != wanted.number or not known.ended


def compare(plan: Attaching) -> bool:
    """The next step of a comparison; the last rung, so that everything else goes first."""
    array, known = plan.stack.array, plan.memory.scrub
    assert array is not None
    checking = array.sync_action == "check"
    if plan.around.halted or plan.queued():
        return False  # what md waits for now it would wait for in us, too (kernel-facts 20)
    if not under_way(plan):
        if checking:
            plan.steps.append(EndCheck(name=array.name, why="nobody wants the legs compared any more"))
        return bool(plan.steps)
    wanted = plan.volume.status.scrub
    assert wanted is not None
    if known.number != wanted.number:
        plan.steps.append(_remember(_begun(plan, wanted.number), "the legs are compared"))
    elif checking and (known.running is None or array.sync_max_sectors != known.running[1]):
        plan.steps.append(EndCheck(name=array.name, why="compared was what nobody remembers"))
    elif checking and known.running is not None:
        if array.sync_done_sectors >= known.running[1]:
            ended = _ended(plan, differs=known.differs or array.mismatch_count > 0)
            plan.steps += [_remember(ended, _told(known, ended)), EndCheck(name=array.name)]
        plan.wake = LOOK_SECONDS
    elif array.sync_action == "idle" and not _hindered(plan, array):
        _go_on(plan, array)
    return bool(plan.steps)


def _go_on(plan: Attaching, array: Array) -> None:
    """Nothing is compared right now: the run has ended by itself, was interrupted, or the next begins."""
    known = plan.memory.scrub
    first, last = known.running or _next(known, array.component_sectors)
    differs = known.differs
    if known.handed and array.last_sync_action == "check":
        differs = differs or array.mismatch_count > 0
        if array.sync_max_sectors is None:
            ended = _ended(plan, differs=differs)
            plan.steps.append(_remember(ended, _told(known, ended)))
            return
        if array.sync_max_sectors == last:
            first = max(first, array.sync_min_sectors)
    running = msgspec.structs.replace(known, running=(first, last), handed=False, differs=differs)
    handed = msgspec.structs.replace(running, handed=True)
    plan.steps += [_remember(running), Check(name=array.name, first=first, last=last), _remember(handed)]


def _hindered(plan: Attaching, array: Array) -> bool:
    """Whether something keeps the legs from being compared; said."""
    legs = plan.wanted()
    if len(legs) < 2 or array.degraded or not all(plan.good(leg) for leg in legs):
        plan.waits.append("the legs are compared once all of them are in sync and in reach")
        return True
    return not all(in_sync(plan.stack.member(leg.id)) for leg in legs)


def _begun(plan: Attaching, number: int) -> ScrubMemory:
    """From where another node, or this one before it was booted, has come to."""
    there = [entry.scrub for entry in plan.volume.status.nodes if entry.scrub and entry.scrub.number == number]
    best = max(there, key=lambda said: said.done_bytes, default=None)
    if best is None:
        return ScrubMemory(number=number)
    places = tuple((p.start_bytes // SECTOR, (p.start_bytes + p.length_bytes) // SECTOR) for p in best.places)
    return ScrubMemory(number=number, done=best.done_bytes // SECTOR, places=places, more=best.more)


def _next(known: ScrubMemory, component: int) -> Run:
    if known.again:
        return known.again[-1]
    return known.done, min(known.done + REGION, component)


def _ended(plan: Attaching, *, differs: bool) -> ScrubMemory:
    """After the run that md was given."""
    known = plan.memory.scrub
    assert known.running is not None
    last = known.running[1]
    again, done, places = known.again, known.done, known.places
    if again:
        run, again = again[-1], again[:-1]
    else:
        run, done = (done, last), last
    if differs:
        if run[1] - run[0] <= FINEST:
            places = (*places, run)
        else:
            again = (*again, *reversed(_split(run)))
    more = known.more or (len(places) >= MOST_PLACES and bool(again))
    if len(places) >= MOST_PLACES:
        again = ()
    component = layout.component_sectors(plan.bytes)
    return ScrubMemory(
        number=known.number,
        done=done,
        again=again,
        places=places[:MOST_PLACES],
        more=more,
        ended=done >= component and not again,
    )


def _split(run: Run) -> list[Run]:
    """Parts of whole multiples of the finest."""
    first, last = run
    step = -(-(last - first) // PARTS)
    step = -(-step // FINEST) * FINEST
    return list(pairwise([*range(first, last, step), last]))


def _told(before: ScrubMemory, after: ScrubMemory) -> str:
    """For the log; empty: nothing that people would want to know."""
    found = "".join(f"; the legs differ at {_where(place)}" for place in after.places[len(before.places) :])
    return f"the legs are compared{found}" if after.ended else found.removeprefix("; ")


def _where(run: Run) -> str:
    return f"byte {run[0] * SECTOR}, within {(run[1] - run[0]) * SECTOR}"


def _remember(scrub: ScrubMemory, why: str = "") -> Remember:
    return Remember(changes={"scrub": scrub}, why=why)


# --- what is said of it ---


def report(known: ScrubMemory) -> ScrubReport | None:
    """What the master hears; None: there never was one here."""
    if not known.number:
        return None
    # What is looked at again has not been compared for good.
    done = min([known.done, *(first for first, _ in known.again)])
    places = [Place(start_bytes=first * SECTOR, length_bytes=(last - first) * SECTOR) for first, last in known.places]
    return ScrubReport(number=known.number, done_bytes=done * SECTOR, places=places, more=known.more, ended=known.ended)


def progress(plan: Attaching) -> list[Progress]:
    """The running comparison, for people."""
    array, known = plan.stack.array, plan.memory.scrub
    if array is None or not under_way(plan) or not known.number or not plan.memory.assembled:
        return []
    if array.sync_action not in ("check", "idle", "frozen"):
        return []  # a leg is rebuilt
    done = known.done
    if not known.again and known.running is not None and array.sync_max_sectors == known.running[1]:
        done = max(done, array.sync_done_sectors if array.sync_action == "check" else array.sync_min_sectors)
    halted = array.sync_action == "frozen"
    total = array.component_sectors * SECTOR
    return [Progress(kind="Scrub", done_bytes=done * SECTOR, total_bytes=total, halted=halted)]
