"""State managers on kernels in memory, an API server in memory, and a master that does what a test tells it.

    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        await cluster.disk("n1", "nvme1")              # plugged in, claimed by StorageDevice n1-nvme1
        volume = await cluster.volume("v1", "n1", "n2")  # one leg a node, prepared
        await cluster.attach(volume, "n1")
        write = cluster.write("n1", volume, block=0, value=7)

Time goes only while somebody waits with ``until`` or ``pass_time``: one second of the world is a few milliseconds here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from millpond_core import layout, names
from millpond_core.model import (
    ObjectMeta,
    Quiescence,
    StorageDevice,
    StorageNode,
    VirtualVolume,
)
from millpond_core.model.quiescence import QuiescenceSpec, QuiescenceStatus, Scope
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import (
    Attachment,
    DesiredAttachment,
    Extent,
    Leg,
    Mapping,
    NodeReport,
    OnFailure,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.model.virtualvolume import Layout as VolumeLayout
from millpond_core.testing.kube import MemoryKube
from millpond_core.testing.world import Disk, Machine, World, Write
from millpond_core.units import MIB, leg_units
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager

TICK = 0.004
"""Seconds of ours for one second of the world."""


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


_READS = frozenset(
    {"get", "list", "gate_status", "gates", "dirty_chunks", "disks", "signatures", "alive", "read", "renew_lease"}
)


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


class Cluster:
    """Nodes, their state managers, the API server, and the master's part by hand."""

    heartbeat_seconds = 1.0
    """Ours, not the world's: without a master nobody listens."""

    def __init__(self, folder: Path, *nodes: str) -> None:
        self.folder = folder
        self.world = World()
        self.kube = MemoryKube(self.world.ports(nodes[0]).clock)
        self.nodes = nodes
        self.managers: dict[str, StateManager] = {}
        self.lives: dict[str, Life] = {}
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
            poll_seconds=2 * TICK,
            heartbeat_seconds=self.heartbeat_seconds,
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
        await self.start(node)

    def revive(self, node: str) -> None:
        """Start the node's state manager again when it has died by itself."""
        life = self.lives[node]

        async def again() -> None:
            await life.died.wait()
            await self.restart(node)

        self._revivals.append(asyncio.get_running_loop().create_task(again()))

    async def power_off(self, node: str) -> None:
        self.machine(node).power_off()
        await self.kill(node)

    async def power_on(self, node: str) -> None:
        self.machine(node).boot()
        await self.start(node)

    # --- time ---

    async def pass_time(self, seconds: float, *, chunks: int = 1) -> None:
        for _ in range(int(seconds)):
            self.world.tick(1.0, chunks)
            for check in self.checks:
                check()
            await asyncio.sleep(TICK)

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

    # --- objects ---

    def get(self, kind: type[Any], name: str) -> Any:
        document = self.kube._store._objects[
            next(k for k in self.kube._store._objects if (k.plural, k.name) == (kind.plural, name))
        ]
        return msgspec.convert(document, kind)

    def vvol(self, name: str) -> VirtualVolume:
        found: VirtualVolume = self.get(VirtualVolume, name)
        return found

    def report(self, name: str, node: str) -> NodeReport:
        return next((r for r in self.vvol(name).status.nodes if r.node == node), NodeReport(node=node))

    def leg(self, name: str, leg: str) -> Leg:
        return next(one for one in self.vvol(name).status.mapping.legs if one.id == leg)

    def sdev(self, name: str) -> StorageDevice:
        found: StorageDevice = self.get(StorageDevice, name)
        return found

    def snode(self, name: str) -> StorageNode:
        found: StorageNode = self.get(StorageNode, name)
        return found

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

    # --- the master by hand ---

    async def volume(
        self, name: str, *nodes: str, size_mib: int = 16, on_failure: OnFailure | None = None, start: int = 0
    ) -> str:
        """Allocate a volume with a leg on each of ``nodes`` (its disk nvme1) and wait until they are prepared."""
        vid = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        legs = [
            self.new_leg(names.leg_id(i), node, size_mib, start=start, state="InSync") for i, node in enumerate(nodes)
        ]
        self.kube.seed(
            VirtualVolume(
                metadata=ObjectMeta(name=name, labels={names.node_label(node): "" for node in self.nodes}),
                spec=VirtualVolumeSpec(
                    uuid=vid,
                    size=f"{size_mib}Mi",
                    layout=VolumeLayout(copies=len(nodes)),
                    on_failure=on_failure or OnFailure(),
                ),
                status=VirtualVolumeStatus(
                    size_bytes=size_mib * MIB,
                    mapping=Mapping(generation=1, record_seq=1, legs=legs),
                    next_leg=len(legs),
                ),
            )
        )
        await self.until(lambda: all(self.prepared(name, leg) for leg in self.vvol(name).status.mapping.legs))
        return name

    def new_leg(self, leg: str, node: str, size_mib: int, *, start: int = 0, state: str = "Rebuilding") -> Leg:
        device = self.sdev(f"{node}-nvme1")
        extent = Extent(
            device=device.metadata.name,
            device_uuid=device.status.observation.device_uuid,
            start=start,
            length=leg_units(size_mib * MIB),
        )
        return Leg(id=leg, node=node, state=state, extents=[extent])  # type: ignore[arg-type]

    def prepared(self, name: str, leg: Leg) -> bool:
        return any(r.prepared for r in self.report(name, leg.node).legs if r.id == leg.id)

    def exported(self, name: str, leg: str) -> bool:
        """Whether the leg can be had on the attach node, under the present epoch."""
        volume = self.vvol(name)
        found = next(one for one in (*volume.status.mapping.legs, *volume.status.spares) if one.id == leg)
        report = self.report(name, found.node)
        said = next((r for r in report.legs if r.id == leg), None)
        if said is None or report.epoch != volume.status.attachment.epoch:
            return False
        return bool(said.nqn) or (said.prepared and found.node == volume.status.attachment.node)

    async def change(self, name: str, **fields: Any) -> None:
        """The master's write of status fields (typed values)."""
        operations = [
            {"op": "add", "path": f"/status/{path.replace('.', '/')}", "value": msgspec.to_builtins(value)}
            for path, value in fields.items()
        ]
        await self.kube.patch(VirtualVolume, name, operations, status=True)

    async def want(self, name: str, node: str) -> None:
        spec = msgspec.to_builtins(DesiredAttachment(node=node)) or {"node": ""}
        await self.kube.patch(VirtualVolume, name, [{"op": "add", "path": "/spec/attachment", "value": spec}])

    async def attach(self, name: str, node: str, *, wait: bool = True) -> None:
        """As ControllerPublish and the master do it; after an unclean end one leg is the source."""
        await self.want(name, node)
        volume = self.vvol(name)
        before, mapping = volume.status.attachment, volume.status.mapping
        if not before.clean:
            insync = [leg for leg in mapping.legs if leg.state == "InSync" and not leg.releasing]
            source = min(insync, key=lambda leg: (leg.node != node, leg.id))
            legs = [
                msgspec.structs.replace(leg, state="Rebuilding") if leg in insync and leg is not source else leg
                for leg in mapping.legs
            ]
            mapping = Mapping(generation=mapping.generation, record_seq=mapping.record_seq + 1, legs=legs)
        epoch = max([before.epoch, *(r.epoch for r in volume.status.nodes)]) + 1
        boot = self.machine(node).boot_id
        await self.change(
            name,
            mapping=mapping,
            attachment=Attachment(node=node, epoch=epoch, clean=False, boot_id=boot),
        )
        if wait:
            await self.until(
                lambda: self.report(name, node).front == "Active" and self.report(name, node).epoch == epoch
            )

    async def detach(self, name: str) -> None:
        node = self.vvol(name).status.attachment.node
        await self.want(name, "")
        epoch = self.vvol(name).status.attachment.epoch
        await self.until(
            lambda: self.report(name, node).clean_epoch == epoch and self.report(name, node).front == "None"
        )
        await self.change(name, attachment=Attachment(node="", epoch=epoch, clean=True))

    async def commit(self, name: str, change: Callable[[Leg], Leg | None], *added: Leg) -> None:
        """A new generation: each leg changed (None: gone), others added."""
        mapping = self.vvol(name).status.mapping
        legs = [new for leg in mapping.legs if (new := change(leg)) is not None]
        await self.change(
            name,
            mapping=Mapping(generation=mapping.generation + 1, record_seq=mapping.record_seq + 1, legs=[*legs, *added]),
        )

    async def rejoin(self, name: str, leg: str) -> None:
        """A leg is back: Stale → Rebuilding, once it can be had."""
        await self.until(lambda: self.leg(name, leg).state == "Stale" and self.exported(name, leg))
        await self.commit(name, lambda one: msgspec.structs.replace(one, state="Rebuilding") if one.id == leg else one)

    async def ring(
        self, name: str, *volumes: str, nodes: tuple[str, ...], hold_io: bool = False, deadline: int = 30
    ) -> None:
        """The master instructs ``nodes`` to make ``volumes`` still."""
        self.kube.seed(
            Quiescence(
                metadata=ObjectMeta(name=name),
                spec=QuiescenceSpec(
                    reason="Manual", scope=Scope(volumes=list(volumes)), hold_io=hold_io, deadline_seconds=deadline
                ),
                status=QuiescenceStatus(phase="Instructed", participants=list(nodes), volumes=list(volumes)),
            )
        )
        for node in nodes:
            await self.kube.merge(StorageNode, node, {"metadata": {"annotations": {names.ANNOTATION_QUIESCE: name}}})

    async def silence(self, *nodes: str) -> None:
        for node in nodes:
            await self.kube.merge(StorageNode, node, {"metadata": {"annotations": {names.ANNOTATION_QUIESCE: None}}})

    def answer(self, node: str, name: str) -> Any:
        return next((a for a in self.snode(node).status.quiescences if a.name == name), None)

    # --- what pods do, and what must be true ---

    def write(self, node: str, name: str, block: int, value: int, *, fua: bool = True) -> Write:
        return self.world.write(node, self.vvol(name).spec.uuid, block, value, fua=fua)

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

    def states(self, name: str) -> dict[str, str]:
        return {leg.id: leg.state for leg in self.vvol(name).status.mapping.legs}

    def in_sync(self, name: str) -> list[str]:
        return [leg for leg, state in self.states(name).items() if state == "InSync"]
