"""What a failed node leaves behind in Kubernetes, as plain data: its Node, its pods, our VolumeAttachments.

Read from the objects' JSON, without knowing where that comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from millpond_core import names

Document = Mapping[str, Any]

STATELESS = frozenset({"configMap", "secret", "emptyDir", "projected", "downwardAPI", "image"})
"""Kinds of pods' volumes in which nothing outlives the pod."""

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of what the API server shows of a static pod: the kubelet's own, deleting it ends nothing."""


class Host(NamedTuple):
    """The Kubernetes node."""

    avoided: bool = True
    """Whether Kubernetes starts no pod there now."""
    in_use: tuple[str, ...] = ()
    """``status.volumesInUse``, as its kubelet said last."""
    tainted: bool = False
    """Whether it bears ``names.TAINT``."""
    others: tuple[Document, ...] = ()
    """Its other taints."""
    version: str = ""
    """Its resourceVersion."""


class Pod(NamedTuple):
    """A pod that has not ended."""

    namespace: str
    name: str
    uid: str
    volumes: frozenset[str] = frozenset()
    """VirtualVolumes that it uses."""
    stays: str = ""
    """Why it is not for us to delete; empty: it may be."""
    ending: bool = False
    """Whether it is told to end."""
    going: bool = False
    """Whether it waits for finalizers of others alone."""


class Claim(NamedTuple):
    """What a PersistentVolumeClaim is bound to."""

    volume: str = ""
    """The VirtualVolume; empty: it is none of ours, or not bound."""
    what: str = ""
    """What it is instead, for a sentence."""


class Attachment(NamedTuple):
    """A VolumeAttachment of our driver."""

    name: str
    uid: str
    volume: str
    going: bool = False
    """Whether it is being deleted already."""


class Workloads(NamedTuple):
    """All that stands in the way of a failed node's volumes being used elsewhere."""

    host: Host = Host()
    pods: tuple[Pod, ...] = ()
    attachments: tuple[Attachment, ...] = ()

    def deleted(self, one: Pod | Attachment) -> Workloads:
        """The same, once that pod or attachment is told to go."""
        pods = tuple(pod._replace(ending=True, going=True) if pod == one else pod for pod in self.pods)
        attachments = tuple(a._replace(going=True) if a == one else a for a in self.attachments)
        return self._replace(pods=pods, attachments=attachments)

    def used(self) -> set[str]:
        """VirtualVolumes that a pod uses."""
        return {volume for pod in self.pods for volume in pod.volumes}


def host(node: Document | None) -> Host:
    """From a Node; None: there is none, so no pod is started there."""
    if node is None:
        return Host()
    spec, status = node.get("spec", {}), node.get("status", {})
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions", ()))
    taints = spec.get("taints", ())
    others = tuple(taint for taint in taints if taint.get("key") != names.TAINT)
    tainted = len(others) < len(taints)
    return Host(
        avoided=tainted or bool(spec.get("unschedulable")) or not ready,
        in_use=tuple(status.get("volumesInUse", ())),
        tainted=tainted,
        others=others,
        version=node["metadata"]["resourceVersion"],
    )


def claims(pod: Document) -> list[str]:
    """Names of the claims that a pod uses."""
    return [claim for volume in pod["spec"].get("volumes", ()) if (claim := _claim(pod, volume))]


def ended(pod: Document) -> bool:
    """Whether nothing of the pod runs any more, so that it uses no volume."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def pod(document: Document, bound: Mapping[str, Claim]) -> Pod:
    """From a Pod; ``bound`` has what each of its claims is bound to, by the claim's name."""
    meta, ours, others = document["metadata"], set(), []
    for volume in document["spec"].get("volumes", ()):
        claim = _claim(document, volume)
        found = bound.get(claim, Claim(what=f"claim {claim}"))
        if claim and found.volume:
            ours.add(found.volume)
        elif claim:
            others.append(found.what)
        elif kinds := sorted(volume.keys() - STATELESS - {"name"}):
            others.append(f"volume {volume.get('name', '')} ({kinds[0]})")
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        volumes=frozenset(ours),
        stays=_stays(meta, others),
        ending="deletionTimestamp" in meta,
        going="deletionTimestamp" in meta and meta.get("deletionGracePeriodSeconds") == 0,
    )


def _stays(meta: Document, others: Iterable[str]) -> str:
    owners = [owner for owner in meta.get("ownerReferences", ()) if owner.get("controller")]
    kinds = {owner.get("kind") for owner in owners}
    if MIRROR in meta.get("annotations", {}) or "Node" in kinds:
        return "it is a static pod, which its kubelet alone can end"
    if "DaemonSet" in kinds:
        return "it belongs to a DaemonSet, which would start it there again"
    if not owners and not meta.get("deletionTimestamp"):
        return "no controller would start it elsewhere; delete it, and its volumes are released"
    if said := ", ".join(others):
        return f"it also uses {said}, of which we do not know that the node uses it no more"
    return ""


def _claim(pod: Document, volume: Document) -> str:
    """The claim behind a pod's volume; an ephemeral one bears the names of both. Empty: there is none."""
    if "ephemeral" in volume:
        return f"{pod['metadata']['name']}-{volume['name']}"
    claim: str = volume.get("persistentVolumeClaim", {}).get("claimName", "")
    return claim


def attachment(document: Document, volume: str) -> Attachment:
    """From a VolumeAttachment of ours, for that VirtualVolume."""
    meta = document["metadata"]
    return Attachment(meta["name"], meta["uid"], volume, going="deletionTimestamp" in meta)


def ours_on(document: Document, node: str) -> str:
    """Name of the PersistentVolume that a VolumeAttachment attaches to ``node`` by our driver; empty: it does not."""
    spec = document["spec"]
    if spec.get("attacher") != names.DRIVER or spec.get("nodeName") != node:
        return ""
    volume: str = spec.get("source", {}).get("persistentVolumeName") or ""
    return volume
