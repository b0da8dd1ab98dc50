"""The admission policies of the chart, with real tokens of pods on nodes: whoever steals one gets one node's part.

Every account is cluster-admin here: what is refused is refused by the policies, not by RBAC.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rendered import until_taken

from lab.controlplane import ControlPlane
from millpond_adapters.kube import Access, ApiKube
from millpond_adapters.kube.access import constant_token, tls
from millpond_core.errors import Conflict, Forbidden
from millpond_core.model import API_VERSION, ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import VirtualVolumeSpec

ROOT = Path(__file__).parents[2]
NAMESPACE = "millpond-admission"
NODES = ("n1", "n2")
DOORBELL = "millpond.io/quiesce"
RINGING = f"{{apiVersion: {API_VERSION}, kind: StorageNode, metadata: {{name: probe, annotations: {{{DOORBELL}: q}}}}}}"


class Accounts(NamedTuple):
    """Our adapter as each of those who write."""

    n1: ApiKube
    n2: ApiKube
    homeless: ApiKube
    """A state manager's account, with a token that no pod on a node has."""
    master: ApiKube
    admin: ApiKube


@pytest.fixture(scope="module")
def policies(kubectl: Callable[..., str]) -> Iterator[None]:
    """In force for this module only: other tests ring the doorbell as administrators."""
    template = (ROOT / "charts/millpond/templates/admission.yaml").read_text()
    template = template.replace("{{ .Release.Namespace }}", NAMESPACE)
    kubectl("create", "namespace", NAMESPACE)
    for account in ("millpond-node", "millpond-operator"):
        kubectl("create", "serviceaccount", account, "-n", NAMESPACE)
        everything = ("--clusterrole=cluster-admin", f"--serviceaccount={NAMESPACE}:{account}")
        kubectl("create", "clusterrolebinding", f"{NAMESPACE}-{account}", *everything)
    kubectl("apply", "-f", "-", stdin=template)
    yield
    kubectl("delete", "-f", "-", stdin=template)
    kubectl("delete", "pods", "--all", "--force", "-n", NAMESPACE)
    kubectl("delete", "nodes", *NODES)
    until_taken(kubectl, RINGING)


async def token(admin: ApiKube, account: str, node: str = "") -> str:
    """A token of ``account``, bound to a pod on ``node`` when one is named."""
    spec: dict[str, Any] = {"expirationSeconds": 3600}
    if node:
        pod = {
            "metadata": {"name": f"pod-{node}"},
            "spec": {
                "nodeName": node,
                "serviceAccountName": account,
                "automountServiceAccountToken": False,
                "containers": [{"name": "c", "image": "i"}],
            },
        }
        for path, body in (
            ("/api/v1/nodes", {"metadata": {"name": node}}),
            (f"/api/v1/namespaces/{NAMESPACE}/pods", pod),
        ):
            try:
                await admin.raw("POST", path, body)
            except Conflict:
                continue  # from an earlier test
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": f"pod-{node}"}
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
    answer = await admin.raw("POST", path, {"spec": spec})
    return str(answer["status"]["token"])


def nobody(plane: ControlPlane, bearer: str) -> Access:
    """The API server without the administrator's certificate, which would win over any token."""
    authority = (plane.folder / "ca.crt").read_text()
    return Access(f"https://127.0.0.1:{plane.port}", lambda: tls(authority=authority), constant_token(bearer))


@pytest.fixture
async def accounts(policies: None, plane: ControlPlane, kube: ApiKube) -> AsyncIterator[Accounts]:
    async with AsyncExitStack() as stack:

        async def client(account: str, node: str = "") -> ApiKube:
            access = nobody(plane, await token(kube, account, node))
            return await stack.enter_async_context(ApiKube(access, component=f"{account}-{node}"))

        n1, n2, homeless = [await client("millpond-node", node) for node in (*NODES, "")]
        await in_force(kube, homeless)
        yield Accounts(n1, n2, homeless, await client("millpond-operator"), kube)


async def in_force(admin: ApiKube, homeless: ApiKube) -> None:
    """Policies come into force a moment after they are created: wait until both refuse what they must."""
    await admin.create(StorageNode(metadata=ObjectMeta(name="probe")))
    rings = itertools.count()

    async def ring() -> None:
        # Another text each time: one that got through before the policy was in force may be written again for ever.
        await admin.merge(StorageNode, "probe", {"metadata": {"annotations": {DOORBELL: f"q{next(rings)}"}}})

    for attempt in (lambda: homeless.merge(StorageNode, "probe", {}), ring):
        # Seconds: usually one or two; more than 20 were seen while three guests booted beside it.
        async with asyncio.timeout(50):
            while True:
                try:
                    await attempt()
                except Forbidden:
                    break
                await asyncio.sleep(0.1)
    await admin.delete(StorageNode, "probe")


def node(name: str, **annotations: str) -> StorageNode:
    return StorageNode(metadata=ObjectMeta(name=name, annotations=annotations))


async def device(kube: ApiKube, name: str, on: str) -> None:
    spec = StorageDeviceSpec(node_name=on, identity=Identity(serial=name))
    await kube.create(StorageDevice(metadata=ObjectMeta(name=name), spec=spec))


async def volume(accounts: Accounts) -> None:
    """Volume v, attached on n1, with leg a on n1 and leg b on n2."""
    await accounts.admin.create(VirtualVolume(metadata=ObjectMeta(name="v"), spec=VirtualVolumeSpec(size="1Gi")))
    legs = [
        {"id": leg, "node": on, "state": state, "extents": [{"device": on, "deviceUuid": on, "start": 0, "length": 1}]}
        for leg, on, state in (("a", "n1", "InSync"), ("b", "n2", "InSync"), ("c", "n2", "Rebuilding"))
    ]
    record = [
        {"op": "add", "path": "/status/mapping", "value": {"generation": 1, "recordSeq": 1, "legs": legs}},
        {"op": "add", "path": "/status/attachment", "value": {"node": "n1", "epoch": 1, "clean": False}},
    ]
    await accounts.master.patch(VirtualVolume, "v", record, status=True)
    await accounts.master.apply_status(VirtualVolume, "v", {"phase": "Ready"}, manager="master")


def change(path: str, value: Any, *, sequence: int = 2) -> list[dict[str, Any]]:
    """A JSON Patch of the record as an attach node makes it."""
    return [
        {"op": "replace", "path": f"/status/mapping/{path}", "value": value},
        {"op": "replace", "path": "/status/mapping/recordSeq", "value": sequence},
    ]


async def test_a_state_manager_makes_and_reports_its_own_node(accounts: Accounts) -> None:
    await accounts.n1.create(node("n1"))
    await accounts.n1.apply_status(StorageNode, "n1", {"kernel": "6.1"}, manager="millpond-node-n1")
    with pytest.raises(Forbidden, match="its own StorageNode only: n2, not n1"):
        await accounts.n2.apply_status(StorageNode, "n1", {"kernel": "6.2"}, manager="millpond-node-n2")
    with pytest.raises(Forbidden, match="its own StorageNode only: n2, not n3"):
        await accounts.n2.create(node("n3"))


async def test_a_token_without_a_node_writes_nothing(accounts: Accounts) -> None:
    with pytest.raises(Forbidden, match="this token names no node"):
        await accounts.homeless.create(node("n1"))


async def test_a_state_manager_judges_nothing(accounts: Accounts) -> None:
    await accounts.n1.create(node("n1"))
    await device(accounts.admin, "d1", "n1")
    await accounts.master.apply_status(StorageDevice, "d1", {"phase": "Online"}, manager="master")
    for kind, name in ((StorageNode, "n1"), (StorageDevice, "d1")):
        with pytest.raises(Forbidden, match=r"only the master writes status\.phase of storage"):
            await accounts.n1.apply_status(kind, name, {"phase": "Failed"}, manager="millpond-node-n1")


async def test_a_state_manager_observes_its_own_devices(accounts: Accounts) -> None:
    await device(accounts.admin, "d1", "n1")
    seen = {"observation": {"state": "Claimed"}}
    await accounts.n1.apply_status(StorageDevice, "d1", seen, manager="millpond-node-n1")
    with pytest.raises(Forbidden, match="devices of its own node only: n2, not n1"):
        await accounts.n2.apply_status(StorageDevice, "d1", seen, manager="millpond-node-n2")


async def test_a_state_manager_changes_no_spec_and_deletes_nothing(accounts: Accounts) -> None:
    await accounts.n1.create(node("n1"))
    await device(accounts.admin, "d1", "n1")
    await volume(accounts)
    quiescence = Quiescence(metadata=ObjectMeta(name="q"), spec=QuiescenceSpec(scope=Scope(volumes=["v"])))
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: accounts.n1.merge(StorageNode, "n1", {"spec": {"unschedulable": True}}),
        lambda: accounts.n1.merge(StorageDevice, "d1", {"spec": {"pool": "mine"}}),
        lambda: accounts.n1.merge(VirtualVolume, "v", {"spec": {"attachment": {"node": "n1"}}}),
        lambda: accounts.n1.delete(VirtualVolume, "v"),
        lambda: accounts.n1.delete(StorageNode, "n1"),
        lambda: accounts.n1.create(quiescence),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden, match="creates its StorageNode and writes status, nothing else"):
            await attempt()


async def test_a_state_manager_writes_its_own_entry_of_a_volume(accounts: Accounts) -> None:
    await volume(accounts)
    await accounts.n1.apply_status(VirtualVolume, "v", {"nodes": [{"node": "n1", "epoch": 1}]}, manager="n1")
    await accounts.n2.apply_status(VirtualVolume, "v", {"nodes": [{"node": "n2", "epoch": 1}]}, manager="n2")
    with pytest.raises(Forbidden, match=r"its own entry of status\.nodes only: n2"):
        await accounts.n2.apply_status(VirtualVolume, "v", {"nodes": [{"node": "n1", "epoch": 9}]}, manager="n2")
    with pytest.raises(Forbidden, match=r"its own entry of status\.nodes only: n2"):
        await accounts.n2.merge(VirtualVolume, "v", {"status": {"nodes": None}}, status=True)
    for field, value in (("phase", "Deleting"), ("nextLeg", 9), ("message", "m"), ("attachment", {"epoch": 2})):
        with pytest.raises(Forbidden, match=rf"only the master writes status\.{field} of virtualvolumes"):
            await accounts.n2.merge(VirtualVolume, "v", {"status": {field: value}}, status=True)


async def test_the_attach_node_records_states_alone(accounts: Accounts) -> None:
    await volume(accounts)
    with pytest.raises(Forbidden, match="only the attach node and the master write the record"):
        await accounts.n2.patch(VirtualVolume, "v", change("legs/1/state", "Stale"), status=True)
    await accounts.n1.patch(VirtualVolume, "v", change("legs/1/state", "Stale"), status=True)
    await accounts.n1.patch(VirtualVolume, "v", change("legs/2/state", "InSync", sequence=3), status=True)
    refused = [
        change("generation", 2, sequence=4),
        change("legs/1/state", "Rebuilding", sequence=4),
        change("legs/1/releasing", True, sequence=4),
        change("legs/2/extents/0/start", 7, sequence=4),
        [{"op": "remove", "path": "/status/mapping/legs/1"}, *change("generation", 1, sequence=4)],
    ]
    for operations in refused:
        with pytest.raises(Forbidden, match="an attach node changes the state of legs alone"):
            await accounts.n1.patch(VirtualVolume, "v", operations, status=True)
    await accounts.master.patch(VirtualVolume, "v", change("legs/1/state", "Rebuilding", sequence=4), status=True)


async def test_only_the_master_rings_the_doorbell(accounts: Accounts) -> None:
    await accounts.admin.create(node("n1"))
    ring = {"metadata": {"annotations": {DOORBELL: "q1"}}}
    with pytest.raises(Forbidden, match="written by the master only"):
        await accounts.admin.merge(StorageNode, "n1", ring)
    with pytest.raises(Forbidden, match="written by the master only"):
        await accounts.admin.create(node("n2", **{DOORBELL: "q1"}))
    await accounts.master.merge(StorageNode, "n1", ring)
    await accounts.admin.merge(StorageNode, "n1", {"metadata": {"annotations": {"shop/note": "kept"}}})
    with pytest.raises(Forbidden, match="written by the master only"):
        await accounts.admin.merge(StorageNode, "n1", {"metadata": {"annotations": {DOORBELL: None}}})
    await accounts.master.merge(StorageNode, "n1", {"metadata": {"annotations": {DOORBELL: None}}})
