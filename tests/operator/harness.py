"""The master's loop on the API server in memory, with scripted nodes around it.

``Cluster.settle`` lets the master and the nodes take turns until nothing changes any more; ``Cluster.later`` moves
time. The master can be killed after any of its writes (``MasterKube.budget``) and is then made anew, from the objects
alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from scripted import FakeClock, Nodes

from millpond_core.errors import Conflict
from millpond_core.master.world import KINDS
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.virtualvolume import Leg
from millpond_core.testing.kube import MemoryKube
from millpond_operator.failover import Failover
from millpond_operator.heartbeats import Heartbeats
from millpond_operator.master import Master

WRITES = frozenset({"patch", "merge", "apply_status", "create", "delete"})


class Killed(BaseException):
    """The master's process is gone."""


class MasterKube(MemoryKube):
    """The same store, as the master reaches it: it may be killed after any write, or before it."""

    budget: int | None = None
    """Writes that are left to it; None: no end."""
    lose_answer = False
    """Whether the last write is done before the kill."""

    def __init__(self, shared: MemoryKube) -> None:
        self.__dict__ = shared.__dict__  # one store, two doors

    async def _spend(self, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        cls = type(self)
        if cls.budget is None:
            return await write(*args, **kwargs)
        if cls.budget == 0:
            raise Killed
        cls.budget -= 1
        answer = await write(*args, **kwargs)
        if cls.budget == 0:
            raise Killed
        return answer

    async def patch(self, *args: Any, **kwargs: Any) -> Any:
        return await self._spend(super().patch, *args, **kwargs)

    async def merge(self, *args: Any, **kwargs: Any) -> Any:
        return await self._spend(super().merge, *args, **kwargs)

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        return await self._spend(super().create, *args, **kwargs)

    async def apply_status(self, *args: Any, **kwargs: Any) -> Any:
        return await self._spend(super().apply_status, *args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        return await self._spend(super().delete, *args, **kwargs)

    async def raw(self, method: str, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(super().raw, method)
        return await (call(*args, **kwargs) if method == "GET" else self._spend(call, *args, **kwargs))


class Cluster:
    """Master, nodes, time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = MemoryKube(self.clock)
        self.nodes = Nodes(self.kube, self.clock)
        self.kills = 0
        self.moves_pods = True
        self._renew()

    def _renew(self) -> None:
        self.door = MasterKube(self.kube)
        self.master = Master(self.door, self.clock)
        self.hearts = Heartbeats(self.door, self.clock, self.master, "millpond-system")
        self.failover = Failover(self.door, self.clock, self.master)
        self.loaded = False

    async def turn(self) -> bool:
        """The master looks at all that is due. Whether it wrote anything."""
        before = self._version()
        try:
            await self._feed()
            await self.hearts.look()
            while (key := self.master.agenda.pop(self.clock.boottime())) is not None:
                await self.master.look(key)
            if self.moves_pods:
                await self.failover.look()
        except Killed:
            self.kills += 1
            self._renew()
            MasterKube.budget = self.next_budget
            return True
        return self._version() != before

    async def _feed(self) -> None:
        """What events would deliver: only what has changed is looked at again."""
        if not self.loaded:
            await self.master.load()
            self.loaded = True
            return
        for kind in KINDS:
            there = {obj.metadata.name: obj for obj in await self.kube.list(kind)}
            for known in list(self.master.world.all()):
                if type(known) is kind and known.metadata.name not in there:
                    self.master.remove(known)
            for obj in there.values():
                self.master.put(obj)

    next_budget: int | None = None

    async def settle(self, turns: int = 80) -> None:
        """Until neither the master nor any node writes anything."""
        for _ in range(turns):
            before = self._version()
            await self.turn()
            await self.nodes.act()
            await self.turn()
            self.clock.pass_(0.25)
            if self._quiet(before):
                return
        raise AssertionError(f"not settled: {self.master.agenda.next_at()}")

    async def later(self, seconds: float, step: float = 3.0) -> None:
        """Time passes, everyone goes on."""
        end = self.clock.time + seconds
        while self.clock.time < end:
            self.clock.pass_(min(step, end - self.clock.time))
            await self.settle()

    def _quiet(self, before: int) -> bool:
        # Leases are renewed each turn; nothing else is.
        renewed = sum(1 for node in self.nodes.nodes.values() if not node.silent)
        return self._version() - before <= renewed

    def _version(self) -> int:
        return int(self.kube._store._version)

    async def volume(self, name: str = "v1") -> VirtualVolume:
        return await self.kube.get(VirtualVolume, name)

    async def device(self, name: str) -> StorageDevice:
        return await self.kube.get(StorageDevice, name)

    async def node(self, name: str) -> StorageNode:
        return await self.kube.get(StorageNode, name)

    async def quiescences(self) -> list[Quiescence]:
        found = await self.kube.list(Quiescence)
        return sorted(found, key=lambda q: (q.metadata.creation_timestamp or "", q.metadata.name))

    async def set_kubelet(self, node: str, ready: bool) -> None:
        """The second witness: a Kubernetes Node's Ready condition."""
        status = {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}]}
        body = {"metadata": {"name": node}, "spec": {}, "status": status}
        try:
            await self.kube.raw("POST", "/api/v1/nodes", body)
        except Conflict:
            merge = "application/merge-patch+json"
            await self.kube.raw("PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, content_type=merge)

    async def manual(self, name: str, **spec: Any) -> None:
        """A person asks for a quiescence of v1."""
        scope = Scope(volumes=["v1"])
        await self.kube.create(
            Quiescence(metadata=ObjectMeta(name=name), spec=QuiescenceSpec(**{"scope": scope, **spec}))
        )


async def three_nodes(*disks: int, units: int = 256) -> Cluster:
    """n1 to n3, and on the first ones so many devices as ``disks`` says; of 1 GiB each unless ``units`` says more."""
    MasterKube.budget = None
    made = Cluster()
    for node in ("n1", "n2", "n3"):
        await made.nodes.add_node(node)
    for node, count in zip(("n1", "n2", "n3"), disks, strict=False):
        for number in range(1, count + 1):
            await made.nodes.add_device(f"{node}-d{number}", node, units=units)
    return made


async def attached(cluster: Cluster, node: str = "n1", **volume: Any) -> None:
    """Volume v1, attached to ``node``, where its first leg lies."""
    await cluster.nodes.add_volume("v1", preferred_node=node, **volume)
    await cluster.settle()
    await cluster.nodes.want("v1", node)
    await cluster.settle()


def leg_on(volume: VirtualVolume, node: str) -> Leg:
    return next(leg for leg in volume.status.mapping.legs if leg.node == node and not leg.releasing)


def remote(volume: VirtualVolume, attach: str = "n1") -> Leg:
    return next(leg for leg in volume.status.mapping.legs if leg.node != attach and not leg.releasing)
