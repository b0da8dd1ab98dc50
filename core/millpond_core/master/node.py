"""A node: what its silence means, its doorbell, and what the master says of it.

A stale Lease is a question, not a verdict. A node has Failed only if its Lease stood still, a second witness agrees
(the kubelet is not Ready, or attach nodes do not reach any of its legs), and no more than max(1, a third) of all nodes
are stale: else it is us who do not see. Failed nodes are fenced and their legs replaced; for one that is
StateManagerDown nothing is done, its data path runs without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from millpond_core import names, quiesce
from millpond_core.instants import parse, span
from millpond_core.master import conditions
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Apply, Decision, Merge, Notice, Wait
from millpond_core.master.world import Health, World
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.model.virtualvolume import Leg

CONDITIONS = frozenset({"Ready", "NodeFailed", "StateManagerDown"})


class Heartbeat(NamedTuple):
    """A node's Lease as the master saw it, on the master's own clock."""

    silent_seconds: float
    """How long it has not been renewed while the master could see; infinite: there is none."""
    duration_seconds: float
    """How long it is good for."""


def judge(
    world: World, heartbeats: Mapping[str, Heartbeat], kubelet_ready: Mapping[str, bool], now: float
) -> dict[str, Health]:
    """Every node's health. ``kubelet_ready``: the Kubernetes Node's Ready condition; a node that is not there has none.

    ``now``: seconds since the epoch, for restarts announced and since when a verdict stands.
    """
    stale = {name for name, node in world.nodes.items() if _stale(node, heartbeats.get(name), now)}
    many = len(stale) > max(1, len(world.nodes) // 3)
    verdicts = {}
    for name, node in world.nodes.items():
        beat = heartbeats.get(name)
        heard = now - beat.silent_seconds if beat else -math.inf
        if name not in stale:
            verdicts[name] = Health(heard=heard)
            continue
        silence = _silence(beat)
        witness = _witness(world, name, kubelet_ready)
        # Its legs are replaced one by one, and with them goes who missed it: the verdict stands until it is heard of.
        failed = conditions.find(node.status.conditions, "NodeFailed")
        stands = failed is not None and failed.status == "True" and kubelet_ready.get(name) is not True
        if stands or (witness and not many):
            witness = witness or "it has not been heard of since"
            said = f"{silence}, and {witness}"
            verdicts[name] = Health("Failed", _since(node, "NodeFailed", now), said, heard)
        else:
            why = f"{len(stale)} of {len(world.nodes)} nodes are silent" if many else "nothing else speaks against it"
            message = f"{silence}; {why}: its data path runs on, nothing is rebuilt"
            verdicts[name] = Health("StateManagerDown", _since(node, "StateManagerDown", now), message, heard)
    return verdicts


def doorbell(world: World, node: str) -> str:
    """Names of the quiescences that the node is to take part in, as its annotation has them; empty: none."""
    running = [
        q.metadata.name
        for q in world.quiescences.values()
        if q.status.phase in quiesce.RUNNING and node in q.status.participants and not q.metadata.deletion_timestamp
    ]
    return ",".join(sorted(running))


def decide(world: World, node: StorageNode, now: float) -> Decision:
    """Ring or silence the doorbell, then say what is made of the node."""
    name = node.metadata.name
    bell = doorbell(world, name)
    if node.metadata.annotations.get(names.ANNOTATION_QUIESCE, "") != bell:
        patch = {"metadata": {"annotations": {names.ANNOTATION_QUIESCE: bell or None}}}
        return Act(Merge(StorageNode, name, patch), f"doorbell: {bell or 'silent'}")
    fields = _status(node, world.state_of(name), now)
    if conditions.applied(node.status, fields, keyed={"conditions": CONDITIONS}):
        return Wait()
    return Act(
        Apply(StorageNode, name, conditions.partial(StorageNodeStatus, fields)),
        "",
        _notices(node, world.state_of(name)),
    )


def _status(node: StorageNode, health: Health, now: float) -> dict[str, Any]:
    reported = bool(node.status.boot_id)
    ready = health.state == "Ready" and reported
    says = [
        Says("Ready", ready, health.state if reported else "NotReported", health.message),
        Says("NodeFailed", health.state == "Failed", health.state, health.message),
        Says("StateManagerDown", health.state == "StateManagerDown", health.state, health.message),
    ]
    there = [condition for condition in node.status.conditions if condition.type in CONDITIONS]
    told = conditions.conditions(there, says, now=now, generation=node.metadata.generation)
    return {"phase": health.state, "conditions": told}


def _notices(node: StorageNode, health: Health) -> tuple[Notice, ...]:
    if health.state == node.status.phase or (health.state == "Ready" and not node.status.phase):
        return ()
    return (Notice(health.state, health.message or "it is heard of again", warning=health.state != "Ready"),)


def _stale(node: StorageNode, heartbeat: Heartbeat | None, now: float) -> bool:
    if heartbeat is not None and heartbeat.silent_seconds <= heartbeat.duration_seconds:
        return False
    announced = parse(node.status.restarting_until)
    planned = parse(node.spec.maintenance.until)
    if node.spec.maintenance.mode == "Planned" and (planned is None or now < planned):
        return False
    return announced is None or now >= announced


def _silence(heartbeat: Heartbeat | None) -> str:
    if heartbeat is None or heartbeat.silent_seconds == float("inf"):
        return "its state manager has no Lease"
    return f"its state manager is silent for more than {span(heartbeat.duration_seconds)}"


def _witness(world: World, node: str, kubelet_ready: Mapping[str, bool]) -> str:
    """Who else says that the node is gone; empty: no one does."""
    if kubelet_ready.get(node) is False:
        return "its kubelet is not Ready"
    reached = [
        _reached(volume, leg)
        for volume in (world.volumes[name] for name in world.volumes_at(node))
        if volume.status.attachment.node not in ("", node)
        for leg in v.legs(volume)
        # A leg whose disk is gone says nothing of its node.
        if leg.node == node and all(d.status.observation.state == "Claimed" for d in world.devices_of(leg))
    ]
    told = [answer for answer in reached if answer is not None]
    return "no attach node reaches its legs" if told and not any(told) else ""


def _reached(volume: VirtualVolume, leg: Leg) -> bool | None:
    """Whether the attach node reaches a leg; one that it has given up it does not. None: it does not say."""
    path = v.path_report(volume, leg)
    if path is not None and path.path != "None":
        return path.path == "Up"
    return False if leg.state == "Stale" else None


def _since(node: StorageNode, condition: str, now: float) -> float:
    """Since when a verdict stands; one that is new, since now."""
    there = conditions.find(node.status.conditions, condition)
    stands = there is not None and there.status == "True"
    since = parse(there.last_transition_time) if there and stands else None
    return now if since is None else since
