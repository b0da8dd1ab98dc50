"""A node has failed: its pods' volumes are fenced, and only then may the pods be started elsewhere.

A node that is shut down with all others bears the taint too, until it has booted again.

Step by step, each told from the objects alone:

1. A volume is taken from the node (``spec.attachment``): the master raises its epoch, its leg nodes tear down what they
   export under older ones. Not one whose pods have to stay, nor one without a copy in sync elsewhere: the node may
   still run, and keeps what cannot go on without it.
2. It is *fenced* when each leg node in reach has confirmed the epoch. One is enough for nothing more to be acknowledged
   on the failed node, since a write waits for every leg that is recorded InSync; who cannot confirm is left out.
3. A pod all of whose volumes are fenced is deleted without waiting for its kubelet. The Node bears a taint by then, so
   that Kubernetes, which may still take it for Ready, starts no pod there; it goes once the node is heard of again.
4. A fenced volume that no pod of the node uses any more is taken off the node's list of volumes in use, and its
   VolumeAttachment is deleted: only then does Kubernetes attach it elsewhere (docs/decisions/0012-failover.md).

A node that comes back in between finds a volume fenced under a pod that was not deleted yet: that pod is ended too, as
what it has mounted is dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from millpond_core import names
from millpond_core.master import volumes as v
from millpond_core.master.steps import Notice, Patch, Wait
from millpond_core.master.workloads import Attachment, Pod, Workloads
from millpond_core.master.world import World
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import Leg

AGAIN_SECONDS = 1.0
"""How soon to look again at a node some of whose volumes or pods are on their way."""

AVOIDED = frozenset({"NodeGone", "CutOffFromApiServer"})
"""Cases in which a Node bears the taint: its kubelet could start no pod."""

RESTING_SECONDS = 15.0
"""How often to look at a failed node of which nothing is left to move."""


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete that very pod."""

    pod: Pod
    force: bool = True
    """Without waiting for its kubelet (grace period 0)."""


@dataclass(frozen=True, slots=True)
class DeleteAttachment:
    """Delete that very VolumeAttachment; the external-attacher lets it go once the volume is detached."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class NotInUse:
    """Take volumes out of a Node's ``status.volumesInUse``, if it is still as it was read."""

    node: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taint:
    """Put ``names.TAINT`` on a Node, or take it off, if it is still as it was read."""

    node: str
    version: str
    after: tuple[Mapping[str, Any], ...]
    """All its taints."""


Step = Patch | DeletePod | DeleteAttachment | NotInUse | Taint


@dataclass(frozen=True, slots=True)
class Move:
    """Take this step, then look again."""

    step: Step
    why: str
    notice: Notice | None = None


def decide(world: World, node: StorageNode, there: Workloads, now: float) -> Move | Wait:
    """The next step for what a failed node has left; ``now``: seconds since the epoch."""
    name, health = node.metadata.name, world.state_of(node.metadata.name)
    failed = health.state == "Failed"
    shut_down = world.intent(name) == "Shutdown"
    if there.host.tainted and not shut_down and not (failed and health.reason in AVOIDED):
        return Move(Taint(name, there.host.version, there.host.others), f"pods may be started on {name} again")
    if shut_down and there.host.version and not there.host.tainted:
        return Move(_tainted(name, there, "Shutdown"), f"no pod is to be started on {name}, which is shut down")
    if health.state == "Ready":
        return _back(world, name, there, now)
    if not failed:
        return Wait()
    if not there.host.avoided and health.reason in AVOIDED and there.used():
        return Move(_tainted(name, there, health.reason), f"no pod is to be started on {name}: {health.message}")
    if not there.host.avoided:
        message = f"its pods stay, as Kubernetes would start them there again: to move them, kubectl cordon {name}"
        return Wait("KubeletReady", message if there.used() else "", now + RESTING_SECONDS)
    kept = _kept(world, name, there)
    moving = [world.volumes[one] for one in sorted(_ours(there) - kept.keys())]
    for volume in moving:
        if volume.spec.attachment.node == name:
            return Move(_taken(volume), f"{volume.metadata.name} is taken from {name}: {health.message}")
    fenced = {volume.metadata.name for volume in moving if is_fenced(world, volume, name)}
    for pod in there.pods:
        if pod.volumes and pod.volumes <= fenced and not pod.going:
            said = f"pod {pod.namespace}/{pod.name} is deleted from {name}, which has failed: its volumes are fenced"
            return Move(DeletePod(pod), said, Notice("PodMoved", said))
    released = [one for one in there.attachments if one.volume in fenced - there.used()]
    free = {names.unique_volume(one.volume) for one in released}
    if free & {*there.host.in_use}:
        rest = tuple(one for one in there.host.in_use if one not in free)
        why = f"{name} uses {', '.join(one.volume for one in released)} no more, whatever its kubelet said last"
        return Move(NotInUse(name, there.host.in_use, rest), why)
    for one in released:
        if not one.going:
            return Move(DeleteAttachment(one), f"{one.volume} is fenced: its VolumeAttachment to {name} is deleted")
    if waiting := sorted(volume.metadata.name for volume in moving if volume.metadata.name not in fenced):
        return Wait("Fencing", f"waits for {', '.join(waiting)} to be fenced", now + AGAIN_SECONDS)
    return Wait(until=now + (AGAIN_SECONDS if moving else RESTING_SECONDS))


def concerned(world: World) -> set[str]:
    """Nodes for which there may be something to do: failed, shut down, or with a volume that was taken from them."""
    there = {n for n in world.nodes if world.state_of(n).state == "Failed" or world.intent(n) == "Shutdown"}
    reports = (entry for volume in world.volumes.values() for entry in volume.status.nodes)
    return there | ({entry.node for entry in reports if entry.front == "Fenced"} & world.nodes.keys())


def left(world: World, node: str, there: Workloads) -> list[tuple[Pod, str]]:
    """The pods with volumes of ours that are not moved from a failed node, and why."""
    kept = _kept(world, node, there)
    told = [
        (pod, pod.stays or "; ".join(sorted(kept[name] for name in pod.volumes & kept.keys()))) for pod in there.pods
    ]
    return [(pod, why) for pod, why in told if pod.volumes and why]


def is_fenced(world: World, volume: VirtualVolume, node: str) -> bool:
    """Whether nothing more is acknowledged for a volume on ``node``, and the legs left are ready for another."""
    at = volume.status.attachment
    if node in (at.node, volume.spec.attachment.node):
        return False
    said = [v.report(volume, leg.node) for leg in _elsewhere(world, volume, node)]
    return bool(said) and all(entry is not None and entry.epoch >= at.epoch for entry in said)


def _back(world: World, node: str, there: Workloads, now: float) -> Move | Wait:
    """End the pods whose volumes cannot go on in them, taken from the node while it was away or without any copy that
    kept its life: Kubernetes starts new ones.
    """
    for pod in there.pods:
        said = {name: v.report(world.volumes[name], node) for name in pod.volumes & world.volumes.keys()}
        dead = sorted(name for name, entry in said.items() if entry is not None and entry.front == "Fenced")
        if dead and not pod.ending and not pod.stays:
            why = f"pod {pod.namespace}/{pod.name} is ended: {', '.join(dead)} cannot go on in it"
            return Move(DeletePod(pod, force=False), why, Notice("PodMoved", why))
    return Wait(until=now + RESTING_SECONDS)


def _tainted(node: str, there: Workloads, why: str) -> Taint:
    ours = {"key": names.TAINT, "value": why, "effect": "NoSchedule"}
    return Taint(node, there.host.version, (*there.host.others, ours))


def _elsewhere(world: World, volume: VirtualVolume, node: str) -> list[Leg]:
    """Legs in sync on other nodes that can confirm an epoch."""
    there = v.in_reach(world, volume)
    return [leg for leg in there if leg.node != node and world.state_of(leg.node).state == "Ready"]


def _taken(volume: VirtualVolume) -> Patch:
    path, at = "/spec/attachment/node", volume.spec.attachment.node
    operations = [{"op": "test", "path": path, "value": at}, {"op": "replace", "path": path, "value": ""}]
    return Patch(VirtualVolume, volume.metadata.name, operations, status=False)


def _kept(world: World, node: str, there: Workloads) -> Mapping[str, str]:
    """Volumes that stay with a failed node, and why: without a copy elsewhere, or used by a pod that has to stay, be it
    for another volume of its own.
    """
    kept = {}
    for name in _ours(there):
        volume = world.volumes.get(name)
        if volume is None:
            kept[name] = f"there is no VirtualVolume {name}"
        elif volume.status.attachment.node == node and not _elsewhere(world, volume, node):
            kept[name] = f"{name} has no other copy in sync in reach"
    while True:
        more = {
            name: f"pod {pod.namespace}/{pod.name} stays, which uses {name} too"
            for pod in there.pods
            if pod.stays or pod.volumes & kept.keys()
            for name in pod.volumes - kept.keys()
        }
        if not more:
            return kept
        kept |= more


def _ours(there: Workloads) -> Set[str]:
    """Volumes that Kubernetes has on the node; what people attach by hand is theirs."""
    return there.used() | {one.volume for one in there.attachments}
