"""What is done for a failed node: from what it has left in Kubernetes to the one next step."""

from __future__ import annotations

from typing import Any

import pytest
from master_world import FAILED_NODE, NOW, leg, legs, mapped, meta, report, world

from millpond_core import names
from millpond_core.instants import stamp
from millpond_core.master import failover
from millpond_core.master import workloads as w
from millpond_core.master.failover import DeleteAttachment, DeletePod, Move, NotInUse, Taint
from millpond_core.master.steps import Patch, Wait
from millpond_core.master.workloads import Host, Pod, Workloads
from millpond_core.master.world import Health, World
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.model.storagenode import Maintenance, StorageNodeSpec, StorageNodeStatus
from millpond_core.model.virtualvolume import Attachment

OWNER = [{"kind": "StatefulSet", "name": "db", "controller": True}]
BOUND = {"data": w.Claim(volume="v1"), "other": w.Claim(what="claim other (csi.example.com)")}
DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
DB = Pod("shop", "db-0", "uid-db-0", frozenset({"v1"}))
ATTACHED = w.Attachment("csi-1", "uid-va", "v1")
IN_USE = names.unique_volume("v1")
THEIRS = "kubernetes.io/csi/csi.example.com^v1"
TAKEN = mapped(
    wanted="",
    attachment=Attachment(epoch=2, clean=False, previous=1),
    nodes=[report("n1", "a"), report("n2", "b", epoch=2)],
)
UNCONFIRMED = mapped(wanted="", attachment=Attachment(epoch=2, clean=False, previous=1))


def document(*volumes: dict[str, Any], **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": "db-0", "uid": "uid-db-0", "ownerReferences": OWNER, **more}
    return {"metadata": metadata, "spec": {"volumes": list(volumes)}}


@pytest.mark.parametrize(
    ("pod", "volumes", "stays"),
    [
        pytest.param(document(DATA), {"v1"}, "", id="ours"),
        pytest.param(
            document(DATA, *({"name": kind, kind: {}} for kind in sorted(w.STATELESS))), {"v1"}, "", id="and-no-state"
        ),
        pytest.param(
            document(DATA, {"name": "o", "persistentVolumeClaim": {"claimName": "other"}}),
            {"v1"},
            "it also uses claim other (csi.example.com)",
            id="another-drivers-claim",
        ),
        pytest.param(document(DATA, {"name": "h", "hostPath": {}}), {"v1"}, "volume h (hostPath)", id="host-path"),
        pytest.param(document(DATA, {"name": "n", "nfs": {}}), {"v1"}, "volume n (nfs)", id="a-kind-we-do-not-know"),
        pytest.param(document(DATA, {"name": "c", "csi": {}}), {"v1"}, "volume c (csi)", id="inline-csi"),
        pytest.param(
            document({"name": "x", "persistentVolumeClaim": {"claimName": "unknown"}}),
            set(),
            "claim unknown",
            id="unknown",
        ),
        pytest.param(document({"name": "tmp", "ephemeral": {}}), set(), "claim db-0-tmp", id="ephemeral-of-others"),
        pytest.param(document(DATA, ownerReferences=[]), {"v1"}, "no controller", id="nobody-starts-it-again"),
        pytest.param(
            document(DATA, ownerReferences=[], deletionTimestamp="x"), {"v1"}, "", id="unless-it-is-to-end-anyway"
        ),
        pytest.param(
            document(DATA, ownerReferences=[{"kind": "DaemonSet", "controller": True}]),
            {"v1"},
            "DaemonSet",
            id="daemon",
        ),
        pytest.param(
            document(DATA, ownerReferences=[{"kind": "Node", "controller": True}]), {"v1"}, "static pod", id="static"
        ),
        pytest.param(document(DATA, annotations={w.MIRROR: "x"}), {"v1"}, "static pod", id="mirror"),
    ],
)
def test_which_pods_are_ours_to_move(pod: dict[str, Any], volumes: set[str], stays: str) -> None:
    read = w.pod(pod, BOUND)
    assert read.volumes == volumes
    assert (stays in read.stays) if stays else read.stays == ""


def test_an_ephemeral_claim_bears_both_names() -> None:
    pod = document({"name": "tmp", "ephemeral": {}})
    assert w.claims(pod) == ["db-0-tmp"]
    assert w.pod(pod, {"db-0-tmp": w.Claim(volume="v1")}).volumes == {"v1"}


THEIR_TAINT = {"key": "example.com/theirs", "effect": "NoSchedule"}
OUR_TAINT = {"key": names.TAINT, "value": "NodeGone", "effect": "NoSchedule"}


def kubernetes_node(ready: str = "True", **spec: Any) -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": "n1", "resourceVersion": "7"}, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("node", "avoided"),
    [
        pytest.param(None, True, id="gone"),
        pytest.param(kubernetes_node(), False, id="ready"),
        pytest.param(kubernetes_node("Unknown"), True, id="silent"),
        pytest.param(kubernetes_node(unschedulable=True), True, id="cordoned"),
        pytest.param(kubernetes_node(taints=[THEIR_TAINT]), False, id="somebody-elses-taint"),
        pytest.param(kubernetes_node(taints=[THEIR_TAINT, OUR_TAINT]), True, id="tainted-by-us"),
    ],
)
def test_where_kubernetes_starts_no_pod(node: dict[str, Any] | None, avoided: bool) -> None:
    assert w.host(node).avoided is avoided


TAINTED = w.host(kubernetes_node(taints=[THEIR_TAINT, OUR_TAINT]))
GONE = Health("Failed", NOW, "it is gone", reason="NodeGone")
CUT_OFF = Health("Failed", NOW, "no attach node reaches its legs", reason="CutOffFromStorageNetwork")


def test_a_node_that_kubernetes_takes_for_ready_is_tainted_before_its_pods_move() -> None:
    left = Workloads(w.host(kubernetes_node(taints=[THEIR_TAINT])), (DB,), (ATTACHED,))
    move = decide(mapped(), left, n1=GONE)
    assert isinstance(move, Move)
    assert move.step == Taint("n1", "7", (THEIR_TAINT, OUR_TAINT))
    then = decide(mapped(), left._replace(host=TAINTED), n1=GONE)
    assert isinstance(then, Move)
    assert isinstance(then.step, Patch), "the volume is taken"
    assert decide(mapped(), left._replace(pods=()), n1=GONE) == Wait("KubeletReady", until=NOW + 15), "nothing to move"


@pytest.mark.parametrize(
    "health", [Health(), Health("StateManagerDown", NOW), CUT_OFF], ids=["ready", "its-kubelet-is-back", "cut-off"]
)
def test_the_taint_goes_once_its_kubelet_is_heard_of(health: Health) -> None:
    move = decide(TAKEN, Workloads(TAINTED, (DB,)), n1=health)
    assert isinstance(move, Move)
    assert move.step == Taint("n1", "7", (THEIR_TAINT,))


SHUT_TAINT = {"key": names.TAINT, "value": "Shutdown", "effect": "NoSchedule"}


def shut_down(boot_id: str) -> StorageNode:
    spec = StorageNodeSpec(maintenance=Maintenance(intent="Shutdown", boot_id="boot-n1"))
    return StorageNode(metadata=meta("n1"), spec=spec, status=StorageNodeStatus(boot_id=boot_id))


@pytest.mark.parametrize(
    ("boot_id", "taints", "after"),
    [
        pytest.param("boot-n1", [THEIR_TAINT], (THEIR_TAINT, SHUT_TAINT), id="before-it-is-off"),
        pytest.param("boot-n1", [THEIR_TAINT, SHUT_TAINT], None, id="and-it-stays"),
        pytest.param("new", [THEIR_TAINT, SHUT_TAINT], (THEIR_TAINT,), id="until-it-has-booted-again"),
    ],
)
def test_no_pod_is_started_on_a_node_that_is_shut_down(
    boot_id: str, taints: list[dict[str, Any]], after: tuple[dict[str, Any], ...] | None
) -> None:
    known = world(mapped(), shut_down(boot_id))
    left = Workloads(w.host(kubernetes_node(taints=taints)))
    move = failover.decide(known, known.nodes["n1"], left, NOW)
    if after is None:
        assert isinstance(move, Wait)
        return
    assert isinstance(move, Move)
    assert move.step == Taint("n1", "7", after)


def test_a_shutdown_is_looked_after_while_every_node_is_well() -> None:
    assert failover.concerned(world(mapped(), shut_down("boot-n1"))) == {"n1"}
    assert failover.concerned(world(mapped(), shut_down("new"))) == set()


def there(
    *pods: Pod, in_use: tuple[str, ...] = (IN_USE, THEIRS), going: bool = False, avoided: bool = True
) -> Workloads:
    return Workloads(Host(avoided, in_use), pods, (ATTACHED._replace(going=going),))


def decide(volume: VirtualVolume, left: Workloads, **health: Health) -> Move | Wait:
    known = world(volume, **{"n1": FAILED_NODE, **health})
    return failover.decide(known, known.nodes["n1"], left, NOW)


def test_a_volume_is_taken_first() -> None:
    move = decide(mapped(), there(DB))
    assert isinstance(move, Move)
    assert isinstance(move.step, Patch)
    assert not move.step.status
    assert move.step.operations == [
        {"op": "test", "path": "/spec/attachment/node", "value": "n1"},
        {"op": "replace", "path": "/spec/attachment/node", "value": ""},
    ]


@pytest.mark.parametrize(
    ("volume", "left", "step"),
    [
        pytest.param(TAKEN, there(DB), DeletePod(DB), id="fenced-then-the-pod"),
        pytest.param(
            TAKEN,
            there(DB._replace(ending=True)),
            DeletePod(DB._replace(ending=True)),
            id="one-that-waits-for-its-kubelet-too",
        ),
        pytest.param(TAKEN, there(), NotInUse("n1", (IN_USE, THEIRS), (THEIRS,)), id="then-it-is-not-in-use"),
        pytest.param(TAKEN, there(in_use=(THEIRS,)), DeleteAttachment(ATTACHED), id="then-the-attachment"),
    ],
)
def test_then_step_by_step(volume: VirtualVolume, left: Workloads, step: failover.Step) -> None:
    move = decide(volume, left)
    assert isinstance(move, Move)
    assert move.step == step


@pytest.mark.parametrize(
    ("volume", "left", "health", "reason"),
    [
        pytest.param(UNCONFIRMED, there(DB), {}, "Fencing", id="a-leg-node-has-not-confirmed"),
        pytest.param(mapped(wanted=""), there(DB), {}, "Fencing", id="the-epoch-is-not-raised-yet"),
        pytest.param(TAKEN, there(DB._replace(going=True)), {}, "", id="a-pod-waits-for-a-finalizer"),
        pytest.param(TAKEN, there(in_use=(), going=True), {}, "", id="the-attachment-is-going"),
        pytest.param(mapped(), there(DB._replace(stays="hostPath")), {}, "", id="its-pod-has-to-stay"),
        pytest.param(mapped(), there(DB, avoided=False), {}, "KubeletReady", id="it-would-be-started-there-again"),
        pytest.param(mapped(), there(DB), {"n1": Health("StateManagerDown", NOW)}, "", id="only-its-state-manager"),
        pytest.param(mapped(), there(DB), {"n1": Health()}, "", id="ready"),
        pytest.param(mapped(), there(DB), {"n2": Health("StateManagerDown", NOW)}, "", id="who-is-left-cannot-confirm"),
        pytest.param(mapped(), Workloads(), {}, "", id="attached-by-hand"),
    ],
)
def test_what_is_waited_for(volume: VirtualVolume, left: Workloads, health: dict[str, Health], reason: str) -> None:
    wait = decide(volume, left, **health)
    assert isinstance(wait, Wait)
    assert wait.reason == reason


def test_planned_work_spares_no_node_the_fence() -> None:
    spec = StorageNodeSpec(maintenance=Maintenance(intent="Reboot", until=stamp(NOW + 1800)))
    status = StorageNodeStatus(boot_id="boot-n1")
    known = world(mapped(), StorageNode(metadata=meta("n1"), spec=spec, status=status), n1=FAILED_NODE)
    move = failover.decide(known, known.nodes["n1"], there(DB), NOW)
    assert isinstance(move, Move), "a pod that was left there is as dead as on any other node"
    assert move.why == "v1 is taken from n1: silent"


def test_a_leg_node_that_cannot_confirm_is_left_out() -> None:
    three = mapped(
        wanted="",
        mapping=legs(leg("a", "n1"), leg("b", "n2"), leg("c", "n3")),
        attachment=Attachment(epoch=2, clean=False),
        nodes=[report("n2", "b", epoch=2), report("n3", "c")],
    )
    for n3, fenced in ((Health(), False), (Health("StateManagerDown", NOW), True)):
        known = World([*world(three).all()])
        known.health = {"n1": FAILED_NODE, "n3": n3}
        assert failover.is_fenced(known, three, "n1") is fenced


def test_pods_stay_together_with_those_that_share_a_volume() -> None:
    v2 = VirtualVolume(metadata=meta("v2"), spec=mapped().spec, status=mapped().status)
    both = Pod("shop", "both", "u1", frozenset({"v1", "v2"}))
    kept = Pod("shop", "kept", "u2", frozenset({"v2"}), stays="it is a static pod")
    known = world(mapped(), v2, n1=FAILED_NODE)
    left = Workloads(Host(), (DB, both, kept))
    assert isinstance(failover.decide(known, known.nodes["n1"], left, NOW), Wait)
    told = {pod.name: why for pod, why in failover.left(known, "n1", left)}
    assert set(told) == {"db-0", "both", "kept"}
    assert told["both"] == "pod shop/both stays, which uses v1 too; pod shop/kept stays, which uses v2 too"


def test_a_node_that_is_back_ends_pods_whose_volume_was_taken() -> None:
    said = [report("n1", "a", epoch=1, front="Fenced"), report("n2", "b", epoch=2)]
    taken = mapped(wanted="", attachment=Attachment(epoch=2, clean=False), nodes=said)
    assert failover.concerned(world(taken)) == {"n1"}
    move = decide(taken, there(DB, avoided=False), n1=Health())
    assert isinstance(move, Move)
    assert move.step == DeletePod(DB, force=False)
    assert isinstance(decide(taken, there(DB._replace(ending=True)), n1=Health()), Wait)
    assert isinstance(decide(TAKEN, there(DB), n1=Health()), Wait), "it has nothing of it any more"
