"""From a mapping to device-mapper tables: pure arithmetic in sectors of 512 bytes.

On a device:  | label area, 4 MiB | unit 0 | unit 1 | ...        (a unit is 4 MiB)
On a leg:     | write-intent bitmap, 1 MiB | data ...            (over all of the leg's extents, in order)

An unstriped leg is the concatenation of its extents. A leg with ``stripes`` n > 1 is the concatenation of rows of n
extents each, in order; the extents of a row are equally long and lie on different devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millpond_core.errors import Invalid
from millpond_core.model.virtualvolume import Extent
from millpond_core.units import BITMAP_BYTES, LABEL_BYTES, MIB, SECTOR, UNIT_BYTES, leg_units

LABEL_SECTORS = LABEL_BYTES // SECTOR
UNIT_SECTORS = UNIT_BYTES // SECTOR
BITMAP_SECTORS = BITMAP_BYTES // SECTOR
BITMAP_START_SECTORS = 8
"""Where the bitmap begins within its area: where md puts it behind a superblock, which we do not have."""

_HOLD = "queue_if_no_path"
# The second one the kernel adds to every multipath table by itself, when it sets the path up.
_CHANGING = frozenset({_HOLD, "retain_attached_hw_handler"})


def leg_sectors(volume_bytes: int) -> int:
    """Sectors of a leg that path, gate and array use. (A striped leg may own up to a row more.)"""
    return leg_units(volume_bytes) * UNIT_SECTORS


def capacity_bytes(extents: Sequence[Extent]) -> int:
    """Usable bytes of the largest volume for which a leg has room on these extents."""
    return max(sum(extent.length for extent in extents) - 1, 0) * UNIT_BYTES


def volume_bytes(component_sectors: int) -> int:
    """Usable bytes of the volume whose array has legs of this size: the other way round."""
    return (component_sectors + BITMAP_SECTORS - UNIT_SECTORS) * SECTOR


def component_sectors(volume_bytes: int) -> int:
    """Sectors of data in each leg: the size of the array."""
    return leg_sectors(volume_bytes) - BITMAP_SECTORS


def bitmap_chunk_bytes(component_sectors: int) -> int:
    """What one bit of the write-intent bitmap stands for: 1 MiB, or the power of two that lets the bitmap fit.

    A finer bitmap makes a delta smaller, a coarser one spares writes: the first write to a clean chunk waits for its
    bit on every leg. 1 MiB keeps the bits of 32 GiB in one block of 4 KiB and lasts to almost 8 TiB. A function of
    the size alone, because nothing on the leg says how its bits are to be read.
    """
    room = (BITMAP_SECTORS - BITMAP_START_SECTORS) * SECTOR * 8
    chunk = MIB
    while -(-component_sectors * SECTOR // chunk) > room:
        chunk *= 2
    return chunk


def leg_table(
    extents: Sequence[Extent], devices: Mapping[str, str], *, stripes: int = 1, stripe_bytes: int = 65536
) -> str:
    """Table of a leg on its leg node; ``devices`` gives ``major:minor`` by device uuid.

    Raises Invalid when the extents do not form whole rows or a device is not given.
    """
    if not extents:
        raise Invalid("a leg without extents cannot be mapped")
    missing = sorted({extent.device for extent in extents if extent.device_uuid not in devices})
    if missing:
        raise Invalid(f"the leg lies on {', '.join(missing)}, not to be found on this node")
    if len(extents) % stripes:
        raise Invalid(f"{len(extents)} extents do not make rows of {stripes} stripes")
    lines: list[str] = []
    start = 0
    for first in range(0, len(extents), stripes):
        row = extents[first : first + stripes]
        if len({extent.length for extent in row}) != 1:
            raise Invalid(f"the extents of one row of stripes differ in length: {[e.length for e in row]} units")
        places = " ".join(f"{devices[e.device_uuid]} {LABEL_SECTORS + e.start * UNIT_SECTORS}" for e in row)
        size = row[0].length * UNIT_SECTORS * stripes
        target = "linear" if stripes == 1 else f"striped {stripes} {stripe_bytes // SECTOR}"
        lines.append(f"{start} {size} {target} {places}")
        start += size
    return "\n".join(lines)


def extends(longer: str, table: str) -> bool:
    """Whether a table describes the same device and more behind it."""
    old, new = _without_mode(table), _without_mode(longer)
    return len(new) > len(old) and new[: len(old)] == old


def table_sectors(table: str) -> int:
    """Size of the device that a table describes."""
    start, size = table.rsplit("\n", 1)[-1].split()[:2]
    return int(start) + int(size)


def path_table(major_minor: str, volume_bytes: int) -> str:
    """Table of the path to a leg: the local leg's device or the remote one's namespace, swapped when that changes."""
    return f"0 {leg_sectors(volume_bytes)} linear {major_minor} 0"


def error_table(volume_bytes: int) -> str:
    """Table of a path that leads nowhere: what lay under it is free, I/O fails at once and its gate takes over."""
    return f"0 {leg_sectors(volume_bytes)} error"


def gate_table(path_major_minor: str, volume_bytes: int, *, holding: bool) -> str:
    """Table of the gate in front of a path: one path, in bio mode so that it can lie on a dm device.

    ``holding``: what cannot be written waits (``queue_if_no_path``); else errors pass.
    """
    features = f"3 {_HOLD} queue_mode bio" if holding else "2 queue_mode bio"
    return f"0 {leg_sectors(volume_bytes)} multipath {features} 0 1 1 round-robin 0 1 1 {path_major_minor} 1"


def front_table(array_major_minor: str, volume_bytes: int) -> str:
    """Table of the front: exactly the volume's size."""
    return f"0 {volume_bytes // SECTOR} linear {array_major_minor} 0"


def wall_table(array_major_minor: str, volume_bytes: int) -> str:
    """Table of a wall: a gate that lets errors pass, of the volume's size. Its one path is to be failed before use.

    The kernel's ``error`` target has no cache, so what lies on it answers a flush with success; a wall inherits the
    array's and fails it.
    """
    path = f"0 1 1 round-robin 0 1 1 {array_major_minor} 1"
    return f"0 {volume_bytes // SECTOR} multipath 2 queue_mode bio {path}"


def leads_to(table: str, major_minor: str, sectors: int) -> bool:
    """Whether a path's table leads to a device, with at least as many sectors."""
    words = table.split()
    return words[2:] == ["linear", major_minor, "0"] and int(words[1]) >= sectors


def lies_on(table: str, major_minor: str) -> bool:
    """Whether a device with this table leads to another one."""
    return major_minor in table.split()


def gate_holds(table: str) -> bool:
    """Whether the (live) table of a gate is one that holds."""
    return _HOLD in table.split()


def same_table(one: str, other: str) -> bool:
    """Whether two tables describe the same device, whatever the present mode of a gate."""
    return _without_mode(one) == _without_mode(other)


def _without_mode(table: str) -> list[list[str]]:
    lines = [line.split() for line in table.strip().splitlines()]
    for words in lines:
        if len(words) > 3 and words[2] == "multipath":
            for feature in _CHANGING & set(words):
                words.remove(feature)
                words[3] = str(int(words[3]) - 1)
    return lines
