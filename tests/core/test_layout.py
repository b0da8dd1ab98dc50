"""From extents to tables: every unit exactly once, sizes right, the bitmap within its area."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond_core import layout
from millpond_core.errors import Invalid
from millpond_core.model.virtualvolume import Extent
from millpond_core.units import MIB, SECTOR, UNIT_BYTES

UNIT = layout.UNIT_SECTORS
GIB = 1024 * MIB


def extent(device: int, start: int, length: int) -> Extent:
    return Extent(device=f"n1-disk{device}", device_uuid=str(device), start=start, length=length)


NUMBERS = {str(n): f"259:{n}" for n in range(64)}


@st.composite
def legs(draw: st.DrawFn) -> tuple[list[Extent], int, int]:
    """Extents that do not overlap, in rows of ``stripes``, and the stripe's size in bytes."""
    stripes = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    gaps = draw(st.lists(st.integers(0, 5), min_size=len(lengths), max_size=len(lengths)))
    first = draw(st.integers(0, 1000))
    extents, start = [], first
    for length, gap in zip(lengths, gaps, strict=True):
        extents += [extent(device, start, length) for device in range(stripes)]
        start += length + gap
    return extents, stripes, 2 ** draw(st.integers(16, 22))


def located(table: str, sector: int) -> tuple[str, int]:
    """Where the kernel's dm-linear and dm-striped find a sector (drivers/md/dm-linear.c, dm-stripe.c)."""
    for line in table.splitlines():
        words = line.split()
        start, size = int(words[0]), int(words[1])
        if not start <= sector < start + size:
            continue
        offset = sector - start
        if words[2] == "linear":
            return words[3], int(words[4]) + offset
        count, chunk = int(words[3]), int(words[4])
        number, within = divmod(offset, chunk)
        row, stripe = divmod(number, count)
        return words[5 + 2 * stripe], int(words[6 + 2 * stripe]) + row * chunk + within
    raise AssertionError(f"sector {sector} is mapped nowhere")


@settings(deadline=None)
@given(legs())
def test_every_unit_of_every_extent_is_mapped_exactly_once(leg: tuple[list[Extent], int, int]) -> None:
    extents, stripes, stripe_bytes = leg
    table = layout.leg_table(extents, NUMBERS, stripes=stripes, stripe_bytes=stripe_bytes)
    size = layout.table_sectors(table)
    assert size == sum(each.length for each in extents) * UNIT
    step = min(stripe_bytes // SECTOR, UNIT)
    found = {located(table, sector) for sector in range(0, size, step)}
    wanted = {
        (NUMBERS[each.device_uuid], layout.LABEL_SECTORS + each.start * UNIT + offset)
        for each in extents
        for offset in range(0, each.length * UNIT, step)
    }
    assert found == wanted
    assert len(found) == size // step
    assert min(sector for _, sector in found) >= layout.LABEL_SECTORS


@given(legs())
def test_lines_follow_one_another_without_a_gap(leg: tuple[list[Extent], int, int]) -> None:
    extents, stripes, stripe_bytes = leg
    end = 0
    for line in layout.leg_table(extents, NUMBERS, stripes=stripes, stripe_bytes=stripe_bytes).splitlines():
        words = line.split()
        assert int(words[0]) == end
        end += int(words[1])
        if stripes > 1:  # what dm-stripe demands: the length divides into stripes of whole chunks
            assert int(words[1]) % (stripes * int(words[4])) == 0


@given(st.integers(1, 64 * 1024 * 1024).map(lambda units: units * UNIT_BYTES))
def test_the_array_holds_the_volume_and_the_leg_holds_the_array(volume_bytes: int) -> None:
    component = layout.component_sectors(volume_bytes)
    assert component * SECTOR >= volume_bytes
    assert component + layout.BITMAP_SECTORS == layout.leg_sectors(volume_bytes)
    assert layout.leg_sectors(volume_bytes) % UNIT == 0
    assert component * SECTOR - volume_bytes < UNIT_BYTES
    assert component % 2 == 0, "md counts in KiB"


@given(st.integers(1, 256 * 1024 * GIB // SECTOR))
def test_the_bitmap_never_reaches_the_data(component: int) -> None:
    chunk = layout.bitmap_chunk_bytes(component)
    assert chunk & (chunk - 1) == 0
    bits = -(-component * SECTOR // chunk)
    assert layout.BITMAP_START_SECTORS * SECTOR + -(-bits // 8) <= layout.BITMAP_SECTORS * SECTOR


def test_the_bitmap_is_as_fine_as_it_can_be() -> None:
    assert layout.bitmap_chunk_bytes(GIB // SECTOR) == MIB
    assert layout.bitmap_chunk_bytes(7 * 1024 * GIB // SECTOR) == MIB
    assert layout.bitmap_chunk_bytes(8 * 1024 * GIB // SECTOR) == 2 * MIB


def test_tables_as_they_are_written() -> None:
    assert layout.leg_table([extent(1, 0, 2), extent(2, 5, 1)], NUMBERS) == (
        "0 16384 linear 259:1 8192\n16384 8192 linear 259:2 49152"
    )
    assert layout.leg_table([extent(1, 0, 1), extent(2, 7, 1)], NUMBERS, stripes=2) == (
        "0 16384 striped 2 128 259:1 8192 259:2 65536"
    )
    volume = 28 * MIB
    assert layout.path_table("253:4", volume) == "0 65536 linear 253:4 0"
    assert layout.error_table(volume) == "0 65536 error"
    assert layout.front_table("9:127", volume) == "0 57344 linear 9:127 0"
    holding = "0 65536 multipath 3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 253:5 1"
    failing = "0 65536 multipath 2 queue_mode bio 0 1 1 round-robin 0 1 1 253:5 1"
    assert layout.gate_table("253:5", volume, holding=True) == holding
    assert layout.gate_table("253:5", volume, holding=False) == failing


def test_a_gate_is_the_same_table_in_either_mode_and_with_what_the_kernel_adds() -> None:
    holding = layout.gate_table("253:5", MIB, holding=True)
    failing = layout.gate_table("253:5", MIB, holding=False)
    shown = holding.replace("3 queue_if_no_path", "4 queue_if_no_path retain_attached_hw_handler")
    assert layout.same_table(holding, failing)
    assert layout.same_table(shown, failing)
    assert layout.gate_holds(shown)
    assert not layout.gate_holds(failing)
    assert not layout.same_table(holding, layout.gate_table("253:6", MIB, holding=True))
    assert not layout.same_table("0 8 linear 1:0 0", "0 8 linear 1:0 8")


@pytest.mark.parametrize(
    ("extents", "stripes", "complaint"),
    [
        ([], 1, "without extents"),
        ([extent(99, 0, 1)], 1, "n1-disk99, not to be found"),
        ([extent(1, 0, 1), extent(2, 0, 1), extent(3, 0, 1)], 2, "rows of 2 stripes"),
        ([extent(1, 0, 1), extent(2, 0, 2)], 2, "differ in length"),
    ],
)
def test_extents_that_make_no_leg_are_refused(extents: list[Extent], stripes: int, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        layout.leg_table(extents, NUMBERS, stripes=stripes)
