"""The kernel's ports on a machine in memory. Each call is one step: ``World.step`` sees it before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from millpond_core import names
from millpond_core.errors import Busy, Conflict, DeadlineExceeded, Invalid, IOFailed, NotFound, Unavailable
from millpond_core.layout import BITMAP_SECTORS, bitmap_chunk_bytes
from millpond_core.model.storagedevice import DiskWarning
from millpond_core.observed import (
    Array,
    BlockDisk,
    Controller,
    DmDevice,
    Export,
    GateStatus,
    Label,
    Namespace,
)
from millpond_core.testing.world.array import MdArray, MdMember, bits_on
from millpond_core.testing.world.disks import Disk
from millpond_core.testing.world.machine import Connection, DmMapped, Machine, Subsystem, Target, disk_path
from millpond_core.testing.world.requests import Request
from millpond_core.units import SECTOR

if TYPE_CHECKING:
    from millpond_core.testing.world import World


class _Port:
    def __init__(self, world: World, machine: Machine) -> None:
        self.world, self.machine = world, machine

    async def _step(self, call: str) -> None:
        await self.world.step(self.machine, call)

    def _done(self) -> None:
        self.world.pump()


class MemoryClock:
    """The world's time, which goes only when it is told to."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.time

    def boottime(self) -> float:
        return self._world.time - 1_000_000


class MemoryDm(_Port):
    async def list(self, volume: str = "") -> dict[str, DmDevice]:
        prefix = names.DM_PREFIX + volume
        return {name: self._seen(dm) for name, dm in self.machine.dm.items() if name.startswith(prefix)}

    async def create(self, name: str, uuid: str, table: str) -> DmDevice:
        await self._step(f"dm create {name}")
        known = self.machine.dm.get(name)
        if known is not None:
            if known.table != table:
                raise Conflict(f"{name} exists with another table: {known.table}")
            return self._seen(known)
        self._fits(name, table)
        made = DmMapped(name, uuid, self.machine.number("253"), table)
        self._check(made)
        self.machine.dm[name] = made
        self._done()
        return self._seen(made)

    async def swap(self, name: str, table: str, *, drain_seconds: float = 15.0) -> None:
        await self._step(f"dm swap {name}")
        dm = self._get(name)
        above = [array for array in self.machine.arrays.values() if array.major_minor in dm.below()]
        await self._drain(dm, above, self.world.time + drain_seconds)
        holding = dm.holding
        self._fits(name, table)
        dm.load(table)
        for array in above:
            if array.major_minor not in dm.below():
                array.fail_waiting()
        dm.holding = dm.holding if dm.gate else holding
        self._check(dm)
        self._done()

    async def _drain(self, dm: DmMapped, arrays: Sequence[MdArray], deadline: float) -> None:
        dm.draining = True
        try:
            while any(write.state == "started" for array in arrays for write in array.writes):
                if self.world.time > deadline:
                    raise DeadlineExceeded(f"{dm.name} did not drain")
                await asyncio.sleep(0.001)
        finally:
            dm.draining = dm.suspended = False

    async def suspend(self, name: str) -> None:
        await self._step(f"dm suspend {name}")
        dm = self._get(name)
        if any(a.writes for a in self.machine.arrays.values() if a.major_minor in dm.below()):
            self.world.pump()
            if any(w.state == "started" for a in self.machine.arrays.values() for w in a.writes):
                raise DeadlineExceeded(f"{name} did not drain")
        dm.suspended = True
        self._done()

    async def resume(self, name: str) -> None:
        await self._step(f"dm resume {name}")
        self._get(name).suspended = False
        self._done()

    async def remove(self, name: str) -> None:
        await self._step(f"dm remove {name}")
        dm = self.machine.dm.get(name)
        if dm is None:
            return
        users = self.machine.users(dm.major_minor)
        if users:
            raise Busy(f"{name} is open {users} times")
        del self.machine.dm[name]
        self._done()

    async def gate_hold(self, name: str) -> None:
        await self._step(f"gate hold {name}")
        self._get(name).holding = True
        self._done()

    async def gate_fail(self, name: str) -> None:
        await self._step(f"gate fail {name}")
        self._get(name).holding = False
        self._done()

    async def gate_reinstate(self, name: str, major_minor: str) -> None:
        await self._step(f"gate reinstate {name}")
        self._get(name).path_up = True
        self._done()

    async def gate_fail_path(self, name: str, major_minor: str) -> None:
        await self._step(f"gate fail_path {name}")
        self._get(name).path_up = False
        self._done()

    def _get(self, name: str) -> DmMapped:
        if name not in self.machine.dm:
            raise NotFound(f"there is no device-mapper device {name}")
        return self.machine.dm[name]

    def _check(self, dm: DmMapped) -> None:
        for number in dm.below():
            if self.machine.attempt(number, Request("read", 1 << 60)) == "error" and not self._known(number):
                raise Invalid(f"{dm.name}: there is no device {number}")

    def _fits(self, name: str, table: str) -> None:
        """A table that is longer than what lies below is refused."""
        for target in (Target(line) for line in table.splitlines()):
            for number, begin in target.places:
                size = self.machine.size_of(number)
                if size is not None and begin + target.length // len(target.places) > size:
                    raise Invalid(f"{name}: {number} has {size} sectors, too few for {table!r}")

    def _known(self, number: str) -> bool:
        m = self.machine
        return (
            number in {a.major_minor for a in m.appearances.values()}
            or number in {d.major_minor for d in m.dm.values()}
            or number in {a.major_minor for a in m.arrays.values()}
            or number in {c.major_minor for c in m.connections.values()}
        )

    def _seen(self, dm: DmMapped) -> DmDevice:
        return DmDevice(
            name=dm.name,
            uuid=dm.uuid,
            major_minor=dm.major_minor,
            table=dm.table,
            suspended=dm.suspended,
            open_count=self.machine.users(dm.major_minor),
            gate=GateStatus(holding=dm.holding, path_up=dm.path_up, queued=dm.queued) if dm.gate else None,
        )


class MemoryMd(_Port):
    async def get(self, name: str) -> Array | None:
        array = self.machine.arrays.get(name)
        return array.observed() if array else None

    async def list(self) -> dict[str, Array]:
        return {name: array.observed() for name, array in self.machine.arrays.items()}

    async def assemble(
        self,
        name: str,
        *,
        raid_disks: int,
        component_sectors: int,
        members: Sequence[tuple[int, str, bool]],
        dirty_chunks: Sequence[tuple[int, int]] = (),
    ) -> Array:
        await self._step(f"md assemble {name}")
        if name in self.machine.arrays:
            raise Conflict(f"array {name} is there already: stop it before assembling it anew")
        array = MdArray(self.machine, name, raid_disks=raid_disks, component_sectors=component_sectors)
        for slot, number, write_mostly in members:
            array.members.append(MdMember(number, slot, in_sync=True, delta=False, write_mostly=write_mostly))
        loaded: set[int] = set()
        for _, number, _ in members:
            loaded |= self._bits(number)
        array.load(loaded)
        array.set_bits(list(dirty_chunks))
        self.machine.arrays[name] = array
        self._done()
        return array.observed()

    async def add(
        self,
        name: str,
        slot: int,
        major_minor: str,
        *,
        delta: bool,
        write_mostly: bool,
        dirty_chunks: Sequence[tuple[int, int]] = (),
    ) -> None:
        await self._step(f"md add {name} {major_minor} {'delta' if delta else 'full'}")
        array = self._get(name)
        known = array.member(major_minor)
        if known is not None and known.slot is None:
            array.members.remove(known)
        elif known is not None:
            if known.slot != slot or known.faulty:
                raise Conflict(f"{major_minor} is in array {name} already")
            return
        if any(m.slot == slot for m in array.members):
            raise Busy(f"slot {slot} of array {name} is taken")
        if slot >= array.raid_disks:
            if delta:
                raise Invalid(f"slot {slot} of array {name} is new, so its bitmap knows nothing of {major_minor}")
            array.raid_disks = slot + 1
        array.interrupt()
        array.sync_min, array.sync_max = 0, None
        array.set_bits(list(dirty_chunks))
        array.members.append(MdMember(major_minor, slot, in_sync=False, delta=delta, write_mostly=write_mostly))
        array.write_all_bits()
        array.frozen = False
        self._done()

    async def fail(self, name: str, major_minor: str) -> None:
        await self._step(f"md fail {name} {major_minor}")
        array = self._get(name)
        member = array.member(major_minor)
        if member is not None:
            array.error(member)
        self._done()

    async def acknowledge_failure(self, name: str, major_minor: str) -> None:
        await self._step(f"md acknowledge_failure {name} {major_minor}")
        array = self._get(name)
        member = array.member(major_minor)
        if member is None:
            return
        if not member.faulty:
            raise Conflict(f"{major_minor} of array {name} is not faulty: there is no failure to acknowledge")
        member.blocked = False
        if not any(m.blocked for m in array.members):
            array.state = "active"
        if any(major_minor in write.failed for write in array.writes):
            raise Busy(f"{major_minor} cannot leave array {name}: a write that failed on it is not done elsewhere")
        array.members.remove(member)
        self._done()

    async def acknowledge(self, name: str) -> bool:
        await self._step(f"md acknowledge {name}")
        array = self.machine.arrays.get(name)
        if array is None or any(m.blocked for m in array.members):
            return False
        array.state = "active"
        self._done()
        return True

    async def freeze(self, name: str) -> None:
        await self._step(f"md freeze {name}")
        array = self._get(name)
        if array.copying() and not any(
            self.machine.attempt(m.major_minor, Request("read")) == "ok" for m in array.members if m.good
        ):
            raise DeadlineExceeded(f"array {name} did not freeze: no source can be read")
        array.interrupt()
        array.frozen = True
        await self.acknowledge(name)

    async def unfreeze(self, name: str) -> None:
        await self._step(f"md unfreeze {name}")
        self._get(name).frozen = False
        self._done()

    async def set_speed(self, name: str, max_kib: int, *, background: bool = False) -> None:
        await self._step(f"md speed {name}{' background' if background else ''}")
        self._get(name).speed = max_kib

    async def check(self, name: str, first: int, last: int) -> None:
        await self._step(f"md check {name} {first} {last}")
        array = self._get(name)
        if array.observed().sync_action != "idle":
            raise Busy(f"array {name} cannot be checked: {array.observed().sync_action} is under way")
        array.check(first, last)
        self._done()

    async def end_check(self, name: str) -> None:
        await self._step(f"md end_check {name}")
        array = self._get(name)
        array.interrupt()
        await self.acknowledge(name)
        array.sync_min, array.sync_max = 0, None
        self._done()

    async def dirty_chunks(self, leg_device: str) -> Sequence[tuple[int, int]]:
        number = self.machine.by_name(leg_device)
        if not number or self.machine.attempt(number, Request("read")) != "ok":
            raise IOFailed(f"{leg_device} cannot be read")
        return [(chunk, chunk) for chunk in sorted(self._bits(number))]

    async def grow(self, name: str, component_sectors: int) -> None:
        await self._step(f"md grow {name} {component_sectors}")
        array = self._get(name)
        if component_sectors <= array.component_sectors:
            return
        if array.writes:
            raise DeadlineExceeded(f"array {name} did not grow: a write is in flight")
        if bitmap_chunk_bytes(component_sectors) != array.chunk * SECTOR:
            raise Invalid(f"array {name} would need another bitmap")
        for member in array.members:
            size = self.machine.size_of(member.major_minor)
            if size is not None and size < BITMAP_SECTORS + component_sectors:
                raise Invalid(f"{member.major_minor} has {size} sectors, too few for array {name}")
        array.interrupt()
        array.grow(component_sectors)
        self._done()

    async def stop(self, name: str) -> None:
        await self._step(f"md stop {name}")
        array = self.machine.arrays.get(name)
        if array is None:
            return
        if self.machine.users(array.major_minor) or array.writes:
            raise Busy(f"array {name} is open")
        if not array.settle():
            raise DeadlineExceeded(f"array {name} did not stop: a gate holds its bitmap")
        del self.machine.arrays[name]
        self._done()

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        key = (self.machine.node, name)
        self.world.md_watchers.setdefault(key, []).append(changed)
        return lambda: self.world.md_watchers[key].remove(changed)

    def _get(self, name: str) -> MdArray:
        if name not in self.machine.arrays:
            raise NotFound(f"there is no array {name}")
        return self.machine.arrays[name]

    def _bits(self, number: str) -> set[int]:
        found = []
        for sector in set(self.machine.sectors(number, 0, 2048)):
            request = Request("read", sector)
            if self.machine.attempt(number, request) == "ok" and request.value:
                found.append(sector)
        return bits_on(found)


class MemoryNvmeHost(_Port):
    async def list(self, volume: str = "") -> dict[str, Controller]:
        found = {}
        for nqn, connection in list(self.machine.connections.items()):
            if not nqn.startswith(names.NQN_PREFIX + volume):
                continue
            there = self.world.at(connection.address)
            reachable = there is not None and there.on and self.world.linked(self.machine, there)
            if reachable and self.machine.export_of(connection) is None:
                del self.machine.connections[nqn]  # refused with DNR: the kernel removes the controller
                continue
            found[nqn] = Controller(
                name=connection.name,
                nqn=nqn,
                address=connection.address,
                state="live" if reachable else "connecting",
                host_nqn=connection.host_nqn,
                namespaces=(
                    Namespace(
                        major_minor=connection.major_minor,
                        name=f"{connection.name}n1",
                        uuid=connection.namespace_uuid,
                        sectors=self.machine.size_of(connection.major_minor) or 0,
                    ),
                ),
            )
        return found

    async def states(self) -> dict[str, str]:
        return {nqn: controller.state for nqn, controller in (await self.list()).items()}

    async def connect(self, nqn: str, address: str, *, host_nqn: str, host_id: str, namespace_uuid: str) -> Controller:
        await self._step(f"nvme connect {nqn}")
        number = self.machine.number("259")
        connection = Connection(nqn, address, host_nqn, number)
        if nqn not in self.machine.connections:
            there = self.world.at(address)
            if there is None or not there.on or not self.world.linked(self.machine, there):
                raise Unavailable(f"{address} does not answer")
            subsystem = self.machine.export_of(connection)
            if subsystem is None or subsystem.namespace_uuid != namespace_uuid:
                raise Unavailable(f"{address} does not offer {nqn}")
            connection.namespace_uuid = namespace_uuid
            self.machine.connections[nqn] = connection
            self._done()
        return (await self.list())[nqn]

    async def disconnect(self, nqn: str) -> None:
        await self._step(f"nvme disconnect {nqn}")
        self.machine.connections.pop(nqn, None)
        self._done()


class MemoryNvmet(_Port):
    async def list(self, volume: str = "") -> dict[str, Export]:
        return {
            nqn: Export(
                nqn=nqn,
                device=names.dm_path(s.backing.name),
                namespace_uuid=s.namespace_uuid,
                enabled=True,
                linked=True,
                allowed_hosts=(s.host,),
            )
            for nqn, s in self.machine.subsystems.items()
            if nqn.startswith(names.NQN_PREFIX + volume)
        }

    async def connected(self, port: int) -> Sequence[str]:
        here = f"{self.machine.address}:{port}"
        others = (m for m in self.world.machines.values() if m.on and self.world.linked(m, self.machine))
        return sorted({m.address for m in others if any(c.address == here for c in m.connections.values())})

    async def export(
        self,
        nqn: str,
        device: str,
        *,
        namespace_uuid: str,
        serial: str,
        host_nqn: str,
        address: str,
        port: int,
    ) -> None:
        await self._step(f"nvmet export {nqn}")
        name = device.rsplit("/", 1)[-1]
        if name not in self.machine.dm:
            raise NotFound(f"there is no {device} to export")
        backing = self.machine.dm[name]
        self.machine.subsystems[nqn] = Subsystem(nqn, backing, namespace_uuid, host_nqn, f"{address}:{port}")
        self._done()

    async def resize(self, nqn: str) -> None:
        await self._step(f"nvmet resize {nqn}")
        subsystem = self.machine.subsystems.get(nqn)
        if subsystem is not None:
            subsystem.sectors = subsystem.backing.sectors
        self._done()

    async def unexport(self, nqn: str) -> None:
        await self._step(f"nvmet unexport {nqn}")
        self.machine.subsystems.pop(nqn, None)
        self._done()


class MemoryPods(_Port):
    async def kill(self, major_minor: str) -> Sequence[str]:
        await self._step(f"pods kill {major_minor}")
        for dm in self.machine.dm.values():
            if dm.major_minor == major_minor:
                for array in self.machine.arrays.values():
                    for write in array.writes if array.major_minor in dm.below() else ():
                        write.killed = True
        return []


class MemoryBlock(_Port):
    async def disks(self) -> dict[str, BlockDisk]:
        found = {}
        for slot, seen in self.machine.appearances.items():
            disk = seen.disk
            users = [dm.name for dm in self.machine.dm.values() if seen.major_minor in dm.below()]
            found[slot] = BlockDisk(
                name=slot,
                path=disk_path(disk),
                major_minor=seen.major_minor,
                serial=disk.serial,
                wwn=f"eui.{disk.serial}",
                model="Memory",
                size_bytes=disk.size_bytes,
                diskseq=seen.diskseq,
                links=(disk_path(disk),),
                holders=(*disk.holders, *users),
            )
        return found

    async def signatures(self, path: str) -> Sequence[str]:
        disk = self._disk(path)
        return () if disk.labels else disk.signatures

    async def erase(self, path: str) -> None:
        await self._step(f"block erase {path}")
        disk = self._disk(path)
        disk.signatures = ()

    async def zero(self, path: str, start_bytes: int = 0) -> None:
        await self._step(f"block zero {path}{f' from {start_bytes}' if start_bytes else ''}")
        number = self.machine.by_name(path)
        for sector in sorted(set(self.machine.sectors(number, start_bytes // SECTOR, 1 << 50))):
            if self.machine.attempt(number, Request("write", sector, 0)) != "ok":
                raise IOFailed(f"{path} cannot be written")
        await self.flush(path)

    async def flush(self, path: str) -> None:
        await self._step(f"block flush {path}")
        number = self.machine.by_name(path)
        outcome = self.machine.attempt(number, Request("flush")) if number else "error"
        if outcome == "held":
            raise DeadlineExceeded(f"{path} was not flushed in time")
        if outcome == "error":
            raise IOFailed(f"{path} cannot be flushed")
        self._done()

    async def alive(self, path: str) -> bool:
        number = self.machine.by_name(path)
        if number and self._disk(path).slow:
            raise DeadlineExceeded(f"{path} has not answered yet")
        return bool(number) and self.machine.attempt(number, Request("read")) == "ok"

    async def warnings(self, path: str) -> Sequence[DiskWarning]:
        if self._disk(path).slow:
            raise DeadlineExceeded(f"{path} has not told its health yet")
        return self._disk(path).warnings

    def watch(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        self.machine.block_watchers.append(changed)
        return lambda: self.machine.block_watchers.remove(changed)

    def _disk(self, path: str) -> Disk:
        for slot, seen in self.machine.appearances.items():
            if path in (slot, f"/dev/{slot}", disk_path(seen.disk)):
                if seen.disk.failing:
                    raise IOFailed(f"{path} answers with errors")
                return seen.disk
        raise NotFound(f"there is no disk {path}")


class MemoryLabels(MemoryBlock):
    async def read(self, path: str) -> Label | None:
        disk = self._disk(path)
        if disk.label_damaged:
            raise Invalid(f"both copies of the label of {path} are damaged")
        return disk.labels[-1] if disk.labels else None

    async def write(self, path: str, label: Label) -> None:
        await self._step(f"label write {path}")
        disk = self._disk(path)
        if not disk.labels and label.sequence != 1:
            raise Conflict(f"{path} has no label, and this is no device's first: it is another disk than it was")
        if disk.labels and label.sequence <= disk.labels[-1].sequence:
            raise Conflict(f"the label of {path} is at {disk.labels[-1].sequence} already, not below {label.sequence}")
        disk.labels.append(label)
        del disk.labels[:-2]
        self._done()
