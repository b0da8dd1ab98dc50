"""md raid1 with external metadata, as far as it was measured, its unkind parts included.

* What needs a record raises ``write-pending``: new writes wait until ``active``.
* A write that was in flight when a member failed is acknowledged when the others have it: nobody is asked.
* Bits of a bitmap that is loaded at assembly are forgotten, unless they are set again (kernel-facts 6).
* A flush is acknowledged when every member has answered, whatever it answered (tests/kernel, ``test_sever.py``).
* A member that failed leaves when the writes that failed on it are done on all others (e2e/faults found it).
* A failed write on the last good member breaks the array for every later write (kernel-facts 16).
* A rebuild ends at a place that can be read from no leg; its target loses its slot (tests/kernel, ``test_medium.py``).
* A check waits where it was told to end, and what was told stays when it is interrupted: a rebuild would wait there,
  too. One that comes to the end of the array is over, and forgets it (tests/kernel, ``test_check.py``).
* Bits are cleared lazily, each leg flushed before its own copy of the bit goes; never while a member is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from millpond_core.layout import BITMAP_SECTORS, BITMAP_START_SECTORS, bitmap_chunk_bytes
from millpond_core.observed import Array, Member
from millpond_core.testing.world.requests import Request
from millpond_core.units import SECTOR

if TYPE_CHECKING:
    from millpond_core.testing.world.machine import Machine

BLOCK_SECTORS = 8
"""Reads and writes in this world are of one block of 4 KiB."""

_LAZY_TICKS = 2


class MdMember:
    """One member of an array."""

    def __init__(self, major_minor: str, slot: int, *, in_sync: bool, delta: bool, write_mostly: bool) -> None:
        self.major_minor, self.write_mostly = major_minor, write_mostly
        self.slot: int | None = slot
        """None: md has given up copying to it."""
        self.in_sync, self.delta = in_sync, delta
        self.faulty = False
        self.blocked = False
        self.copied = 0
        """Chunks that the rebuild has passed."""

    @property
    def good(self) -> bool:
        return self.in_sync and not self.faulty

    def observed(self, chunk: int) -> Member:
        flags = {name for name in ("in_sync", "faulty", "blocked", "write_mostly") if getattr(self, name)}
        if self.faulty:
            flags.discard("in_sync")
        if not flags & {"in_sync", "faulty"}:
            flags.add("spare")
        start = None if self.in_sync else self.copied * chunk
        return Member(major_minor=self.major_minor, slot=self.slot, flags=frozenset(flags), recovery_start=start)


class Write:
    """One write of a pod, with its flush (FUA) unless ``fua`` is False; or a ``flush`` alone."""

    def __init__(self, sector: int, value: int, *, fua: bool = True, flush: bool = False) -> None:
        self.sector, self.value, self.fua, self.flush = sector, value, fua, flush
        self.state: Literal["waiting", "started", "acknowledged", "failed", "lost"] = "waiting"
        self.killed = False
        """Its pod was: nobody hears what becomes of it."""
        self.left: dict[str, list[str]] = {}
        """major:minor of a member → what is still to be done on it, in order: bit, data."""
        self.reached: set[str] = set()
        self.failed: set[str] = set()
        """Members that answered it with an error: it counts as in flight there until it is done everywhere."""

    @property
    def done(self) -> bool:
        return self.state in ("acknowledged", "failed", "lost")


class MdArray:
    """One running array."""

    def __init__(self, machine: Machine, name: str, *, raid_disks: int, component_sectors: int) -> None:
        self.machine, self.name = machine, name
        self.major_minor = machine.number("9")
        self.raid_disks, self.component_sectors = raid_disks, component_sectors
        self.chunk = bitmap_chunk_bytes(component_sectors) // SECTOR
        self.chunks = -(-component_sectors // self.chunk)
        self.members: list[MdMember] = []
        self.state: Literal["clean", "active", "write-pending"] = "clean"
        self.frozen = False
        self.broken = False
        self.speed = 0
        self.checking = False
        self.checked = 0
        """Chunks that the check has passed."""
        self.sync_min = 0
        self.sync_max: int | None = None
        self.mismatches = 0
        self.last_action = "none"
        self.writes: list[Write] = []
        self.needed: set[int] = set()
        """Chunks that a missing member lacks."""
        self.fading: dict[int, int] = {}
        """Chunks whose bit goes after so many more rounds: written and complete, or loaded and not set again."""

    # --- what sysfs shows ---

    def observed(self) -> Array:
        copying = self.copying()
        action = "frozen" if self.frozen else "recover" if copying else "check" if self.checking else "idle"
        done = copying[0].copied if copying else self.checked
        return Array(
            name=self.name,
            device=f"/dev/md_{self.name}",
            major_minor=self.major_minor,
            array_state=self.state,
            raid_disks=self.raid_disks,
            component_sectors=self.component_sectors,
            degraded=self.raid_disks - sum(m.good for m in self.members),
            sync_action=action,
            sync_done_sectors=self._sector(done) if copying or self.checking else 0,
            sync_total_sectors=self.component_sectors if copying or self.checking else 0,
            mismatch_count=self.mismatches,
            members=tuple(m.observed(self.chunk) for m in self.members),
            sync_min_sectors=self.sync_min,
            sync_max_sectors=self.sync_max,
            last_sync_action=self.last_action,
        )

    def member(self, number: str) -> MdMember | None:
        return next((m for m in self.members if m.major_minor == number), None)

    def placed(self) -> list[MdMember]:
        """Members that are read or written."""
        return [m for m in self.members if m.slot is not None and not m.faulty]

    def copying(self) -> list[MdMember]:
        return [m for m in self.placed() if not m.in_sync]

    @property
    def degraded(self) -> bool:
        return sum(m.good for m in self.members) < self.raid_disks

    # --- reads and writes ---

    def submit(self, write: Write) -> None:
        self.writes.append(write)

    def read(self, sector: int) -> int | None:
        """The block, or None: it cannot be read now."""
        for member in sorted((m for m in self.members if m.good), key=lambda m: m.write_mostly):
            request = Request("read", BITMAP_SECTORS + sector)
            outcome = self.machine.attempt(member.major_minor, request)
            if outcome == "ok":
                return request.value
            if outcome == "held":
                return None
            if outcome == "error":
                self.error(member)
        return None

    def fail_waiting(self) -> None:
        """What never got in finds a front that fails."""
        for write in self.writes:
            write.state = "lost" if write.killed else "failed"
        self.writes.clear()

    def pump(self) -> None:
        """Bring every write as far as it goes now."""
        for write in self.writes:
            if write.state == "waiting":
                self._start(write)
            if write.state == "started":
                self._go_on(write)
        self.writes = [write for write in self.writes if not write.done]

    def _start(self, write: Write) -> None:
        if self.broken:
            write.state = "failed"
        elif self.state == "clean":
            self.state = "write-pending"
        elif self.state == "active" and not any(m.blocked for m in self.members):
            write.left = {m.major_minor: ["flush"] if write.flush else ["bit", "data"] for m in self.placed()}
            write.state = "started"
            if not write.flush:
                self.fading.pop(write.sector // self.chunk, None)

    def _go_on(self, write: Write) -> None:
        # Every bit is on every leg before the first data is.
        for stage in ("flush", "bit", "data"):
            for number, todo in list(write.left.items()):
                while todo and todo[0] == stage:
                    outcome = self._do(number, stage, write)
                    if outcome == "held":
                        break
                    if outcome == "error":
                        member = self.member(number)
                        if member is not None and stage != "flush":
                            self.error(member)
                        del write.left[number]
                        write.failed.add(number)
                        break
                    todo.pop(0)
                    if stage == "data":
                        write.reached.add(number)
            if any(stage in todo for todo in write.left.values()):
                return
        self._finish(write)

    def _do(self, number: str, stage: str, write: Write) -> str:
        member = self.member(number)
        if member is None or member.faulty:
            return "error"
        if stage == "flush":
            return self.machine.attempt(number, Request("flush"))
        if stage == "bit":
            return self.machine.attempt(number, Request("fua", _bit(write.sector // self.chunk), 1))
        verb: Literal["fua", "write"] = "fua" if write.fua else "write"
        return self.machine.attempt(number, Request(verb, BITMAP_SECTORS + write.sector, write.value))

    def _finish(self, write: Write) -> None:
        if write.flush:
            write.state = "lost" if write.killed else "acknowledged"
            return
        chunk = write.sector // self.chunk
        good = [m for m in self.members if m.good and m.major_minor in write.reached]
        write.state = "lost" if write.killed else "acknowledged" if good else "failed"
        if self.degraded or any(m.major_minor not in write.reached for m in self.members):
            self.needed.add(chunk)
        elif chunk not in self.needed:
            self.fading[chunk] = _LAZY_TICKS

    def error(self, member: MdMember) -> None:
        """md saw an error of a member."""
        if member.faulty:
            return
        others = [m for m in self.members if m is not member and m.good]
        if member.in_sync and not others:
            self.broken = True
            return
        member.faulty = member.blocked = True
        self.state = "write-pending"
        self.interrupt()

    # --- rebuilding, and what md does by itself as time goes by ---

    def tick(self, chunks: int = 1) -> None:
        """One round: a few chunks copied, a few bits cleared."""
        if not self.frozen:
            for member in self.copying():
                for _ in range(chunks):
                    if not self._copy(member):
                        break
            for _ in range(chunks):
                if not self._compare():
                    break
        self._fade()

    def grow(self, component_sectors: int) -> None:
        """More of each member is used."""
        self.component_sectors = component_sectors
        self.chunks = -(-component_sectors // self.chunk)

    def check(self, first: int, last: int) -> None:
        """Begin to compare between two sectors, which are whole chunks here."""
        self.checking, self.checked = True, first // self.chunk
        self.sync_min, self.sync_max = first, last
        self.mismatches, self.last_action = 0, "check"

    def interrupt(self) -> None:
        """A check goes on where it stood, when it is begun again."""
        if self.checking:
            self.checking, self.sync_min = False, self._sector(self.checked)

    def _compare(self) -> bool:
        """One chunk. False: the check waits, or there is none."""
        at = self._sector(self.checked)
        if not self.checking or self.copying() or (self.sync_max is not None and at >= self.sync_max):
            return False
        first, last = BITMAP_SECTORS + at, BITMAP_SECTORS + self._sector(self.checked + 1)
        members = [m for m in self.members if m.good]
        sectors = {first}.union(*(self.machine.sectors(m.major_minor, first, last) for m in members))
        for sector in sorted(sectors):
            found = set()
            for member in members:
                probe = Request("read", sector)
                outcome = self.machine.attempt(member.major_minor, probe)
                if outcome == "error":
                    self.error(member)
                if outcome != "ok":
                    return False
                found.add(probe.value)
            self.mismatches += BLOCK_SECTORS if len(found) > 1 else 0
        self.checked += 1
        if self.checked == self.chunks:
            self.checking, self.sync_min, self.sync_max = False, 0, None
            self.state = "write-pending"
        return True

    def _sector(self, chunk: int) -> int:
        return min(chunk * self.chunk, self.component_sectors)

    def _copy(self, member: MdMember) -> bool:
        """One chunk. False: the rebuild is over or cannot go on."""
        if member.in_sync or member.faulty:
            return False
        still = len(self.placed()) < max(self.raid_disks, len(self.members))
        self.last_action = "recover"
        while member.copied < self.chunks:
            at = member.copied
            if self.sync_max is not None and self._sector(at) >= self.sync_max:
                return False
            if member.delta and at not in self.needed:
                member.copied += 1
                continue
            if not self._copy_chunk(member, at):
                return False
            if not still and len(self.copying()) == 1:
                self.needed.discard(at)
                self.fading[at] = _LAZY_TICKS
            member.copied += 1
            return True
        member.in_sync = True
        self.state = "write-pending"
        return False

    def _copy_chunk(self, member: MdMember, chunk: int) -> bool:
        source = next((m for m in self.members if m.good), None)
        if source is None:
            return False
        first = BITMAP_SECTORS + chunk * self.chunk
        last = min(first + self.chunk, BITMAP_SECTORS + self.component_sectors)
        probe = Request("read", first)
        sectors = {first}
        for number in (source.major_minor, member.major_minor):
            sectors |= set(self.machine.sectors(number, first, last))
        for sector in sorted(sectors):
            probe = Request("read", sector)
            outcome = self.machine.attempt(source.major_minor, probe)
            if outcome == "error":
                self.error(source)
            if outcome == "unreadable":
                member.slot = None
            if outcome != "ok":
                return False
            outcome = self.machine.attempt(member.major_minor, Request("write", sector, probe.value))
            if outcome == "error":
                self.error(member)
            if outcome != "ok":
                return False
        return True

    def _fade(self) -> None:
        for chunk in list(self.fading):
            self.fading[chunk] -= 1
            busy = any(w.sector // self.chunk == chunk and not w.done for w in self.writes)
            if self.fading[chunk] > 0 or busy or chunk in self.needed:
                continue
            del self.fading[chunk]
            self._clear(chunk)

    def _clear(self, chunk: int) -> None:
        for member in self.placed():
            self.machine.attempt(member.major_minor, Request("fua", _bit(chunk), 0))

    def settle(self) -> bool:
        """What stopping writes to the bitmap. False: a gate holds it."""
        for member in self.placed():
            if self.machine.attempt(member.major_minor, Request("flush")) == "held":
                return False
        if not self.degraded:
            for chunk in [c for c in self.fading if c not in self.needed]:
                self._clear(chunk)
        return True

    def load(self, chunks: set[int]) -> None:
        """Bits found on the legs at assembly: md takes them for done, unless they are set again."""
        self.fading |= dict.fromkeys(chunks, _LAZY_TICKS)

    def set_bits(self, runs: list[tuple[int, int]]) -> None:
        """``bitmap_set_bits``."""
        for first, last in runs:
            for chunk in range(first, last + 1):
                self.needed.add(chunk)
                self.fading.pop(chunk, None)
                for member in self.placed():
                    self.machine.attempt(member.major_minor, Request("fua", _bit(chunk), 1))

    def write_all_bits(self) -> None:
        """A member was added: md writes the whole bitmap to every leg."""
        self.set_bits([(chunk, chunk) for chunk in sorted(self.needed)])

    def die(self) -> None:
        """The node lost power."""
        for write in self.writes:
            write.state = "lost"
        self.writes.clear()


def _bit(chunk: int) -> int:
    """Where this world keeps the bit of a chunk on a leg: a sector each."""
    assert chunk < BITMAP_SECTORS - BITMAP_START_SECTORS, "this world's volumes have at most 2040 chunks"
    return BITMAP_START_SECTORS + chunk


def bits_on(sectors: list[int]) -> set[int]:
    """Chunks whose bit is set, from a leg's sectors that hold something."""
    return {s - BITMAP_START_SECTORS for s in sectors if BITMAP_START_SECTORS <= s < BITMAP_SECTORS}
