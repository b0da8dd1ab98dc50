"""Steps carried out: each is one call of a port, or one write of what must survive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from millpond_core import names
from millpond_core.errors import Conflict, MillpondError
from millpond_core.model import VirtualVolume
from millpond_core.nodeplan import record, steps
from millpond_core.nodeplan.steps import Remember, Step
from millpond_core.nodeplan.view import Memory
from millpond_node.devices import Devices
from millpond_node.host import Ports

log = logging.getLogger(__name__)

_SEVER_SECONDS = 120.0
"""What waits inside a front that is severed comes out within some looks, once its gates are open."""


class Silence(Protocol):
    """Keeps the watchdog from answering an array while it is stopped."""

    def __call__(self, array: str) -> contextlib.AbstractAsyncContextManager[None]: ...


class Bench(Protocol):
    """The volume that steps are done for: where its memory and its newest object are kept."""

    volume: VirtualVolume
    memory: Memory

    def remember(self, memory: Memory) -> None: ...

    def see(self, volume: VirtualVolume) -> None: ...

    def background(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` beside, then plan anew. One at a time for a key."""
        ...

    def begin_hold(self) -> None:
        """Write the hold's deadline where the watchdog finds it."""
        ...

    def end_hold(self) -> None: ...


class Executor:
    """Does a step for a volume. Raises what the port raises."""

    def __init__(self, ports: Ports, devices: Devices, silence: Silence) -> None:
        self._ports, self._devices, self._silence = ports, devices, silence
        self._table: dict[type[Step], Callable[[Bench, Any], Awaitable[object]]] = {
            steps.Remember: self._remember,
            steps.Record: self._record,
            steps.PutLeg: lambda bench, s: devices.put_leg(s.device, s.entry),
            steps.DropLeg: lambda bench, s: devices.drop_leg(s.device, s.volume, s.leg),
            steps.Zero: self._zero,
            steps.Export: self._export,
            steps.Resize: lambda bench, s: ports.nvmet.resize(s.nqn),
            steps.Unexport: lambda bench, s: ports.nvmet.unexport(s.nqn),
            steps.CreateDm: lambda bench, s: ports.dm.create(s.name, names.dm_uuid(s.name), s.table),
            steps.SwapDm: lambda bench, s: ports.dm.swap(s.name, s.table),
            steps.RemoveDm: lambda bench, s: ports.dm.remove(s.name),
            steps.Suspend: self._suspend,
            steps.Resume: self._resume,
            steps.Sever: self._sever,
            steps.KillPods: lambda bench, s: ports.pods.kill(s.major_minor),
            steps.GateHold: lambda bench, s: ports.dm.gate_hold(s.name),
            steps.GateFail: lambda bench, s: ports.dm.gate_fail(s.name),
            steps.GateReinstate: lambda bench, s: ports.dm.gate_reinstate(s.name, s.major_minor),
            steps.GateFailPath: lambda bench, s: ports.dm.gate_fail_path(s.name, s.major_minor),
            steps.Flush: lambda bench, s: ports.block.flush(names.dm_path(s.name)),
            steps.Connect: self._connect,
            steps.Disconnect: lambda bench, s: ports.nvme.disconnect(s.nqn),
            steps.Assemble: self._assemble,
            steps.Add: self._add,
            steps.MdFail: lambda bench, s: ports.md.fail(s.name, s.major_minor),
            steps.AcknowledgeFailure: lambda bench, s: ports.md.acknowledge_failure(s.name, s.major_minor),
            steps.Acknowledge: lambda bench, s: ports.md.acknowledge(s.name),
            steps.Freeze: lambda bench, s: ports.md.freeze(s.name),
            steps.Unfreeze: lambda bench, s: ports.md.unfreeze(s.name),
            steps.SetSpeed: lambda bench, s: ports.md.set_speed(s.name, s.max_kib, background=s.background),
            steps.Check: lambda bench, s: ports.md.check(s.name, s.first, s.last),
            steps.EndCheck: lambda bench, s: ports.md.end_check(s.name),
            steps.Grow: self._grow,
            steps.Stop: self._stop,
        }

    async def do(self, bench: Bench, step: Step) -> None:
        """Carry out one step."""
        await self._table[type(step)](bench, step)

    # --- what is more than one call ---

    async def _remember(self, bench: Bench, step: Remember) -> None:
        bench.remember(step.apply(bench.memory))

    async def _record(self, bench: Bench, step: steps.Record) -> None:
        kube, name = self._ports.kube, bench.volume.metadata.name
        epoch = bench.volume.status.attachment.epoch
        if epoch != bench.memory.epoch:
            # The patch tests what the newest object says; this was decided under another epoch.
            raise Conflict(
                f"{name} is under epoch {epoch} now, not {bench.memory.epoch}: leg {step.leg} is looked at again"
            )
        try:
            bench.see(await kube.patch(VirtualVolume, name, record.patch(bench.volume, step), status=True))
        except MillpondError:
            # Refused, or nobody knows: what stands in the record now is what counts.
            with contextlib.suppress(MillpondError):
                bench.see(await kube.get(VirtualVolume, name))
            raise

    async def _zero(self, bench: Bench, step: steps.Zero) -> None:
        async def work() -> None:
            await self._ports.block.zero(names.dm_path(step.name), step.start_bytes)
            for device in step.devices:
                await self._devices.leg_ready(device, step.volume, step.leg, step.prepared_bytes)

        bench.background(f"zero {step.leg}", work())

    async def _connect(self, bench: Bench, step: steps.Connect) -> None:
        async def work() -> None:
            await self._ports.nvme.connect(
                step.nqn,
                step.address,
                host_nqn=step.host_nqn,
                host_id=step.host_id,
                namespace_uuid=step.namespace_uuid,
            )

        bench.background(f"connect {step.nqn}", work())

    async def _export(self, bench: Bench, step: steps.Export) -> None:
        await self._ports.nvmet.export(
            step.nqn,
            names.dm_path(step.name),
            namespace_uuid=step.namespace_uuid,
            serial=step.serial,
            host_nqn=step.host_nqn,
            address=step.address,
            port=step.port,
        )

    async def _assemble(self, bench: Bench, step: steps.Assemble) -> None:
        chunks = set(bench.memory.dirty)
        for name in step.dirty_from:
            chunks |= {(first, last) for first, last in await self._ports.md.dirty_chunks(names.dm_path(name))}
        if chunks:
            bench.remember(msgspec.structs.replace(bench.memory, dirty=tuple(sorted(chunks))))
        await self._ports.md.assemble(
            step.name,
            raid_disks=step.raid_disks,
            component_sectors=step.component_sectors,
            members=step.members,
            dirty_chunks=tuple(sorted(chunks)),
        )
        bench.remember(step.after.apply(bench.memory))

    async def _add(self, bench: Bench, step: steps.Add) -> None:
        chunks = await self._ports.md.dirty_chunks(names.dm_path(step.dirty_from)) if step.dirty_from else ()
        await self._ports.md.add(
            step.name,
            step.slot,
            step.major_minor,
            delta=step.delta,
            write_mostly=step.write_mostly,
            dirty_chunks=chunks,
        )

    async def _suspend(self, bench: Bench, step: steps.Suspend) -> None:
        bench.begin_hold()
        try:
            await self._ports.dm.suspend(step.name)
        except MillpondError:
            # Not drained in time, or unknown: nobody is to be left holding.
            await asyncio.shield(self._ports.dm.resume(step.name))
            bench.end_hold()
            raise

    async def _resume(self, bench: Bench, step: steps.Resume) -> None:
        await self._ports.dm.resume(step.name)
        bench.end_hold()

    async def _grow(self, bench: Bench, step: steps.Grow) -> None:
        if not step.front:
            return await self._ports.md.grow(step.name, step.component_sectors)
        await self._suspend(bench, steps.Suspend(name=step.front))
        try:
            await self._ports.md.grow(step.name, step.component_sectors)
        finally:
            await asyncio.shield(self._resume(bench, steps.Resume(name=step.front)))

    async def _sever(self, bench: Bench, step: steps.Sever) -> None:
        async def work() -> None:
            await self._ports.dm.swap(step.name, step.table, drain_seconds=_SEVER_SECONDS)
            bench.end_hold()

        bench.background(steps.SEVERING, work())

    async def _stop(self, bench: Bench, step: steps.Stop) -> None:
        async with self._silence(step.name):
            await self._ports.md.stop(step.name)
