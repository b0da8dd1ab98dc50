"""A volume on one machine: what the tests of the kernel tier build, break and look at."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from millpond_adapters import nvmet, sysfs
from millpond_adapters.block import BlockDevices
from millpond_adapters.dm import DeviceMapper
from millpond_adapters.md import MdRaid
from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import MillpondError
from millpond_core.model.virtualvolume import Extent
from millpond_core.observed import Array, GateStatus
from millpond_core.units import BITMAP_BYTES, LABEL_BYTES, MIB, SECTOR, UNIT_BYTES, leg_units

RAM_DISKS = 4
LEG_UNITS = 8
RAM_MIB = (1 + LEG_UNITS) * UNIT_BYTES // MIB
VOLUME_BYTES = 28 * MIB
BLOCK = 65536
BLOCKS = VOLUME_BYTES // BLOCK

block = BlockDevices()
dm = DeviceMapper()
md = MdRaid()


class Killed(BaseException):
    """The process is gone: nothing after it is done either."""


class Life:
    """Of who drives the kernel: it ends after so many writes to sysfs, and programs of nvmet's; None: it does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self._write, self._run = sysfs.write, nvmet.run
        monkeypatch.setattr(sysfs, "write", self.write)
        monkeypatch.setattr(sysfs, "write_all", self.write_all)
        monkeypatch.setattr(nvmet, "run", self.run)

    def _step(self) -> None:
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1

    async def write(self, path: Path, value: str, *, seconds: float = 5.0) -> None:
        self._step()
        await self._write(path, value, seconds=seconds)

    async def write_all(self, writes: Sequence[tuple[Path, str]], *, seconds: float = 10.0) -> None:
        for path, value in writes:
            await self.write(path, value, seconds=seconds)

    async def run(self, *argv: str, seconds: float = 10.0) -> bytes:
        self._step()
        return await self._run(*argv, seconds=seconds)


async def gate_status(gate: str) -> GateStatus:
    """How a gate stands now."""
    found = (await dm.list())[gate].gate
    assert found is not None, f"{gate} is no gate"
    return found


class Volume:
    """Legs ``a``, ``b``, ``c`` … on ramdisks 0, 1, 2 …, each behind path and gate, an array and a front."""

    def __init__(self) -> None:
        self.uuid = str(uuid.uuid4())
        self.array = names.array(self.uuid)
        self.front = names.front(self.uuid)
        self.resized(VOLUME_BYTES)
        self.written: dict[int, bytes] = {}
        """What each block of the volume must hold: the last acknowledged write."""
        self.in_doubt: set[int] = set()
        """Blocks with a write that was begun and not acknowledged."""
        self.compare_at_end = True
        self.disks: dict[str, str] = {}
        """Leg → major:minor of what it lies on, where that is not its ramdisk."""
        self._in_sync: tuple[str, ...] = ()
        self._legs: dict[str, str] = {}
        self._gates: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._broken: set[str] = set()
        self._writers: set[asyncio.Task[float]] = set()
        self._stop_answering: Callable[[], None] | None = None
        self._answers: set[asyncio.Task[Any]] = set()
        self._silent = 0

    def resized(self, size: int) -> None:
        """Of so many bytes from now on."""
        self.size = size
        self.component = layout.component_sectors(size)

    # --- legs ---

    async def legs(self, ids: str, *, holding: str | None = None) -> None:
        """Make the leg, path and gate of each id; those in ``holding`` (default: all) hold."""
        await asyncio.gather(*(self._make_leg(leg, holding is None or leg in holding) for leg in ids))

    async def bare_legs(self, ids: str) -> None:
        """Legs without path and gate: to be exported."""
        for leg in ids:
            name = self.leg_name(leg)
            self._legs[leg] = (await dm.create(name, names.dm_uuid(name), self.leg_table(leg))).major_minor
            await self.zero(leg)

    async def _make_leg(self, leg: str, holding: bool) -> None:
        await self.bare_legs(leg)
        await self.connect(leg, holding=holding)

    async def connect(self, leg: str, *, to: str = "", holding: bool = True) -> None:
        """Make path and gate of a leg; the path leads ``to`` a device, the leg itself by default."""
        path, gate = names.path(self.uuid, leg), names.gate(self.uuid, leg)
        made = await dm.create(path, names.dm_uuid(path), layout.path_table(to or self._legs[leg], self.size))
        self._paths[leg] = made.major_minor
        table = layout.gate_table(made.major_minor, self.size, holding=holding)
        self._gates[leg] = (await dm.create(gate, names.dm_uuid(gate), table)).major_minor

    async def zero(self, leg: str) -> None:
        await run("blkdiscard", "-z", f"/dev/mapper/{names.leg(self.uuid, leg)}", seconds=30)

    async def break_leg(self, leg: str) -> None:
        """Every access fails from now on."""
        self._broken.add(leg)
        await dm.swap(names.leg(self.uuid, leg), layout.error_table(self.size))

    async def heal(self, leg: str) -> None:
        """The leg answers again; its gate does not know yet."""
        await dm.swap(names.leg(self.uuid, leg), self.leg_table(leg))
        self._broken.discard(leg)

    async def reinstate(self, leg: str) -> None:
        await dm.gate_reinstate(names.gate(self.uuid, leg), self.path_number(leg))

    def leg_name(self, leg: str) -> str:
        return names.leg(self.uuid, leg)

    def written_kib(self, leg: str) -> int:
        """Written to a leg since it was made."""
        number = Path(f"/dev/mapper/{self.leg_name(leg)}").stat().st_rdev
        stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
        return int(stat[6]) // 2

    async def images(self, ids: str) -> dict[str, bytes]:
        """What lies on the legs' ramdisks at this moment; the legs may be suspended."""
        found = {}
        for leg in ids:
            where = (f"if=/dev/ram{ord(leg) - ord('a')}", "bs=1M", f"skip={LABEL_BYTES // MIB}")
            size = f"count={LEG_UNITS * UNIT_BYTES // MIB}"
            found[leg] = await run("dd", *where, size, "iflag=direct", "status=none", seconds=30)
        return found

    async def restore(self, images: dict[str, bytes]) -> None:
        for leg, content in images.items():
            await self._put(f"/dev/mapper/{self.leg_name(leg)}", content)

    @staticmethod
    async def _put(device: str, data: bytes, *, skip: int = 0) -> None:
        argv = ("dd", f"of={device}", f"bs={BLOCK}", f"seek={skip}", "oflag=direct", "iflag=fullblock", "conv=notrunc")
        await run(*argv, "status=none", stdin=data, seconds=30)

    def gate_number(self, leg: str) -> str:
        return self._gates[leg]

    def path_number(self, leg: str) -> str:
        return self._paths[leg]

    async def swap_path(self, leg: str, to: str) -> None:
        await dm.swap(names.path(self.uuid, leg), layout.path_table(to, self.size))

    async def gate_hold(self, leg: str) -> None:
        await dm.gate_hold(names.gate(self.uuid, leg))

    async def gate_fail(self, leg: str) -> None:
        await dm.gate_fail(names.gate(self.uuid, leg))

    async def held(self, leg: str, *, seconds: float = 8) -> None:
        """Wait until the leg's gate holds I/O."""

        async def holds() -> bool:
            status = await gate_status(names.gate(self.uuid, leg))
            return status.holding and not status.path_up and status.queued > 0

        await until(holds, f"the gate of leg {leg} holds I/O", seconds=seconds)

    # --- array ---

    async def assemble(self, ids: str, *, disks: int | None = None, dirty: Sequence[tuple[int, int]] = ()) -> Array:
        """Assemble from ``ids``, all in sync, each in the slot of its letter; answer what needs no record."""
        members = [(ord(leg) - ord("a"), self.gate_number(leg), False) for leg in ids]
        array = await md.assemble(
            self.array,
            raid_disks=disks or len(ids),
            component_sectors=self.component,
            members=members,
            dirty_chunks=dirty,
        )
        self.begin_answering()
        return array

    async def look(self) -> Array:
        array = await md.get(self.array)
        assert array is not None
        return array

    async def add(self, leg: str, *, delta: bool, own: Sequence[tuple[int, int]] = ()) -> None:
        """``own``: the dirty chunks of the leg's own bitmap, where that matters."""
        slot, number = ord(leg) - ord("a"), self.gate_number(leg)
        await md.add(self.array, slot, number, delta=delta, write_mostly=False, dirty_chunks=own)

    async def grow_below(self, ids: str, size: int) -> None:
        """Legs, paths and gates for a volume of ``size`` bytes; the array and the front stay as they are."""
        used, component = layout.leg_sectors(self.size) * SECTOR, self.component
        self.resized(size)
        self.component = component
        for leg in ids:
            await dm.swap(self.leg_name(leg), self.leg_table(leg))
            await block.zero(f"/dev/mapper/{self.leg_name(leg)}", used)
            await dm.swap(names.path(self.uuid, leg), layout.path_table(self._legs[leg], size))
            await dm.swap(names.gate(self.uuid, leg), layout.gate_table(self.path_number(leg), size, holding=True))

    async def grow(self, ids: str, size: int) -> None:
        """All of it, the front held for a moment."""
        await self.grow_below(ids, size)
        await dm.suspend(self.front)
        try:
            await md.grow(self.array, layout.component_sectors(size))
        finally:
            await dm.resume(self.front)
        self.resized(size)
        await dm.swap(self.front, layout.front_table((await self.look()).major_minor, size))

    async def drop(self, leg: str) -> None:
        """The leg is lost and recorded: fail it, acknowledge it."""
        number = self.gate_number(leg)
        await self.gate_fail(leg)
        await md.fail(self.array, number)
        await md.acknowledge_failure(self.array, number)

    async def leave_b_behind(self) -> None:
        """Two legs; b is dropped, a is written to, and the array is stopped."""
        await self.legs("ab")
        await self.assemble("ab")
        await self.write(0, 20)
        await self.drop("b")
        await self.write(100, 20)
        await self.write(300, 3)
        await self.stop()
        await self.gate_hold("b")

    async def stop(self) -> None:
        await self._note_in_sync()
        self.end_answering()
        await md.stop(self.array)

    async def dirty(self, ids: str) -> list[tuple[int, int]]:
        """Union of the dirty chunks on the legs' devices."""
        chunks: set[int] = set()
        for leg in ids:
            for first, last in await md.dirty_chunks(f"/dev/mapper/{names.leg(self.uuid, leg)}"):
                chunks.update(range(first, last + 1))
        return [(chunk, chunk) for chunk in sorted(chunks)]

    async def in_sync(self, leg: str, *, seconds: float = 20) -> None:
        """Wait until md calls the leg in sync and nothing runs any more."""
        number = self.gate_number(leg)

        async def arrived() -> bool:
            array = await self.look()
            member = next((m for m in array.members if m.major_minor == number), None)
            synced = member is not None and "in_sync" in member.flags and array.sync_action == "idle"
            return synced and array.array_state != "write-pending"

        await until(arrived, f"leg {leg} in sync", seconds=seconds)

    @contextmanager
    def silence(self):  # type: ignore[no-untyped-def]
        """Nobody answers a write-pending meanwhile."""
        self._silent += 1
        try:
            yield
        finally:
            self._silent -= 1
            self._answer()

    # --- I/O ---

    async def make_front(self) -> None:
        array = await self.look()
        await dm.create(self.front, names.dm_uuid(self.front), layout.front_table(array.major_minor, self.size))

    async def write(self, block: int, count: int = 1, *, front: bool = False, seconds: float = 20) -> float:
        """Write blocks of 64 KiB past the page cache; seconds until they were acknowledged."""
        data = os.urandom(count * BLOCK)
        blocks = range(block, block + count)
        self.in_doubt.update(blocks)
        begun = time.monotonic()
        device = f"/dev/mapper/{self.front}" if front else f"/dev/md_{self.array}"
        argv = ("dd", f"of={device}", f"bs={BLOCK}", f"seek={block}", "oflag=direct", "iflag=fullblock")
        await run(*argv, "conv=notrunc", "status=none", stdin=data, seconds=seconds)
        for index, number in enumerate(blocks):
            self.written[number] = data[index * BLOCK : (index + 1) * BLOCK]
        self.in_doubt.difference_update(blocks)
        return time.monotonic() - begun

    async def read(self, block: int, count: int = 1) -> bytes:
        argv = ("dd", f"if=/dev/md_{self.array}", f"bs={BLOCK}", f"skip={block}", f"count={count}", "iflag=direct")
        return await run(*argv, "status=none", seconds=20)

    def start_write(
        self, block: int, count: int = 1, *, front: bool = False, seconds: float = 40
    ) -> asyncio.Task[float]:
        task = asyncio.create_task(self.write(block, count, front=front, seconds=seconds))
        self._writers.add(task)
        task.add_done_callback(self._writers.discard)
        return task

    # --- the end ---

    async def data(self, leg: str) -> bytes:
        """What lies on a leg behind its bitmap, read past the page cache."""
        file = os.open(f"/dev/mapper/{self.leg_name(leg)}", os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, self.component * 512) as buffer:
                assert os.preadv(file, [buffer], BITMAP_BYTES) == len(buffer)
                return buffer[:]
        finally:
            os.close(file)

    async def differing(self, one: str, other: str) -> bool:
        """Whether the data of two legs differ anywhere."""
        return await self.data(one) != await self.data(other)

    async def compare(self) -> None:
        """Every leg in sync holds every acknowledged write, and all are equal byte by byte."""
        if not self.compare_at_end:
            return
        await self._note_in_sync()
        if not self._in_sync:
            return  # there never was an array
        first = await self.data(self._in_sync[0])
        for block, data in self.written.items():
            if block not in self.in_doubt:
                held = first[block * BLOCK : (block + 1) * BLOCK]
                assert held == data, f"leg {self._in_sync[0]} lost the acknowledged write of block {block}"
        for other in self._in_sync[1:]:
            assert await self.data(other) == first, f"legs {self._in_sync[0]} and {other} differ"

    async def close(self, *, keep_legs: bool = False) -> None:
        """Heal and let everything flow, then take it down from the top."""
        self.end_answering()
        standing = present()
        if self.front in standing:
            await dm.resume(self.front)
        seen = await dm.list()
        for leg in self._legs:
            with contextlib.suppress(MillpondError):
                if leg in self._broken:
                    await self.heal(leg)
                gate = seen.get(names.gate(self.uuid, leg))
                if leg in self._broken or (gate is not None and gate.gate is not None and not gate.gate.path_up):
                    await self.reinstate(leg)
        for writer in list(self._writers):
            writer.cancel()
        array = await md.get(self.array)
        if array is not None:
            for member in array.members:
                if "faulty" in member.flags:
                    with contextlib.suppress(MillpondError):
                        await md.acknowledge_failure(self.array, member.major_minor)
            with contextlib.suppress(MillpondError):
                await md.acknowledge(self.array)
        await asyncio.gather(*self._writers, return_exceptions=True)
        if self.front in standing:
            await dm.remove(self.front)
        await md.stop(self.array)
        kinds = (names.gate, names.path) if keep_legs else (names.gate, names.path, names.leg)
        doomed = [kind(self.uuid, leg) for kind in kinds for leg in self._legs]
        doomed = [name for name in doomed if name in standing]
        try:
            await run("dmsetup", "remove", *doomed)
        except MillpondError:
            for name in doomed:  # one by one and patiently, with a reason when it does not go
                await dm.remove(name)

    def leg_table(self, leg: str) -> str:
        disk = self.disks.get(leg) or f"1:{ord(leg) - ord('a')}"
        extent = Extent(device=f"ram-{leg}", device_uuid=leg, start=0, length=leg_units(self.size))
        return layout.leg_table([extent], {leg: disk})

    async def _note_in_sync(self) -> None:
        array = await md.get(self.array)
        if array is not None:
            numbers = {number: leg for leg, number in self._gates.items()}
            members = [m for m in array.members if m.slot is not None and "in_sync" in m.flags]
            self._in_sync = tuple(sorted(numbers[member.major_minor] for member in members))

    def begin_answering(self) -> None:
        """Let writes go on that wait for a word and need no record."""
        self._stop_answering = md.watch(self.array, self._answer)
        self._answer()

    def _answer(self) -> None:
        if not self._silent and self._stop_answering is not None:
            task = asyncio.create_task(md.acknowledge(self.array))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    def end_answering(self) -> None:
        if self._stop_answering is not None:
            self._stop_answering()
            self._stop_answering = None
        for task in self._answers:
            task.cancel()


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 10) -> float:
    """Wait for a condition; seconds that it took. Fails the test when it does not come."""
    begun = time.monotonic()
    while not await condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


def present() -> set[str]:
    """Devices of ours in the kernel, by sysfs alone."""
    block = Path("/sys/block")
    arrays = {entry for entry in sysfs.entries(block) if entry.startswith("md_mp")}
    mapped = {sysfs.peek(block / entry / "dm/name") for entry in sysfs.entries(block) if entry.startswith("dm-")}
    return arrays | {name for name in mapped if name.startswith(names.DM_PREFIX)}
