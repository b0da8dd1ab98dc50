"""State managers on kernels in memory, an API server in memory, and a master that does what a test tells it.

    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        await cluster.disk("n1", "nvme1")              # plugged in, claimed by StorageDevice n1-nvme1
        volume = await cluster.volume("v1", "n1", "n2")  # one leg a node, prepared
        await cluster.attach(volume, "n1")
        write = cluster.write("n1", volume, block=0, value=7)

Time goes only while somebody waits with ``until`` or ``pass_time``, on the loop of ``simulated_time``: a second there
is a second of the world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from by_hand import ByHand

from millpond_core import layout
from millpond_core.model import (
    ObjectMeta,
    StorageDevice,
)
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import NodeReport
from millpond_core.nodeplan.view import Memory
from millpond_core.testing.kube import MemoryKube
from millpond_core.testing.world import Disk, Machine, World, Write
from millpond_core.units import MIB
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager
from millpond_node.rundir import RunDir


class Mortal:
    """A port that stops answering when its state manager is killed, or at the n-th call that changes something."""

    def __init__(self, port: Any, life: Life) -> None:
        self._port, self._life = port, life

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        if name in ("watch", "now", "boottime"):
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._life.before(name, args)
            result = await real(*args, **kwargs)
            await self._life.breathe()
            return result

        return call


_READS = frozenset({"get", "list", "dirty_chunks", "disks", "signatures", "alive", "read", "renew_lease"})


class Life:
    """Whether a state manager lives, and after how many changing calls it dies."""

    def __init__(self) -> None:
        self.dead = False
        self.calls: list[str] = []
        self.die_before: int | None = None
        self.died = asyncio.Event()
        self.corpses: list[asyncio.Task[Any] | None] = []

    async def before(self, name: str, args: tuple[Any, ...]) -> None:
        await self.breathe()
        if name in _READS or (name == "raw" and args[0] == "GET"):
            return
        self.calls.append(name)
        if self.die_before is not None and len(self.calls) > self.die_before:
            self.dead = True
            self.died.set()
            await self.breathe()

    async def breathe(self) -> None:
        if self.dead:
            self.corpses.append(asyncio.current_task())
            await asyncio.Event().wait()

    async def bury(self) -> None:
        """What the kernel does for a dead process: it lets its locks go."""
        while self.corpses:
            task = self.corpses.pop()
            if task is not None and not task.done():
                task.cancel()
            await asyncio.sleep(0)


class Cluster(ByHand):
    """Nodes, their state managers, the API server, and the master's part by hand."""

    def __init__(self, folder: Path, *nodes: str) -> None:
        self.folder = folder
        self.world = World()
        self.kube = MemoryKube(self.world.ports(nodes[0]).clock)
        self.nodes = nodes
        self.managers: dict[str, StateManager] = {}
        self.lives: dict[str, Life] = {}
        self.expected_violations = False
        self.violations: list[str] = []
        """What the checks found, also where nobody heard them."""
        self._revivals: list[asyncio.Task[None]] = []
        self.checks: list[Callable[[], None]] = []
        """Called at every tick: what must always hold."""

    async def __aenter__(self) -> Cluster:
        await self.kube.raw("POST", "/api/v1/namespaces", {"metadata": {"name": "kube-system"}})
        for node in self.nodes:
            await self.start(node)
        return self

    async def __aexit__(self, *error: object) -> None:
        for node in list(self.managers):
            await self.kill(node)
        me = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not me]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if error[0] is None and not self.expected_violations:
            self.sound()

    # --- state managers ---

    def machine(self, node: str) -> Machine:
        return self.world.machine(node)

    async def start(self, node: str, *, die_before: int | None = None) -> StateManager:
        machine = self.machine(node)
        life = self.lives[node] = Life()
        life.die_before = die_before
        real = self.world.ports(node)
        kernel = {field: Mortal(getattr(real, field), life) for field in real._fields if field != "clock"}
        kube: Any = Mortal(self.kube, life)
        ports = Ports(**kernel, clock=real.clock, kube=kube)  # type: ignore[arg-type]
        config = Config(
            node=node,
            address=machine.address,
            run_dir=self.folder / node / machine.boot_id,
            boot_id=lambda: machine.boot_id,
            kernel="6.12.0",
            version="0",
        )
        manager = self.managers[node] = StateManager(ports, config)
        await manager.start()
        return manager

    async def kill(self, node: str) -> None:
        """As with SIGKILL: whatever it was doing, it does no more."""
        manager = self.managers.pop(node)
        life = self.lives[node]
        life.dead = True
        for _ in range(20):
            await asyncio.sleep(0)
        manager._end_watch()
        for end in manager.volumes._watched.values():
            end()
        for task in manager._tasks:
            task.cancel()
        await life.bury()

    async def restart(self, node: str) -> None:
        await self.kill(node)
        if node not in self.managers:
            await self.start(node)

    def revive(self, node: str) -> None:
        """Start the node's state manager again when it has died by itself."""
        life = self.lives[node]

        async def again() -> None:
            await life.died.wait()
            if self.lives[node] is life and node in self.managers:
                await self.restart(node)

        self._revivals.append(asyncio.get_running_loop().create_task(again()))

    async def power_off(self, node: str) -> None:
        self.machine(node).power_off()
        await self.kill(node)

    async def power_on(self, node: str) -> None:
        self.machine(node).boot()
        await self.start(node)

    def memory(self, node: str, uuid: str) -> Memory:
        """What the node's state manager, dead or alive, has remembered of a volume."""
        folder = self.folder / node / self.machine(node).boot_id / "volumes"
        return RunDir(folder).load(uuid, Memory) or Memory()

    def shown(self, node: str, name: str) -> NodeReport:
        """What the node shows of a volume to whoever is logged in there."""
        folder = self.folder / node / self.machine(node).boot_id / "reports"
        return RunDir(folder).load(name, NodeReport) or NodeReport(node=node)

    def boot_id(self, node: str) -> str:
        return self.machine(node).boot_id

    # --- time ---

    async def pass_time(self, seconds: float, *, chunks: int = 1) -> None:
        for _ in range(int(seconds)):
            self.world.tick(1.0, chunks)
            for check in self.checks:
                check()
            await asyncio.sleep(1.0)

    def sound(self) -> None:
        """Nothing that must always hold was ever broken."""
        assert not self.violations, self.violations[0]

    async def until(self, what: Callable[[], object], *, seconds: int = 120, chunks: int = 1, why: str = "") -> None:
        """Let time pass until ``what()`` is true; fail after so many seconds of the world."""
        for _ in range(seconds):
            for revival in self._revivals:
                if revival.done():
                    revival.result()
            if what():
                return
            await self.pass_time(1, chunks=chunks)
        raise AssertionError(why or self.tell())

    def tell(self) -> str:
        """Everything, for a failed wait."""
        lines = []
        for key, document in self.kube._store._objects.items():
            if key.plural in ("virtualvolumes", "storagedevices"):
                lines.append(f"{key.plural}/{key.name}: {msgspec.json.encode(document.get('status', {})).decode()}")
        for node, machine in self.world.machines.items():
            lines += [f"{node}: {dm.name} {dm.table} up={dm.path_up} hold={dm.holding}" for dm in machine.dm.values()]
            lines += [f"{node}: {array.observed()}" for array in machine.arrays.values()]
        return "\n".join(lines)

    # --- disks ---

    async def disk(self, node: str, slot: str, size_mib: int = 256, **fields: Any) -> Disk:
        """Plug a disk in and have it claimed as StorageDevice ``<node>-<slot>``."""
        disk = Disk(f"{node}{slot}".upper(), size_mib * MIB, **fields)
        self.machine(node).add_disk(slot, disk)
        await self.device(node, slot)
        name = f"{node}-{slot}"
        await self.until(lambda: self.sdev(name).status.observation.state == "Claimed")
        return disk

    async def device(self, node: str, slot: str, **fields: Any) -> None:
        disk = self.machine(node).slots[slot]
        spec = StorageDeviceSpec(node_name=node, identity=Identity(serial=disk.serial), **fields)
        await self.kube.create(StorageDevice(metadata=ObjectMeta(name=f"{node}-{slot}"), spec=spec))

    # --- what pods do, and what must be true ---

    def write(self, node: str, name: str, block: int, value: int, *, fua: bool = True) -> Write:
        return self.world.write(node, self.vvol(name).spec.uuid, block, value, fua=fua)

    def flush(self, node: str, name: str) -> Write:
        return self.world.flush(node, self.vvol(name).spec.uuid)

    def read(self, node: str, name: str, block: int) -> int | None:
        return self.world.read(node, self.vvol(name).spec.uuid, block)

    def data(self, name: str, leg: str) -> dict[int, int]:
        """block → value on the disk under a leg."""
        found = self.leg(name, leg)
        places = [
            (
                e.device.partition("-")[2],
                layout.LABEL_SECTORS + e.start * layout.UNIT_SECTORS,
                e.length * layout.UNIT_SECTORS,
            )
            for e in found.extents
        ]
        return self.world.leg(found.node, places)
