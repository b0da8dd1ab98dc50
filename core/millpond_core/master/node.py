"""A node: what its silence means, its doorbell, and what the master says of it.

A stale Lease is a question, not a verdict. A node has Failed only if its Lease stood still, a second witness agrees
(the kubelet is not Ready, or attach nodes do not reach any of its legs), and no more than max(1, a third) of all nodes
are stale, those that people reboot not counted: else it is us who do not see. Failed nodes are fenced and their legs
replaced; for one that is StateManagerDown nothing is done, its data path runs without it.

A kubelet whose own Lease stands still is taken for not Ready half a minute before Kubernetes says so
(docs/decisions/0012-failover.md), unless the node's legs are reached: one that is there is given that time.

What the witnesses say names the case:

    Lease    kubelet    its legs       case                       verdict
    stale    not Ready  not reached    NodeGone                   Failed (nobody speaks of the legs: the same)
    stale    not Ready  -              CutOffFromApiServer        Failed: another node has a connection of it
    stale    not Ready  reached        CutOffFromApiServer        Failed
    stale    Ready      not reached    CutOffFromStorageNetwork   Failed
    renewed  -          not reached    CutOffFromStorageNetwork   Ready: it confirms and reports, its legs are replaced
    stale    Ready      reached        StateManagerDown           StateManagerDown (nobody speaks of the legs: the same)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from millpond_core import names, quiesce
from millpond_core.instants import parse, span
from millpond_core.master import adoption, conditions, maintenance
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Apply, Decision, Merge, Notice, Wait
from millpond_core.master.world import Health, World
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.model.virtualvolume import Leg

CONDITIONS = frozenset({"Ready", "NodeFailed", "StateManagerDown", maintenance.READY})

NAMED_AFTER = 10.0
"""A node that reports is called cut off only when its legs were out of reach for so many seconds: a disk that is pulled
looks the same until its node has noticed.
"""


class Kubelet(NamedTuple):
    """What Kubernetes has of a node."""

    ready: bool
    """The Node's Ready condition; Unknown is not Ready."""
    renews: bool | None = True
    """Whether the kubelet renews its Lease; None: not watched for long enough to say."""

    @property
    def unsure(self) -> bool:
        """Whether it will be known in a moment if it is there."""
        return self.ready and self.renews is None


class Heartbeat(NamedTuple):
    """A node's Lease as the master saw it, on the master's own clock."""

    silent_seconds: float
    """How long it has not been renewed while the master could see; infinite: there is none."""
    duration_seconds: float
    """How long it is good for."""
    moved: bool = True
    """Whether this master has ever seen it renewed."""


def judge(
    world: World, heartbeats: Mapping[str, Heartbeat], kubelets: Mapping[str, Kubelet], now: float
) -> dict[str, Health]:
    """Every node's health. ``kubelets``: of those that Kubernetes has a Node for.

    ``now``: seconds since the epoch, for restarts announced and since when a verdict stands.
    """
    ready = {name: _ready(world, name, kubelet) for name, kubelet in kubelets.items()}
    unsure = {name for name, kubelet in kubelets.items() if kubelet.unsure}
    standing = {n for n, node in world.nodes.items() if failed(node) and (n in unsure or ready.get(n) is not True)}
    silent = {n for n, node in world.nodes.items() if _silent(node, heartbeats.get(n), now, stands=n in standing)}
    unexpected = {n for n in silent if now >= world.back_at(n)}
    many = len(unexpected) > max(1, len(world.nodes) // 3)
    verdicts = {}
    for name, node in world.nodes.items():
        beat = heartbeats.get(name)
        heard = now - beat.silent_seconds if beat and beat.moved else -math.inf
        if name not in silent:
            verdicts[name] = _reporting(world, name, heard, now)
            continue
        kubelet, silence = ready.get(name), _silence(beat)
        reached = _reached_at_all(world, name)
        case = _case(kubelets.get(name), kubelet, reached, connected=_connected(world, name))
        # Its legs are replaced one by one, and with them goes who missed it: the verdict stands until it is heard of.
        # So does what it is called: fencing it is what ends its connections.
        if name in standing:
            before = _case_before(node), "it has not been heard of since"
            fenced = reached is None and before[0] == "CutOffFromApiServer"
            case = before if name in unsure or fenced else case or before
        elif many:
            case = None
        if case is not None:
            reason, why = case
            since = _since(node, "NodeFailed", now)
            verdicts[name] = Health("Failed", since, f"{silence}; {why}", heard, reason)
            continue
        reason, why = "StateManagerDown", "nothing else speaks against the node"
        if many:
            of_all = f"{len(unexpected)} of {len(world.nodes)} nodes are"
            reason, why = "ManySilent", f"{of_all}, so it may be us who do not see"
        elif name in unsure:
            why = "whether its kubelet is there is not known yet"
        elif kubelet:
            why = "its kubelet is Ready: the node is there, only without its state manager"
        message = f"{silence}; {why}; its data path runs on, nothing is rebuilt or moved"
        since = _since(node, "StateManagerDown", now)
        verdicts[name] = Health("StateManagerDown", since, message, heard, reason)
    return verdicts


def recorded(nodes: Mapping[str, StorageNode]) -> dict[str, Health]:
    """Every node's health as the master has written it down: for those who do not watch Leases."""
    return {name: _health(node) for name, node in nodes.items()}


def _health(node: StorageNode) -> Health:
    if (gone := conditions.find(node.status.conditions, "NodeFailed")) and gone.status == "True":
        return Health("Failed", parse(gone.last_transition_time) or 0.0, gone.message, reason=gone.reason)
    if (down := conditions.find(node.status.conditions, "StateManagerDown")) and down.status == "True":
        return Health("StateManagerDown", parse(down.last_transition_time) or 0.0, down.message, reason=down.reason)
    return Health()


def failed(node: StorageNode) -> bool:
    """Whether the record says that the node has failed."""
    said = conditions.find(node.status.conditions, "NodeFailed")
    return said is not None and said.status == "True"


def doorbell(world: World, node: str) -> str:
    """Names of the quiescences that the node is to take part in, as its annotation has them; empty: none."""
    running = [
        q.metadata.name
        for q in world.quiescences.values()
        if q.status.phase in quiesce.RUNNING and node in q.status.participants and not q.metadata.deletion_timestamp
    ]
    return ",".join(sorted(running))


def decide(world: World, node: StorageNode, now: float) -> Decision:
    """Ring or silence the doorbell, forget a node that is retired, take in disks that a policy wants, then say what is
    made of it.
    """
    name = node.metadata.name
    bell = doorbell(world, name)
    if node.metadata.annotations.get(names.ANNOTATION_QUIESCE, "") != bell:
        # Only if nothing has changed: an old view would silence, or ring again, what is not known to it.
        unchanged = {"resourceVersion": node.metadata.resource_version}
        patch = {"metadata": {**unchanged, "annotations": {names.ANNOTATION_QUIESCE: bell or None}}}
        return Act(Merge(StorageNode, name, patch), f"doorbell: {bell or 'silent'}")
    if act := maintenance.forget(world, node) or adoption.next_disk(world.adoption, node, world.devices):
        return act
    fields = _status(world, node, now)
    if conditions.applied(node.status, fields, keyed={"conditions": CONDITIONS}):
        return Wait(until=None if node.spec.maintenance.intent == "None" else now + maintenance.LOOK_SECONDS)
    return Act(
        Apply(StorageNode, name, conditions.partial(StorageNodeStatus, fields)),
        "",
        _notices(node, world.state_of(name)),
    )


def _status(world: World, node: StorageNode, now: float) -> dict[str, Any]:
    health = world.state_of(node.metadata.name)
    reported = bool(node.status.boot_id)
    ready = health.state == "Ready" and reported
    case = health.reason or health.state
    says = [
        Says("Ready", ready, case if reported else "NotReported", health.message),
        Says("NodeFailed", health.state == "Failed", case, health.message),
        Says("StateManagerDown", health.state == "StateManagerDown", case, health.message),
        *maintenance.says(world, node, now),
    ]
    there = [condition for condition in node.status.conditions if condition.type in CONDITIONS]
    told = conditions.conditions(there, says, now=now, generation=node.metadata.generation)
    return {"phase": health.state, "conditions": told}


def _notices(node: StorageNode, health: Health) -> tuple[Notice, ...]:
    case = health.reason or health.state
    if case == (_case_before(node) or node.status.phase) or (case == "Ready" and not node.status.phase):
        return ()
    return (Notice(case, health.message or "it is heard of again", warning=case != "Ready"),)


def _case_before(node: StorageNode) -> str:
    """The case that the record names; empty: none yet."""
    said = conditions.find(node.status.conditions, "Ready")
    return said.reason if said is not None and node.status.phase else ""


def _silent(node: StorageNode, heartbeat: Heartbeat | None, now: float, *, stands: bool) -> bool:
    """Whether the node does not renew its Lease, and has not said that it would not.

    A new master has heard of nobody yet: for it a verdict stands as it was found.
    """
    announced = parse(node.status.restarting_until)
    if announced is not None and now < announced:
        return False
    if heartbeat is None or heartbeat.silent_seconds > heartbeat.duration_seconds:
        return True
    return stands and not heartbeat.moved


def _silence(heartbeat: Heartbeat | None) -> str:
    if heartbeat is None or heartbeat.silent_seconds == float("inf"):
        return "its state manager has no Lease"
    return f"its state manager is silent for more than {span(heartbeat.duration_seconds)}"


def _ready(world: World, name: str, kubelet: Kubelet) -> bool:
    """Whether the kubelet speaks for its node."""
    return kubelet.ready and (kubelet.renews is not False or _reached_at_all(world, name) is True)


def _case(
    kubelet: Kubelet | None, ready: bool | None, reached: bool | None, *, connected: str
) -> tuple[str, str] | None:
    """Which case it is and who says so beside the Lease; None: no one does."""
    if ready is False and (reached or connected):
        seen = "its legs are reached" if reached else f"{connected} is connected with it"
        return "CutOffFromApiServer", f"its kubelet is not Ready, but {seen}: it runs, cut off from the API server"
    if ready is False:
        said = "its kubelet is silent too" if kubelet and kubelet.ready else "its kubelet is not Ready"
        also = " and no attach node reaches its legs" if reached is False else ""
        return "NodeGone", f"{said}{also}: it is gone"
    if reached is False and ready:
        return "CutOffFromStorageNetwork", f"its kubelet is Ready, but {_CUT_OFF}"
    if reached is False:
        return "NodeGone", "no attach node reaches its legs, and Kubernetes has no such node: it is gone"
    return None


_CUT_OFF = "no attach node reaches its legs: it is cut off from the storage network"


def _reporting(world: World, name: str, heard: float, now: float) -> Health:
    """A node that reports; it may be cut off from the storage network all the same."""
    told = [answer for answer in _answers(world, name, _reached_by_now) if answer is not None]
    if not told or any(told):
        return Health(heard=heard)
    known = world.health.get(name)
    since = min(known.unreached, now) if known else now
    if now - since < NAMED_AFTER:
        return Health(heard=heard, unreached=since)
    message = f"it reports, but {_CUT_OFF}; they are replaced one by one, its pods stay"
    return Health(message=message, heard=heard, reason="CutOffFromStorageNetwork", unreached=since)


def _reached_at_all(world: World, node: str) -> bool | None:
    """Whether any attach node reaches any of the node's legs; None: no one says."""
    told = [answer for answer in _answers(world, node, _reached) if answer is not None]
    return any(told) if told else None


def _connected(world: World, node: str) -> str:
    """A node that reports and exports something to which this one is connected right now; empty: there is none."""
    mine = {*world.nodes[node].status.addresses}
    there = ((name, {*other.status.connected}) for name, other in sorted(world.nodes.items()) if name != node)
    return next((name for name, hosts in there if hosts & mine and world.state_of(name).state == "Ready"), "")


def _answers(world: World, node: str, ask: Callable[[VirtualVolume, Leg], bool | None]) -> Iterator[bool | None]:
    for volume in (world.volumes[name] for name in world.volumes_at(node)):
        if volume.status.attachment.node in ("", node):
            continue
        for leg in v.legs(volume):
            # A leg whose disk is gone says nothing of its node.
            if leg.node == node and all(d.status.observation.state == "Claimed" for d in world.devices_of(leg)):
                yield ask(volume, leg)


def _reached(volume: VirtualVolume, leg: Leg) -> bool | None:
    """Whether the attach node reaches a leg; one that it has given up it does not. None: it does not say."""
    path = v.path_report(volume, leg)
    if path is not None and path.path != "None":
        return path.path == "Up"
    return False if leg.state == "Stale" else None


def _reached_by_now(volume: VirtualVolume, leg: Leg) -> bool | None:
    """The same of a node that offers its legs: one to be rebuilt that is not connected is out of reach. One that is
    Stale may only wait for its turn.
    """
    said, path = v.report(volume, volume.status.attachment.node), v.path_report(volume, leg)
    if said is None or said.front != "Active":
        return None
    if path is not None and path.path != "None":
        return path.path == "Up"
    return False if leg.state == "Rebuilding" and said.epoch == volume.status.attachment.epoch else None


def _since(node: StorageNode, condition: str, now: float) -> float:
    """Since when a verdict stands; one that is new, since now."""
    there = conditions.find(node.status.conditions, condition)
    stands = there is not None and there.status == "True"
    since = parse(there.last_transition_time) if there and stands else None
    return now if since is None else since
