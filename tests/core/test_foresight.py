"""Plans, as far as they need no operator: what they are made of, what they assume, and what they say is in the way.
That they come true is shown in tests/operator/test_foresight.py.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from master_world import FAILED_NODE, NOW, SPARE, device, leg, legs, mapped, meta, quiescence, report, world

from millpond_core.errors import NotFound
from millpond_core.instants import seconds_stamp
from millpond_core.master import foresight
from millpond_core.master.foresight import Plan
from millpond_core.master.moves import sentence, steps
from millpond_core.master.world import Health, World
from millpond_core.model import Condition, StorageNode, VirtualVolume
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.model.virtualvolume import Extent, Layout, PathReport, Rebuild
from millpond_core.units import KIB, MIB, UNIT_BYTES

SIZE = 16 * MIB


def plan(there: World, deed: Any = "Drain", device_: str = "n2-d1", **options: Any) -> Plan:
    return foresight.plan(there, deed, device_, NOW, **options)


def with_rate(kib: int) -> VirtualVolume:
    there = mapped()
    return msgspec.structs.replace(there, spec=msgspec.structs.replace(there.spec, rebuild=Rebuild(max_rate=kib)))


@pytest.mark.parametrize(
    ("ceiling", "rate", "seconds"),
    [(0, 8 * MIB, 2), (4 * KIB, 8 * MIB, 4), (64 * KIB, 8 * MIB, 2)],
    ids=["the-rate-assumed", "a-lower-ceiling", "a-ceiling-is-no-promise"],
)
def test_time_is_bytes_by_a_rate_that_is_told(ceiling: int, rate: int, seconds: float) -> None:
    made = plan(world(with_rate(ceiling)), rate=rate)
    assert (made.bytes, made.copy_seconds, made.wait_seconds) == (SIZE, seconds, 0)
    assert made.assumed.startswith("8Mi/s where no spec.rebuild.maxRate is lower")


def test_a_device_without_legs_has_nothing_to_plan() -> None:
    made = plan(world(mapped()), "Retire", "n3-d2")
    assert (made.moves, made.bytes, made.ends) == ([], 0, "Retired")


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="there is no StorageDevice n9-d1"):
        plan(world(), "Drain", "n9-d1")


@pytest.mark.parametrize(
    ("volume", "health", "said"),
    [
        pytest.param(
            mapped(),
            {"n1": Health("StateManagerDown", message="silent")},
            "its attach node n1 is StateManagerDown: nothing is changed under it",
            id="its-attach-node-is-silent",
        ),
        pytest.param(
            mapped(mapping=legs(leg("b", "n2")), copies_wanted=1, nodes=[report("n1", front="Active")]),
            {"n2": FAILED_NODE},
            "no copy is in reach that could be copied: no leg in sync is in reach, reads and writes wait: leg b",
            id="no-copy-is-in-reach",
        ),
    ],
)
def test_what_is_in_the_way(volume: VirtualVolume, health: dict[str, Health], said: str) -> None:
    made = plan(world(volume, **health))
    assert made.moves[0].obstacle.startswith(said)
    assert made.ends != "Drained"


def test_a_spare_on_the_device_moves_too() -> None:
    """Nobody misses it: another is allocated before it has become a leg."""
    spare = msgspec.structs.replace(SPARE, extents=[Extent(device="n3-d1", device_uuid="u-n3-d1", start=0, length=5)])
    there = world(mapped(mapping=legs(leg("a", "n1")), spares=[spare], next_leg=3, phase="Degraded"))
    made = plan(there, "Drain", "n3-d1")
    assert [(step.event, step.leg) for step in made.moves[0].steps] == [
        ("GivenUp", "c"),
        ("Allocated", "d"),
        ("Released", "c"),
        ("Joined", "d"),
        ("Copied", "d"),
    ]
    assert made.ends == "Drained"


def test_another_volume_that_wants_the_room_gets_it_when_it_has_more_to_lose() -> None:
    """Not on the device at all: but its copy is lost, and there is room for one."""
    small = device("n3-d1", "n3")
    observed = msgspec.structs.replace(small.status.observation, capacity_bytes=5 * UNIT_BYTES)
    small = msgspec.structs.replace(small, status=msgspec.structs.replace(small.status, observation=observed))
    others = [device(name, name[:2], desired_state="Drained") for name in ("n1-d2", "n2-d2", "n3-d2")]
    needy = mapped(mapping=legs(leg("a", "n1", disk="d1")), phase="Degraded")
    metadata = msgspec.structs.replace(needy.metadata, name="v9", uid="uid-v9")
    spec = msgspec.structs.replace(needy.spec, uuid="4f1c0000-0000-4000-8000-000000000009", layout=Layout(copies=2))
    needy = msgspec.structs.replace(needy, metadata=metadata, spec=spec)
    alone = plan(world(mapped(), small, *others))
    assert alone.ends == "Drained"
    made = plan(world(mapped(), needy, small, *others))
    assert made.moves[0].obstacle.startswith("no spare can be placed")
    assert "n3-d1 (n3): 0 free, 20Mi short" in made.moves[0].obstacle


def test_steps_that_are_seen_at_once_are_told_one_by_one() -> None:
    """A watch may have slept from before the spare to after the old leg's end."""
    before = mapped()
    after = mapped(mapping=legs(leg("a", "n1"), leg("c", "n3"), generation=3))
    assert [sentence(step.what) for step in steps(before, after)] == [
        "v1: spare c on n3 (n3-d1) is allocated",
        "v1: leg c on n3 (n3-d1) joins, to be copied",
        "v1: leg c on n3 (n3-d1) is copied and in sync",
        "v1: leg b on n2 (n2-d1) is given up",
        "v1: leg b on n2 (n2-d1) is gone, its room free",
    ]
    there = world(before)
    assert foresight.departures(plan(there, "Drain", "n2-d1"), [*steps(before, before)])[-1] == "0 copied, 16Mi planned"


def test_a_leg_that_is_lost_and_taken_back_is_told() -> None:
    stale, again = legs(leg("a", "n1"), leg("b", "n2", "Stale")), legs(leg("a", "n1"), leg("b", "n2", "Rebuilding"))
    assert [step.event for step in steps(mapped(), mapped(mapping=stale))] == ["Lost"]
    assert [step.event for step in steps(mapped(mapping=stale), mapped(mapping=again))] == ["Joined"]
    assert [(step.event, step.bytes) for step in steps(mapped(mapping=again), mapped())] == [("Copied", SIZE)]


@pytest.mark.parametrize(("condition", "state"), [("NodeFailed", "Failed"), ("StateManagerDown", "StateManagerDown")])
def test_who_has_no_leases_takes_the_masters_word_for_a_nodes_health(condition: str, state: str) -> None:
    said = Condition(
        type=condition, status="True", reason="NodeGone", message="gone", last_transition_time=seconds_stamp(NOW - 9)
    )
    node = StorageNode(metadata=meta("n2"), status=StorageNodeStatus(boot_id="b", conditions=[said]))
    there = foresight.as_recorded([*world(mapped()).all(), node])
    assert there.state_of("n2") == Health(state, NOW - 9, "gone", reason="NodeGone")  # type: ignore[arg-type]
    assert there.state_of("n1").state == "Ready"


def test_the_masters_own_quiescence_that_is_under_way_is_seen_through() -> None:
    there = world(mapped(), quiescence("q1", "Draining", at=NOW - 2))
    made = plan(there)
    assert (made.ends, made.wait_seconds) == ("Drained", 0)


def test_reads_and_writes_that_people_hold_go_on_when_their_time_is_up() -> None:
    """And with them what the plan is about."""
    mine = quiescence("mine", "Quiesced", at=NOW - 10, own=False, reason="Manual")
    mine = msgspec.structs.replace(mine, spec=msgspec.structs.replace(mine.spec, hold_io=True))
    made = plan(world(mapped(nodes=[report("n1", "a", front="Suspended"), report("n2", "b")]), mine))
    assert (made.ends, made.wait_seconds) == ("Drained", 20)


@pytest.mark.parametrize(
    ("volume", "copies", "obstacle", "ends"),
    [
        pytest.param(
            mapped(nodes=[report("n1", "a", front="Active", paths=[PathReport(id="a", path="Up")]), report("n2", "b")]),
            (2, 1),
            "",
            "CopiesElsewhere",
            id="one is left",
        ),
        pytest.param(
            mapped(mapping=legs(leg("b", "n2")), copies_wanted=1),
            (1, 0),
            "v1 cannot be read or written without its copy here",
            "OneCopy",
            id="none is left",
        ),
        pytest.param(
            mapped(mapping=legs(leg("a", "n1", "Rebuilding"), leg("b", "n2"))),
            (1, 0),
            "the last copy of v1 in reach is here",
            "LastCopy",
            id="the other is not whole",
        ),
    ],
)
def test_what_is_left_while_a_node_is_away(
    volume: VirtualVolume, copies: tuple[int, int], obstacle: str, ends: str
) -> None:
    made = foresight.plan_node(world(volume), "Reboot", "n2", NOW, until=NOW + 1800)
    [move] = made.moves
    assert (move.leg, move.copies, move.fewest, move.steps) == ("b", *copies, [])
    assert move.obstacle.startswith(obstacle)
    assert bool(move.obstacle) is bool(obstacle)
    assert (made.deed, made.subject, made.ends, made.bytes) == ("Reboot", "n2", ends, 0)
    assert made.at_risk == ["v1"]


def test_a_node_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="there is no StorageNode n9"):
        foresight.plan_node(world(), "Reboot", "n9", NOW, until=NOW + 60)


def test_a_plan_is_made_while_a_person_waits() -> None:
    """More volumes than are rehearsed at a time."""
    assert foresight.TOGETHER < 30
    there = world()
    for number in range(30):
        one = mapped(
            mapping=legs(
                *(
                    msgspec.structs.replace(each, extents=[msgspec.structs.replace(each.extents[0], start=5 * number)])
                    for each in (leg("a", "n1"), leg("b", "n2"))
                )
            )
        )
        metadata = msgspec.structs.replace(one.metadata, name=f"v{number}")
        spec = msgspec.structs.replace(one.spec, uuid=f"4f1c0000-0000-4000-8000-{number:012}")
        there.put(msgspec.structs.replace(one, metadata=metadata, spec=spec))
    began = time.perf_counter()
    made = plan(there)
    assert time.perf_counter() - began < 20
    assert (made.bytes, made.ends) == (30 * SIZE, "Drained")
