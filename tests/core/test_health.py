"""What a claim is told of the volume under it: when, in which words, and what is left as others wrote it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from master_world import NOW, STALE, device, leg, legs, lost, mapped, meta, report, world

from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import health, planner, volume_status
from millpond_core.master.conditions import Says, conditions
from millpond_core.master.steps import Act, Apply, Notice, Wait
from millpond_core.master.world import World
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.model.storagedevice import DeviceObservation
from millpond_core.model.virtualvolume import PathReport, Progress, VirtualVolumeStatus

WELL = [Says("Ready", True, "AllCopies"), Says("Degraded", False, "AllCopies"), Says("Holding", False, "NothingHeld")]
OTHERS = {"type": "FileSystemResizePending", "status": "True"}


def told(there: World) -> Act:
    """The master's word about v1, which is written with its status."""
    decision = planner.decide(there, there.volumes["v1"], NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    return decision


def after(volume: VirtualVolume, act: Act) -> VirtualVolume:
    """The volume once that is written."""
    assert isinstance(act.step, Apply)
    status = {**msgspec.to_builtins(volume.status), **act.step.status}
    return msgspec.structs.replace(volume, status=msgspec.convert(status, VirtualVolumeStatus))


def said(*changes: Says, phase: Any = "Ready") -> tuple[Any, ...]:
    known = {**{one.type: one for one in WELL}, **{one.type: one for one in changes}}
    return health.unhealthy(phase, conditions((), known.values(), now=NOW, generation=1))


SHORT = Says("Degraded", True, "FewerCopies", "leg b lost")


@pytest.mark.parametrize(
    ("there", "reason", "message"),
    [
        pytest.param(said(SHORT, phase="Degraded"), "FewerCopies", "leg b lost", id="fewer copies"),
        pytest.param(
            said(SHORT, Says("Ready", True, "Degraded", "leg b lost; no spare can be placed: full"), phase="Degraded"),
            "FewerCopies",
            "leg b lost; no spare can be placed: full",
            id="the whole sentence, once",
        ),
        pytest.param(
            said(SHORT, Says("Holding", True, "LegAway", "n1 holds"), Says("Ready", True, "", "n1 holds; leg b lost")),
            "LegAway",
            "n1 holds; leg b lost",
            id="held is worse than degraded",
        ),
        pytest.param(
            said(SHORT, Says("Ready", False, "NoCopyInReach", "no leg"), phase="Faulted"),
            "NoCopyInReach",
            "no leg; leg b lost",
            id="unreachable is the worst",
        ),
        pytest.param(said(Says("LegsEqual", False, "Differ", "1 place")), "Differ", "1 place", id="copies that differ"),
        pytest.param(said(Says("DiskWarns", True, "Failing", "leg a")), "Failing", "leg a", id="a disk that warns"),
    ],
)
def test_the_worst_gives_the_reason(there: tuple[Any, ...], reason: str, message: str) -> None:
    assert there == (
        {
            "type": "millpond.io/Unhealthy",
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": seconds_stamp(NOW),
        },
    )


@pytest.mark.parametrize("phase", ["", "Pending", "Preparing", "Deleting"])
def test_what_is_not_in_use_cannot_be_unwell(phase: Any) -> None:
    assert said(Says("Ready", False, "NoRoom", "no room"), phase=phase) == ()
    assert said() == ()


def test_a_lost_leg_is_told_once_and_its_return_once() -> None:
    """Neither a second look nor a new master has anything to add."""
    there = world(mapped(mapping=STALE), lost("n2", since=NOW - 10))
    first = told(there)
    assert first.claim is not None
    [condition] = first.claim
    assert condition["reason"] == "FewerCopies"
    assert "leg b lost" in condition["message"]
    assert [(one.reason, one.warning, one.claim) for one in first.notices] == [("Degraded", True, True)]
    known = after(there.volumes["v1"], first)
    assert not isinstance(planner.decide(world(known, lost("n2", since=NOW - 10)), known, NOW), Act)
    mended = msgspec.structs.replace(
        known, status=msgspec.structs.replace(known.status, mapping=mapped().status.mapping)
    )
    last = told(world(mended))
    assert last.claim == ()
    assert last.notices == (Notice("Ready", "16Mi, copies 2/2", claim=True),)


def test_a_volume_that_is_ready_for_the_first_time_is_no_news_for_its_claim() -> None:
    """Of 10,000 claims that are provisioned each would be asked for."""
    there = mapped(phase="Preparing", attachment=mapped().status.attachment)
    act = told(world(there))
    assert act.claim is None
    assert [(one.reason, one.claim) for one in act.notices] == [("Ready", False)]


@pytest.mark.parametrize("more", [{"rate": 10}, {"rate": 10, "halted": True}, {}], ids=["rated", "halted", "bare"])
def test_how_far_a_rebuild_is_is_not_written_to_the_claim(more: dict[str, Any]) -> None:
    def rebuilt(done: int) -> World:
        progress = Progress(leg="b", kind="Full", done_bytes=done, total_bytes=1000, **more)
        path = PathReport(id="b", path="Up", since=stamp(NOW), member="Rebuilding")
        nodes = [report("n1", "a", front="Active", progress=[progress], paths=[path]), report("n2", "b")]
        return world(mapped(mapping=legs(leg("a", "n1"), leg("b", "n2", "Rebuilding")), nodes=nodes))

    there = rebuilt(100)
    first = told(there)
    assert first.claim is not None
    assert first.claim[0]["message"] == "leg b on n2 rebuilding"
    known = after(there.volumes["v1"], first)
    there = rebuilt(500)
    nodes = there.volumes["v1"].status.nodes
    later = msgspec.structs.replace(known, status=msgspec.structs.replace(known.status, nodes=nodes))
    second = told(world(later))
    assert "50%" in str(second.step), "the volume itself says it"
    assert second.claim is None


def test_held_io_is_told_with_its_beginning_and_its_end() -> None:
    def held(since: str) -> list[Any]:
        path = PathReport(id="b", path="Up", since=stamp(NOW), holding_since=since)
        return [report("n1", "a", front="Active", paths=[path]), report("n2", "b")]

    there = world(mapped(nodes=held(stamp(NOW - 2))))
    first = told(there)
    assert first.claim is not None
    assert first.claim[0]["reason"] == "LegAway"
    [notice] = first.notices
    assert (notice.reason, notice.warning, notice.claim) == ("Holding", True, True)
    assert "n1 holds reads and writes for leg b on n2 since" in notice.message
    known = after(there.volumes["v1"], first)
    over = msgspec.structs.replace(known, status=msgspec.structs.replace(known.status, nodes=held("")))
    last = told(world(over))
    assert (last.claim, last.notices) == ((), (Notice("Holding", "reads and writes go on", claim=True),))


def test_a_disk_that_warns_under_a_leg_is_told() -> None:
    seen = device("n2-d1", "n2")
    observation = msgspec.structs.replace(seen.status.observation, warnings=["SpareLow", "TooHot"])
    assert isinstance(observation, DeviceObservation)
    dying: StorageDevice = msgspec.structs.replace(
        seen, status=msgspec.structs.replace(seen.status, observation=observation)
    )
    there = world(after(mapped(), told(world(mapped()))), dying)
    act = volume_status.decide(there, there.volumes["v1"], Wait(), NOW)
    assert act is not None
    assert act.claim is not None
    assert act.claim[0]["message"] == "leg b is on n2-d1 of n2, which warns: SpareLow"
    assert [(one.reason, one.warning, one.claim) for one in act.notices] == [("DiskWarns", True, True)]


def test_conditions_of_others_stay() -> None:
    bad = said(SHORT, phase="Degraded")
    claim: dict[str, Any] = {"metadata": {"resourceVersion": "9"}, "status": {"conditions": [OTHERS]}}
    patch = health.patch(claim, bad)
    assert patch == {"metadata": {"resourceVersion": "9"}, "status": {"conditions": [OTHERS, *bad]}}
    claim["status"] = patch["status"]
    assert health.patch(claim, bad) is None
    assert health.patch(claim, ()) == {"metadata": {"resourceVersion": "9"}, "status": {"conditions": [OTHERS]}}
    assert health.patch({"metadata": {"resourceVersion": "1"}}, ()) is None


def test_a_claims_name() -> None:
    named = VirtualVolume(metadata=meta("v1", annotations={"millpond.io/claim": "shop/data"}))
    assert health.claim(named) == ("shop", "data")
    assert health.claim(VirtualVolume(metadata=meta("v1"))) == ("", "")
