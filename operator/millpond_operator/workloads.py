"""Reads what a failed node has left in Kubernetes, and takes the steps of ``master.failover``. Decides nothing."""

from __future__ import annotations

from typing import Any

from millpond_core import names
from millpond_core.errors import Conflict, NotFound
from millpond_core.master import workloads as w
from millpond_core.master.failover import DeleteAttachment, DeletePod, NotInUse, Taint
from millpond_core.master.steps import Notice
from millpond_core.ports import Kube, Reference

ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
JSON_PATCH = "application/json-patch+json"


class KubeWorkloads:
    """See the module. Calls raise a MillpondError; what is gone already is done."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def read(self, node: str) -> w.Workloads:
        """Everything on ``node``, read anew."""
        host = await self._find(f"/api/v1/nodes/{node}")
        listed = await self._kube.raw("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={node}")
        volumes: dict[str, w.Claim] = {}
        pods = []
        for document in listed.get("items", ()):
            if not w.ended(document):
                namespace = document["metadata"]["namespace"]
                bound = {claim: await self._bound(namespace, claim, volumes) for claim in w.claims(document)}
                pods.append(w.pod(document, bound))
        attachments = []
        for document in (await self._kube.raw("GET", ATTACHMENTS)).get("items", ()):
            if name := w.ours_on(document, node):
                found = await self._volume(name, volumes)
                attachments += [w.attachment(document, found.volume)] if found.volume else []
        return w.Workloads(w.host(host), tuple(pods), tuple(attachments))

    async def tainted(self) -> set[str]:
        """Nodes that bear our taint."""
        nodes = (await self._kube.raw("GET", "/api/v1/nodes")).get("items", ())
        return {node["metadata"]["name"] for node in nodes if w.host(node).tainted}

    async def taint(self, step: Taint) -> w.Host:
        """Write a Node's taints; the Node as it is then."""
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": step.version},
            {"op": "add", "path": "/spec/taints", "value": list(step.after)},
        ]
        path = f"/api/v1/nodes/{step.node}"
        return w.host(await self._kube.raw("PATCH", path, patch, content_type=JSON_PATCH))

    async def take(self, step: DeletePod | DeleteAttachment | NotInUse) -> None:
        """One write."""
        match step:
            case DeletePod(pod, force):
                path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
                await self._delete(path, pod.uid, **({"gracePeriodSeconds": 0} if force else {}))
            case DeleteAttachment(one):
                await self._delete(f"{ATTACHMENTS}/{one.name}", one.uid)
            case NotInUse(node, before, after):
                path = "/status/volumesInUse"
                patch = [
                    {"op": "test", "path": path, "value": list(before)},
                    {"op": "replace", "path": path, "value": list(after)},
                ]
                await self._kube.raw("PATCH", f"/api/v1/nodes/{node}/status", patch, content_type=JSON_PATCH)

    async def tell(self, pod: w.Pod, notice: Notice) -> None:
        """An Event at the pod, in its namespace: its owner may see nothing of ours."""
        about = Reference("v1", "Pod", pod.namespace, pod.name, pod.uid)
        await self._kube.event(about, reason=notice.reason, message=notice.message, warning=notice.warning)

    async def _bound(self, namespace: str, claim: str, known: dict[str, w.Claim]) -> w.Claim:
        found = await self._find(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")
        name = found["spec"].get("volumeName", "") if found else ""
        if not name:
            return w.Claim(what=f"claim {claim}, which is not bound")
        volume = await self._volume(name, known)
        return volume if volume.volume else w.Claim(what=f"claim {claim} ({volume.what})")

    async def _volume(self, name: str, known: dict[str, w.Claim]) -> w.Claim:
        """What a PersistentVolume stands for."""
        if name not in known:
            found = await self._find(f"/api/v1/persistentvolumes/{name}")
            csi = found["spec"].get("csi", {}) if found else {}
            ours = csi.get("driver") == names.DRIVER
            what = csi.get("driver") or ("not a CSI volume" if found else "its PersistentVolume is gone")
            known[name] = w.Claim(volume=csi["volumeHandle"]) if ours else w.Claim(what=what)
        return known[name]

    async def _delete(self, path: str, uid: str, **options: Any) -> None:
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}, **options}
        try:
            await self._kube.raw("DELETE", path, body)
        except (NotFound, Conflict):
            return  # that very one is gone; another of its name is not ours to delete

    async def _find(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._kube.raw("GET", path)
        except NotFound:
            return None
        return found
