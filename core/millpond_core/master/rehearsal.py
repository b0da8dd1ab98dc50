"""The master's decisions ahead of time: a copy of its world in which each node does at once what it is asked to do.

What will be done is not imitated but decided, by the planner that decides it later. Faults stay as they are: a disk
that is gone does not come back, a node that is silent stays so. Time passes where the master waits for it, and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec

from millpond_core import layout, names, patches, quiesce
from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import changes, planner
from millpond_core.master import volumes as v
from millpond_core.master.conditions import wire
from millpond_core.master.steps import Act, Apply, Create, Decision, Delete, Find, Merge, Patch, Step
from millpond_core.master.world import Object, World
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.storagenode import NodeQuiescence
from millpond_core.model.virtualvolume import Leg, LegReport, NodeReport, PathReport

Seen = Callable[[VirtualVolume, VirtualVolume], None]
"""Is told each change of a volume's record: before, after."""

LIFE = "rehearsed"
"""Incarnation of what exists in a rehearsal alone."""

ASSEMBLED = ("Active", "Suspended")
"""Fronts that stand. A suspended one goes on with the quiescence that holds it; until then nothing is copied anyway."""


class Rehearsal:
    """``self.before``, the world as it is, is not touched; ``self.world`` is as it will be."""

    def __init__(self, world: World, now: float) -> None:
        self.before = world
        self.world = World(world.all(), rebuilds=world.rebuild_limits, protected=world.protected)
        self.world.health = world.health
        self.world.found = dict(world.found)
        self.now = now
        """Seconds since the epoch."""
        self.decisions: dict[str, Decision] = {}
        """By volume: what the master says when nothing is left to do."""

    def run(self, subjects: Sequence[Object], volumes: Collection[str], seen: Seen) -> None:
        """Until nothing is left that happens by itself, for ``subjects``, devices and nodes, and for ``volumes``."""
        for _ in range(100 + 20 * len(volumes)):  # a planner that never ends must not take the terminal with it
            self._nodes_answer()
            before = self._standing(subjects, volumes)
            for obj in before:
                self._settle(obj, seen)
            for name in volumes:
                self._nodes_act(name, seen)
            if self._standing(subjects, volumes) != before:
                continue
            later = min((at for at in self._waits(volumes) if at > self.now), default=None)
            if later is None:
                return
            self.now = later

    # --- the master ---

    def _standing(self, subjects: Sequence[Object], volumes: Collection[str]) -> list[Object]:
        """What it is about, in the order in which the master takes it."""
        there = [volume for name in volumes if (volume := self.world.volumes.get(name))]
        there.sort(key=lambda one: changes.endangered(self.world, one))
        those = [now for one in subjects if (now := self.world.get(type(one), one.metadata.name))]
        quiescences = [q for q in self.world.quiescences.values() if q.status.phase not in quiesce.OVER]
        return [*those, *there, *quiescences]

    def _settle(self, obj: Object, seen: Seen) -> None:
        for _ in range(50):
            current = self.world.get(type(obj), obj.metadata.name)
            if current is None:
                return
            decision = planner.decide(self.world, current, self.now)
            self.decisions[current.metadata.name] = decision
            if not isinstance(decision, Act) or isinstance(decision.step, Find):
                return  # which claims have a label is nobody's to say here: such a quiescence waits
            self._take(decision.step, seen)

    def _take(self, step: Step, seen: Seen) -> None:
        """The write, as the API server would answer it. ``test`` operations hold: nobody else writes here."""
        match step:
            case Patch(kind, name, operations):
                self._change(kind, name, seen, lambda it: patches.json_patch(it, _no_tests(operations)))
            case Merge(kind, name, patch):
                self._change(kind, name, seen, lambda it: patches.merge_patch(it, patch))
            case Apply(kind, name, status):
                self._change(kind, name, seen, lambda it: {**it, "status": {**it.get("status", {}), **status}})
            case Create(Quiescence() as made):
                born = {"uid": f"{LIFE}-{made.metadata.name}", "creation_timestamp": seconds_stamp(self.now)}
                metadata = msgspec.structs.replace(made.metadata, **born)
                self.world.put(msgspec.structs.replace(made, metadata=metadata))
            case Delete(kind, name) if gone := self.world.get(kind, name):  # type: ignore[arg-type]
                self.world.remove(gone)

    def _change(self, kind: Any, name: str, seen: Seen, change: Callable[[Any], Any]) -> None:
        before = self.world.get(kind, name)
        assert before is not None, f"a step for {name}, which is not there"
        self._put(before, msgspec.convert(change(wire(before)), kind), seen)

    def _put(self, before: Object, after: Object, seen: Seen) -> None:
        if after.metadata.deletion_timestamp and not after.metadata.finalizers:
            self.world.remove(after)
            return
        self.world.put(after)
        if isinstance(before, VirtualVolume) and isinstance(after, VirtualVolume):
            seen(before, after)

    def _waits(self, volumes: Collection[str]) -> Iterator[float]:
        """Until when the master waits for what ends by itself; that there be room does not."""
        for name in volumes:
            if volume := self.world.volumes.get(name):
                ends = changes.outlook(self.world, volume, self.now).grace_ends
                yield from () if ends is None else (ends,)
                decision = self.decisions.get(name)
                if decision and not isinstance(decision, Act) and getattr(decision, "reason", "") == "BackingOff":
                    yield from () if decision.until is None else (decision.until,)
        for q in self.world.quiescences.values():
            decision = self.decisions.get(q.metadata.name)
            if decision and not isinstance(decision, Act) and decision.until is not None:
                yield decision.until

    # --- the nodes ---

    def _nodes_act(self, name: str, seen: Seen) -> None:
        if volume := self.world.volumes.get(name):
            after = copied(self.world, reported(self.world, volume))
            if after != volume:
                self._put(volume, after, seen)

    def _nodes_answer(self) -> None:
        """Each participant is still at once."""
        for q in self.world.quiescences.values():
            for name in q.status.participants if q.status.phase in quiesce.RUNNING else ():
                node = self.world.nodes.get(name)
                if node is not None and self.world.state_of(name).state == "Ready":
                    self.world.put(_answered(node, q, self.now))


def reported(world: World, volume: VirtualVolume) -> VirtualVolume:
    """What the nodes that are heard of report once they have prepared, connected and given back what they are to."""
    entries = {entry.node: entry for entry in volume.status.nodes}
    at, mapping = volume.status.attachment, volume.status.mapping
    for leg in (*mapping.legs, *volume.status.spares):
        if not _at_hand(world, leg):
            continue
        said = v.leg_report(volume, leg)
        if leg.releasing and not (said and said.released):
            new = LegReport(id=leg.id, released=True)
        elif leg.state == "Rebuilding" and not leg.releasing and not v.served(world, volume, leg):
            nqn = names.subsystem_nqn(volume.spec.uuid, leg.id, at.epoch, LIFE)
            new = LegReport(id=leg.id, prepared=True, incarnation=LIFE, nqn=nqn)
        elif said and not leg.releasing and said.prepared_bytes < (ready := _prepares(volume, leg)):
            new = msgspec.structs.replace(said, prepared_bytes=ready)
        else:
            continue
        entry = entries.get(leg.node, NodeReport(node=leg.node))
        others = [one for one in entry.legs if one.id != leg.id]
        entries[leg.node] = msgspec.structs.replace(entry, epoch=max(entry.epoch, at.epoch), legs=[*others, new])
    attach = entries.get(at.node)
    if attach is not None and attach.front in ASSEMBLED and world.state_of(at.node).state == "Ready":
        known = {path.id: path for path in attach.paths}
        paths = [
            _reached(world, leg, known.get(leg.id, PathReport(id=leg.id)))
            for leg in v.legs(volume)
            if leg.state != "Failed"
        ]
        entries[at.node] = msgspec.structs.replace(attach, generation=mapping.generation, paths=paths)
    return msgspec.structs.replace(
        volume, status=msgspec.structs.replace(volume.status, nodes=[entries[node] for node in entries])
    )


def _prepares(volume: VirtualVolume, leg: Leg) -> int:
    """Usable bytes for which a leg will be prepared: of a larger volume, where it is being given extents for one."""
    growing = volume.status.growth
    if growing is None:
        return 0
    return min(growing.size_bytes, layout.capacity_bytes(volume.status.given(leg).extents))


def copied(world: World, volume: VirtualVolume) -> VirtualVolume:
    """The record once the attach node has rebuilt what it can: nothing is, while it is not attached, or halted."""
    attach = v.report(volume, volume.status.attachment.node)
    if attach is None or attach.front not in ASSEMBLED or world.state_of(attach.node).state != "Ready":
        return volume
    if not v.in_reach(world, volume) or any(_halts(world, name) for name in v.covering(world, volume.metadata.name)):
        return volume
    stopped = {path.id for path in attach.paths if path.member == "Stopped"}
    done = {
        leg.id
        for leg in v.legs(volume)
        if leg.state == "Rebuilding"
        and leg.id not in stopped
        and v.reached(volume, leg)
        and not v.loss(world, volume, leg)
    }
    mapping = volume.status.mapping
    legs = [
        msgspec.structs.replace(leg, state="InSync", complete=True) if leg.id in done else leg for leg in mapping.legs
    ]
    mapping = msgspec.structs.replace(mapping, legs=legs, record_seq=mapping.record_seq + len(done))
    return msgspec.structs.replace(volume, status=msgspec.structs.replace(volume.status, mapping=mapping))


def _reached(world: World, leg: Leg, path: PathReport) -> PathReport:
    """A path that is down stays so, but for that of a leg that is just to be copied."""
    reached = _at_hand(world, leg) and (path.path == "None" or leg.state == "Rebuilding")
    return msgspec.structs.replace(path, path="Up") if reached else path


def _at_hand(world: World, leg: Leg) -> bool:
    """Whether a leg's node is heard of and has its disks."""
    devices: list[StorageDevice] = world.devices_of(leg)
    there = bool(devices) and all(device.status.observation.state == "Claimed" for device in devices)
    return there and world.state_of(leg.node).state == "Ready"


def _halts(world: World, quiescence: str) -> bool:
    return world.quiescences[quiescence].status.phase != "Reconfigured"


def _answered(node: StorageNode, q: Quiescence, now: float) -> StorageNode:
    answer = NodeQuiescence(
        uid=q.metadata.uid,
        name=q.metadata.name,
        phase="Applied" if q.status.phase == "Reconfigured" else "Quiesced",
        acknowledged_at=stamp(now),
        hold_remaining_ms=q.spec.deadline_seconds * 1000 if q.spec.hold_io else 0,
    )
    others = [one for one in node.status.quiescences if one.uid != q.metadata.uid]
    status = msgspec.structs.replace(node.status, quiescences=[*others, answer])
    return msgspec.structs.replace(node, status=status)


def _no_tests(operations: Any) -> list[Any]:
    return [operation for operation in operations if operation["op"] != "test"]
