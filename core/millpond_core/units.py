"""Sizes: Kubernetes quantities to bytes, bytes to what people read, and the constants of the on-disk layout."""

from __future__ import annotations

import re
from decimal import Decimal

SECTOR = 512
KIB = 1024
MIB = 1024 * KIB
UNIT_BYTES = 4 * MIB
"""An extent is counted in units of this size."""

LABEL_BYTES = UNIT_BYTES
"""The first bytes of each device belong to its label."""

BITMAP_BYTES = MIB
"""The first bytes of each leg hold md's write-intent bitmap; the data follows."""

_FACTORS = {
    "": 1,
    **{s: 1000**i for i, s in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{s: 1024**i for i, s in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_QUANTITY = re.compile(r"^([0-9]{1,19}(?:\.[0-9]{1,9})?)(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$")


def parse_quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity such as ``50Gi`` or ``1.5T``, rounded up.

    Raises ValueError that names the text when it is not a positive quantity of bytes (milli units and exponents are
    no sizes). Source: apimachinery's resource.Quantity.
    """
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no size: write bytes or a quantity such as 10Gi")
    value = Decimal(match[1]) * _FACTORS[match[2] or ""]
    whole = int(value)
    return whole if whole == value else whole + 1


def format_bytes(size: int) -> str:
    """``size`` bytes for people: the largest binary unit, at most one decimal, such as ``603Gi`` or ``1.5Ti``."""
    units = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
    value, index = float(size), 0
    while value >= KIB and index < len(units) - 1:
        value, index = value / KIB, index + 1
    text = f"{value:.1f}".rstrip("0").rstrip(".") if value < 10 else f"{value:.0f}"
    return f"{text}{units[index]}"


def round_up(size: int, step: int = UNIT_BYTES) -> int:
    """``size`` bytes rounded up to a multiple of ``step`` bytes."""
    return -(-size // step) * step


def leg_units(volume_bytes: int) -> int:
    """Units that one leg of a volume of ``volume_bytes`` needs, its bitmap included."""
    return round_up(volume_bytes + BITMAP_BYTES) // UNIT_BYTES
