"""md raid1 with metadata ``external:millpond``, through sysfs (Documentation/admin-guide/md.rst).

The kernel keeps no record of which leg is good: it asks. Whatever needs a record raises ``array_state`` to
``write-pending`` and new writes wait until ``active`` is written. The order of the writes below is the kernel's
demand or was found by measuring (docs/decisions); each odd one says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from millpond_adapters import rawio, sysfs
from millpond_core import names
from millpond_core.errors import Busy, Conflict, DeadlineExceeded, Invalid, MillpondError, NotFound
from millpond_core.layout import BITMAP_SECTORS, BITMAP_START_SECTORS, bitmap_chunk_bytes
from millpond_core.observed import Array, Member

METADATA = "external:millpond"
BITMAP_SECONDS = 5
"""How long a bit outlives its last write at least: md clears lazily, by rounds of this length."""

FLOOR_KIB = 40 * 1024
"""KiB/s below which a rebuild is not slowed by I/O.

md's own floor is 1 MiB/s: on a busy volume of 50 GiB that is 14 hours on one copy. 40 MiB/s makes it 21 minutes and
leaves two thirds of a gigabit link, and nearly all of an SSD, to the volume's users.
"""

BACKGROUND_KIB = 1024
"""The same for what can wait: md's own."""

_SETTLE_SECONDS = 3.0
_TURN_SECONDS = 2.0
FREEZE_SECONDS = 5.0
RUN_SECONDS = 20.0  # running reads the bitmap through every gate
STOP_SECONDS = 20.0  # stopping flushes the bitmap through every gate
_BITMAP_SECONDS = 10.0
_BITMAP_BYTES = (BITMAP_SECTORS - BITMAP_START_SECTORS) * 512


class MdRaid:
    """The port ``Md``. ``system`` and ``device_nodes`` are the folders of sysfs and of device nodes."""

    def __init__(self, system: Path = Path("/sys"), device_nodes: Path = Path("/dev")) -> None:
        self._sys = system
        self._dev = device_nodes

    async def get(self, name: str) -> Array | None:
        return read_array(self._md(name), name, self._dev)

    async def list(self) -> dict[str, Array]:
        prefix = f"md_{names.MD_PREFIX}"
        found = {}
        for entry in sysfs.entries(self._sys / "block"):
            if entry.startswith(prefix):
                name = entry.removeprefix("md_")
                array = read_array(self._md(name), name, self._dev)
                if array is not None:
                    found[name] = array
        return found

    async def assemble(
        self,
        name: str,
        *,
        raid_disks: int,
        component_sectors: int,
        members: Sequence[tuple[int, str, bool]],
        dirty_chunks: Sequence[tuple[int, int]] = (),
    ) -> Array:
        md = self._md(name)
        if not members:
            raise Invalid(f"array {name} cannot be assembled from no legs")
        state = sysfs.peek(md / "array_state", "clear")
        if state != "clear":
            raise Conflict(f"array {name} is there already, {state}: stop it before assembling it anew")
        try:
            await self._begin(name, raid_disks, component_sectors)
            for slot, major_minor, write_mostly in members:
                await self._take_in(md, slot, major_minor, component_sectors, in_sync=True, write_mostly=write_mostly)
            await self._run(md, component_sectors)
            await self._set_bits(md, dirty_chunks)
        except MillpondError:
            await self._undo(name)
            raise
        array = await self.get(name)
        if array is None:
            raise NotFound(f"array {name} vanished while it was assembled")
        return array

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
        md = self._md(name)
        present = await self._member(name, major_minor)
        if present is not None and (present.slot not in (slot, None) or "faulty" in present.flags):
            raise Conflict(f"{major_minor} is in array {name} already: slot {present.slot}, {sorted(present.flags)}")
        if present is not None and present.slot == slot:
            return
        component = 2 * int(sysfs.read(md / "component_size"))
        was_frozen = sysfs.read(md / "sync_action") == "frozen"
        # frozen, or md would start to copy at once, before the offset is set
        await self.freeze(name)
        try:
            left_over = self._folder(md, major_minor)
            if left_over is not None:
                await self._discard(name, left_over)
            if slot >= int(sysfs.read(md / "raid_disks").split()[0]):
                if delta:
                    raise Invalid(
                        f"slot {slot} of array {name} is new, so its bitmap knows nothing of {major_minor}: "
                        "it needs a whole copy"
                    )
                await sysfs.write(md / "raid_disks", str(slot + 1))
            await self._set_bits(md, dirty_chunks)
            # Where an interrupted check was to end a rebuild would wait for ever, too.
            await _unbounded(md)
            await self._take_in(md, slot, major_minor, component, in_sync=delta, write_mostly=write_mostly)
        except BaseException:
            if not was_frozen:
                await self.unfreeze(name)
            raise
        await self.unfreeze(name)

    async def fail(self, name: str, major_minor: str) -> None:
        member = self._folder(self._md(name), major_minor)
        if member is None or "faulty" in _words(sysfs.peek(member / "state")):
            return
        if sysfs.peek(member / "slot", "none") == "none":
            await self._discard(name, member)
        else:
            await sysfs.write(member / "state", "faulty")

    async def acknowledge_failure(self, name: str, major_minor: str) -> None:
        md = self._md(name)
        member = self._folder(md, major_minor)
        if member is None:
            return
        if "faulty" not in _words(sysfs.peek(member / "state", "faulty")):
            raise Conflict(f"{major_minor} of array {name} is not faulty: there is no failure to acknowledge")
        # Another leg that failed meanwhile and has no record yet stays blocked: writes go on waiting for that one.
        await sysfs.write_all([(member / "state", "-blocked"), (md / "array_state", "active")])
        await self._leave(name, member)

    async def acknowledge(self, name: str) -> bool:
        array = await self.get(name)
        if array is None or any({"faulty", "blocked"} <= member.flags for member in array.members):
            return False
        # A leg that fails between this look and the write below is blocked by itself until its record is made.
        if array.array_state == "write-pending":
            await sysfs.write(self._md(name) / "array_state", "active")
        return True

    async def freeze(self, name: str) -> None:
        md = self._md(name)
        if sysfs.read(md / "sync_action") != "frozen":
            await sysfs.write(md / "sync_action", "frozen", seconds=FREEZE_SECONDS)
        await self.acknowledge(name)

    async def unfreeze(self, name: str) -> None:
        md = self._md(name)
        if sysfs.read(md / "sync_action") != "frozen":
            return
        for member in _folders(md):
            if _half_added(member):
                await self._discard(name, member)
        await sysfs.write(md / "sync_action", "idle")

    async def set_speed(self, name: str, max_kib: int, *, background: bool = False) -> None:
        md = self._md(name)
        floor = BACKGROUND_KIB if background else FLOOR_KIB
        floor = min(floor, max_kib) if max_kib else floor
        ceiling = str(max_kib) if max_kib else "system"
        await sysfs.write_all([(md / "sync_speed_min", str(floor)), (md / "sync_speed_max", ceiling)])

    async def check(self, name: str, first: int, last: int) -> None:
        md = self._md(name)
        action = sysfs.read(md / "sync_action")
        if action != "idle":
            raise Busy(f"array {name} cannot be checked: {action} is under way")
        await _unbounded(md)
        await sysfs.write_all(
            [
                (md / "sync_min", str(first)),
                (md / "sync_max", str(last)),
                (md / "sync_action", "check"),
            ]
        )

    async def end_check(self, name: str) -> None:
        md = self._md(name)
        if sysfs.read(md / "sync_action") == "check":
            await sysfs.write(md / "sync_action", "idle", seconds=FREEZE_SECONDS)
        await self.acknowledge(name)
        await _unbounded(md)

    async def grow(self, name: str, component_sectors: int) -> None:
        md = self._md(name)
        component = 2 * int(sysfs.read(md / "component_size"))
        if component >= component_sectors:
            return
        if (chunk := bitmap_chunk_bytes(component_sectors)) != bitmap_chunk_bytes(component):
            raise Invalid(f"array {name} would have a bitmap of {chunk} bytes a bit, which its legs' is not")
        members = _folders(md)
        for member in members:
            self._fits(name, sysfs.read(member / "block/dev"), component_sectors)
        size = str(component_sectors // 2)
        was_frozen = sysfs.read(md / "sync_action") == "frozen"
        # frozen, or md would refuse while it compares, and begin to copy what is equal: zeroes
        await self.freeze(name)
        try:
            writes = [(member / "size", size) for member in members]
            writes += [(md / "component_size", size), (md / "resync_start", "none")]
            await sysfs.write_all(writes, seconds=RUN_SECONDS)
        finally:
            if not was_frozen:
                await self.unfreeze(name)

    async def dirty_chunks(self, leg_device: str) -> Sequence[tuple[int, int]]:
        # In one request: block by block it took longer than anybody waits, over a slow link.
        bitmap = await rawio.read(leg_device, BITMAP_START_SECTORS * 512, _BITMAP_BYTES, seconds=_BITMAP_SECONDS)
        if len(bitmap) != _BITMAP_BYTES:
            raise Invalid(f"{leg_device} is too short for a bitmap: {len(bitmap)} bytes of {_BITMAP_BYTES}")
        return runs_of_bits(bitmap)

    async def stop(self, name: str) -> None:
        md = self._md(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SETTLE_SECONDS
        while md.exists():
            try:
                await self._its_turn(md)
                # Also where nothing is in it yet: without this word a named array stays for ever.
                await sysfs.write(md / "array_state", "clear", seconds=STOP_SECONDS)
                break
            except NotFound:
                break
            except Busy as error:
                if loop.time() > deadline:
                    said = f"array {name} cannot be stopped: it is open or a write waits in it"
                    raise Busy(f"{said} ({error})") from error
                await asyncio.sleep(0.1)
        # A named array's folder goes a moment later; the name cannot be used again before.
        deadline = loop.time() + _SETTLE_SECONDS
        while md.exists():
            if loop.time() > deadline:
                raise DeadlineExceeded(f"array {name} is stopped, but its device is still there: who has it open?")
            await asyncio.sleep(0.02)

    @staticmethod
    async def _its_turn(md: Path) -> None:
        """Wait until nobody else changes the array. Raises Busy when that takes long, as where its start waits for a
        leg.

        Whoever stops an array waits in the kernel for its turn, and since 6.9 has marked the array as closing by then.
        If he is killed while he waits the mark stays (``array_state_store`` in ``drivers/md/md.c``), and nothing opens
        the array or stops it any more before the node boots anew. So we wait with a word that changes nothing.
        """
        try:
            await sysfs.write(md / "metadata_version", METADATA, seconds=_TURN_SECONDS)
        except DeadlineExceeded as error:
            raise Busy(f"array {md.parent.name} waits for a leg, and cannot be stopped before that is over") from error

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        md = self._md(name)
        return sysfs.watch((md / "array_state", md / "sync_action", md / "degraded"), changed)

    def _md(self, name: str) -> Path:
        if not name.startswith(names.MD_PREFIX) or "/" in name:
            raise Invalid(f"{name!r} is not one of Millpond's arrays: their names begin with {names.MD_PREFIX}")
        return self._sys / "block" / f"md_{name}" / "md"

    async def _begin(self, name: str, raid_disks: int, component_sectors: int) -> None:
        md = self._md(name)
        if not md.exists():
            await sysfs.write(self._sys / "module/md_mod/parameters/new_array", f"md_{name}")
        await sysfs.write_all(
            [
                (md / "metadata_version", METADATA),
                (md / "level", "raid1"),
                (md / "raid_disks", str(raid_disks)),
                (md / "component_size", str(component_sectors // 2)),
            ]
        )

    async def _run(self, md: Path, component_sectors: int) -> None:
        await sysfs.write_all(
            [
                (md / "bitmap/metadata", "external"),
                # chunksize and time_base before location, or the array refuses to run
                (md / "bitmap/chunksize", str(bitmap_chunk_bytes(component_sectors))),
                (md / "bitmap/time_base", str(BITMAP_SECONDS)),
                (md / "bitmap/location", f"+{BITMAP_START_SECTORS}"),
                # without it md would coarsen the bitmap when the array grows, and nobody would know
                (md / "bitmap/space", str(BITMAP_SECTORS - BITMAP_START_SECTORS)),
                (md / "resync_start", "none"),
                (md / "array_state", "active"),
                # Never clean again by itself: each change back would make the next write wait for us.
                (md / "safe_mode_delay", "0"),
                (md / "array_state", "active"),
                (md / "sync_speed_min", str(FLOOR_KIB)),
            ],
            seconds=RUN_SECONDS,
        )

    async def _take_in(
        self, md: Path, slot: int, major_minor: str, component_sectors: int, *, in_sync: bool, write_mostly: bool
    ) -> None:
        self._fits(md.parent.name, major_minor, component_sectors)
        await sysfs.write(md / "new_dev", major_minor)
        member = self._folder(md, major_minor)
        if member is None:
            raise NotFound(f"{major_minor} was added to {md.parent.name}, but is not in it")
        writes = [(member / "offset", str(BITMAP_SECTORS)), (member / "size", str(component_sectors // 2))]
        writes += [(member / "state", "insync")] if in_sync else []
        writes += [(member / "slot", str(slot))]
        # after the slot: giving one to a leg of an array that does not run yet takes the mark off
        writes += [(member / "state", "writemostly")] if write_mostly else []
        await sysfs.write_all(writes)

    def _fits(self, name: str, major_minor: str, component_sectors: int) -> None:
        """md takes our word for the size; a short leg would fail only when its end is reached."""
        size, needed = int(sysfs.peek(self._sys / "dev/block" / major_minor / "size", "0")), component_sectors
        if size < BITMAP_SECTORS + needed:
            raise Invalid(f"{major_minor} has {size} sectors; array {name} needs {BITMAP_SECTORS + needed}")

    async def _discard(self, name: str, member: Path) -> None:
        """Take out of a frozen array what has no place in it: half added, or given up by md.

        Told to remove it, md would first give it a place, with the offset and the mark that it happens to have
        (tests/kernel/test_killed.py). So it gets one from us, after the offset, and fails in it.
        """
        md = self._md(name)
        writes = []
        if sysfs.read(member / "size") == "0":
            writes = [(member / "offset", str(BITMAP_SECTORS)), (member / "size", sysfs.read(md / "component_size"))]
        taken = {sysfs.peek(folder / "slot") for folder in _folders(md)}
        free = [slot for slot in map(str, range(int(sysfs.read(md / "raid_disks").split()[0]))) if slot not in taken]
        try:
            await sysfs.write_all([*writes, (member / "slot", free[0])] if free else writes)
        except Busy:
            free = []
        if not free:  # md does not take it, so it does not when it removes it
            await sysfs.write(member / "state", "remove")
            return
        await sysfs.write(member / "state", "faulty")
        await self.acknowledge_failure(name, sysfs.read(member / "block/dev"))

    @staticmethod
    async def _set_bits(md: Path, chunks: Sequence[tuple[int, int]]) -> None:
        """Mark chunks dirty, on the legs too. Several writes, because an attribute takes one page at a time."""
        words = [f"{first}-{last}" if last > first else f"{first}" for first, last in chunks]
        lines = (" ".join(words[start : start + 128]) for start in range(0, len(words), 128))
        await sysfs.write_all([(md / "bitmap_set_bits", line) for line in lines])

    async def _leave(self, name: str, member: Path) -> None:
        """Take a failed leg out, once nothing is in flight to it.

        md empties its slot by itself, but not while another leg is rebuilt: that is halted for a moment.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SETTLE_SECONDS
        halted = False
        try:
            while member.exists():
                # A rebuild that is interrupted, by the failure or by us, asks once more, for its checkpoint.
                await self.acknowledge(name)
                try:
                    await sysfs.write(member / "state", "remove")
                    return
                except NotFound:
                    return
                except Busy:
                    if loop.time() > deadline:
                        raise
                if sysfs.peek(self._md(name) / "sync_action") not in ("", "idle", "frozen"):
                    halted = True
                    await self.freeze(name)
                await asyncio.sleep(0.02)
        finally:
            if halted:
                await self.unfreeze(name)

    async def _undo(self, name: str) -> None:
        try:
            await self.stop(name)
        except MillpondError:
            return  # the first error is the one to tell; the next assembly meets this array and says so

    async def _member(self, name: str, major_minor: str) -> Member | None:
        array = await self.get(name)
        if array is None:
            raise NotFound(f"there is no array {name}")
        return next((member for member in array.members if member.major_minor == major_minor), None)

    @staticmethod
    def _folder(md: Path, major_minor: str) -> Path | None:
        return next((member for member in _folders(md) if sysfs.peek(member / "block/dev") == major_minor), None)


def _folders(md: Path) -> list[Path]:
    """Those of an array's members."""
    return [md / entry for entry in sysfs.entries(md) if entry.startswith("dev-")]


async def _unbounded(md: Path) -> None:
    """No bounds for what is copied or compared next. The end first: a beginning behind it is refused."""
    await sysfs.write_all([(md / "sync_max", "max"), (md / "sync_min", "0")])


def _half_added(member: Path) -> bool:
    """Whether md, let go, would write to a leg at the wrong offset, or take it for in sync."""
    words = _words(sysfs.peek(member / "state"))
    if sysfs.peek(member / "slot") != "none" or "faulty" in words:
        return False
    return "in_sync" in words or sysfs.peek(member / "size") == "0"


def read_array(md: Path, name: str, device_nodes: Path = Path("/dev")) -> Array | None:
    """The array whose sysfs folder is ``md``; None when there is none, it is not ours, it is just going away, or nobody
    came further than to name it: whoever assembles it goes on from there.
    """
    try:
        state = sysfs.read(f"{md}/array_state")
        if sysfs.read(f"{md}/metadata_version") != METADATA or state == "clear":
            return None
        done, total = parse_progress(sysfs.peek(f"{md}/sync_completed", "none"))
        return Array(
            name=name,
            device=str(device_nodes / f"md_{name}"),
            major_minor=sysfs.read(md.parent / "dev"),
            array_state=state,
            raid_disks=int(sysfs.read(f"{md}/raid_disks").split()[0]),
            component_sectors=2 * int(sysfs.read(f"{md}/component_size")),
            degraded=int(sysfs.peek(f"{md}/degraded", "0")),
            sync_action=sysfs.peek(f"{md}/sync_action", "idle"),
            sync_done_sectors=done,
            sync_total_sectors=total,
            mismatch_count=int(sysfs.peek(f"{md}/mismatch_cnt", "0")),
            members=tuple(_members(md)),
            sync_min_sectors=int(sysfs.peek(f"{md}/sync_min", "0")),
            sync_max_sectors=None if (end := sysfs.peek(f"{md}/sync_max", "max")) == "max" else int(end),
            last_sync_action=sysfs.peek(f"{md}/last_sync_action", "none"),
        )
    except NotFound:
        return None


def _members(md: Path) -> Iterable[Member]:
    return sorted(_unsorted_members(md), key=lambda member: (member.slot is None, member.slot, member.major_minor))


def _unsorted_members(md: Path) -> Iterable[Member]:
    for entry in sysfs.entries(md):
        if not entry.startswith("dev-"):
            continue
        folder = f"{md}/{entry}"
        try:
            slot, recovery = sysfs.read(f"{folder}/slot"), sysfs.read(f"{folder}/recovery_start")
            yield Member(
                major_minor=sysfs.peek(f"{folder}/block/dev"),
                slot=None if slot == "none" else int(slot),
                flags=_words(sysfs.read(f"{folder}/state")),
                recovery_start=None if recovery == "none" else int(recovery),
                errors=int(sysfs.read(f"{folder}/errors")),
            )
        except NotFound:
            continue  # taken out while we looked


def parse_progress(text: str) -> tuple[int, int]:
    """(done, total) sectors from ``sync_completed``: ``12345 / 67890``, ``none`` or ``delayed``."""
    done, separator, total = text.partition(" / ")
    return (int(done), int(total)) if separator else (0, 0)


def runs_of_bits(bitmap: bytes) -> list[tuple[int, int]]:
    """(first, last) of each run of set bits; bit n of the area is chunk n, the lowest bit of a byte first."""
    runs: list[tuple[int, int]] = []
    for index, byte in enumerate(bitmap):
        if not byte:
            continue
        for bit in range(8):
            if byte >> bit & 1:
                chunk = index * 8 + bit
                if runs and runs[-1][1] == chunk - 1:
                    runs[-1] = (runs[-1][0], chunk)
                else:
                    runs.append((chunk, chunk))
    return runs


def _words(state: str) -> frozenset[str]:
    return frozenset(word.strip() for word in state.split(",") if word.strip())
