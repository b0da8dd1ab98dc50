"""When legs are compared, and in what runs."""

from __future__ import annotations

import msgspec
import pytest
from master_world import NOW, mapped, meta, report, world

from millpond_core.errors import Invalid
from millpond_core.instants import stamp
from millpond_core.master import scrub
from millpond_core.master.steps import Act, Patch, Wait
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Place, Progress, Scrub, ScrubInstruction, ScrubReport, ScrubResult
from millpond_core.nodeplan import scrubbing
from millpond_core.units import MIB

DAY = 86400.0
MADE = NOW - NOW % DAY - 3 * DAY + 100  # shortly after midnight, three days ago


def asked(schedule: str = "", at: float | None = None, **status: object) -> VirtualVolume:
    there = mapped(**status)
    there = msgspec.structs.replace(
        there, metadata=msgspec.structs.replace(there.metadata, creation_timestamp=stamp(MADE))
    )
    wanted = Scrub(schedule=schedule, requested_at=stamp(at) if at is not None else None)
    return msgspec.structs.replace(there, spec=msgspec.structs.replace(there.spec, scrub=wanted))


def begun(number: int, at: float) -> ScrubInstruction:
    return ScrubInstruction(number=number, reason="Schedule", begun_at=stamp(at))


def over(number: int, at: float, *places: Place) -> ScrubResult:
    return ScrubResult(
        number=number, reason="Schedule", begun_at=stamp(at), ended_at=stamp(at + 60), places=list(places)
    )


@pytest.mark.parametrize(
    ("volume", "due"),
    [
        pytest.param(asked(), None, id="nobody asks"),
        pytest.param(asked("@daily"), (MADE - 100 + DAY, "Schedule"), id="one that was missed is made up for"),
        pytest.param(asked("0 0 * * *"), (MADE - 100 + DAY, "Schedule"), id="five fields"),
        pytest.param(
            asked("@daily", scrub=begun(4, NOW - 60)), (NOW - NOW % DAY + DAY, "Schedule"), id="once for all missed"
        ),
        pytest.param(asked(at=NOW + 60), (NOW + 60, "Request"), id="at a time to come"),
        pytest.param(asked(at=NOW - 60, scrub=begun(1, NOW - 50)), None, id="a request that was met"),
        pytest.param(asked(at=NOW - 60, scrub=begun(1, NOW - 70)), (NOW - 60, "Request"), id="a request since"),
        pytest.param(
            asked("@daily", at=NOW + 60, scrub=begun(1, NOW - 70)), (NOW + 60, "Request"), id="what comes first"
        ),
        pytest.param(asked("@daily", copies_wanted=1), None, id="one copy: nothing to compare with"),
    ],
)
def test_when_the_next_is_due(volume: VirtualVolume, due: tuple[float, str] | None) -> None:
    assert scrub.next_due(volume) == due


def test_a_schedule_that_is_none_is_told_and_stops_nothing_else() -> None:
    wrong = asked("99 0 * * *")
    with pytest.raises(Invalid, match="is no schedule"):
        scrub.next_due(wrong)
    decision = scrub.scrubbed(world(wrong), wrong, NOW)
    assert isinstance(decision, Wait)
    assert "the legs are not compared" in decision.message


def test_it_is_instructed_and_what_was_found_is_taken_in() -> None:
    there = asked("@daily")
    decision = scrub.scrubbed(world(there), there, NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Patch)
    (written,) = [o["value"] for o in decision.step.operations if o["path"] == "/status/scrub"]
    assert (written["number"], written["reason"], written["begunAt"]) == (1, "Schedule", stamp(NOW))
    said = ScrubReport(number=1, done_bytes=16 * MIB, places=[Place(start_bytes=MIB, length_bytes=MIB)], ended=True)
    nodes = [report("n1", "a", front="Active", scrub=said), report("n2", "b")]
    ended = asked("@daily", scrub=begun(1, NOW), nodes=nodes)
    decision = scrub.scrubbed(world(ended), ended, NOW + 60)
    assert isinstance(decision, Act)
    assert decision.notices[0].warning
    (result,) = [o["value"] for o in decision.step.operations if o["path"] == "/status/lastScrub"]
    assert (result["endedAt"], result["places"]) == (stamp(NOW + 60), [{"startBytes": MIB, "lengthBytes": MIB}])


def test_what_another_comparison_found_is_not_taken_for_this_ones() -> None:
    said = ScrubReport(number=1, done_bytes=16 * MIB, ended=True)
    nodes = [report("n1", "a", front="Active", scrub=said), report("n2", "b")]
    going = asked("@daily", scrub=begun(2, NOW), last_scrub=over(1, NOW - DAY), nodes=nodes)
    assert scrub.scrubbed(world(going), going, NOW + 60) is None


@pytest.mark.parametrize(
    ("volume", "waits"),
    [
        pytest.param(asked("@daily", wanted="", attachment=mapped().status.attachment), "", id="it is attached"),
        pytest.param(
            asked("@daily", attachment=msgspec.structs.replace(mapped().status.attachment, node="")),
            "until it is attached",
            id="not attached",
        ),
        pytest.param(
            asked(
                "@daily",
                mapping=msgspec.structs.replace(
                    mapped().status.mapping,
                    legs=[
                        mapped().status.mapping.legs[0],
                        msgspec.structs.replace(mapped().status.mapping.legs[1], state="Stale"),
                    ],
                ),
            ),
            "until all copies are in sync",
            id="a copy is missing",
        ),
    ],
)
def test_what_it_waits_for(volume: VirtualVolume, waits: str) -> None:
    decision = scrub.scrubbed(world(volume), volume, NOW)
    if not waits:
        assert isinstance(decision, Act)
    else:
        assert isinstance(decision, Wait)
        assert waits in decision.message
        assert decision.until == NOW + scrub.RETRY_SECONDS


def test_one_at_a_time_on_a_node() -> None:
    there = asked("@daily")
    other = msgspec.structs.replace(
        asked("@daily", scrub=begun(1, NOW)), metadata=meta("v0"), spec=msgspec.structs.replace(there.spec, uuid="u0")
    )
    both = world(there, other)
    decision = scrub.scrubbed(both, there, NOW)
    assert isinstance(decision, Wait)
    assert "on n1 volume v0 is compared" in decision.message
    done = msgspec.structs.replace(
        other,
        metadata=msgspec.structs.replace(other.metadata, resource_version="8"),
        status=msgspec.structs.replace(other.status, last_scrub=over(1, NOW)),
    )
    both.put(done)
    assert isinstance(scrub.scrubbed(both, there, NOW), Act)


def test_how_far_it_is_is_said() -> None:
    one = Progress(kind="Scrub", done_bytes=8 * MIB, total_bytes=16 * MIB, rate=MIB // 2)
    nodes = [report("n1", "a", front="Active", progress=[one]), report("n2", "b")]
    assert scrub.progress(asked(scrub=begun(1, NOW), nodes=nodes)) == "its legs are compared, 50%, ~10 s"


@pytest.mark.parametrize(
    ("first", "last", "parts", "longest"),
    [
        pytest.param(0, 2 * 1024 * 1024, 16, 131072, id="a region of 1 GiB"),
        pytest.param(0, 16 * 2048, 16, 2048, id="16 MiB"),
        pytest.param(4096, 4096 + 3 * 2048, 3, 2048, id="fewer than 16 MiB"),
        pytest.param(2048, 2048 + 2049, 2, 2048, id="the odd end of a volume"),
    ],
)
def test_a_run_that_differs_is_looked_at_in_parts(first: int, last: int, parts: int, longest: int) -> None:
    found = scrubbing._split((first, last))
    assert len(found) == parts
    assert [a for a, _ in found] == [first, *[b for _, b in found[:-1]]], "they follow each other"
    assert found[-1][1] == last
    assert max(b - a for a, b in found) == longest
