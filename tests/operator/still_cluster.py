"""Three volumes on three nodes, the real master, the real part of the nodes in quiescences, and what must always hold.

``Cluster`` has a second master at hand whose view is old: nobody tells it anything but the answers to its own writes.
``Watch`` sees every write as the API server does, and asks of each commit if it may be.
"""

from __future__ import annotations

import copy
from collections import deque
from pathlib import Path
from typing import Any

import harness
import msgspec
from harness import MasterKube
from still_nodes import Real, StillNodes

from millpond_core import names, quiesce
from millpond_core.master import quiescence
from millpond_core.master.node import failed
from millpond_core.model import Quiescence, StorageNode, VirtualVolume
from millpond_core.testing.store import Change
from millpond_operator.agenda import Key
from millpond_operator.master import Master

NODES = ("n1", "n2", "n3")
VOLUMES = ("v1", "v2", "v3")
DISKS = tuple(f"{node}-d{number}" for node in NODES for number in (1, 2))
TURN_SECONDS = 5.0
STEPS = {(before, after) for (before, _), after in quiesce.TABLE.items()} | {
    (phase, phase) for phase in ("Pending", *quiesce.RUNNING, *quiesce.OVER)
}
"""From which phase to which."""


class Watch(deque[Change]):
    """A watcher that judges each commit at the moment of its write."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.instructed: dict[str, float] = {}
        """Quiescence's uid → when its turn came."""
        self.made: dict[str, Quiescence] = {}
        """By uid, as each was last, also those that are deleted."""
        self.bells: dict[str, set[str]] = {node: set() for node in NODES}
        """What each node's doorbell rings for."""
        self.wrong: list[str] = []
        self.commits = 0
        self.excused = 0

    def append(self, change: Change, /) -> None:
        before, after = change.before, change.after
        if change.key.plural == "quiescences" and after:
            phase = after.get("status", {}).get("phase", "Pending")
            self.made[after["metadata"]["uid"]] = msgspec.convert(after, Quiescence)
            old = (before or {}).get("status", {}).get("phase", "Pending")
            if phase == "Instructed" and old == "Pending":
                self.instructed[after["metadata"]["uid"]] = self.cluster.clock.time
            if (old, phase) not in STEPS:
                self.wrong.append(f"{change.key.name} was {old} and is {phase}")
        if change.key.plural == "storagenodes" and after:
            bell = after["metadata"].get("annotations", {}).get(names.ANNOTATION_QUIESCE, "")
            self.bells[change.key.name] = {name for name in bell.split(",") if name}
        if change.key.plural == "virtualvolumes" and before and after:
            old, new = (doc.get("status", {}).get("mapping", {}).get("generation", 0) for doc in (before, after))
            if 0 < old < new:
                self.commits += 1
                self._committed(change.key.name, new - old)

    def _committed(self, volume: str, step: int) -> None:
        if step != 1:
            self.wrong.append(f"{volume} rises by {step} generations at once")
        running = [
            q
            for q in self.cluster.all(Quiescence)
            if volume in q.status.volumes and (q.status.phase in quiesce.RUNNING or self.cluster.rivals)
        ]
        if any(q.spec.release for q in running) or self.cluster.given_up:
            # Who releases or deletes the master's own ends the barrier, perhaps a moment before the master knows.
            self.excused += 1
            return
        reasons = [self._may_not(volume, q) for q in running if quiescence.own(q)] or ["no quiescence covers it"]
        if all(reasons):
            self.wrong.append(f"{volume} is committed: {'; '.join(reasons)}")

    def _may_not(self, volume: str, q: Quiescence) -> str:
        """Why nothing may be committed for ``q``; empty: it may.

        A master with an old view may not know that it is over: no compare-and-swap spans two objects, the commit stands
        by its own. Everyone's word and the deadline it needs all the same.
        """
        cluster, name = self.cluster, q.metadata.name
        if q.status.phase != "Quiesced" and not cluster.rivals:
            return f"{name} is {q.status.phase}"
        if cluster.clock.time >= self.instructed[q.metadata.uid] + q.spec.deadline_seconds:
            return f"{name} is beyond its deadline"
        nodes = {node.metadata.name: node for node in cluster.all(StorageNode)}
        heard = {a.node for a in q.status.acknowledgements}
        for node in q.status.participants:
            if failed(nodes[node]) or cluster.master.world.state_of(node).state == "Failed":
                continue
            if node not in heard:
                return f"{name} lacks the word of {node}"
            stack = cluster.nodes.real[node].stacks.get(volume)
            if (
                stack is not None
                and not cluster.rivals
                and not (stack.frozen and (stack.suspended or not q.spec.hold_io))
            ):
                return f"{node} is not still for {name}"
        return ""


class Cluster(harness.Cluster):
    """See the module."""

    nodes: StillNodes

    def __init__(self, folder: Path) -> None:
        super().__init__()
        MasterKube.budget = None
        self.nodes = StillNodes(self.kube, self.clock, folder)
        self.watch = Watch(self)
        self.moves_pods = False
        self.given_up = False
        """Whether one of the master's own was released or deleted by hand."""
        self.rivals = False
        """Whether two masters have decided at the same time."""

    async def begin(self) -> None:
        """Three volumes, each attached on a node of its own."""
        for node in NODES:
            await self.nodes.add_node(node)
        for disk in DISKS:
            await self.nodes.add_device(disk, disk[:2])
        for number, (volume, node) in enumerate(zip(VOLUMES, NODES, strict=True), start=1):
            await self.nodes.add_volume(volume, number, grace=5, preferred_node=node)
        await self.settle()
        for volume, node in zip(VOLUMES, NODES, strict=True):
            await self.nodes.want(volume, node)
        await self.settle()

    def copy(self, folder: Path) -> Cluster:
        """Another one that stands as this one does: making one takes many times as long."""
        made = Cluster(folder)
        made.clock.time = self.clock.time
        store, theirs = made.kube._store, self.kube._store
        store._objects, store._version = dict(theirs._objects), theirs._version
        made.kube._ownership.update({uid: owners.copy() for uid, owners in self.kube._ownership.items()})
        nodes = made.nodes
        nodes.nodes, nodes.disks = copy.deepcopy(self.nodes.nodes), copy.deepcopy(self.nodes.disks)
        nodes.uuids = dict(self.nodes.uuids)
        for name, real in self.nodes.real.items():
            nodes.real[name] = Real(nodes.nodes[name], nodes, folder / name)
            nodes.real[name].stacks = copy.deepcopy(real.stacks)
            nodes.real[name].booted = real.booted
        made.watch = Watch(made)
        store.feeds.append(made.watch)
        return made

    def all(self, kind: Any) -> list[Any]:
        return [msgspec.convert(found, kind) for found in self.kube._listed(kind, "", "")]

    # --- who acts ---

    async def round(self, seconds: float = TURN_SECONDS) -> None:
        """Time passes, and everyone who can has a look."""
        self.pass_(seconds)
        await self.turn()
        for node in NODES:
            await self.look(node)
        await self.turn()

    def pass_(self, seconds: float) -> None:
        """The watchdogs look when it is over."""
        self.clock.pass_(seconds)
        self.nodes.tick()

    async def step(self, *, fresh: bool) -> None:
        """The master looks at one object, perhaps before it has heard of what happened last."""
        if fresh or not self.loaded:
            await self._feed()
        if (key := self.master.agenda.pop(self.clock.boottime())) is not None:
            await self.master.look(key)

    async def rival(self) -> Master:
        """Another master, with a view that gets old."""
        made = Master(self.kube, self.clock)
        await made.load()
        made.world.health = self.master.world.health
        return made

    async def rival_looks(self, rival: Master, *, kind: Any) -> None:
        """It decides whatever it would for all objects of a kind, as if time had stood still for it until now."""
        self.rivals = True
        for obj in [obj for obj in rival.world.all() if isinstance(obj, kind)]:
            await rival.look(Key(type(obj), obj.metadata.name))

    # --- what must hold ---

    def check(self) -> None:
        """After every step."""
        assert not self.watch.wrong, self.watch.wrong[0]
        for node in NODES:
            if self.nodes.nodes[node].silent and node not in self.nodes.reachable:
                continue
            self._check_node(node)
        running = [q for q in self.all(Quiescence) if q.status.phase in quiesce.RUNNING]
        taken = [volume for q in running for volume in q.status.volumes]
        # Two masters may each give a turn: no compare-and-swap spans two objects. Nodes keep the earlier deadline.
        assert self.rivals or len(taken) == len(set(taken)), f"{running} are in force for the same volume"

    def _check_node(self, node: str) -> None:
        real, now = self.nodes.real[node], self.nodes.real[node].boottime()
        for instruction in real.still.instructions.values():
            uid, name = instruction.uid, instruction.name
            first = real.deadlines.setdefault(uid, instruction.deadline)
            assert instruction.deadline == first, f"{node} begins {name} anew"
            if not instruction.over:
                assert first <= now + self.watch.made[uid].spec.deadline_seconds, f"{node} gives {name} too much time"
        there = real.holds()
        for volume, stack in real.stacks.items():
            if not stack.suspended:
                continue
            hold = there.get(real.front(volume))
            assert hold is not None, f"{node} holds {volume} and nothing says until when"
            assert hold.boot_id == self.nodes.nodes[node].boot_id
            given = [end for uid, end in real.deadlines.items() if self.watch.made[uid].spec.hold_io]
            assert now < hold.deadline <= max(given, default=0.0), f"{node} holds {volume} beyond every deadline"

    async def look(self, node: str) -> None:
        """One look of a node; after it nothing is held or halted but what its doorbell rings for, in time."""
        await self.nodes.look(node)
        real = self.nodes.real[node]
        if self.nodes.nodes[node].silent:
            return
        self._check_node(node)
        bell = self.watch.bells[node]
        rung = [q for q in self.watch.made.values() if real.away or q.metadata.name in bell]
        for volume, stack in real.stacks.items():
            mine = [q for q in rung if volume in q.status.volumes and real.in_time(q.metadata.uid)]
            assert mine or not stack.frozen, f"{volume} is halted on {node} and nobody wants it"
            assert not stack.suspended or any(q.spec.hold_io for q in mine), f"{node} holds {volume} for nobody"

    async def heal(self) -> None:
        for disk in DISKS:
            if self.nodes.disks[disk].state != "Claimed":
                self.nodes.plug(disk)
        for node in NODES:
            self.nodes.real[node].away = False
            self.nodes.nodes[node].restless = False
            if self.nodes.nodes[node].silent:
                self.back(node)

    def stop(self, node: str, *, power: bool) -> None:
        """Its state manager is killed; with ``power`` all of it goes."""
        silent = self.nodes.nodes[node].silent
        self.nodes.nodes[node].silent = True
        if power:
            self.nodes.reachable.discard(node)
        elif not silent:
            self.nodes.reachable.add(node)

    def back(self, node: str) -> None:
        """Its state manager starts; if it had no power, it boots."""
        self.nodes.nodes[node].silent = False
        if node in self.nodes.reachable:
            self.nodes.reachable.discard(node)
            self.nodes.real[node].start()
        else:
            self.nodes.reboot(node)
            self.nodes.real[node].on()

    async def check_end(self) -> None:
        """Everything is over, and everything goes on."""
        for q in self.all(Quiescence):
            assert q.status.phase in quiesce.OVER, f"{q.metadata.name} is {q.status.phase} for ever: {q.status.message}"
        for node in self.all(StorageNode):
            name, real = node.metadata.name, self.nodes.real[node.metadata.name]
            bell = node.metadata.annotations.get(names.ANNOTATION_QUIESCE, "")
            assert bell == "", f"the doorbell of {name} rings for ever: {bell}"
            assert all(i.over for i in real.still.instructions.values()), f"{name} obeys for ever"
            assert real.holds() == {}, f"{name} keeps the record of a hold"
            for volume, stack in real.stacks.items():
                assert not stack.suspended, f"{name} holds {volume} for ever"
                assert not stack.frozen, f"long operations of {volume} are forgotten on {name}"
        for volume in self.all(VirtualVolume):
            at, mapping, name = volume.status.attachment, volume.status.mapping, volume.metadata.name
            report = next(one for one in volume.status.nodes if one.node == at.node)
            assert (report.front, report.generation) == ("Active", mapping.generation), f"{name} is not in force"
            assert {leg.state for leg in mapping.legs} == {"InSync"}, f"{name} is not whole: {mapping.legs}"
