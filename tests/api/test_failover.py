"""What the master may do to a Node: take its own volumes out of the list of those in use, by the chart's rights."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from rendered import rendered
from test_admission import nobody

from lab.controlplane import ControlPlane
from millpond_adapters.kube import ApiKube
from millpond_core import names
from millpond_core.errors import Conflict, Forbidden, Invalid
from millpond_core.master.failover import NotInUse, Taint
from millpond_operator.workloads import KubeWorkloads

NAMESPACE = "millpond-failover-test"
NODE = "n9"
OURS, THEIRS = names.unique_volume("v1"), "kubernetes.io/csi/csi.example.com^v1"
PATH = f"/api/v1/nodes/{NODE}"
STATUS = f"{PATH}/status"
THEIR_TAINT = {"key": "example.com/theirs", "effect": "NoSchedule"}
OUR_TAINT = {"key": names.TAINT, "value": "NodeGone", "effect": "NoSchedule"}
JSON_PATCH, MERGE = "application/json-patch+json", "application/merge-patch+json"


@pytest.fixture(scope="module")
def rights(kubectl: Callable[..., str]) -> Iterator[None]:
    """The operator's account, its rights and its policy, as the chart has them."""
    manifest = rendered(NAMESPACE, "millpond-failover", "millpond-operator", "millpond-node")
    kubectl("create", "namespace", NAMESPACE)
    kubectl("apply", "-f", "-", stdin=manifest)
    yield
    kubectl("delete", "--wait=false", "-f", "-", stdin=manifest)
    kubectl("delete", "--wait=false", "namespace", NAMESPACE)


@pytest.fixture
async def node(kube: ApiKube) -> AsyncIterator[None]:
    """A Node whose kubelet last said that it uses a volume of ours and one of another driver."""
    await kube.raw("POST", "/api/v1/nodes", {"metadata": {"name": NODE, "labels": {"a": "b"}}})
    await kube.raw("PATCH", STATUS, {"status": {"volumesInUse": [OURS, THEIRS]}}, content_type=MERGE)
    yield
    await kube.raw("DELETE", PATH)


@pytest.fixture
async def master(rights: None, node: None, plane: ControlPlane, kubectl: Callable[..., str]) -> AsyncIterator[ApiKube]:
    """The operator's account, once the policy is in force."""
    bearer = kubectl("create", "token", "millpond-operator", "-n", NAMESPACE, "--duration=1h").strip()
    async with ApiKube(nobody(plane, bearer), component="millpond-master") as client:
        async with asyncio.timeout(50):
            for attempt in itertools.count():  # another text each time: writing the same again is never refused
                try:
                    await client.raw("PATCH", STATUS, {"status": {"phase": f"probe{attempt}"}}, content_type=MERGE)
                except Forbidden as refused:  # first for want of the right, which takes a moment too
                    if "volumesInUse" in str(refused):
                        break
                await asyncio.sleep(0.1)
        yield client


async def in_use(kube: ApiKube) -> list[str]:
    found: list[str] = (await kube.raw("GET", PATH))["status"].get("volumesInUse", [])
    return found


async def test_the_master_takes_its_own_volume_out(master: ApiKube, kube: ApiKube) -> None:
    await KubeWorkloads(master).take(NotInUse(NODE, (OURS, THEIRS), (THEIRS,)))
    assert await in_use(kube) == [THEIRS]


async def test_what_the_kubelet_has_changed_meanwhile_is_not_overwritten(master: ApiKube, kube: ApiKube) -> None:
    with pytest.raises((Conflict, Invalid)):
        await KubeWorkloads(master).take(NotInUse(NODE, (OURS,), ()))
    assert await in_use(kube) == [OURS, THEIRS]


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"status": {"volumesInUse": [OURS]}}, id="another driver's volume"),
        pytest.param({"status": {"volumesInUse": [OURS, THEIRS, "x"]}}, id="a volume more"),
        pytest.param({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, id="a condition"),
        pytest.param({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}}, id="an address"),
        pytest.param({"metadata": {"labels": {"a": "c"}}}, id="a label"),
        pytest.param({"metadata": {"annotations": {"a": "c"}}}, id="an annotation"),
    ],
)
async def test_the_master_changes_nothing_else_of_a_node(master: ApiKube, kube: ApiKube, patch: dict[str, Any]) -> None:
    before = await kube.raw("GET", PATH)
    with pytest.raises(Forbidden, match=r"volumesInUse|csi\.millpond\.io"):
        await master.raw("PATCH", STATUS, patch, content_type=MERGE)
    after = await kube.raw("GET", PATH)
    assert (after["status"], after["metadata"].get("labels")) == (before["status"], before["metadata"].get("labels"))


async def test_others_write_a_nodes_status_as_ever(master: ApiKube, kube: ApiKube) -> None:
    await kube.raw("PATCH", STATUS, {"status": {"volumesInUse": []}}, content_type=MERGE)
    assert await in_use(kube) == []


async def taints(kube: ApiKube) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (await kube.raw("GET", PATH))["spec"].get("taints", [])
    # The node lifecycle controller's: nobody runs it here, but admission puts one on each new Node.
    return [taint for taint in found if not taint["key"].startswith("node.kubernetes.io/")]


async def test_the_master_sets_its_taint_and_takes_it_off_again(master: ApiKube, kube: ApiKube) -> None:
    await kube.raw("PATCH", PATH, {"spec": {"taints": [THEIR_TAINT]}}, content_type=MERGE)
    adapter = KubeWorkloads(master)
    before = (await adapter.read(NODE)).host
    assert (before.tainted, before.others) == (False, (THEIR_TAINT,))
    after = await adapter.taint(Taint(NODE, before.version, (*before.others, OUR_TAINT)))
    assert after == (await adapter.read(NODE)).host
    assert after.tainted
    assert await taints(kube) == [THEIR_TAINT, OUR_TAINT]
    assert NODE in await adapter.tainted()
    with pytest.raises((Conflict, Invalid)):
        await adapter.taint(Taint(NODE, before.version, ()))
    await adapter.taint(Taint(NODE, after.version, after.others))
    assert await taints(kube) == [THEIR_TAINT]


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"spec": {"taints": []}}, id="another's taint"),
        pytest.param({"spec": {"taints": [THEIR_TAINT, {**OUR_TAINT, "effect": "NoExecute"}]}}, id="eviction"),
        pytest.param({"spec": {"taints": [THEIR_TAINT, {"key": "x", "effect": "NoSchedule"}]}}, id="another taint"),
        pytest.param({"spec": {"unschedulable": True}}, id="a cordon"),
        pytest.param({"metadata": {"labels": {"a": "c"}}}, id="a label"),
        pytest.param({"metadata": {"annotations": {"a": "c"}}}, id="an annotation"),
    ],
)
async def test_the_master_writes_no_other_taint(master: ApiKube, kube: ApiKube, patch: dict[str, Any]) -> None:
    await kube.raw("PATCH", PATH, {"spec": {"taints": [THEIR_TAINT]}}, content_type=MERGE)
    with pytest.raises(Forbidden, match="nothing else"):
        await master.raw("PATCH", PATH, patch, content_type=MERGE)
    assert await taints(kube) == [THEIR_TAINT]


async def test_a_pod_is_deleted_only_when_it_is_the_very_one(master: ApiKube, kube: ApiKube) -> None:
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    spec = {
        "nodeName": NODE,
        "serviceAccountName": "millpond-node",
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "i"}],
    }
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": True}
    body = {"metadata": {"name": "db-0", "ownerReferences": [owner]}, "spec": spec}
    made = await kube.raw("POST", pods, body)
    adapter = KubeWorkloads(master)
    (seen,) = (await adapter.read(NODE)).pods
    assert (seen.uid, seen.stays, seen.ending) == (made["metadata"]["uid"], "", False)
    await adapter._delete(f"{pods}/db-0", "another", gracePeriodSeconds=0)
    assert len((await adapter.read(NODE)).pods) == 1
    await adapter._delete(f"{pods}/db-0", seen.uid, gracePeriodSeconds=0)
    assert (await adapter.read(NODE)).pods == (), "gone without a kubelet"
    host = (await adapter.read(NODE)).host
    assert (host.avoided, host.in_use) == (True, (OURS, THEIRS))
