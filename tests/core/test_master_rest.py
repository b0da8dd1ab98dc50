"""What else the master tells: doorbells, devices, one sentence about each volume; and the world it decides from."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from master_world import (
    FAILED_NODE,
    NOW,
    SPARE,
    STALE,
    device,
    leg,
    legs,
    lost,
    mapped,
    meta,
    quiescence,
    report,
    world,
)

from millpond_core import names
from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import changes, node, planner, volume_status
from millpond_core.master.steps import Act, Apply, Merge, Refuse, Wait, resting
from millpond_core.master.world import Health, Object, World
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import PathReport
from millpond_core.units import UNIT_BYTES


def test_doorbells_ring_for_what_is_under_way_and_for_nothing_else() -> None:
    there = world(
        quiescence("q1", "Draining"),
        quiescence("q2", "Quiesced"),
        quiescence("q3", "Released"),
        quiescence("q4", "Pending"),
        quiescence("q5", "Instructed", participants=["n2"]),
    )
    assert node.doorbell(there, "n1") == "q1,q2"
    assert node.doorbell(there, "n3") == ""
    decision = planner.decide(there, there.nodes["n1"], NOW)
    assert isinstance(decision, Act)
    bell = {"resourceVersion": "7", "annotations": {names.ANNOTATION_QUIESCE: "q1,q2"}}
    assert decision.step == Merge(StorageNode, "n1", {"metadata": bell})


def test_quiescences_that_fail_are_tried_again_later_and_later() -> None:
    there = world(mapped())
    there.put(quiescence("q1", "Aborted", at=NOW - 100))
    there.put(quiescence("q2", "Aborted", at=NOW))
    change = changes.Change("DeviceFailed", retire=("b",), adopt=("c",))
    assert changes.pause(there, there.volumes["v1"], change) == NOW + 10
    there.put(quiescence("q3", "Released", at=NOW + 1))
    assert changes.pause(there, there.volumes["v1"], change) == NOW + 1


@pytest.mark.parametrize(
    ("device_", "health", "phase", "said"),
    [
        pytest.param(device("n1-d1", "n1"), {}, "Online", "", id="in-use"),
        pytest.param(device("n1-d1", "n1", "Unknown"), {}, "Pending", "waits for n1", id="nobody-has-looked-yet"),
        pytest.param(device("n1-d1", "n1", "Failed", since=NOW), {}, "Failed", "since 08:00:00", id="failed"),
        pytest.param(device("n1-d1", "n1", "Absent"), {}, "Offline", "Absent", id="not-there-after-a-boot"),
        pytest.param(device("n1-d1", "n1"), {"n1": FAILED_NODE}, "Offline", "node n1 is Failed", id="with-its-node"),
        pytest.param(
            device("n1-d1", "n1"),
            {"n1": Health("StateManagerDown")},
            "Online",
            "StateManagerDown",
            id="what-a-silent-node-said-last-stands",
        ),
        pytest.param(device("n1-d1", "n1", desired_state="Drained"), {}, "Draining", "0/1 legs", id="draining"),
        pytest.param(device("n1-d2", "n1", desired_state="Retired"), {}, "Retired", "", id="retired"),
    ],
)
def test_devices(device_: StorageDevice, health: dict[str, Health], phase: str, said: str) -> None:
    there = world(mapped(), device_, **health)
    decision = planner.decide(there, device_, NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    assert decision.step.status["phase"] == phase
    assert said in decision.step.status["message"]
    if phase == "Online" and not health:
        assert decision.step.status["legs"] == 1
        assert decision.step.status["allocatedBytes"] == 5 * UNIT_BYTES
        assert decision.step.status["freeBytes"] == 251 * UNIT_BYTES


@pytest.mark.parametrize(
    ("volume_", "objects", "said"),
    [
        pytest.param(
            mapped(mapping=STALE, phase="Degraded"),
            [lost("n2", since=NOW - 10)],
            "leg b lost at 07:59:50: n2-d1 on n2 failed; waits for it until 08:00:50, then takes a spare",
            id="within-the-grace-period",
        ),
        pytest.param(
            mapped(mapping=STALE, phase="Degraded", spares=[SPARE]),
            [lost("n2", since=NOW - 70)],
            "leg b lost at 07:58:50: n2-d1 on n2 failed; spare c on n3 takes its place",
            id="its-spare-is-prepared",
        ),
        pytest.param(
            mapped(mapping=legs(leg("a", "n1"), leg("c", "n3", "Rebuilding")), phase="Degraded"),
            [],
            "leg c on n3 is about to be rebuilt",
            id="about-to-be-rebuilt",
        ),
        pytest.param(
            mapped(
                mapping=legs(leg("a", "n1"), leg("c", "n3", "Rebuilding")),
                nodes=[report("n1", "a", front="Active", paths=[PathReport(id="c", path="Up", member="Stopped")])],
                phase="Degraded",
            ),
            [],
            "leg c on n3 cannot be copied whole, no leg in sync can be read in one place, named in the kernel's log on "
            "n1: pods that read it get an error, writing it anew may heal it; tried again within the hour",
            id="its-copy-has-stopped",
        ),
    ],
)
def test_one_sentence_says_what_why_and_until_when(volume_: VirtualVolume, objects: list[Object], said: str) -> None:
    there = world(volume_, *objects)
    fields = volume_status.status(there, volume_, Wait(), NOW)
    assert fields["phase"] == "Degraded"
    assert fields["copies"] == "1/2"
    assert fields["message"] == said


@pytest.mark.parametrize(
    ("a_path", "front", "reason", "said"),
    [
        ("Up", "Active", "NothingHeld", ""),
        (
            "Up",
            "HeldForB",
            "LegAway",
            "n1 holds reads and writes for leg b on n2 since 07:59:55: they go on when it answers, or without it once "
            "that is recorded, about 08:00:05",
        ),
        (
            "Down",
            "HeldForB",
            "LegAway",
            "n1 holds reads and writes for leg b on n2 since 07:59:55: they go on when it answers, too few other legs "
            "in sync are in reach",
        ),
        ("Up", "Suspended", "Quiescence", "n1 holds reads and writes for q1, until its deadline at the latest"),
    ],
)
def test_a_volume_of_which_writes_wait_says_who_holds_them_since_when_and_until_when(
    a_path: Any, front: str, reason: str, said: str
) -> None:
    away = PathReport(id="b", path="Down", holding_since=stamp(NOW - 5) if front == "HeldForB" else "")
    paths = [PathReport(id="a", path=a_path), away]
    state = "Suspended" if front == "Suspended" else "Active"
    there = mapped(phase="Ready", nodes=[report("n1", "a", front=state, paths=paths), report("n2", "b")])
    fields = volume_status.status(world(there, quiescence("q1", "Quiesced")), there, Wait(), NOW)
    holding = next(one for one in fields["conditions"] if one.type == "Holding")
    assert (holding.status, holding.reason, holding.message) == ("True" if said else "False", reason, said)
    assert fields["message"] == said


def test_a_volume_that_cannot_go_on_in_its_pods_is_not_ready_and_says_so() -> None:
    """Its legs are there, in a new life: the columns would call it well."""
    there = mapped(phase="Ready", nodes=[report("n1", "a", front="Fenced", message="end its pods"), report("n2", "b")])
    fields = volume_status.status(world(there), there, Wait(), NOW)
    ready = next(one for one in fields["conditions"] if one.type == "Ready")
    assert (fields["message"], ready.status, ready.reason) == ("end its pods", "False", "NeedsNewPods")


def test_a_status_that_says_it_all_is_not_written_again() -> None:
    there = world(mapped())
    first = planner.decide(there, there.volumes["v1"], NOW)
    assert isinstance(first, Act)
    assert isinstance(first.step, Apply)
    document = msgspec.to_builtins(there.volumes["v1"])
    document["status"] |= first.step.status
    there.put(msgspec.convert(document, VirtualVolume))
    assert planner.decide(there, there.volumes["v1"], NOW + 100) == Wait()


def test_a_world_ignores_what_is_older_and_what_is_gone() -> None:
    there = World()
    new = msgspec.structs.replace(mapped(), metadata=msgspec.structs.replace(meta("v1"), resource_version="9"))
    assert there.put(new)
    assert not there.put(mapped()), "resource version 7 is older"
    assert there.used("u-n1-d1") == [(0, 5)]
    assert there.remove(new)
    assert there.used("u-n1-d1") == []
    assert not there.put(new), "a late event does not bring it back"
    assert there.put(msgspec.structs.replace(new, metadata=msgspec.structs.replace(new.metadata, uid="another")))


@pytest.mark.parametrize("versions", [("7", "9"), ("10", "11"), ("x", "y")], ids=["numbers", "no-text", "opaque"])
def test_a_late_event_of_a_deleted_namesake_displaces_nothing(versions: tuple[str, str]) -> None:
    old, new = (
        msgspec.structs.replace(
            mapped(),
            metadata=meta("v1", creation_timestamp=seconds_stamp(NOW + at)),
        )
        for at in (0, 60)
    )
    old, new = (
        msgspec.structs.replace(
            each, metadata=msgspec.structs.replace(each.metadata, uid=version, resource_version=version)
        )
        for each, version in zip((old, new), versions, strict=True)
    )
    there = World([old])
    assert there.put(new), "its successor"
    assert not there.put(old)
    assert there.volumes["v1"] == new


def test_several_waits_make_one() -> None:
    assert resting(None, Wait(until=5), Wait("A", "a", 9), Wait("B", "b", 7)) == Wait("A", "a", 5)
    assert resting(Wait(until=5), Refuse("NoRoom", "none", 9)) == Refuse("NoRoom", "none", 5)


def test_a_decision_is_fast() -> None:
    there = world(mapped())
    for number in range(2000):
        one = mapped()
        there.put(msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, name=f"v{number}")))
    began = time.perf_counter()
    for _ in range(200):
        planner.decide(there, there.volumes["v1"], NOW)
    assert (time.perf_counter() - began) / 200 < 0.05
