"""One node's kernel in memory: device-mapper, gates, NVMe host and target, and how a request finds its disk.

A request is tried at once and ends as ``ok``, ``error`` or ``held``; who is held tries again whenever anything changes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from millpond_core.testing.world.array import MdArray
from millpond_core.testing.world.disks import Appearance, Disk
from millpond_core.testing.world.requests import Outcome, Request

if TYPE_CHECKING:
    from millpond_core.testing.world import World


class Target:
    """One line of a dm table."""

    def __init__(self, line: str) -> None:
        words = line.split()
        self.start, self.length, self.kind = int(words[0]), int(words[1]), words[2]
        self.places: list[tuple[str, int]] = []
        self.stripe = 0
        match self.kind:
            case "linear":
                self.places = [(words[3], int(words[4]))]
            case "striped":
                self.stripe = int(words[4])
                self.places = [(words[i], int(words[i + 1])) for i in range(5, len(words), 2)]
            case "multipath":
                self.places = [(words[-2], 0)]
            case "error":
                pass
            case _:
                raise ValueError(f"no such target in this world: {line}")

    def map(self, sector: int) -> tuple[str, int]:
        """(major:minor, sector) below for a sector of the dm device."""
        offset = sector - self.start
        if self.kind != "striped":
            return self.places[0][0], self.places[0][1] + offset
        chunk, rest = divmod(offset, self.stripe)
        row, column = divmod(chunk, len(self.places))
        number, begin = self.places[column]
        return number, begin + row * self.stripe + rest


class DmMapped:
    """One dm device."""

    def __init__(self, name: str, dm_uuid: str, major_minor: str, table: str) -> None:
        self.name, self.uuid, self.major_minor = name, dm_uuid, major_minor
        self.suspended = False
        self.draining = False
        """Being swapped: new requests wait, those inside go on."""
        self.openers = 0
        """Opened by pods."""
        self.load(table)

    def load(self, table: str) -> None:
        self.table = table
        self.targets = [Target(line) for line in table.strip().splitlines()]
        self.holding = "queue_if_no_path" in table
        self.path_up = True
        self.queued = 0

    @property
    def gate(self) -> bool:
        return self.targets[0].kind == "multipath"

    @property
    def sectors(self) -> int:
        return self.targets[-1].start + self.targets[-1].length

    def below(self) -> set[str]:
        return {number for target in self.targets for number, _ in target.places}


class Subsystem:
    """One nvmet subsystem."""

    def __init__(self, nqn: str, backing: DmMapped, namespace_uuid: str, host: str, address: str) -> None:
        self.nqn, self.backing, self.namespace_uuid, self.host = nqn, backing, namespace_uuid, host
        self.address = address
        self.sectors = backing.sectors
        """As hosts were told: the backing device may have grown since."""


class Connection:
    """One NVMe/TCP controller of this host."""

    def __init__(self, nqn: str, address: str, host_nqn: str, major_minor: str) -> None:
        self.nqn, self.address, self.host_nqn, self.major_minor = nqn, address, host_nqn, major_minor
        self.name = f"nvme{major_minor.partition(':')[2]}"
        self.namespace_uuid = ""


class Machine:
    """One node. ``on`` is whether it has power."""

    def __init__(self, world: World, node: str, address: str) -> None:
        self.world, self.node, self.address = world, node, address
        self.on = True
        self.slots: dict[str, Disk] = {}
        """Disks by the slot that they are plugged into, pulled or not."""
        self._pulled: set[str] = set()
        self._minors: dict[str, int] = {}
        self._diskseq = 0
        self.block_watchers: list[Callable[[str, str], None]] = []
        self.boot()

    def boot(self) -> None:
        """Power on: nothing is left in the kernel, disks appear anew."""
        self.on = True
        self.boot_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.node}/{self.world.count()}"))
        self.dm: dict[str, DmMapped] = {}
        self.arrays: dict[str, MdArray] = {}
        self.subsystems: dict[str, Subsystem] = {}
        self.connections: dict[str, Connection] = {}
        self.appearances: dict[str, Appearance] = {}
        self._by_number: dict[str, Appearance] = {}
        self._minors = {}
        for slot in self.slots:
            if slot not in self._pulled:
                self._appear(slot)

    def power_off(self) -> None:
        """Everything volatile is gone at once."""
        self.on = False
        for disk in self.slots.values():
            disk.lose_power()
        for array in self.arrays.values():
            array.die()
        self.dm, self.arrays, self.subsystems, self.connections = {}, {}, {}, {}
        self.appearances = {}

    # --- disks ---

    def add_disk(self, slot: str, disk: Disk) -> None:
        self.slots[slot] = disk
        self._appear(slot)
        self._tell("add", slot)

    def pull(self, slot: str) -> None:
        """The disk is unplugged: it loses its cache, its device is dead for whoever holds it."""
        appearance = self.appearances.pop(slot)
        appearance.present = False
        appearance.disk.lose_power()
        self._pulled.add(slot)
        self._tell("remove", appearance.name)

    def plug(self, slot: str) -> None:
        self._pulled.discard(slot)
        self._appear(slot)
        self._tell("add", self.appearances[slot].name)

    def _appear(self, slot: str) -> None:
        self._diskseq += 1
        seen = Appearance(self.slots[slot], slot, self.number("259"), self._diskseq)
        self.appearances[slot] = seen
        self._by_number[seen.major_minor] = seen

    def _tell(self, action: str, name: str) -> None:
        for watcher in list(self.block_watchers):
            watcher(action, name)

    def number(self, major: str) -> str:
        """The next device number; numbers are never reused while this world lasts."""
        self._minors[major] = self._minors.get(major, -1) + 1
        return f"{major}:{self._minors[major]}"

    # --- requests ---

    def attempt(self, number: str, request: Request) -> Outcome:
        """Ask the device ``major:minor``."""
        if not self.on:
            return "error"
        seen = self._by_number.get(number)
        if seen is not None:
            return self._disk(seen, request)
        for dm in self.dm.values():
            if dm.major_minor == number:
                return self._dm(dm, request)
        for connection in self.connections.values():
            if connection.major_minor == number:
                return self._remote(connection, request)
        return "error"

    def _disk(self, seen: Appearance, request: Request) -> Outcome:
        disk = seen.disk
        if not seen.present or disk.failing:
            return "error"
        match request.verb:
            case "read" if request.sector in disk.unreadable:
                return "unreadable"
            case "read":
                request.answer(disk.read(request.sector))
            case "write":
                disk.write(request.sector, request.value)
            case "fua":
                disk.flush()
                disk.write(request.sector, request.value)
                disk.flush()
            case "flush":
                disk.flush()
        return "ok"

    def _dm(self, dm: DmMapped, request: Request) -> Outcome:
        if dm.suspended:
            return "held"
        if dm.gate:
            return self._gate(dm, request)
        if request.verb == "flush":
            # The error target has no cache, so nothing is asked of it.
            outcomes = {self.attempt(number, request.at(0)) for number in dm.below()}
            order: tuple[Outcome, ...] = ("held", "error")
            return next((outcome for outcome in order if outcome in outcomes), "ok")
        for target in dm.targets:
            if target.start <= request.sector < target.start + target.length:
                if target.kind == "error":
                    return "error"
                number, sector = target.map(request.sector)
                return self.attempt(number, request.at(sector))
        return "error"

    def _gate(self, dm: DmMapped, request: Request) -> Outcome:
        number = dm.targets[0].places[0][0]
        if dm.path_up:
            outcome = self.attempt(number, request.at(request.sector))
            if outcome != "error":
                return outcome
            dm.path_up = False
            self._tell("change", dm.name)
        if dm.holding:
            dm.queued += 1
            return "held"
        return "error"

    def _remote(self, connection: Connection, request: Request) -> Outcome:
        subsystem = self.export_of(connection)
        if subsystem is None:
            return "error"
        there = self.world.at(connection.address)
        assert there is not None
        return there._dm(subsystem.backing, request)

    def export_of(self, connection: Connection) -> Subsystem | None:
        """The other end, when it can be reached."""
        there = self.world.at(connection.address)
        if there is None or not there.on or not self.world.linked(self, there):
            return None
        subsystem = there.subsystems.get(connection.nqn)
        return subsystem if subsystem is not None and subsystem.host == connection.host_nqn else None

    def size_of(self, number: str) -> int | None:
        """Sectors of a dm device, an array or what a connection leads to; None: it does not matter, or is not there."""
        for dm in self.dm.values():
            if dm.major_minor == number:
                return dm.sectors
        for array in self.arrays.values():
            if array.major_minor == number:
                return array.component_sectors
        for connection in self.connections.values():
            if connection.major_minor == number:
                subsystem = self.export_of(connection)
                return subsystem.sectors if subsystem is not None else None
        return None

    def sectors(self, number: str, first: int, last: int) -> Iterator[int]:
        """Sectors of a device in [first, last) that hold anything, for copying and comparing."""
        seen = self._by_number.get(number)
        if seen is not None:
            yield from seen.disk.sectors(first, last)
            return
        for connection in self.connections.values():
            if connection.major_minor == number:
                there, subsystem = self.world.at(connection.address), self.export_of(connection)
                if there is not None and subsystem is not None:
                    yield from there.sectors(subsystem.backing.major_minor, first, last)
                return
        for dm in self.dm.values():
            if dm.major_minor == number:
                for target in dm.targets:
                    yield from self._target_sectors(target, first, last)

    def _target_sectors(self, target: Target, first: int, last: int) -> Iterator[int]:
        low, high = max(first, target.start), min(last, target.start + target.length)
        if low >= high:
            return
        if target.kind == "striped":
            for number, begin in target.places:
                rows = target.length // len(target.places)
                for below in self.sectors(number, begin, begin + rows):
                    row, rest = divmod(below - begin, target.stripe)
                    column = [place for place, _ in target.places].index(number)
                    at = target.start + (row * len(target.places) + column) * target.stripe + rest
                    if low <= at < high:
                        yield at
            return
        for number, begin in target.places:
            shift = begin - target.start
            for below in self.sectors(number, low + shift, high + shift):
                yield below - shift

    def by_name(self, path: str) -> str:
        """major:minor of ``/dev/mapper/<dm>`` or of a disk's path; empty: there is none."""
        name = path.rsplit("/", 1)[-1]
        if name in self.dm:
            return self.dm[name].major_minor
        for slot, seen in self.appearances.items():
            if slot == name or path == disk_path(seen.disk):
                return seen.major_minor
        return ""

    def users(self, number: str) -> int:
        """Who has a device open: dm tables, arrays, exports, pods."""
        count = sum(1 for dm in self.dm.values() if number in dm.below())
        count += sum(1 for array in self.arrays.values() for m in array.members if m.major_minor == number)
        count += sum(1 for s in self.subsystems.values() if s.backing.major_minor == number)
        for dm in self.dm.values():
            if dm.major_minor == number:
                # Whoever waits for an answer has it open.
                waiting = sum(len(a.writes) for a in self.arrays.values() if a.major_minor in dm.below())
                count += dm.openers + (waiting if not dm.gate else 0)
        return count


def disk_path(disk: Disk) -> str:
    return f"/dev/disk/by-id/nvme-{disk.serial}"
