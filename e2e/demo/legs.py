"""Compares legs byte by byte where they really lie: in the disks' own bytes, past every layer of ours.

A leg's data begins behind its write-intent bitmap (``units.BITMAP_BYTES``), which differs between legs on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from demo.errors import DemoError
from millpond_core.units import BITMAP_BYTES, LABEL_BYTES, UNIT_BYTES

STEP = 1 << 20
EXAMPLES = 5


@dataclass(frozen=True)
class Run:
    """A run of a leg's bytes: where it lies in a disk's image."""

    leg_start: int
    image: Path
    image_start: int
    length: int


def runs(leg: Mapping[str, Any], images: Mapping[str, Path], *, stripes: int = 1) -> list[Run]:
    """The runs of a leg (as in ``status.mapping.legs``), in order; ``images`` by StorageDevice name.

    Only for unstriped legs: a striped one interleaves its extents.
    """
    if stripes != 1:
        raise DemoError(f"legs with {stripes} stripes cannot be compared by their images")
    found, at = [], 0
    for extent in leg["extents"]:
        length = extent["length"] * UNIT_BYTES
        start = LABEL_BYTES + extent["start"] * UNIT_BYTES
        found.append(Run(at, images[extent["device"]], start, length))
        at += length
    return found


@dataclass(frozen=True)
class Difference:
    """A stretch of the volume where two legs do not have the same bytes."""

    start: int
    length: int

    def __str__(self) -> str:
        return f"{self.length} bytes at {self.start}"


def compare(one: Sequence[Run], other: Sequence[Run], volume_bytes: int) -> tuple[int, list[Difference]]:
    """Bytes of the volume that were compared, and the stretches (of up to 1 MiB) that differ."""
    differences = []
    with Reader(one) as left, Reader(other) as right:
        for start in range(0, volume_bytes, STEP):
            size = min(STEP, volume_bytes - start)
            ours, theirs = left.read(BITMAP_BYTES + start, size), right.read(BITMAP_BYTES + start, size)
            if ours != theirs:
                first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
                last = next(i for i in range(size - 1, -1, -1) if ours[i] != theirs[i])
                differences.append(Difference(start + first, last - first + 1))
    return volume_bytes, differences


class Reader:
    """Reads a leg through its runs."""

    def __init__(self, pieces: Sequence[Run]) -> None:
        self._runs = pieces
        self._files: dict[Path, BinaryIO] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, start: int, size: int) -> bytes:
        return b"".join(self._pieces(start, size))

    def _pieces(self, start: int, size: int) -> Iterator[bytes]:
        end = start + size
        for run in self._runs:
            first, last = max(start, run.leg_start), min(end, run.leg_start + run.length)
            if first >= last:
                continue
            file = self._files.get(run.image) or self._files.setdefault(run.image, run.image.open("rb"))
            file.seek(run.image_start + first - run.leg_start)
            data = file.read(last - first)
            if len(data) != last - first:
                raise DemoError(f"{run.image} ends before byte {run.image_start + last - run.leg_start}")
            yield data


def settle(again: Callable[[], tuple[int, list[Difference]]], attempts: int = 5) -> tuple[int, list[Difference]]:
    """Compare until two legs are equal, at most ``attempts`` times.

    A file system writes by itself at times; a write that is on its way to both legs shows as a difference that is gone
    a moment later. One that stays is real.
    """
    size, differences = again()
    for _ in range(attempts - 1):
        if not differences:
            break
        size, differences = again()
    return size, differences
