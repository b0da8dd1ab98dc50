"""A node fails: its pod is running elsewhere soon, and never before its volume is fenced."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Cluster, MasterKube, leg_on
from kubernetes import Kubernetes, gone

from millpond_core import names
from millpond_core.errors import Forbidden

DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}


@pytest.fixture
async def kubernetes(cluster: Cluster) -> Kubernetes:
    """db-0 runs on n1; v1 has its legs on n1 and n2."""
    made = Kubernetes(cluster, "n1", "n2", "n3")
    await made.begin()
    await cluster.nodes.add_volume("v1", preferred_node="n1", grace=600)
    await made.settle()
    volume = await cluster.volume()
    assert volume.status.attachment.node == "n1"
    assert {leg.node for leg in volume.status.mapping.legs} == {"n1", "n2"}
    return made


def pod_says(cluster: Cluster) -> dict[str, str]:
    return {event.name: event.message for event in cluster.kube.events if event.kind == "Pod"}


async def test_a_pod_moves_from_a_dead_node_and_only_after_the_fence(cluster: Cluster, kubernetes: Kubernetes) -> None:
    kubernetes.history.clear()
    await kubernetes.fail("n1")
    await kubernetes.later(30)
    assert kubernetes.starts == ["n1", "n2"]
    # What n2 had confirmed when it happened: epoch 2 fences n1, under epoch 3 n2 has it.
    assert kubernetes.history == ["started on n2 2", "detached from n1 2", "attaching to n2 2"]
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n2", 3)
    assert leg_on(volume, "n1").state == "Rebuilding"
    assert {event.reason for event in cluster.kube.events if event.kind == "StorageNode"} >= {"NodeGone", "PodMoved"}
    assert "its volumes are fenced" in pod_says(cluster)["db-0"]
    cluster.nodes.reboot("n1")
    cluster.nodes.nodes["n1"].silent = False
    await cluster.set_kubelet("n1", ready=True)
    await kubernetes.later(10)
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.mapping.generation) == ("Ready", 1), "its leg has caught up"
    assert (await cluster.node("n1")).status.phase == "Ready"
    assert kubernetes.starts == ["n1", "n2"]


async def test_a_dead_node_that_kubernetes_takes_for_ready_gets_no_pod(
    cluster: Cluster, kubernetes: Kubernetes
) -> None:
    kubernetes.history.clear()
    await kubernetes.fail("n1", doubted=False)
    await kubernetes.later(18)
    assert (await cluster.node("n1")).status.phase != "Failed", "its kubelet may only be late"
    await kubernetes.later(22)
    assert kubernetes.starts == ["n1", "n2"]
    assert kubernetes.history == ["started on n2 2", "detached from n1 2", "attaching to n2 2"]
    assert await kubernetes.taints("n1") == [names.TAINT]
    said = [event.message for event in cluster.kube.events if event.reason == "NodeGone"]
    assert said == ["its state manager is silent for more than 20 s; its kubelet is silent too: it is gone"]
    cluster.nodes.reboot("n1")
    cluster.nodes.nodes["n1"].silent = False
    await kubernetes.later(10)
    assert (await cluster.node("n1")).status.phase == "Ready"
    assert await kubernetes.taints("n1") == []
    assert (await cluster.volume()).status.phase == "Ready"


async def test_a_new_master_takes_off_the_taint_of_the_one_before(cluster: Cluster, kubernetes: Kubernetes) -> None:
    await kubernetes.fail("n1", doubted=False)
    await kubernetes.later(40)
    assert await kubernetes.taints("n1") == [names.TAINT]
    cluster._renew()
    cluster.nodes.reboot("n1")
    cluster.nodes.nodes["n1"].silent = False
    await kubernetes.later(10)
    assert await kubernetes.taints("n1") == []


@pytest.mark.parametrize("doubted", [True, False])
@pytest.mark.parametrize("writes", [1, 2, 3])
async def test_whichever_write_a_master_dies_after_the_next_one_goes_on(
    cluster: Cluster, kubernetes: Kubernetes, writes: int, doubted: bool
) -> None:
    kubernetes.history.clear()
    await kubernetes.fail("n1", doubted=doubted)
    # A master that is killed before its verdict begins to count anew: none would ever come to one.
    await kubernetes.later(0 if doubted else 20)
    MasterKube.budget = cluster.next_budget = writes
    await kubernetes.later(60)
    assert cluster.kills > 3
    assert kubernetes.history == ["started on n2 2", "detached from n1 2", "attaching to n2 2"]
    assert (await cluster.volume()).status.attachment.node == "n2"


async def test_nothing_moves_before_a_leg_node_has_confirmed(cluster: Cluster, kubernetes: Kubernetes) -> None:
    cluster.nodes.nodes["n2"].mute = True
    await kubernetes.fail("n1")
    await kubernetes.later(60)
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("", 2)
    assert not await gone(kubernetes, "db-0")
    assert [one["spec"]["nodeName"] for one in await kubernetes.attachments()] == ["n1"]
    cluster.nodes.nodes["n2"].mute = False
    await kubernetes.later(10)
    assert kubernetes.starts == ["n1", "n2"]


@pytest.mark.parametrize("case", ["state manager", "many", "kubelet", "off"])
async def test_nothing_moves(cluster: Cluster, kubernetes: Kubernetes, case: str) -> None:
    nodes = cluster.nodes.nodes
    nodes["n1"].silent = True
    if case == "many":
        for name in ("n1", "n3"):
            await kubernetes.fail(name)
    elif case == "kubelet":
        # n3 has a leg of another volume there, and does not reach it.
        await cluster.nodes.add_volume("v2", 2, copies=1, preferred_node="n1")
        nodes["n1"].silent = False
        await cluster.settle()
        await cluster.nodes.want("v2", "n3")
        await cluster.settle()
        nodes["n1"].silent = True
    elif case == "off":
        cluster.moves_pods = False
        await kubernetes.fail("n1")
    if case == "state manager":
        cluster.nodes.reachable.add("n1")
    await kubernetes.later(60)
    assert kubernetes.starts == ["n1"]
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n1", 1)
    phase = {"kubelet": "Failed", "off": "Failed"}.get(case, "StateManagerDown")
    assert (await cluster.node("n1")).status.phase == phase
    if case == "kubelet":
        said = [event.message for event in cluster.kube.events if event.reason == "PodsStay"]
        assert said == ["its pods stay, as Kubernetes would start them there again: to move them, kubectl cordon n1"]


PODS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "hostPath": ([{"name": "logs", "hostPath": {"path": "/var/log"}}], {}, "volume logs (hostPath)"),
    "another driver": (
        [{"name": "other", "persistentVolumeClaim": {"claimName": "other"}}],
        {},
        "claim other (csi.example.com)",
    ),
    "a DaemonSet's": ([], {"ownerReferences": [{"kind": "DaemonSet", "controller": True}]}, "DaemonSet"),
    "static": ([], {"annotations": {"kubernetes.io/config.mirror": "x"}}, "static pod"),
    "nobody's": ([], {"ownerReferences": []}, "no controller would start it elsewhere"),
}


@pytest.mark.parametrize("which", PODS)
async def test_a_pod_that_has_to_stay_keeps_its_volume(cluster: Cluster, kubernetes: Kubernetes, which: str) -> None:
    volumes, meta, said = PODS[which]
    await kubernetes.claim("other", "x", driver="csi.example.com")
    await kubernetes.pod("kept", "n1", DATA, *volumes, **meta)
    await kubernetes.fail("n1")
    await kubernetes.later(60)
    assert (await kubernetes.pods()) == {"db-0": "n1", "kept": "n1"}, "db-0 uses the same volume"
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n1", 1), "the node may run on"
    told = pod_says(cluster)
    assert said in told["kept"]
    assert "pod shop/kept stays, which uses v1 too" in told["db-0"]


async def test_pods_of_others_are_not_touched(cluster: Cluster, kubernetes: Kubernetes) -> None:
    await kubernetes.claim("other", "x", driver="csi.example.com")
    await kubernetes.pod("theirs", "n1", {"name": "other", "persistentVolumeClaim": {"claimName": "other"}})
    await kubernetes.pod("web", "n1", {"name": "config", "configMap": {"name": "web"}})
    spec = {"attacher": "csi.example.com", "nodeName": "n1", "source": {"persistentVolumeName": "pv-other"}}
    await cluster.kube.raw(
        "POST", "/apis/storage.k8s.io/v1/volumeattachments", {"metadata": {"name": "t"}, "spec": spec}
    )
    await kubernetes.fail("n1")
    for _ in range(60):
        cluster.clock.pass_(1.0)
        await cluster.settle()
    assert await kubernetes.pods() == {"theirs": "n1", "web": "n1"}
    assert "deletionTimestamp" not in next(a for a in await kubernetes.attachments() if a["metadata"]["name"] == "t")
    assert set(pod_says(cluster)) == {"db-0"}


async def test_a_volume_without_another_copy_stays(cluster: Cluster, kubernetes: Kubernetes) -> None:
    cluster.nodes.pull(leg_on(await cluster.volume(), "n2").extents[0].device)
    await kubernetes.settle()
    await kubernetes.fail("n1")
    await kubernetes.later(60)
    assert kubernetes.starts == ["n1"]
    assert (await cluster.volume()).status.attachment.node == "n1"
    assert "v1 has no other copy in sync in reach" in pod_says(cluster)["db-0"]


async def test_a_node_that_is_back_before_its_pod_was_deleted_ends_it(cluster: Cluster, kubernetes: Kubernetes) -> None:
    cluster.nodes.nodes["n1"].pods_run_on = True
    cluster.nodes.nodes["n2"].mute = True
    await kubernetes.fail("n1")
    await kubernetes.later(30)
    assert (await cluster.volume()).status.attachment.epoch == 2, "taken"
    assert kubernetes.starts == ["n1"]
    cluster.nodes.nodes["n1"].silent = cluster.nodes.nodes["n2"].mute = False
    await cluster.set_kubelet("n1", ready=True)
    kubernetes.replicas = 0
    await kubernetes.later(5)
    assert await gone(kubernetes, "db-0"), "what it has mounted is dead"
    assert "cannot go on in it" in pod_says(cluster)["db-0"]


async def test_without_the_right_to_a_nodes_status_it_takes_longer(cluster: Cluster, kubernetes: Kubernetes) -> None:
    """The VolumeAttachment is deleted all the same; Kubernetes finds out by itself."""
    take = cluster.failover._workloads.take
    steps: list[str] = []

    async def refused(step: Any) -> None:
        steps.append(type(step).__name__)
        if steps[-1] == "NotInUse":
            raise Forbidden("not yours")
        await take(step)

    cluster.failover._workloads.take = refused  # type: ignore[method-assign]
    await kubernetes.fail("n1")
    for _ in range(40):
        cluster.clock.pass_(1.0)
        await cluster.settle()
    assert steps[:3] == ["DeletePod", "NotInUse", "DeleteAttachment"]
