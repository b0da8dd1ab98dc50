"""The operator's real process on a real API server, with scripted nodes: its watches, the CRDs' rules, its memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import yaml
from scripted import Nodes

from lab import components
from lab.controlplane import ControlPlane
from lab.ports import free_ports
from millpond_adapters.kube import ApiKube, load
from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_operator.heartbeats import EVERY_SECONDS

ROOT = Path(__file__).parents[2]
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("core", "adapters", "operator"))
GRACE = 3
NAMESPACE = "millpond-operator-test"
MIB = 1024 * 1024
MERGE = "application/merge-patch+json"


class RealClock:
    """For the scripted nodes' stamps."""

    def now(self) -> float:
        return time.time()


def start(
    plane: ControlPlane, log: Path, *, kubeconfig: Path | None = None, namespace: str = "default", **more: str
) -> subprocess.Popen[bytes]:
    """The operator's process; ``more`` goes into its environment."""
    environment = {
        **os.environ,
        "PYTHONPATH": SOURCES,
        "KUBECONFIG": str(kubeconfig or plane.kubeconfig),
        "POD_NAMESPACE": namespace,
        "HEALTH_PORT": "0",
        **more,
    }
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "millpond_operator.main"], env=environment, stdout=out, stderr=out
        )


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
        raise


@pytest.fixture
def operator(plane: ControlPlane, kube: ApiKube, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = tmp_path / "operator.log"
    process = start(plane, log)
    try:
        yield process
    finally:
        if process.poll() is None:
            stop(process)
        print(log.read_text()[-8000:])


@pytest.fixture
async def nodes(kube: ApiKube) -> AsyncIterator[Nodes]:
    """Three nodes with two devices each, reporting all the time."""
    made = Nodes(kube, RealClock())  # type: ignore[arg-type]

    async def act() -> None:
        while True:
            await made.act()
            await asyncio.sleep(0.2)

    for node in ("n1", "n2", "n3"):
        await made.add_node(node)
        for number in (1, 2):
            await made.add_device(f"{node}-d{number}", node)
    acting = asyncio.create_task(act())
    yield made
    acting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await acting


async def until(kube: ApiKube, name: str, said: Callable[[VirtualVolume], bool], seconds: float = 30) -> VirtualVolume:
    """Wait for a volume to be as wanted."""
    end = time.monotonic() + seconds
    volume = None
    while time.monotonic() < end:
        volume = await kube.get(VirtualVolume, name)
        if said(volume):
            return volume
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {volume}")


async def over(kube: ApiKube, count: int, seconds: float = 10) -> None:
    """Wait for ``count`` quiescences that changed something to be over, well.

    One more may have found nothing to change: a leg just recorded Stale is still offered by its node, for a moment.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        there = [q for q in await kube.list(Quiescence) if any(g.after for g in q.status.generations)]
        if [q.status.phase for q in there] == ["Released"] * count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {count}: {[(q.spec.reason, q.status.phase, q.status.message) for q in there]}")


async def test_a_claim_becomes_a_volume_whose_lost_leg_is_replaced(
    kube: ApiKube, nodes: Nodes, operator: subprocess.Popen[bytes]
) -> None:
    await nodes.add_volume("v1", grace=GRACE, preferred_node="n1")
    await until(kube, "v1", lambda v: v.status.phase == "Ready")
    await nodes.want("v1", "n1")
    volume = await until(kube, "v1", lambda v: any(n.front == "Active" for n in v.status.nodes))
    for number, leg in enumerate(volume.status.mapping.legs):
        nodes.pull(leg.extents[0].device)
        await until(kube, "v1", lambda v: v.status.phase == "Degraded")
        volume = await until(
            kube, "v1", lambda v, g=number + 2: v.status.phase == "Ready" and v.status.mapping.generation == g
        )
        volume = await until(kube, "v1", lambda v: not v.status.operations)
    await over(kube, 2)
    resident = int(Path(f"/proc/{operator.pid}/statm").read_text().split()[1]) * 4096
    print(f"resident: {resident / MIB:.0f} MiB")
    assert resident < 150 * MIB


async def test_deleting_gives_everything_back(kube: ApiKube, nodes: Nodes, operator: subprocess.Popen[bytes]) -> None:
    await nodes.add_volume("v1")
    await until(kube, "v1", lambda v: v.status.phase == "Ready")
    await kube.delete(VirtualVolume, "v1")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        volumes, devices = await kube.list(VirtualVolume), await kube.list(StorageDevice)
        if not volumes and all(device.status.legs == 0 for device in devices):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{volumes}, legs {[device.status.legs for device in devices]}")


def test_it_ends_soon_when_it_is_told_to(operator: subprocess.Popen[bytes], tmp_path: Path) -> None:
    log, end = tmp_path / "operator.log", time.monotonic() + 60
    while " leads" not in log.read_text():
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.1)
    began = time.monotonic()
    assert stop(operator) == 0
    assert time.monotonic() - began < 8


@pytest.fixture(scope="module")
def account(
    plane: ControlPlane, kubectl: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A kubeconfig of the operator's account, with the chart's rights and no others."""
    argv = [str(components.ensure("helm")), "template", "millpond", str(ROOT / "charts/millpond"), "-n", NAMESPACE]
    rendered = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    rights = yaml.safe_dump_all(each for each in yaml.safe_load_all(rendered) if each and each["kind"] in kinds)
    kubectl("create", "namespace", NAMESPACE)
    kubectl("apply", "-f", "-", stdin=rights)
    config = yaml.safe_load(plane.kubeconfig.read_text())
    bearer = kubectl("create", "token", "millpond-operator", "-n", NAMESPACE, "--duration=1h").strip()
    config["users"][0]["user"] = {"token": bearer}
    written = tmp_path_factory.mktemp("account") / "operator.kubeconfig"
    written.write_text(yaml.safe_dump(config))
    yield written
    kubectl("delete", "--wait=false", "-f", "-", stdin=rights)
    kubectl("delete", "--wait=false", "namespace", NAMESPACE)


async def test_the_charts_rights_are_enough(
    plane: ControlPlane, kube: ApiKube, nodes: Nodes, account: Path, tmp_path: Path
) -> None:
    log = tmp_path / "operator.log"
    process = start(plane, log, kubeconfig=account, namespace=NAMESPACE)
    heartbeats = ApiKube(load(str(plane.kubeconfig)), component="millpond-test", namespace=NAMESPACE)
    try:
        nodes.kube = await heartbeats.__aenter__()
        await nodes.add_volume("v1", grace=GRACE, preferred_node="n1")
        await until(kube, "v1", lambda v: v.status.phase == "Ready")
        await nodes.want("v1", "n1")
        volume = await until(kube, "v1", lambda v: any(n.front == "Active" for n in v.status.nodes))
        nodes.pull(volume.status.mapping.legs[1].extents[0].device)
        await until(kube, "v1", lambda v: v.status.phase == "Ready" and v.status.mapping.generation == 2)
        await over(kube, 1)
        events = await kube.raw("GET", "/api/v1/namespaces/default/events")
        told = {event["reason"] for event in events["items"] if event["involvedObject"]["name"] == "v1"}
        assert {"Allocated", "Attaching", "Degraded", "SpareAllocated", "Ready"} <= told
    finally:
        nodes.kube = kube
        stop(process)
        await heartbeats.__aexit__(None, None, None)
        print(log.read_text()[-8000:])
    assert "(403)" not in log.read_text()
    lease = await kube.raw("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/millpond-master")
    assert not lease["spec"].get("holderIdentity"), "given up, so that a successor need not wait"


async def test_whoever_owns_the_claim_reads_that_its_volume_is_not_well(
    plane: ControlPlane, kube: ApiKube, nodes: Nodes, account: Path, tmp_path: Path, kubectl: Callable[..., str]
) -> None:
    """With the chart's rights; what the resizer writes meanwhile, as it writes it, and ours leave each other alone."""
    log = tmp_path / "operator.log"
    process = start(plane, log, kubeconfig=account, namespace=NAMESPACE)
    heartbeats = ApiKube(load(str(plane.kubeconfig)), component="millpond-test", namespace=NAMESPACE)
    inside = "/api/v1/namespaces/owner"
    claim = f"{inside}/persistentvolumeclaims/data"
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": "v1",
        "resources": {"requests": {"storage": "400Mi"}},
    }
    resizing = {"type": "Resizing", "status": "True", "lastTransitionTime": "2026-11-28T14:02:11Z"}

    async def conditions() -> dict[str, str]:
        status = (await kube.raw("GET", claim))["status"]
        return {one["type"]: one.get("reason", "") for one in status.get("conditions", ())}

    async def become(wanted: dict[str, str]) -> None:
        end = time.monotonic() + 20
        while (found := await conditions()) != wanted:
            assert time.monotonic() < end, found
            await asyncio.sleep(0.1)

    try:
        nodes.kube = await heartbeats.__aenter__()
        await kube.raw("POST", "/api/v1/namespaces", {"metadata": {"name": "owner"}})
        await kube.raw("POST", claim.rpartition("/")[0], {"metadata": {"name": "data"}, "spec": spec})
        await nodes.add_volume("v1", grace=GRACE, preferred_node="n1")
        await kube.merge(VirtualVolume, "v1", {"metadata": {"annotations": {names.ANNOTATION_CLAIM: "owner/data"}}})
        await until(kube, "v1", lambda v: v.status.phase == "Ready")
        await nodes.want("v1", "n1")
        volume = await until(kube, "v1", lambda v: any(n.front == "Active" for n in v.status.nodes))
        assert await conditions() == {}
        nodes.nodes["n1"].slow_rebuild = True
        nodes.pull(volume.status.mapping.legs[1].extents[0].device)
        await become({"millpond.io/Unhealthy": "FewerCopies"})
        status = {"status": {"conditions": [resizing]}}
        await kube.raw("PATCH", f"{claim}/status", status, content_type="application/strategic-merge-patch+json")
        await become({"millpond.io/Unhealthy": "FewerCopies", "Resizing": ""})
        described = kubectl("describe", "pvc", "data", "-n", "owner")
        print(described)
        assert re.search(r"millpond.io/Unhealthy +True .* FewerCopies +leg b ", described)
        # In whichever of three words: the node may report the array, its device, or what it offers first.
        assert re.search(r"Warning +Degraded +.* millpond-master +leg b (lost.*: n2|on n2 is out of step)", described)
        nodes.nodes["n1"].slow_rebuild = False
        await become({"Resizing": ""})
        end = time.monotonic() + 10
        while not re.search(
            r"Normal +Ready +.* copies 2/2", described := kubectl("describe", "pvc", "data", "-n", "owner")
        ):
            assert time.monotonic() < end, described
    finally:
        nodes.kube = kube
        stop(process)
        for path in (claim, inside):
            with contextlib.suppress(NotFound):
                await kube.raw("DELETE", path)
        await heartbeats.__aexit__(None, None, None)
        print(log.read_text()[-8000:])
    assert "(403)" not in log.read_text()


class Shop:
    """A StatefulSet's pod on n1 with volume v1, as Kubernetes leaves it when n1 dies; nobody starts it anew."""

    attachment = "/apis/storage.k8s.io/v1/volumeattachments/csi-shop"
    pod = "/api/v1/namespaces/shop/pods/db-0"

    def __init__(self, kube: ApiKube) -> None:
        self.kube = kube

    async def open(self) -> None:
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "volumeName": "pv-shop",
            "resources": {"requests": {"storage": "400Mi"}},
        }
        csi = {"driver": names.DRIVER, "volumeHandle": "v1"}
        volume = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "400Mi"}, "csi": csi}
        pod = {
            "nodeName": "n1",
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        }
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": True}
        source = {"persistentVolumeName": "pv-shop"}
        attachment = {"attacher": names.DRIVER, "nodeName": "n1", "source": source}
        inside = "/api/v1/namespaces/shop"
        for path, name, body in (
            ("/api/v1/namespaces", "shop", {}),
            (f"{inside}/serviceaccounts", "default", {}),
            ("/api/v1/persistentvolumes", "pv-shop", {"spec": volume}),
            (f"{inside}/persistentvolumeclaims", "data", {"spec": claim}),
            ("/api/v1/nodes", "n1", {}),
            (f"{inside}/pods", "db-0", {"spec": pod, "metadata": {"ownerReferences": [owner]}}),
            (
                self.attachment.rpartition("/")[0],
                "csi-shop",
                {"spec": attachment, "metadata": {"finalizers": ["external-attacher/csi-millpond-io"]}},
            ),
        ):
            await self.kube.raw("POST", path, {**body, "metadata": {"name": name, **body.get("metadata", {})}})
        conditions = [{"type": "Ready", "status": "Unknown"}]
        status = {"conditions": conditions, "volumesInUse": [names.unique_volume("v1")]}
        await self.kube.raw("PATCH", "/api/v1/nodes/n1/status", {"status": status}, content_type=MERGE)

    async def close(self) -> None:
        with contextlib.suppress(NotFound):
            await self.kube.raw("PATCH", self.attachment, {"metadata": {"finalizers": None}}, content_type=MERGE)
        for path in (
            self.attachment,
            self.pod,
            "/api/v1/nodes/n1",
            "/api/v1/namespaces/shop",
            "/api/v1/persistentvolumes/pv-shop",
        ):
            with contextlib.suppress(NotFound):
                await self.kube.raw("DELETE", path, {"gracePeriodSeconds": 0})


async def test_a_pod_is_moved_off_a_failed_node_with_the_charts_rights(
    plane: ControlPlane, kube: ApiKube, nodes: Nodes, account: Path, tmp_path: Path
) -> None:
    log = tmp_path / "operator.log"
    process = start(plane, log, kubeconfig=account, namespace=NAMESPACE, FAILOVER="Pods")
    heartbeats = ApiKube(load(str(plane.kubeconfig)), component="millpond-test", namespace=NAMESPACE)
    shop = Shop(kube)
    try:
        nodes.kube = await heartbeats.__aenter__()
        await shop.open()
        await nodes.add_volume("v1", grace=600, preferred_node="n1")
        await until(kube, "v1", lambda v: v.status.phase == "Ready")
        await nodes.want("v1", "n1")
        await until(kube, "v1", lambda v: any(n.front == "Active" for n in v.status.nodes))
        nodes.nodes["n1"].silent = True
        volume = await until(kube, "v1", lambda v: v.status.attachment.epoch == 2, seconds=60)
        assert (volume.spec.attachment.node, volume.status.attachment.node) == ("", "")
        end = time.monotonic() + 15
        while "deletionTimestamp" not in (await kube.raw("GET", shop.attachment))["metadata"]:
            assert time.monotonic() < end, "its VolumeAttachment is not released"
            await asyncio.sleep(0.2)
        with pytest.raises(NotFound):
            await kube.raw("GET", shop.pod)
        assert not (await kube.raw("GET", "/api/v1/nodes/n1"))["status"].get("volumesInUse")
        events = (await kube.raw("GET", "/api/v1/namespaces/shop/events"))["items"]
        assert [event["reason"] for event in events] == ["PodMoved"]
    finally:
        nodes.kube = kube
        stop(process)
        await shop.close()
        await heartbeats.__aexit__(None, None, None)
        print(log.read_text()[-8000:])
    assert "(403)" not in log.read_text()


async def test_a_new_leader_has_seen_who_was_silent_before(plane: ControlPlane, kube: ApiKube, tmp_path: Path) -> None:
    """The leader dies with its node, as leaders do: the node's silence is not reckoned from the next one's start."""
    await kube.create(StorageNode(metadata=ObjectMeta(name="n1")))
    logs, (port,) = (tmp_path / "first.log", tmp_path / "second.log"), free_ports(1)
    processes = [start(plane, logs[0])]

    async def beating(done: Callable[[], bool], *, most: float = 60) -> None:
        """Renew the node's Lease until then."""
        end = time.monotonic() + most
        while not done():
            assert time.monotonic() < end, [log.read_text()[-2000:] for log in logs if log.exists()]
            await kube.renew_lease(names.node_manager("n1"), "n1", 20)
            await asyncio.sleep(0.5)

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        await beating(lambda: "leads" in logs[0].read_text())
        processes.append(start(plane, logs[1], HEALTH_PORT=str(port)))
        await beating(listens)
        looks = time.monotonic() + 3 * EVERY_SECONDS
        await beating(lambda: time.monotonic() > looks)
        await asyncio.sleep(12)  # of the 20 s after which the first would say so
        processes[0].kill()
        end = time.monotonic() + 60
        while "leads" not in logs[1].read_text():
            assert time.monotonic() < end, logs[1].read_text()[-2000:]
            await asyncio.sleep(0.1)
        led = time.monotonic()
        while (await kube.get(StorageNode, "n1")).status.phase != "StateManagerDown":
            # Two or three, by then the node has been silent for 23 s at least.
            assert time.monotonic() < led + 17, "it reckons from its own start, 20 s and more"
            await asyncio.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait(5)
