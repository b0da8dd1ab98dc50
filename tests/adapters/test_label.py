"""Labels on files in place of disks: dd's O_DIRECT works on both."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from millpond_adapters.label import SLOT_BYTES, SLOTS, LabelArea, decode, encode
from millpond_core.errors import Conflict, Invalid, IOFailed
from millpond_core.observed import Label, LabelLeg
from millpond_core.units import MIB

LABELS = LabelArea()
LEG = LabelLeg(volume="v", volume_name="pvc-1", leg="a", size_bytes=MIB, extents=((0, 0, 64),))
FIRST = Label(cluster="c", device_uuid="d", device_name="n1-disk1", sequence=1, legs=(LEG,))


def later(sequence: int, **fields: object) -> Label:
    return msgspec.structs.replace(FIRST, sequence=sequence, **fields)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8 * MIB))
    return path


def slot(disk: Path, start: int) -> Label | None:
    return decode(disk.read_bytes()[start : start + SLOT_BYTES])


async def test_a_blank_disk_has_no_label(disk: Path) -> None:
    assert await LABELS.read(str(disk)) is None


async def test_what_was_written_is_read_and_the_rest_of_the_disk_untouched(disk: Path) -> None:
    await LABELS.write(str(disk), FIRST)
    assert await LABELS.read(str(disk)) == FIRST
    assert disk.read_bytes()[4 * MIB :] == bytes(4 * MIB)
    assert disk.stat().st_size == 8 * MIB


async def test_a_torn_write_costs_the_new_label_only(disk: Path) -> None:
    await LABELS.write(str(disk), FIRST)
    await LABELS.write(str(disk), later(2))
    newer = next(start for start in SLOTS if slot(disk, start) == later(2))
    with disk.open("r+b") as file:
        file.seek(newer + 4096 + 10)
        file.write(b"torn")
    assert await LABELS.read(str(disk)) == FIRST
    await LABELS.write(str(disk), later(3))
    assert await LABELS.read(str(disk)) == later(3)


async def test_each_write_leaves_the_newest_label_standing(disk: Path) -> None:
    for sequence in range(1, 6):
        await LABELS.write(str(disk), later(sequence))
        found = {slot(disk, start) for start in SLOTS} - {None}
        assert found == {later(n) for n in (sequence - 1, sequence) if n}


async def test_an_older_sequence_is_refused(disk: Path) -> None:
    for sequence in (1, 5):
        await LABELS.write(str(disk), later(sequence))
    with pytest.raises(Conflict, match="sequence 5"):
        await LABELS.write(str(disk), later(5))
    assert await LABELS.read(str(disk)) == later(5)


async def test_a_disk_without_a_label_gets_none_but_a_first_one(disk: Path) -> None:
    """Another disk in the place of the one that was known is left as it is."""
    before = disk.read_bytes()
    with pytest.raises(Conflict, match="another disk"):
        await LABELS.write(str(disk), later(5))
    assert disk.read_bytes() == before


async def test_a_damaged_label_is_no_blank_disk(disk: Path) -> None:
    await LABELS.write(str(disk), FIRST)
    with disk.open("r+b") as file:
        file.seek(SLOTS[0] + 4096 + 10)
        file.write(b"\xff\xff\xff")
    with pytest.raises(Invalid, match="cannot be read"):
        await LABELS.read(str(disk))


async def test_a_disk_that_is_gone_is_an_error_and_no_file_takes_its_place(tmp_path: Path) -> None:
    with pytest.raises(IOFailed, match="No such file"):
        await LABELS.read(str(tmp_path / "gone"))
    assert not (tmp_path / "gone").exists()


async def test_a_label_never_becomes_another_devices(disk: Path) -> None:
    await LABELS.write(str(disk), FIRST)
    with pytest.raises(Conflict, match="another disk"):
        await LABELS.write(str(disk), later(2, device_uuid="e"))


async def test_a_first_write_that_was_torn_leaves_a_blank_disk(disk: Path) -> None:
    _, payload = encode(FIRST)
    with disk.open("r+b") as file:
        file.seek(SLOTS[0] + 4096)
        file.write(payload)
    assert await LABELS.read(str(disk)) is None


def test_a_label_of_many_extents_spans_blocks_and_one_too_large_is_refused() -> None:
    legs = tuple(msgspec.structs.replace(LEG, leg=str(n), extents=((n, n, 1),) * 256) for n in range(20))
    large = later(7, legs=legs)
    header, payload = encode(large)
    assert len(payload) > 4096
    assert decode((header + payload).ljust(SLOT_BYTES, b"\0")) == large
    with pytest.raises(Invalid, match="too many for one device"):
        encode(later(8, legs=legs * 60))


async def test_damage_that_still_reads_well_is_damage(disk: Path) -> None:
    """A flipped bit may turn one number into another: only the checksum tells."""
    await LABELS.write(str(disk), FIRST)
    content = disk.read_bytes()
    assert content.count(b'"attach_count":0') == 1
    disk.write_bytes(content.replace(b'"attach_count":0', b'"attach_count":8'))
    with pytest.raises(Invalid, match="damaged"):
        await LABELS.read(str(disk))
