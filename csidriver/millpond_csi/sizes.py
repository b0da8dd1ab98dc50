"""From a capacity range to a volume's size."""

from __future__ import annotations

from collections.abc import Iterable

from millpond_core.errors import Invalid
from millpond_core.units import MIB, UNIT_BYTES, format_bytes, parse_quantity, round_up
from millpond_csi.errors import OutOfRange

DEFAULT_BYTES = 1024 * MIB
"""Of a volume whose size nobody says."""

MINIMUM_BYTES = {"ext4": UNIT_BYTES, "xfs": 300 * MIB, "": UNIT_BYTES}
"""The least that the filesystem can be made on (mkfs.xfs(8): 300 MiB), a whole number of units."""

MAXIMUM_BYTES = parse_quantity("256Ti")


def check_range(required: int, limit: int) -> None:
    """Invalid when no size at all could be meant. 0: not said."""
    if required < 0 or limit < 0:
        raise Invalid(f"capacity_range has a negative size: required {required}, limit {limit}")
    if limit and required > limit:
        raise Invalid(f"capacity_range asks for at least {required} and at most {limit} bytes")


def size_for(required: int, limit: int, fs_types: Iterable[str] = ()) -> int:
    """Bytes of a new volume: the least whole number of 4 MiB units in the range that holds its filesystems.

    OutOfRange when there is none.
    """
    check_range(required, limit)
    least = max((MINIMUM_BYTES[fs_type] for fs_type in fs_types), default=UNIT_BYTES)
    wanted = required or (min(DEFAULT_BYTES, limit) if limit else DEFAULT_BYTES)
    size = max(round_up(wanted), least)
    if not required and limit:
        size = max(min(size, limit // UNIT_BYTES * UNIT_BYTES), least)
    if limit and size > limit:
        raise OutOfRange(
            f"no size of at most {limit} bytes is possible: volumes have whole units of {UNIT_BYTES} bytes, at least "
            f"{least} for this filesystem, and {required} were asked for; the next one is {size}"
        )
    if size > MAXIMUM_BYTES:
        raise OutOfRange(f"{size} bytes were asked for; a volume has at most {format_bytes(MAXIMUM_BYTES)}")
    return size


def size_to_have(required: int, limit: int) -> int:
    """Bytes that a volume which exists is to have at least, in whole units; 0: whatever it has is enough.

    Invalid or OutOfRange as ``check_range`` and ``size_for``.
    """
    check_range(required, limit)
    if not required and not limit:
        raise Invalid("capacity_range says no size: required_bytes or limit_bytes is needed")
    return size_for(required, limit) if required else 0


def quantity(size: int) -> str:
    """``size`` bytes, a whole number of MiB, as people write it in ``spec.size``: exact."""
    for suffix, factor in (("Ti", MIB << 20), ("Gi", MIB << 10), ("Mi", MIB)):
        if size % factor == 0:
            return f"{size // factor}{suffix}"
    return str(size)
