"""What the silence of a node means, and what it is called."""

from __future__ import annotations

from typing import Any

import pytest
from master_world import NODES, NOW, STALE, lost, mapped, meta, report, world

from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import node, planner
from millpond_core.master.node import Heartbeat, Kubelet
from millpond_core.master.steps import Act, Apply
from millpond_core.master.world import Health, Object
from millpond_core.model import Condition, StorageNode
from millpond_core.model.storagenode import Maintenance, StorageNodeSpec, StorageNodeStatus
from millpond_core.model.virtualvolume import (
    NodeReport,
    PathReport,
)

REBOOT = StorageNodeSpec(maintenance=Maintenance(intent="Reboot", until=stamp(NOW + 1800)))


def said_by(kubelets: dict[str, bool]) -> dict[str, Kubelet]:
    return {name: Kubelet(ready) for name, ready in kubelets.items()}


@pytest.mark.parametrize(
    ("heartbeats", "kubelets", "objects", "state"),
    [
        pytest.param({}, {}, [], "Ready", id="heard-of"),
        pytest.param({"n2": 21.0}, {}, [], "StateManagerDown", id="silence-alone-is-no-death"),
        pytest.param({"n2": 21.0}, {"n2": True}, [], "StateManagerDown", id="its-kubelet-is-there"),
        pytest.param({"n2": 21.0}, {"n2": False}, [], "Failed", id="its-kubelet-is-silent-too"),
        pytest.param({"n2": 21.0, "n3": 21.0}, {"n2": False}, [], "StateManagerDown", id="too-many-at-once"),
        pytest.param(
            {"n2": 21.0},
            {},
            [mapped(nodes=[report("n1", "a", front="Active", paths=[PathReport(id="b", path="Down")])])],
            "Failed",
            id="no-attach-node-reaches-its-legs",
        ),
        pytest.param({"n2": 21.0}, {}, [mapped(mapping=STALE)], "Failed", id="the-attach-node-has-given-its-leg-up"),
        pytest.param(
            {"n2": 21.0},
            {},
            [mapped(mapping=STALE), lost("n2", since=NOW)],
            "StateManagerDown",
            id="a-leg-given-up-for-its-disk-says-nothing-of-its-node",
        ),
        pytest.param(
            {"n2": 21.0},
            {},
            [mapped(nodes=[report("n1", "a", front="Active", paths=[PathReport(id="b", path="Up")])])],
            "StateManagerDown",
            id="its-legs-are-reached",
        ),
        pytest.param(
            {"n2": 21.0},
            {"n2": False},
            [StorageNode(metadata=meta("n2"), status=StorageNodeStatus(restarting_until=stamp(NOW + 9)))],
            "Ready",
            id="it-said-that-it-restarts",
        ),
        pytest.param(
            {"n2": 21.0},
            {"n2": False},
            [StorageNode(metadata=meta("n2"), spec=REBOOT)],
            "Failed",
            id="people-work-on-it-and-pods-may-be-left-there",
        ),
        pytest.param(
            {"n2": 21.0, "n3": 21.0},
            {"n2": False},
            [StorageNode(metadata=meta("n3"), spec=REBOOT)],
            "Failed",
            id="the-other-that-is-silent-was-expected-to-be",
        ),
    ],
)
def test_what_silence_means(
    heartbeats: dict[str, float], kubelets: dict[str, bool], objects: list[Object], state: str
) -> None:
    beats = {one: Heartbeat(heartbeats.get(one, 1.0), 20.0) for one in NODES}
    verdict = node.judge(world(*objects), beats, said_by(kubelets), NOW)
    assert verdict["n2"].state == state
    assert verdict["n1"].state == "Ready"


UP = [report("n1", "a", front="Active", paths=[PathReport(id="b", path="Up")]), report("n2", "b")]
DOWN = [report("n1", "a", front="Active", paths=[PathReport(id="b", path="Down")]), report("n2", "b")]


@pytest.mark.parametrize(
    ("silent", "kubelets", "nodes", "state", "reason", "said"),
    [
        pytest.param(["n2"], {"n2": False}, DOWN, "Failed", "NodeGone", "it is gone", id="gone"),
        pytest.param(["n2"], {"n2": False}, None, "Failed", "NodeGone", "not Ready: it is gone", id="gone-and-unused"),
        pytest.param(["n2"], {"n2": False}, UP, "Failed", "CutOffFromApiServer", "it runs", id="api-server"),
        pytest.param(
            ["n2"], {"n2": True}, DOWN, "Failed", "CutOffFromStorageNetwork", "its kubelet is Ready, but", id="storage"
        ),
        pytest.param(
            ["n2"],
            {"n2": True},
            UP,
            "StateManagerDown",
            "StateManagerDown",
            "only without its state manager",
            id="only-it",
        ),
        pytest.param(
            ["n2", "n3"], {"n2": False, "n3": False}, DOWN, "StateManagerDown", "ManySilent", "2 of 3 nodes", id="many"
        ),
    ],
)
def test_each_case_is_named(
    silent: list[str], kubelets: dict[str, bool], nodes: list[NodeReport] | None, state: str, reason: str, said: str
) -> None:
    there = world(mapped(nodes=nodes)) if nodes else world()
    beats = {one: Heartbeat(21.0 if one in silent else 1.0, 20.0) for one in NODES}
    there.health = node.judge(there, beats, said_by(kubelets), NOW)
    verdict = there.health["n2"]
    assert (verdict.state, verdict.reason) == (state, reason)
    assert said in verdict.message
    decision = planner.decide(there, there.nodes["n2"], NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    told = {one["type"]: (one["status"], one["reason"]) for one in decision.step.status["conditions"]}
    assert told["NodeFailed"] == ("True" if state == "Failed" else "False", reason)
    assert [(one.reason, one.warning) for one in decision.notices] == [(reason, True)]


def connected(at: str, *hosts: str, **status: Any) -> StorageNode:
    """A node that exports to these addresses; its own is its name."""
    return StorageNode(
        metadata=meta(at),
        status=StorageNodeStatus(boot_id=f"boot-{at}", addresses=[at], connected=[*hosts], **status),
    )


def test_a_node_that_another_one_has_a_connection_of_runs_and_is_cut_off_from_the_api_server() -> None:
    beats = {one: Heartbeat(21.0 if one == "n1" else 1.0, 20.0) for one in NODES}
    kubelets = said_by({"n1": False})
    alone = world(connected("n1"), connected("n2"))
    assert node.judge(alone, beats, kubelets, NOW)["n1"].reason == "NodeGone"
    there = world(connected("n1"), connected("n2", "n1", "n3"))
    verdict = node.judge(there, beats, kubelets, NOW)["n1"]
    assert (verdict.state, verdict.reason) == ("Failed", "CutOffFromApiServer")
    assert "n2 is connected with it" in verdict.message
    told = [
        Condition(type=kind, status=status, reason=verdict.reason, last_transition_time=seconds_stamp(NOW))
        for kind, status in (("NodeFailed", "True"), ("Ready", "False"))
    ]
    fenced = world(connected("n1", phase="Failed", conditions=told), connected("n2"))
    assert node.judge(fenced, beats, kubelets, NOW + 9)["n1"].reason == verdict.reason, "the fence ended its connection"


def test_the_connection_of_a_node_that_is_silent_itself_says_nothing() -> None:
    beats = {one: Heartbeat(21.0 if one == "n1" else 1.0, 20.0) for one in NODES}
    there = world(connected("n1"), connected("n2", "n1"), n2=Health("StateManagerDown", NOW))
    assert node.judge(there, beats, said_by({"n1": False}), NOW)["n1"].reason == "NodeGone"


@pytest.mark.parametrize(
    ("nodes", "renews", "state", "said"),
    [
        pytest.param(None, False, "Failed", "its kubelet is silent too: it is gone", id="nobody-reaches-for-its-legs"),
        pytest.param(DOWN, False, "Failed", "its kubelet is silent too and no attach node", id="not-reached"),
        pytest.param(UP, False, "StateManagerDown", "its kubelet is Ready", id="reached"),
        pytest.param(None, None, "StateManagerDown", "is not known yet", id="not-known-yet"),
    ],
)
def test_a_kubelet_whose_lease_stands_still_is_not_waited_for(
    nodes: list[NodeReport] | None, renews: bool | None, state: str, said: str
) -> None:
    there = world(mapped(nodes=nodes)) if nodes else world()
    beats = {one: Heartbeat(21.0 if one == "n2" else 1.0, 20.0) for one in NODES}
    verdict = node.judge(there, beats, {"n2": Kubelet(ready=True, renews=renews)}, NOW)["n2"]
    assert verdict.state == state
    assert said in verdict.message


def test_a_new_master_waits_for_a_kubelet_before_it_takes_a_verdict_back() -> None:
    reason = "CutOffFromStorageNetwork"
    condition = Condition(type="NodeFailed", status="True", reason=reason, last_transition_time=seconds_stamp(NOW))
    ready = Condition(type="Ready", status="False", reason=reason, last_transition_time=seconds_stamp(NOW))
    status = StorageNodeStatus(phase="Failed", conditions=[condition, ready])
    there = world(mapped(nodes=DOWN), StorageNode(metadata=meta("n2"), status=status))
    beats = dict.fromkeys(NODES, Heartbeat(0.0, 20.0, moved=False))
    verdict = node.judge(there, beats, {"n2": Kubelet(ready=True, renews=None)}, NOW + 3)["n2"]
    assert (verdict.state, verdict.reason) == ("Failed", reason)
    assert node.judge(there, beats, {"n2": Kubelet(ready=True)}, NOW + 3)["n2"].state == "Ready"


def test_a_node_that_reports_is_called_cut_off_when_its_legs_stay_out_of_reach() -> None:
    there = world(mapped(nodes=DOWN))
    beats = dict.fromkeys(NODES, Heartbeat(1.0, 20.0))
    seen = []
    for seconds in (0, 6, 12):
        there.health = node.judge(there, beats, {}, NOW + seconds)
        seen.append((there.health["n2"].state, there.health["n2"].reason))
    assert seen == [("Ready", ""), ("Ready", ""), ("Ready", "CutOffFromStorageNetwork")]
    there.put(mapped(nodes=UP))
    assert node.judge(there, beats, {}, NOW + 15)["n2"].reason == ""


def test_for_a_new_master_a_verdict_stands_until_the_node_is_heard_of() -> None:
    condition = Condition(type="NodeFailed", status="True", reason="NodeGone", last_transition_time=seconds_stamp(NOW))
    there = world(StorageNode(metadata=meta("n2"), status=StorageNodeStatus(phase="Failed", conditions=[condition])))
    beats = dict.fromkeys(NODES, Heartbeat(0.0, 20.0, moved=False))
    verdicts = node.judge(there, beats, said_by({"n2": False}), NOW + 3)
    assert [verdicts[one].state for one in NODES] == ["Ready", "Failed", "Ready"]
    assert verdicts["n2"].heard < NOW, "a Lease that only stands there is no sign of life"
    beats["n2"] = Heartbeat(0.0, 20.0)
    assert node.judge(there, beats, said_by({"n2": False}), NOW + 3)["n2"].state == "Ready"


def test_a_node_that_failed_stays_failed_until_it_is_heard_of() -> None:
    since = NOW - 500
    condition = Condition(type="NodeFailed", status="True", reason="Failed", last_transition_time=seconds_stamp(since))
    failed = StorageNode(metadata=meta("n2"), status=StorageNodeStatus(conditions=[condition]))
    beats = {one: Heartbeat(999.0 if one == "n2" else 1.0, 20.0) for one in NODES}
    verdict = node.judge(world(failed), beats, {}, NOW)["n2"]
    assert (verdict.state, verdict.since) == ("Failed", since)
    assert node.judge(world(failed), {**beats, "n2": Heartbeat(0.0, 20.0)}, {}, NOW)["n2"].state == "Ready"
