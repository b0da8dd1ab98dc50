"""All that is known of the four kinds, and what follows from it: usage of devices, who concerns whom.

A plain data structure. Whoever feeds it puts what the API server said; an older version of an object than the one known
is ignored, so that events and answers to our own writes may come in any order.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from millpond_core.allocator import Run, Space, free_runs
from millpond_core.instants import parse
from millpond_core.master import conditions
from millpond_core.master.adoption import Policy
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.sharing import share
from millpond_core.model.storagenode import Intent
from millpond_core.model.virtualvolume import Extent, Leg
from millpond_core.units import UNIT_BYTES

Object = StorageNode | StorageDevice | VirtualVolume | Quiescence
KINDS: tuple[type[Object], ...] = (StorageNode, StorageDevice, VirtualVolume, Quiescence)

REMEMBERED = 10_000
"""Deleted objects of which a late event is recognized."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the master makes of a node's silence (``nodes.judge``)."""

    state: Literal["Ready", "StateManagerDown", "Failed"] = "Ready"
    since: float = 0.0
    message: str = ""
    heard: float = math.inf
    """When its heartbeat was last seen to move (seconds since the epoch); infinite: nobody listens yet."""
    reason: str = ""
    """The case (``node``), one CamelCase word; empty: the state says it."""
    unreached: float = math.inf
    """Since when no attach node reaches any leg of a node that reports (seconds since the epoch)."""

    def verdict(self) -> tuple[str, float, str, str]:
        """All but the heartbeat, which moves all the time."""
        return self.state, self.since, self.message, self.reason


@dataclass(frozen=True, slots=True)
class RebuildLimits:
    """How many legs may be rebuilt at once, and how fast in all; 0: no limit."""

    per_node: int = 0
    """A rebuild counts on the node that is written to and on the one that copies, where the volume is attached."""
    per_cluster: int = 0
    rate_per_node: int = 0
    """KiB/s, shared equally by the volumes that are rebuilt with a part of it on the node."""
    rate_per_cluster: int = 0


UNLIMITED = RebuildLimits()

RETURN_SECONDS = 600.0
"""After a Shutdown the nodes are switched on within this of each other; who is later is not waited for."""

PROTECTED = frozenset({"kube-system"})
"""Namespaces of claims whose reads and writes no quiescence of people's holds: what ends a hold may depend on them."""


@dataclass(frozen=True, slots=True)
class Found:
    """The claims that a quiescence's labels select."""

    claims: Sequence[frozenset[str]] = ()
    """As ``namespace/name``, for each of ``spec.scope.claims``."""
    at: float = -math.inf
    """When they were asked for (seconds since the epoch)."""
    error: str = ""
    """Why the API server does not take the question."""


class World:
    """See the module."""

    def __init__(
        self,
        objects: Iterable[Object] = (),
        rebuilds: RebuildLimits = UNLIMITED,
        protected: frozenset[str] = PROTECTED,
        *,
        adoption: Sequence[Policy] = (),
    ) -> None:
        self.rebuild_limits = rebuilds
        self.protected = protected
        self.adoption = adoption
        self.found: dict[str, Found] = {}
        """By uid of a Quiescence that waits for its turn."""
        self.nodes: dict[str, StorageNode] = {}
        self.devices: dict[str, StorageDevice] = {}
        self.volumes: dict[str, VirtualVolume] = {}
        self.quiescences: dict[str, Quiescence] = {}
        self._objects: dict[type[Object], dict[str, Any]] = {
            StorageNode: self.nodes,
            StorageDevice: self.devices,
            VirtualVolume: self.volumes,
            Quiescence: self.quiescences,
        }
        self.health: Mapping[str, Health] = {}
        self._gone: dict[tuple[str, str], str] = {}
        self._runs: dict[str, dict[str, list[Run]]] = defaultdict(dict)
        """By device uuid and volume: the extents in use, being released, or spare."""
        self._legs: dict[str, int] = defaultdict(int)
        self._at: dict[str, set[str]] = defaultdict(set)
        """By node: the volumes that concern it."""
        self._rebuilding: dict[str, Counter[str]] = defaultdict(Counter)
        """By node, and for all at ``""``: the volumes that are rebuilt with a part of it there, and how many legs."""
        self._scrubbed: dict[str, set[str]] = defaultdict(set)
        """By node: the volumes that are compared there."""
        self._uuids: dict[str, str] = {}
        self._called: dict[str, set[str]] = defaultdict(set)
        """By spec.uuid: the names of the volumes that have it; more than one where an object was copied."""
        for obj in objects:
            self.put(obj)

    # --- feeding ---

    def put(self, obj: Object) -> bool:
        """Take in a version of an object. False when a newer one is known, or that very object is gone."""
        kept = self._objects[type(obj)]
        name = obj.metadata.name
        known = kept.get(name)
        if self._gone.get((type(obj).__name__, name)) == obj.metadata.uid and obj.metadata.uid:
            return False
        if known is not None and not _newer(obj, known):
            return False
        if known is not None:
            self._forget(known)
        share(obj)
        kept[name] = obj
        self._learn(obj)
        return known != obj

    def remove(self, obj: Object) -> bool:
        """An object is gone for good. False when it was not known, or another of its name is there."""
        kept = self._objects[type(obj)]
        name = obj.metadata.name
        known = kept.get(name)
        self._gone[type(obj).__name__, name] = obj.metadata.uid
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        if known is None or known.metadata.uid != obj.metadata.uid:
            return False
        del kept[name]
        self._forget(known)
        self.found.pop(obj.metadata.uid, None)
        return True

    def get(self, kind: type[Object], name: str) -> Object | None:
        """The version known of one object."""
        found: Object | None = self._objects[kind].get(name)
        return found

    def all(self) -> Iterator[Object]:
        """Every object of every kind."""
        for kind in KINDS:
            yield from list(self._objects[kind].values())

    # --- what follows ---

    def device(self, uuid: str) -> StorageDevice | None:
        """The StorageDevice whose disk has this identity."""
        return self.devices.get(self._uuids.get(uuid, ""))

    def devices_of(self, leg: Leg) -> list[StorageDevice]:
        """The devices under a leg, as far as they are known; one each."""
        found = (self.device(uuid) for uuid in dict.fromkeys(extent.device_uuid for extent in leg.extents))
        return [device for device in found if device is not None]

    def used(self, uuid: str) -> list[Run]:
        """Runs of units of a device that mappings, spares and legs being released hold."""
        return [run for runs in self._runs.get(uuid, {}).values() for run in runs]

    def legs_on(self, uuid: str) -> int:
        """How many legs have an extent on a device."""
        return self._legs.get(uuid, 0)

    def rebuilding(self, node: str = "") -> int:
        """How many legs of attached volumes are being rebuilt, with a part of it on ``node``; empty: anywhere."""
        return self._rebuilding[node].total() if node in self._rebuilding else 0

    def rebuild_rate(self, volume: VirtualVolume) -> int:
        """KiB/s at most for what a volume's array copies: its own limit, and its share of those of its nodes and of the
        cluster; 0: no limit. All of its legs are copied to in one pass.
        """
        shares = [max(limit // max(len(sharers), 1), 1) for limit, sharers in self._shared_rates(volume)]
        return min((limit for limit in (volume.spec.rebuild.max_rate, *shares) if limit), default=0)

    def slowed_by(self, volume: VirtualVolume) -> set[str]:
        """Names of the other volumes whose rate depends on whether this one is rebuilt."""
        return {name for _, sharers in self._shared_rates(volume) for name in sharers} - {volume.metadata.name}

    def _shared_rates(self, volume: VirtualVolume) -> Iterator[tuple[int, Collection[str]]]:
        """Each limit that holds for a volume that is rebuilt (KiB/s), and the names of those that share it."""
        limits = self.rebuild_limits
        for node in set(_rebuilding(volume)):
            if limit := limits.rate_per_node if node else limits.rate_per_cluster:
                yield limit, self._rebuilding.get(node, ())

    def scrubbed_at(self, node: str) -> set[str]:
        """Names of the volumes whose legs are compared right now and that concern a node."""
        return set(self._scrubbed.get(node, ()))

    def volumes_on(self, uuid: str) -> set[str]:
        """Names of the volumes with an extent on a device."""
        return set(self._runs.get(uuid, ()))

    def namesakes(self, volume: VirtualVolume) -> set[str]:
        """Names of the other volumes with the same spec.uuid, which is to be one's alone."""
        return self._called.get(volume.spec.uuid, set()) - {volume.metadata.name} if volume.spec.uuid else set()

    def volumes_at(self, node: str) -> set[str]:
        """Names of the volumes with a leg, a spare or an attachment on a node."""
        return set(self._at.get(node, ()))

    def state_of(self, node: str) -> Health:
        """A node's health; one that nothing is known of is down, not failed."""
        if node not in self.nodes:
            return Health("StateManagerDown", message=f"there is no StorageNode {node}")
        return self.health.get(node, Health())

    def intent(self, node: str) -> Intent:
        """What people are about to do with a node."""
        return self.nodes[node].intent() if node in self.nodes else "None"

    def back_at(self, node: str) -> float:
        """When a node that people reboot or shut down is to be back (seconds since the epoch); minus infinity: nobody
        said so. Infinite: all are shut down; RETURN_SECONDS after the first of them is back the others are to be.
        """
        match self.intent(node):
            case "Reboot":
                until = parse(self.nodes[node].spec.maintenance.until)
                return -math.inf if until is None else until
            case "Shutdown":
                return min((at + RETURN_SECONDS for at in self._returns()), default=math.inf)
        return -math.inf

    def _returns(self) -> Iterator[float]:
        """Since when each node is back from a Shutdown that is not over for all."""
        for node in self.nodes.values():
            if node.spec.maintenance.intent == "Shutdown" and node.intent() == "None":
                said = conditions.find(node.status.conditions, "MaintenanceReady")
                if said is not None and (at := parse(said.last_transition_time)) is not None:
                    yield at

    def leaves(self, node: str) -> bool:
        """Whether people want a node emptied."""
        return self.intent(node) in ("Replace", "Retire")

    def spaces(self) -> list[Space]:
        """The devices as the allocator sees them."""
        return [self.space(device) for device in self.devices.values()]

    def space(self, device: StorageDevice) -> Space:
        """One device as the allocator sees it."""
        seen, node = device.status.observation, self.nodes.get(device.spec.node_name)
        capacity = seen.capacity_bytes // UNIT_BYTES
        return Space(
            name=device.metadata.name,
            uuid=seen.device_uuid,
            node=device.spec.node_name,
            pool=device.spec.pool,
            free=free_runs(capacity, self.used(seen.device_uuid)) if seen.device_uuid else (),
            legs=self.legs_on(seen.device_uuid),
            unfit=self.unfit(device),
            labels=node.metadata.labels if node else {},
        )

    def unfit(self, device: StorageDevice) -> str:
        """Why no leg may be placed on a device; empty: it may."""
        seen, node = device.status.observation, self.nodes.get(device.spec.node_name)
        if device.metadata.deletion_timestamp:
            return "is being deleted"
        if device.spec.desired_state != "InService":
            return f"desiredState is {device.spec.desired_state}"
        if warnings := device.dying():
            return f"its disk warns: {', '.join(warnings)}"
        if node is None:
            return f"there is no StorageNode {device.spec.node_name}"
        if node.spec.unschedulable:
            return "its node is unschedulable"
        if (intent := self.intent(device.spec.node_name)) != "None":
            return f"its node is in maintenance ({intent})"
        health = self.state_of(device.spec.node_name)
        if health.state != "Ready":
            return f"its node is {health.state}"
        if seen.state != "Claimed" or not seen.device_uuid:
            return f"not online ({seen.state}{': ' + seen.message if seen.message else ''})"
        return ""

    # --- inside ---

    def _learn(self, obj: Object) -> None:
        if isinstance(obj, Quiescence) and obj.status.phase != "Pending":
            self.found.pop(obj.metadata.uid, None)
        if isinstance(obj, StorageDevice) and obj.status.observation.device_uuid:
            self._uuids[obj.status.observation.device_uuid] = obj.metadata.name
        if not isinstance(obj, VirtualVolume):
            return
        name = obj.metadata.name
        self._called[obj.spec.uuid].add(name)
        for node in concerned(obj):
            self._at[node].add(name)
        for leg in (*obj.status.mapping.legs, *obj.status.spares):
            for uuid in {extent.device_uuid for extent in leg.extents}:
                self._legs[uuid] += 1
        for extent in _extents(obj):
            self._runs[extent.device_uuid].setdefault(name, []).append((extent.start, extent.length))
        for node in _rebuilding(obj):
            self._rebuilding[node][name] += 1
        for node in concerned(obj) if scrubbing(obj) else ():
            self._scrubbed[node].add(name)

    def _forget(self, obj: Object) -> None:
        if isinstance(obj, StorageDevice):
            uuid = obj.status.observation.device_uuid
            if self._uuids.get(uuid) == obj.metadata.name:
                del self._uuids[uuid]
        if not isinstance(obj, VirtualVolume):
            return
        name = obj.metadata.name
        self._called[obj.spec.uuid].discard(name)
        if not self._called[obj.spec.uuid]:
            del self._called[obj.spec.uuid]
        for node in concerned(obj):
            self._at[node].discard(name)
            self._scrubbed[node].discard(name)
        for leg in (*obj.status.mapping.legs, *obj.status.spares):
            for uuid in {extent.device_uuid for extent in leg.extents}:
                self._legs[uuid] -= 1
        for extent in _extents(obj):
            self._runs[extent.device_uuid].pop(name, None)
        for node in _rebuilding(obj):
            self._rebuilding[node].pop(name, None)


def _extents(volume: VirtualVolume) -> Iterator[Extent]:
    """Every extent that is in use, spare, being given to a leg, or being given back."""
    growth = volume.status.growth
    for part in (volume.status.mapping.legs, volume.status.spares, growth.legs if growth else ()):
        for one in part:
            yield from one.extents


def _rebuilding(volume: VirtualVolume) -> Iterator[str]:
    """For each leg that is being rebuilt: ``""`` and the nodes that have a part in it.

    A copy that has stopped takes no turn from others.
    """
    attach = volume.status.attachment.node
    reports = (entry for entry in volume.status.nodes if entry.node == attach)
    stopped = {path.id for entry in reports for path in entry.paths if path.member == "Stopped"}
    for leg in volume.status.mapping.legs if attach else ():
        if leg.state == "Rebuilding" and not leg.releasing and leg.id not in stopped:
            yield from ("", *{leg.node, attach})


def scrubbing(volume: VirtualVolume) -> bool:
    """Whether a comparison of its legs is instructed and has not come to its end."""
    wanted, last = volume.status.scrub, volume.status.last_scrub
    return wanted is not None and (last is None or last.number < wanted.number)


def concerned(volume: VirtualVolume) -> set[str]:
    """Nodes that have a part in a volume: leg nodes, spares' nodes, the attach node."""
    nodes = {leg.node for leg in (*volume.status.mapping.legs, *volume.status.spares)}
    return nodes | ({volume.status.attachment.node} - {""})


def _newer(obj: Object, known: Object) -> bool:
    """Whether ``obj`` is to replace ``known``. Resource versions of one kind are ordered (KEP-5504), also those of an
    object and of another that had its name before. Where they are no numbers, the later event wins, but never one about
    an object that was made earlier.
    """
    new, old = obj.metadata.resource_version, known.metadata.resource_version
    if new.isdecimal() and old.isdecimal():
        return int(new) >= int(old)
    return (obj.metadata.creation_timestamp or "") >= (known.metadata.creation_timestamp or "")
