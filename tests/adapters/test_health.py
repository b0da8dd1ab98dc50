"""The critical warnings of NVMe, bit by bit; that a disk tells them is shown in tests/kernel/test_disks.py."""

from __future__ import annotations

from typing import get_args

import pytest

from millpond_adapters import health
from millpond_core.model.storagedevice import DYING, DiskWarning


@pytest.mark.parametrize(
    ("bits", "said"),
    [(0, ()), (1, ("SpareLow",)), (0b10010, ("TooHot", "BackupFailed")), (0b11000000, ())],
)
def test_a_bit_is_a_warning_and_a_reserved_one_is_none(bits: int, said: tuple[DiskWarning, ...]) -> None:
    assert health.named(bits) == said


def test_every_warning_has_its_bit() -> None:
    assert health.named(0x3F) == get_args(DiskWarning)
    assert set(get_args(DiskWarning)) - DYING == {"TooHot", "MemoryUnreliable"}


async def test_another_kind_of_disk_is_not_asked() -> None:
    assert await health.warnings("/dev/sda") == ()
