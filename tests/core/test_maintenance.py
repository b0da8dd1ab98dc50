"""Planned work on a node: who waits for whom, what leaves, whether it may be taken away, and what is never loosened.

The volume is ``mapped()``: leg a on n1, where it is attached, leg b on n2. People work on n2.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from master_world import (
    FAILED_NODE,
    NOW,
    SPARE,
    STALE,
    VID,
    decided,
    degraded,
    leg,
    legs,
    lost,
    mapped,
    meta,
    patched,
    quiescence,
    report,
    world,
)

from millpond_core.errors import Invalid
from millpond_core.instants import stamp
from millpond_core.master import changes, maintenance, node, planner, volume, volume_status
from millpond_core.master.steps import Act, Apply, Create, Delete, Wait
from millpond_core.master.world import RETURN_SECONDS, Health, Object, World
from millpond_core.model import Condition, StorageNode, VirtualVolume
from millpond_core.model.storagenode import Intent, Maintenance, StorageNodeSpec, StorageNodeStatus
from millpond_core.model.virtualvolume import Attachment, Layout, OnFailure, PathReport
from millpond_core.testing.kube import MemoryKube

UNTIL = NOW + 1800
GRACE = 60
UP = report("n1", "a", front="Active", paths=[PathReport(id="a", path="Up"), PathReport(id="b", path="Up")])
AWAY = {"mapping": STALE, "conditions": degraded(NOW - 90), "phase": "Degraded"}


def worked_on(
    at: str = "n2", intent: Intent = "Reboot", until: float | None = UNTIL, *, ready: bool = False, **status: Any
) -> StorageNode:
    """A node with an intent; ``ready``: the master has said that it may go."""
    said = Condition(type="MaintenanceReady", status="True", reason="CopiesElsewhere", last_transition_time=stamp(NOW))
    return StorageNode(
        metadata=meta(at),
        spec=StorageNodeSpec(maintenance=Maintenance(intent=intent, until=until and stamp(until))),
        status=StorageNodeStatus(boot_id=f"boot-{at}", phase="Ready", conditions=[said] if ready else [], **status),
    )


def mirrored(**status: Any) -> VirtualVolume:
    return mapped(**{"nodes": [UP, report("n2", "b")], **status})


def verdict(there: World, at: str = "n2", now: float = NOW) -> tuple[bool, str, str]:
    """MaintenanceReady as the master would write it: (true, reason, message)."""
    decision = planner.decide(there, there.nodes[at], now)
    assert isinstance(decision, Act), decision
    assert isinstance(decision.step, Apply), decision
    [said] = [one for one in decision.step.status["conditions"] if one["type"] == maintenance.READY]
    return said["status"] == "True", said["reason"], said.get("message", "")


# --- Reboot: who waits for whom ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume_", "objects", "health"),
    [
        pytest.param(mapped(**AWAY), [], {"n2": FAILED_NODE}, id="the-node-is-away"),
        pytest.param(mapped(**AWAY), [lost("n2", since=NOW - 90)], {}, id="it-runs-and-has-not-found-its-disk-yet"),
        pytest.param(
            mapped(**AWAY, nodes=[report("n1", "a", front="Active"), report("n2")]), [], {}, id="it-offers-no-leg-yet"
        ),
        pytest.param(
            mapped(
                mapping=legs(leg("a", "n1"), leg("b", "n2", "Rebuilding")),
                nodes=[
                    report("n1", "a", front="Active", paths=[PathReport(id="b", path="Down", since=stamp(NOW - 90))]),
                    report("n2", "b"),
                ],
            ),
            [],
            {},
            id="it-went-while-it-caught-up",
        ),
    ],
)
def test_no_spare_is_made_for_a_leg_that_is_absent_as_planned(
    volume_: VirtualVolume, objects: list[Object], health: dict[str, Health]
) -> None:
    there = world(volume_, worked_on(), *objects, **health)
    waits = volume.spared(there, volume_, NOW)
    assert waits == Wait(until=UNTIL + GRACE), "time alone wakes it"
    assert changes.ready(there, volume_, NOW) is None
    assert volume.spared(there, volume_, UNTIL + GRACE - 1) == waits
    late = volume.spared(there, volume_, UNTIL + GRACE)
    assert isinstance(late, Act), "the grace period begins with the return that was stated"
    there = world(volume_, *objects, **health)
    assert isinstance(volume.spared(there, volume_, NOW), Act), "without an intent its grace period is over"


def test_work_that_is_over_is_no_reason_to_wait_for_what_fails_later() -> None:
    later = UNTIL + 3600
    volume_ = mapped(**{**AWAY, "conditions": degraded(later - 30)})
    there = world(volume_, worked_on(), n2=Health("Failed", later - 30))
    assert volume.spared(there, volume_, later) == Wait(until=later + 30)


def test_a_spare_that_was_being_prepared_is_given_back_when_people_say_that_the_node_returns() -> None:
    there = world(mapped(**AWAY, spares=[SPARE]), worked_on(), n2=FAILED_NODE)
    assert [spare.releasing for spare in patched(there).status.spares] == [True]


def test_a_leg_that_comes_and_goes_meanwhile_is_not_given_up() -> None:
    again = [
        quiescence(f"q{number}", "Released", at=NOW - 100, reason="Reconfigure") for number in range(changes.RETAKEN)
    ]
    volume_ = mapped(**AWAY)
    look = changes.outlook(world(volume_, worked_on(), *again), volume_, NOW)
    assert [one.id for one in look.kept] == ["a", "b"]
    assert changes.outlook(world(volume_, *again), volume_, NOW).lost, "without an intent its disk would be blamed"


def test_a_leg_that_is_back_early_catches_up_at_once() -> None:
    nodes = [UP, report("n2", "b")]
    there = world(mapped(**AWAY, nodes=nodes), worked_on(), n2=Health(heard=NOW - 1))
    decision = decided(there)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Create)
    assert decision.step.obj.spec.reason == "Reconfigure"  # type: ignore[attr-defined]
    assert "leg b on n2 is back" in decision.why


def test_a_volume_says_until_when_its_leg_is_absent_as_planned() -> None:
    volume_ = mapped(**AWAY)
    fields = volume_status.status(world(volume_, worked_on(), n2=FAILED_NODE), volume_, Wait(), NOW)
    assert fields["message"] == "leg b on n2 is absent as planned until 08:30:00: waits for it, then takes a spare"
    said = {one.type: one.reason for one in fields["conditions"]}
    assert said["Degraded"] == "PlannedAbsence"
    late = volume_status.status(world(volume_, worked_on(), n2=FAILED_NODE), volume_, Wait(), UNTIL + 1)
    assert late["message"].endswith("node n2 has failed; waits for it until 08:31:00, then takes a spare")
    assert {one.type: one.reason for one in late["conditions"]}["Degraded"] == "FewerCopies"


@pytest.mark.parametrize("intent", ["Reboot", "Replace", "Retire"])
def test_no_leg_is_placed_on_a_node_with_an_intent(intent: Intent) -> None:
    there = world(worked_on("n3", intent))
    unfit = {space.node: space.unfit for space in there.spaces()}
    assert unfit == {"n1": "", "n2": "", "n3": f"its node is in maintenance ({intent})"}


def test_a_pod_that_kubernetes_starts_there_gets_its_volume() -> None:
    there = world(mapped(wanted="n2", attachment=Attachment(epoch=1, clean=True)), worked_on())
    assert patched(there).status.attachment.node == "n2"


async def test_a_reboot_without_an_end_is_refused_when_it_is_said() -> None:
    with pytest.raises(Invalid, match="says when the node is back from a Reboot"):
        await MemoryKube().create(worked_on(until=None))


# --- Replace and Retire: what leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("intent", ["Replace", "Retire"])
def test_a_leg_leaves_with_all_copies_at_every_step(intent: Intent) -> None:
    volume_ = mirrored()
    assert isinstance(volume.spared(world(volume_, worked_on(intent=intent)), volume_, NOW), Act), "a spare comes first"
    copying = mirrored(mapping=legs(leg("a", "n1"), leg("b", "n2"), leg("c", "n3", "Rebuilding")))
    assert changes.ready(world(copying, worked_on(intent=intent)), copying, NOW) is None, (
        "a third copy is not whole yet"
    )
    paths = [PathReport(id=one, path="Up") for one in "abc"]
    nodes = [report("n1", "a", front="Active", paths=paths), report("n2", "b"), report("n3", "c")]
    whole = mirrored(mapping=legs(leg("a", "n1"), leg("b", "n2"), leg("c", "n3")), nodes=nodes)
    change = changes.ready(world(whole, worked_on(intent=intent)), whole, NOW)
    assert change is not None
    assert change.retire == ("b",)


def test_the_devices_of_a_node_that_is_emptied_say_how_far_it_is() -> None:
    there = world(mirrored(), worked_on(intent="Replace"))
    told = {}
    for name in ("n1-d1", "n2-d1", "n2-d2"):
        decision = planner.decide(there, there.devices[name], NOW)
        assert isinstance(decision, Act)
        assert isinstance(decision.step, Apply)
        told[name] = decision.step.status["phase"]
    assert told == {"n1-d1": "Online", "n2-d1": "Draining", "n2-d2": "Drained"}


def without_disks(*objects: Object, **health: Health) -> World:
    """People have deleted n2's StorageDevices."""
    there = world(*objects, **health)
    for name in ("n2-d1", "n2-d2"):
        there.remove(there.devices[name])
    return there


def test_a_retired_node_is_forgotten_once_it_is_empty_and_silent() -> None:
    silent = Health("StateManagerDown", NOW)
    there = without_disks(worked_on(intent="Retire"), n2=silent)
    decision = planner.decide(there, there.nodes["n2"], NOW)
    assert isinstance(decision, Act)
    assert decision.step == Delete(StorageNode, "n2")
    there = world(worked_on(intent="Retire"), n2=silent)
    assert maintenance.forget(there, there.nodes["n2"]) is None, "the master deletes no StorageDevice"
    assert "kubectl delete sdev n2-d1 n2-d2, and it is forgotten" in verdict(there)[2]


@pytest.mark.parametrize(
    ("objects", "health"),
    [
        pytest.param([worked_on(intent="Retire")], Health(), id="it-is-there-and-would-be-made-anew"),
        pytest.param([worked_on(intent="Retire")], Health("StateManagerDown", reason="ManySilent"), id="it-may-be-us"),
        pytest.param([worked_on(intent="Retire"), mirrored()], Health("Failed", NOW), id="a-leg-lies-there"),
        pytest.param(
            [worked_on(intent="Retire", orphaned_legs=["v/a on n2-d1"])], Health("Failed", NOW), id="an-orphan-does"
        ),
        pytest.param([worked_on(intent="Replace")], Health("Failed", NOW), id="it-is-only-replaced"),
    ],
)
def test_no_other_node_is_forgotten(objects: list[Object], health: Health) -> None:
    there = without_disks(*objects, n2=health)
    assert maintenance.forget(there, there.nodes["n2"]) is None


# --- whether it may be taken away -------------------------------------------------------------------------------------


def test_a_node_may_be_rebooted_when_reads_and_writes_go_on_without_it() -> None:
    assert verdict(world(mirrored(), worked_on())) == (
        True,
        "CopiesElsewhere",
        "it may be away until 08:30:00: each volume with a leg here has a copy in sync elsewhere",
    )


CATCHING_UP = legs(leg("a", "n1"), leg("b", "n2", "Rebuilding"))
REBUILDING = legs(leg("a", "n1"), leg("b", "n2"), leg("c", "n3", "Rebuilding"))
CLAIMED = msgspec.structs.replace(
    mirrored(),
    metadata=meta("v1", annotations={"millpond.io/claim": "shop/db-0", "millpond.io/allocated": VID}),
)
STRICT = msgspec.structs.replace(
    mirrored(), spec=msgspec.structs.replace(mapped().spec, on_failure=OnFailure(min_in_sync=2))
)
SINGLE = msgspec.structs.replace(
    mapped(mapping=legs(leg("a", "n2"))), spec=msgspec.structs.replace(mapped().spec, layout=Layout(copies=1))
)


@pytest.mark.parametrize(
    ("objects", "reason", "said"),
    [
        pytest.param([SINGLE], "OneCopy", "v1 cannot be read or written without its copy here: give it", id="one-copy"),
        pytest.param([STRICT], "OneCopy", "v1 cannot be read or written", id="it-asks-for-two-in-sync"),
        pytest.param(
            [CLAIMED, worked_on("n1", ready=True)], "OtherNode", "the other copy of v1 (shop/db-0) is on n1", id="other"
        ),
        pytest.param(
            [mirrored(), lost("n1", since=NOW)], "LastCopy", "the last copy of v1 in reach is here", id="last"
        ),
        pytest.param(
            [mirrored(mapping=legs(leg("a", "n1", "Rebuilding"), leg("b", "n2")))],
            "LastCopy",
            "the last copy of v1",
            id="the-other-is-not-whole-yet",
        ),
        pytest.param(
            [
                mirrored(
                    nodes=[report("n1", front="Active", paths=[PathReport(id="a", path="Down")]), report("n2", "b")]
                )
            ],
            "LastCopy",
            "the last copy of v1",
            id="the-other-does-not-answer-just-now",
        ),
        pytest.param([mirrored(mapping=REBUILDING)], "Rebuilding", "leg c of v1 on n3 is being rebuilt", id="a-source"),
        pytest.param(
            [mirrored(mapping=CATCHING_UP)], "Rebuilding", "leg b of v1 on n2 is being rebuilt", id="a-target"
        ),
    ],
)
def test_what_is_in_the_way_of_a_reboot(objects: list[Object], reason: str, said: str) -> None:
    ready, why, message = verdict(world(worked_on(), *objects))
    assert (ready, why) == (False, reason)
    assert message.startswith("not yet: ")
    assert said in message


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param([mirrored(**AWAY)], id="its-leg-is-absent-already"),
        pytest.param([mapped(mapping=legs(leg("a", "n1"), leg("b", "n3")))], id="no-leg-lies-there"),
        pytest.param([mirrored(**AWAY), lost("n1", since=NOW)], id="what-it-has-not-got-nobody-loses-with-it"),
        pytest.param([mirrored(mapping=CATCHING_UP), lost("n2", since=NOW)], id="what-is-away-is-not-being-rebuilt"),
        pytest.param(
            [
                mirrored(
                    mapping=CATCHING_UP,
                    nodes=[report("n1", paths=[PathReport(id="b", path="Up", member="Stopped")]), report("n2", "b")],
                )
            ],
            id="a-copy-that-has-stopped-is-not-waited-for",
        ),
        pytest.param(
            [mirrored(mapping=REBUILDING, wanted="", attachment=Attachment(epoch=1), nodes=[])],
            id="nothing-is-copied-while-the-volume-is-attached-nowhere",
        ),
        pytest.param([mirrored(), worked_on("n1", until=NOW - 1, ready=True)], id="the-others-work-is-over"),
        pytest.param([mirrored(), worked_on("n1")], id="the-other-has-not-been-told-that-it-may-go"),
    ],
)
def test_what_is_not_in_the_way(objects: list[Object]) -> None:
    assert verdict(world(worked_on(), *objects))[:2] == (True, "CopiesElsewhere")


def test_of_two_nodes_that_hold_all_copies_one_may_go_and_it_stays_so() -> None:
    there = world(mirrored(), worked_on("n1"), worked_on("n2"))
    seen = []
    for at in ("n2", "n1", "n2"):
        decision = planner.decide(there, there.nodes[at], NOW)
        if isinstance(decision, Act):
            assert isinstance(decision.step, Apply)
            told = msgspec.convert(decision.step.status["conditions"], list[Condition])
            before = there.nodes[at]
            status = msgspec.structs.replace(before.status, conditions=told, phase="Ready")
            there.put(msgspec.structs.replace(before, status=status))
        [said] = [one for one in there.nodes[at].status.conditions if one.type == maintenance.READY]
        seen.append((at, said.status, said.reason))
    assert seen == [("n2", "True", "CopiesElsewhere"), ("n1", "False", "OtherNode"), ("n2", "True", "CopiesElsewhere")]


@pytest.mark.parametrize(
    ("until", "said"), [(NOW - 60, "the planned work was to be over at 07:59:00"), (None, "has no end")]
)
def test_work_that_is_over_is_called_so(until: float | None, said: str) -> None:
    ready, reason, message = verdict(world(mirrored(), worked_on(until=until)))
    assert (ready, reason) == (False, "Over")
    assert said in message
    assert message.endswith("kubectl millpond maintain n2 --done")


@pytest.mark.parametrize(
    ("objects", "intent", "ready", "reason", "said"),
    [
        pytest.param([], "Replace", True, "Empty", "no leg lies here any more: its disks may go", id="replaced"),
        pytest.param([], "Retire", True, "Empty", "it is forgotten once it is off", id="retired"),
        pytest.param(
            [mirrored(message="rebuilding, 35%")], "Replace", False, "LegsHere", "moves off: rebuild", id="moves"
        ),
        pytest.param(
            [mirrored(mapping=legs(leg("a", "n1"), leg("b", "n2", "Failed", releasing=True), leg("c", "n3")))],
            "Replace",
            False,
            "LegsHere",
            "leg b of v1 moves off: it is being given back",
            id="given-back",
        ),
        pytest.param(
            [mirrored(wanted="", attachment=Attachment(epoch=1))],
            "Retire",
            False,
            "LegsHere",
            "leg b of v1 is copied to another node when a pod uses the volume",
            id="unused",
        ),
    ],
)
def test_a_node_to_be_emptied_is_ready_when_no_leg_lies_there(
    objects: list[Object], intent: Intent, ready: bool, reason: str, said: str
) -> None:
    seen = verdict(world(*objects, worked_on(intent=intent)))
    assert seen[:2] == (ready, reason)
    assert said in seen[2]


def test_a_node_without_an_intent_has_no_such_condition_and_one_with_it_is_looked_at_again() -> None:
    assert maintenance.says(world(), world().nodes["n2"], NOW) == []
    there = world(mirrored(), worked_on())
    decision = planner.decide(there, there.nodes["n2"], NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    told = msgspec.convert(decision.step.status["conditions"], list[Condition])
    there.put(
        msgspec.structs.replace(
            there.nodes["n2"], status=StorageNodeStatus(boot_id="boot-n2", phase="Ready", conditions=told)
        )
    )
    assert node.decide(there, there.nodes["n2"], NOW) == Wait(until=NOW + maintenance.LOOK_SECONDS)


# --- what is never loosened -------------------------------------------------------------------------------------------


def test_the_last_copy_stays_whatever_people_intend() -> None:
    alone = mirrored(mapping=legs(leg("a", "n1", "Stale"), leg("b", "n2")))
    there = world(alone, worked_on(intent="Replace"), lost("n1", since=NOW - 999))
    assert changes.ready(there, alone, NOW) is None
    device = there.devices["n2-d1"]
    decision = planner.decide(there, device, NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    assert "the last copy in reach of v1 lies here" in decision.step.status["message"]


# --- Shutdown: all nodes at once --------------------------------------------------------------------------------------


def shut(at: str, boot_id: str = "", *, back_since: float | None = None) -> StorageNode:
    """A node that is shut down; ``boot_id``: of the boot that it runs now, if that is another one."""
    said = Condition(
        type="MaintenanceReady", status="False", reason="Back", last_transition_time=stamp(back_since or NOW)
    )
    return StorageNode(
        metadata=meta(at),
        spec=StorageNodeSpec(maintenance=Maintenance(intent="Shutdown", boot_id=f"boot-{at}")),
        status=StorageNodeStatus(
            boot_id=boot_id or f"boot-{at}", phase="Ready", conditions=[said] if back_since else []
        ),
    )


CLEAN = Attachment(node="", epoch=4, clean=True)


async def test_a_shutdown_that_does_not_say_of_which_boot_is_refused() -> None:
    with pytest.raises(Invalid, match="says which boot a Shutdown ends"):
        await MemoryKube().create(worked_on(intent="Shutdown", until=None))


def test_a_node_may_be_switched_off_once_no_volume_with_a_part_there_is_in_use_anywhere() -> None:
    used = world(mirrored(), shut("n1"), shut("n2"))
    assert verdict(used) == (False, "InUse", "not yet: in use are v1 on n1, until their pods end")
    down = world(mirrored(attachment=CLEAN), shut("n1"), shut("n2"))
    assert verdict(down)[:2] == (True, "Down")


def test_nothing_is_attached_to_a_node_that_is_shut_down() -> None:
    volume_ = mapped(wanted="n1", attachment=CLEAN)
    waits = volume.attached(world(volume_, shut("n1"), shut("n2")), volume_, NOW)
    assert isinstance(waits, Wait)
    assert "kubectl millpond shutdown --cancel" in waits.message


def test_after_power_on_a_volume_is_attached_once_every_leg_in_sync_is_back() -> None:
    volume_ = mapped(wanted="n1", attachment=CLEAN, nodes=[report("n1", "a"), report("n2", "b")])
    one = world(volume_, shut("n1", "new", back_since=NOW - 5), shut("n2"))
    waits = volume.attached(one, volume_, NOW)
    assert isinstance(waits, Wait)
    assert waits.message.startswith("is attached to n1 when n2 is back")
    late = volume.attached(one, volume_, NOW - 5 + RETURN_SECONDS)
    assert isinstance(late, Act), "nobody is waited for without end"
    both = world(volume_, shut("n1", "new", back_since=NOW - 5), shut("n2", "new", back_since=NOW))
    assert isinstance(volume.attached(both, volume_, NOW), Act)


def test_a_node_that_has_booted_since_is_as_any_other() -> None:
    there = world(mirrored(), shut("n1", "new"), shut("n2", "new"))
    assert verdict(there)[1] == "Back"
    assert [space.unfit for space in there.spaces()] == [""] * len(there.spaces())
    gone = world(mirrored(), shut("n1"), shut("n2"))
    unfit = {space.node: space.unfit for space in gone.spaces()}
    assert unfit["n1"] == unfit["n2"] == "its node is in maintenance (Shutdown)"


def test_while_all_are_off_no_leg_is_missed_and_nobody_is_woken_for_one() -> None:
    volume_ = mapped(**{**AWAY, "attachment": CLEAN})
    off = world(volume_, shut("n1"), shut("n2"), n2=FAILED_NODE)
    assert volume.spared(off, volume_, NOW + 10**7) in (None, Wait())
    message = volume_status.status(off, volume_, Wait(), NOW)["message"]
    assert "leg b on n2 is absent as planned: all nodes are shut down" in message
