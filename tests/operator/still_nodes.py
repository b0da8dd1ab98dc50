"""Nodes whose part in quiescences is the real one: ``Still``, what it keeps under /run, the holds and the watchdog.

The rest of a node is ``scripted``; its kernel is a ``Stack`` for each volume that is attached there, which outlives the
state manager and not the node. ``StillNodes.look`` is one look of one state manager, ``tick`` one of a watchdog.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from scripted import FakeClock, Node, Nodes

from millpond_core import names
from millpond_core.errors import Unavailable
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.nodeplan.still import Standing
from millpond_core.testing import kube
from millpond_core.testing.kube import MemoryKube
from millpond_node import holds
from millpond_node.still import Still
from millpond_node.watchdog import Watchdog


@dataclass
class Stack:
    """A volume as it stands in the kernel of its attach node."""

    frozen: bool = False
    suspended: bool = False
    generation: int = 0
    looked: bool = False
    """Whether this life of the state manager has looked at it."""
    still: bool = False
    """Nothing was left to do at the last look."""


class Dog(Watchdog):
    """The real one on a node in memory; what it does beside, it does at once."""

    fronts: Callable[[], dict[str, Stack]]

    def _beside(self, key: str, work: Callable[[str], object], what: str) -> None:
        work(what)

    def _suspended(self) -> set[str]:
        return {front for front, stack in self.fronts().items() if stack.suspended}


class Real:
    """What is real of one node."""

    def __init__(self, node: Node, nodes: StillNodes, folder: Path) -> None:
        self.node, self.nodes, self.folder = node, nodes, folder
        self.known: StorageNode | None = None
        self.away = False
        """The API server does not answer it."""
        self.on()

    def on(self) -> None:
        """The node boots: its kernel and /run are empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.stacks: dict[str, Stack] = {}
        self.deadlines: dict[str, float] = {}
        """Of every instruction of this boot by uid, as it was first given."""
        self.booted = self.nodes.clock.time - 50.0
        run = str(self.folder)
        self.dog = Dog(run, run, boot_id=self.node.boot_id, boottime=self.boottime, resume=self._resume)
        self.dog.fronts = lambda: {self.front(name): stack for name, stack in self.stacks.items()}
        self.start()

    def start(self) -> None:
        """The state manager starts: it knows what is under /run."""
        self.known = None
        clock = SimpleNamespace(now=self.nodes.clock.now, boottime=self.boottime)
        config = SimpleNamespace(node=self.node.name, run_dir=self.folder, boot_id=lambda: self.node.boot_id)
        self.still = Still(SimpleNamespace(clock=clock, kube=self), config)  # type: ignore[arg-type]
        self.still.work = SimpleNamespace(ask=lambda key: None)  # type: ignore[assignment]
        self.still.standings = self._standings
        self.still.generations = lambda: {name: stack.generation for name, stack in self.stacks.items()}
        for stack in self.stacks.values():
            stack.looked = False

    def boottime(self) -> float:
        return self.nodes.clock.time - self.booted

    async def get(self, kind: Any, name: str) -> Any:
        """``Still``'s way to the API server."""
        if self.away:
            raise Unavailable("the API server does not answer")
        return await self.nodes.kube.get(kind, name)

    def front(self, volume: str) -> str:
        return names.front(self.nodes.uuids[volume])

    def in_time(self, uid: str) -> bool:
        """Whether the node takes part in a quiescence whose deadline has not passed."""
        return self.boottime() < self.deadlines.get(uid, 0.0)

    def act(self, volume: str, *, can_freeze: bool, restless: bool) -> None:
        """What the last rung of a node's plan does (``nodeplan.attach.front``)."""
        stack, (halted, hold) = self.stacks[volume], self.still.wants(volume)
        stack.looked, stack.still = True, True
        if halted and not stack.frozen:
            stack.frozen = stack.still = can_freeze
        elif not halted:
            stack.frozen = False
        if hold and not stack.suspended and not restless:
            self.still.begin_hold(volume, self.front(volume))
            stack.suspended = True
        elif not hold and stack.suspended:
            stack.suspended = False
            self.still.end_hold(volume, self.front(volume))

    async def hear(self) -> None:
        """The doorbell, and one look at all instructions."""
        if not self.away:
            self.known = await self.nodes.kube.get(StorageNode, self.node.name)
        if self.known is not None:
            self.still.heard(self.known)
        await self.still._answer("doorbell")

    def holds(self) -> dict[str, holds.Hold]:
        return {hold.front: hold for hold in holds.read(f"{self.folder}/holds")}

    def _standings(self, uid: str) -> dict[str, Standing | None]:
        return {
            name: Standing(
                settled=stack.still,
                frozen=stack.frozen,
                suspended=stack.suspended,
                generation=stack.generation,
                message="long operations run",
            )
            if stack.looked
            else None
            for name in self.still.instructions[uid].volumes
            if (stack := self.stacks.get(name)) is not None
        }

    def _resume(self, front: str) -> None:
        for name, stack in self.stacks.items():
            if self.front(name) == front:
                stack.suspended = False


class Writer:
    """The API server as nodes write to it: what stands there already is not applied again."""

    def __init__(self, kube: MemoryKube) -> None:
        self._kube = kube
        self._applied: dict[Any, tuple[Any, str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)

    async def apply_status(self, kind: Any, name: str, status: Any, *, manager: str) -> Any:
        there = self._kube._store._objects.get(kube._key(kind, name))
        version = there["metadata"]["resourceVersion"] if there else ""
        if self._applied.get((kind, name, manager)) == (status, version):
            return None
        written = await self._kube.apply_status(kind, name, status, manager=manager)
        self._applied[kind, name, manager] = (status, written.metadata.resource_version)
        return written


class StillNodes(Nodes):
    """``scripted.Nodes`` with ``Real`` ones in them; ``folder`` holds each node's /run."""

    def __init__(self, kube: MemoryKube, clock: FakeClock, folder: Path) -> None:
        super().__init__(Writer(kube), clock)  # type: ignore[arg-type]
        self.folder = folder
        self.real: dict[str, Real] = {}
        self.uuids: dict[str, str] = {}

    async def add_node(self, name: str, labels: dict[str, str] | None = None) -> None:
        await super().add_node(name, labels)
        self.real[name] = Real(self.nodes[name], self, self.folder / name)

    async def act(self) -> None:
        for name in self.real:
            await self.look(name)

    async def look(self, name: str) -> None:
        """One look of a node's state manager."""
        node, real = self.nodes[name], self.real[name]
        if node.silent:
            return
        await real.hear()
        if not real.away:
            await self._see(node)
        for volume in list(real.stacks):
            real.act(volume, can_freeze=await self._may_freeze(volume), restless=node.restless)
        if not real.away:
            for volume in await self.kube.list(VirtualVolume, labels=names.node_label(name)):
                await self._report(node, volume.metadata.name)
        await real.hear()
        if not real.away:
            answers = [msgspec.to_builtins(answer) for answer in real.still.answers()]
            status = {"bootId": node.boot_id, "addresses": ["10.0.0.1"], "quiescences": answers}
            await self.kube.apply_status(StorageNode, name, status, manager=names.node_manager(name))

    def tick(self) -> None:
        """Every watchdog looks."""
        for name, real in self.real.items():
            if not self.nodes[name].silent or name in self.reachable:
                real.dog._end_holds()

    async def _see(self, node: Node) -> None:
        await self._beat(node)
        for device in await self.kube.list(StorageDevice):
            if device.spec.node_name == node.name and device.metadata.name in self.disks:
                await self._observe(node, device)
        real = self.real[node.name]
        for volume in await self.kube.list(VirtualVolume, labels=names.node_label(node.name)):
            name = volume.metadata.name
            self.uuids[name] = volume.spec.uuid
            await self._record(node, name)
            if name in real.stacks:
                real.stacks[name].generation = (await self.kube.get(VirtualVolume, name)).status.mapping.generation

    async def _may_freeze(self, volume: str) -> bool:
        """While a leg holds, long operations cannot halt."""
        mapping = (await self.kube.get(VirtualVolume, volume)).status.mapping
        return all(self._alive(leg) for leg in mapping.legs if leg.state == "InSync" and not leg.releasing)

    async def _instructed(self, node: Node, volume: VirtualVolume) -> bool:
        stack = self.real[node.name].stacks.get(volume.metadata.name)
        return stack is not None and stack.frozen

    def _stands(self, node: Node, volume: VirtualVolume) -> dict[str, Any]:
        stacks, name = self.real[node.name].stacks, volume.metadata.name
        if name not in stacks:
            stacks[name] = Stack(generation=volume.status.mapping.generation)
        stack = stacks[name]
        return {"front": "Suspended" if stack.suspended else "Active", "generation": stack.generation}

    def _left(self, node: Node, volume: str) -> None:
        self.real[node.name].stacks.pop(volume, None)
