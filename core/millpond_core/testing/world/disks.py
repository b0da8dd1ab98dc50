"""Disks with a volatile cache: what was not flushed is forgotten when power or the disk goes."""

from __future__ import annotations

from collections.abc import Iterator

from millpond_core.model.storagedevice import DiskWarning
from millpond_core.observed import Label


class Disk:
    """One disk, wherever it is plugged in. Values are ints by sector; 0 is what a zeroed sector holds."""

    def __init__(
        self, serial: str, size_bytes: int, signatures: tuple[str, ...] = (), *, volatile: bool = True
    ) -> None:
        self.serial, self.size_bytes, self.signatures, self.volatile = serial, size_bytes, signatures, volatile
        self.holders: tuple[str, ...] = ()
        self.failing = False
        """Answers every request with an error."""
        self.warnings: tuple[DiskWarning, ...] = ()
        self.unreadable: set[int] = set()
        """Sectors that answer reads with an error until they are written anew."""
        self.slow = False
        """Does not answer whether it is alive, as one that is busy."""
        self.durable: dict[int, int] = {}
        self.cache: dict[int, int] = {}
        self.labels: list[Label] = []
        self.label_damaged = False

    def read(self, sector: int) -> int:
        return self.cache.get(sector, self.durable.get(sector, 0))

    def write(self, sector: int, value: int) -> None:
        self.unreadable.discard(sector)
        self.cache[sector] = value
        if not self.volatile:
            self.flush()

    def flush(self) -> None:
        self.durable.update(self.cache)
        self.cache.clear()
        for sector in [sector for sector, value in self.durable.items() if value == 0]:
            del self.durable[sector]

    def lose_power(self) -> None:
        self.cache.clear()

    def sectors(self, first: int, last: int) -> Iterator[int]:
        """Sectors of [first, last) that ever held something."""
        yield from {s for s in (*self.durable, *self.cache) if first <= s < last}


class Appearance:
    """A disk while it is plugged in: whoever holds it open keeps the dead one when it is pulled."""

    def __init__(self, disk: Disk, name: str, major_minor: str, diskseq: int) -> None:
        self.disk, self.name, self.major_minor, self.diskseq = disk, name, major_minor, diskseq
        self.present = True
