"""``kubectl millpond shutdown``: what it finds in use, what it refuses, in which order it acts, and when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from millpond_cli import main, shutdown
from millpond_core import names
from millpond_core.errors import DeadlineExceeded
from millpond_core.model import ObjectMeta, StorageNode, VirtualVolume
from millpond_core.model.storagenode import Maintenance, StorageNodeSpec, StorageNodeStatus
from millpond_core.model.virtualvolume import Attachment, Leg, Mapping, VirtualVolumeSpec, VirtualVolumeStatus
from millpond_core.testing.kube import MemoryKube

STATEFUL = [{"kind": "StatefulSet", "name": "db", "controller": True}]
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/shop/pods"


@pytest.fixture
def kube() -> MemoryKube:
    return MemoryKube()


async def node(kube: MemoryKube, name: str, *, boot_id: str = "boot", **work: Any) -> None:
    spec = StorageNodeSpec(maintenance=Maintenance(**work)) if work else StorageNodeSpec()
    await kube.create(StorageNode(metadata=ObjectMeta(name=name), spec=spec))
    status = StorageNodeStatus(boot_id=f"{boot_id}-{name}" if boot_id else "")
    await kube.apply_status(StorageNode, name, {"bootId": status.boot_id}, manager="node")
    await kube.raw("POST", NODES, ready_node(name))


def ready_node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


async def volume(kube: MemoryKube, name: str, at: str, *, leg: str = "InSync") -> None:
    annotations = {names.ANNOTATION_CLAIM: "shop/data-db-0"}
    await kube.create(
        VirtualVolume(metadata=ObjectMeta(name=name, annotations=annotations), spec=VirtualVolumeSpec(size="16Mi"))
    )
    await attached(kube, name, at, leg)


async def attached(kube: MemoryKube, name: str, at: str, leg: str = "InSync") -> None:
    mapping = Mapping(generation=1, record_seq=1, legs=[Leg(id="a", node="n1", state=leg, extents=[])])  # type: ignore[arg-type]
    status = VirtualVolumeStatus(mapping=mapping, attachment=Attachment(node=at, epoch=1, clean=not at))
    await kube.apply_status(VirtualVolume, name, msgspec.to_builtins(status), manager="master")


async def pod(kube: MemoryKube, name: str = "db-0", at: str = "n1", **meta: Any) -> None:
    data = {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}
    metadata = {"name": name, "namespace": "shop", "ownerReferences": STATEFUL, **meta}
    await kube.raw("POST", PODS, {"metadata": metadata, "spec": {"nodeName": at, "volumes": [data]}})


async def pods(kube: MemoryKube) -> list[str]:
    return [one["metadata"]["name"] for one in (await kube.raw("GET", PODS))["items"]]


async def test_what_is_in_use_is_told_before_anything_is_done(kube: MemoryKube) -> None:
    await node(kube, "n1")
    await node(kube, "n2")
    await volume(kube, "pvc-1", "n1", leg="Rebuilding")
    await pod(kube)
    await kube.raw("POST", PODS, {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"nodeName": "n1"}})
    assert (await shutdown.survey(kube)).lines() == [
        "2 nodes: n1, n2",
        "  pvc-1 (shop/data-db-0) is in use on n1",
        "  pod shop/db-0 on n1 is ended, and started again after power-on",
        "  pvc-1 (shop/data-db-0) is being rebuilt: it goes on after power-on",
    ]


@pytest.mark.parametrize(
    ("work", "owners", "force", "said"),
    [
        pytest.param({"intent": "Retire"}, STATEFUL, True, "n1 is in maintenance (Retire)", id="other-work"),
        pytest.param({}, [], False, "no controller would start it again; --force", id="bare-pod"),
        pytest.param({}, [], True, "", id="bare-pod-by-force"),
        pytest.param({}, [{"kind": "Node", "controller": True}], True, "it is a static pod", id="static-pod"),
        pytest.param({"boot_id": ""}, STATEFUL, True, "n1 has not reported", id="no-state-manager"),
        pytest.param({}, STATEFUL, False, "", id="nothing"),
    ],
)
async def test_what_is_refused(
    kube: MemoryKube, work: dict[str, Any], owners: list[dict[str, Any]], force: bool, said: str
) -> None:
    await node(kube, "n1", **work)
    await volume(kube, "pvc-1", "n1")
    await pod(kube, ownerReferences=owners)
    refusals = [*(await shutdown.survey(kube)).refusals(force=force)]
    assert (len(refusals) == 1 and said in refusals[0]) if said else refusals == []


@asynccontextmanager
async def cluster_that_obeys(kube: MemoryKube, seen: list[str]) -> AsyncIterator[None]:
    """The operator, kubelets and the CSI driver, in the order in which they are asked."""

    async def obey() -> None:
        while True:
            await asyncio.sleep(0.02)
            for one in await kube.list(StorageNode):
                name, work = one.metadata.name, one.spec.maintenance
                if work.intent != "Shutdown":
                    continue
                host = await kube.raw("GET", f"{NODES}/{name}")
                if not host["spec"].get("taints"):
                    seen.append(f"{name} tainted, pods {await pods(kube)}")
                    taint = {"key": names.TAINT, "value": "Shutdown", "effect": "NoSchedule"}
                    await kube.raw("PUT", f"{NODES}/{name}", {**host, "spec": {"taints": [taint]}})
                used = await pods(kube)
                if not used:
                    await attached(kube, "pvc-1", "")
                verdict = {
                    "type": "MaintenanceReady",
                    "status": "False" if used else "True",
                    "reason": "InUse" if used else "Down",
                    "message": f"in use by {', '.join(used)}" if used else "it may be switched off",
                    "lastTransitionTime": "2026-11-22T14:00:00Z",
                    "observedGeneration": one.metadata.generation,
                }
                await kube.apply_status(StorageNode, name, {"conditions": [verdict]}, manager="master")

    acting = asyncio.create_task(obey())
    try:
        yield
        assert not acting.done(), acting.exception()
    finally:
        acting.cancel()


async def test_pods_end_once_none_is_started_any_more_and_it_is_done_when_every_node_may_go(
    kube: MemoryKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "LOOK_SECONDS", 0.05)
    await node(kube, "n1")
    await node(kube, "n2")
    await volume(kube, "pvc-1", "n1")
    await pod(kube)
    seen: list[str] = []
    told: list[str] = []
    async with asyncio.timeout(20), cluster_that_obeys(kube, seen):
        nodes, status = await shutdown.go(kube, await shutdown.survey(kube), 10, told.append)
    assert status == shutdown.DOWN
    assert seen == ["n1 tainted, pods ['db-0']", "n2 tainted, pods ['db-0']"], "no pod was ended before"
    assert told[0] == "pod shop/db-0 on n1 is told to end"
    assert [(one.spec.maintenance.intent, one.spec.maintenance.boot_id) for one in nodes] == [
        ("Shutdown", "boot-n1"),
        ("Shutdown", "boot-n2"),
    ]
    assert [one.metadata.name for one in await shutdown.cancel(kube)] == ["n1", "n2"]
    assert {one.spec.maintenance.intent for one in await kube.list(StorageNode)} == {"None"}


async def test_what_does_not_end_in_time_is_told_and_the_intent_stands(
    kube: MemoryKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(shutdown, "_end", ignore)
    await node(kube, "n1")
    await volume(kube, "pvc-1", "n1")
    await pod(kube)
    told: list[str] = []
    async with asyncio.timeout(20), cluster_that_obeys(kube, []):
        nodes, status = await shutdown.go(kube, await shutdown.survey(kube), 0.5, told.append)
    assert status == shutdown.TIME_UP
    assert told[-1] == "in use by db-0"
    assert nodes[0].spec.maintenance.intent == "Shutdown"


async def ignore(*_: object) -> None:
    """A pod that does not listen."""


async def test_no_pod_is_ended_while_kubernetes_would_start_it_again(
    kube: MemoryKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "BEGIN_SECONDS", 0.3)
    await node(kube, "n1")
    await volume(kube, "pvc-1", "n1")
    await pod(kube)
    with pytest.raises(DeadlineExceeded, match="kubectl cordon n1, and this again"):
        await shutdown.go(kube, await shutdown.survey(kube), 10, lambda _: None)
    assert await pods(kube) == ["db-0"]


def test_it_asks_unless_it_was_told_not_to(monkeypatch: pytest.MonkeyPatch, kube: MemoryKube) -> None:
    def run(_: str, work: Any) -> None:
        raise SystemExit(asyncio.run(work(kube)))

    monkeypatch.setattr(shutdown.terminal, "run", run)
    asyncio.run(node(kube, "n1"))
    answered = CliRunner().invoke(main.cli, ["shutdown"], input="n\n")
    assert answered.exit_code == shutdown.REFUSED
    assert asyncio.run(kube.get(StorageNode, "n1")).spec.maintenance.intent == "None"
    shown = CliRunner().invoke(main.cli, ["shutdown", "--dry-run"])
    assert shown.exit_code == shutdown.DOWN
    assert asyncio.run(kube.get(StorageNode, "n1")).spec.maintenance.intent == "None"
