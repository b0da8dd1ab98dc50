"""What Kubernetes does around a StatefulSet's pod: its controller, the attach-detach controller, the external-attacher.

``Kubernetes.act`` lets each of them look once. Nodes that are not Ready, or tainted, get no pod; a volume is attached
to one node at a time, and is not detached from a node that lists it in use. Kubelets renew their Leases.
"""

from __future__ import annotations

from typing import Any

from harness import Cluster

from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.model import VirtualVolume

KUBELETS = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
MERGE = "application/merge-patch+json"
STATEFUL_SET = {"kind": "StatefulSet", "name": "db", "uid": "uid-db", "controller": True}


class Kubernetes:
    """A StatefulSet of one, db-0, with volume v1."""

    def __init__(self, cluster: Cluster, *nodes: str) -> None:
        self.cluster, self.kube, self.nodes = cluster, cluster.kube, nodes
        self.replicas = 1
        self.beats = 0
        self.dead: set[str] = set()
        self.starts: list[str] = []
        """On which node the pod was started, each time."""
        self.history: list[str] = []
        """What became of the pod and its attachment, with the epoch that n2 had confirmed then."""

    async def begin(self) -> None:
        for node in self.nodes:
            await self.cluster.set_kubelet(node, ready=True)
            lease = {"metadata": {"name": node}, "spec": {"leaseDurationSeconds": 40, "renewTime": "0"}}
            await self.kube.raw("POST", KUBELETS, lease)
        await self.claim("data", "v1")

    async def claim(self, claim: str, volume: str, driver: str = names.DRIVER) -> None:
        csi = {"driver": driver, "volumeHandle": volume}
        pv = {"metadata": {"name": f"pv-{claim}"}, "spec": {"csi": csi}}
        pvc = {"metadata": {"name": claim}, "spec": {"volumeName": f"pv-{claim}"}}
        await self.kube.raw("POST", "/api/v1/persistentvolumes", pv)
        await self.kube.raw("POST", "/api/v1/namespaces/shop/persistentvolumeclaims", pvc)

    async def pod(self, name: str, node: str, *volumes: dict[str, Any], **meta: Any) -> None:
        body = {
            "metadata": {"name": name, "namespace": "shop", "ownerReferences": [STATEFUL_SET], **meta},
            "spec": {"nodeName": node, "volumes": list(volumes)},
            "status": {"phase": "Running"},
        }
        await self.kube.raw("POST", "/api/v1/namespaces/shop/pods", body)

    async def pods(self) -> dict[str, str]:
        found = (await self.kube.raw("GET", "/api/v1/pods"))["items"]
        return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in found}

    async def attachments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.kube.raw("GET", ATTACHMENTS))["items"]
        return found

    async def act(self) -> None:
        await self._renew()
        await self._stateful_set()
        await self._attach()
        await self._attacher()

    async def settle(self, times: int = 6) -> None:
        for _ in range(times):
            await self.cluster.settle()
            await self.act()

    async def later(self, seconds: int) -> None:
        for _ in range(seconds):
            self.cluster.clock.pass_(1.0)
            await self.cluster.settle()
            await self.act()

    async def fail(self, node: str, *, doubted: bool = True) -> None:
        """Its power is gone; ``doubted``: Kubernetes calls it not Ready already."""
        self.cluster.nodes.nodes[node].silent = True
        self.dead.add(node)
        if doubted:
            await self.cluster.set_kubelet(node, ready=False)

    async def taints(self, node: str) -> list[str]:
        return [taint["key"] for taint in (await self._node(node))["spec"].get("taints", ())]

    async def _renew(self) -> None:
        self.beats += 1
        for node in self.nodes:
            if node not in self.dead or not self.cluster.nodes.nodes[node].silent:
                spec = {"spec": {"renewTime": str(self.beats)}}
                await self.kube.raw("PATCH", f"{KUBELETS}/{node}", spec, content_type=MERGE)

    async def _note(self, what: str) -> None:
        volume = await self.kube.get(VirtualVolume, "v1")
        confirmed = next((entry.epoch for entry in volume.status.nodes if entry.node == "n2"), 0)
        if not self.history or self.history[-1].rpartition(" ")[0] != what:
            self.history.append(f"{what} {confirmed}")

    async def _node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.kube.raw("GET", f"/api/v1/nodes/{name}")
        return found

    async def _stateful_set(self) -> None:
        there = await self.pods()
        if "db-0" in there or not self.replicas:
            return
        for name in self.nodes:
            node = await self._node(name)
            if node["status"]["conditions"][0]["status"] == "True" and not node["spec"].get("taints"):
                await self.pod("db-0", name, {"name": "data", "persistentVolumeClaim": {"claimName": "data"}})
                self.starts.append(name)
                await self._note(f"started on {name}")
                return

    async def _attach(self) -> None:
        there, wanted = await self.attachments(), (await self.pods()).get("db-0")
        for one in there:
            name = one["spec"]["nodeName"]
            in_use = (await self._node(name))["status"].get("volumesInUse", [])
            if name != wanted and names.unique_volume("v1") not in in_use:
                await self.kube.raw("DELETE", f"{ATTACHMENTS}/{one['metadata']['name']}")
        if wanted and not there:
            source = {"persistentVolumeName": "pv-data"}
            spec = {"attacher": names.DRIVER, "nodeName": wanted, "source": source}
            meta = {"name": f"csi-{wanted}", "finalizers": ["external-attacher/csi-millpond-io"]}
            await self.kube.raw("POST", ATTACHMENTS, {"metadata": meta, "spec": spec})
            await self._note(f"attaching to {wanted}")

    async def _attacher(self) -> None:
        for one in await self.attachments():
            node, path = one["spec"]["nodeName"], f"{ATTACHMENTS}/{one['metadata']['name']}"
            volume = await self.kube.get(VirtualVolume, "v1")
            if "deletionTimestamp" in one["metadata"]:
                if volume.spec.attachment.node == node:
                    await self.cluster.nodes.want("v1", "")
                elif volume.status.attachment.node != node:
                    await self.kube.raw("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
                    await self._note(f"detached from {node}")
            elif not volume.spec.attachment.node and node not in volume.status.attachment.node:
                await self.cluster.nodes.want("v1", node)
            elif volume.status.attachment.node == node:
                await self._mounted(node)

    async def _mounted(self, node: str) -> None:
        if not self.cluster.nodes.nodes[node].silent:
            status = {"volumesInUse": [names.unique_volume("v1")]}
            await self.kube.raw("PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, content_type=MERGE)


async def gone(kubernetes: Kubernetes, pod: str) -> bool:
    try:
        await kubernetes.kube.raw("GET", f"/api/v1/namespaces/shop/pods/{pod}")
    except NotFound:
        return True
    return False
