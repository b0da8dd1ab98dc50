"""md's sysfs, as it stood on Debian's 6.12 while leg 1 had failed and leg 2 was being rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest

from millpond_adapters.md import MdRaid, parse_progress, read_array, runs_of_bits
from millpond_core.errors import Invalid, NotFound

CAPTURED = """\
metadata_version:external:millpond
array_state:write-pending
raid_disks:3
component_size:31744
degraded:2
sync_action:recover
sync_completed:24064 / 63488
mismatch_cnt:0
dev-dm-6/slot:2
dev-dm-7/slot:1
dev-dm-8/slot:0
dev-dm-6/state:spare
dev-dm-7/state:faulty,blocked,write_error,want_replacement
dev-dm-8/state:in_sync
dev-dm-6/recovery_start:24064
dev-dm-7/recovery_start:24064
dev-dm-8/recovery_start:none
dev-dm-6/errors:0
dev-dm-7/errors:0
dev-dm-8/errors:0
dev-dm-6/block/dev:253:6
dev-dm-7/block/dev:253:7
dev-dm-8/block/dev:253:8
../dev:9:512
"""
NAME = "mpyjqfstyiefczjkhbphcphrhqqi"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    md = tmp_path / "block" / f"md_{NAME}" / "md"
    md.mkdir(parents=True)
    for line in CAPTURED.splitlines():
        name, _, value = line.partition(":")
        (md / name).parent.mkdir(parents=True, exist_ok=True)
        (md / name).write_text(value + "\n")
    return tmp_path


def attribute(system: Path, name: str) -> Path:
    return system / "block" / f"md_{NAME}" / "md" / name


async def test_an_array_is_read(system: Path) -> None:
    array = await MdRaid(system).get(NAME)
    assert array is not None
    assert (array.device, array.major_minor) == (f"/dev/md_{NAME}", "9:512")
    assert (array.array_state, array.sync_action, array.degraded) == ("write-pending", "recover", 2)
    assert (array.component_sectors, array.raid_disks) == (63488, 3)
    assert (array.sync_done_sectors, array.sync_total_sectors) == (24064, 63488)
    assert [(m.slot, m.major_minor, m.recovery_start) for m in array.members] == [
        (0, "253:8", None),
        (1, "253:7", 24064),
        (2, "253:6", 24064),
    ]
    assert array.members[1].flags == {"faulty", "blocked", "write_error", "want_replacement"}
    assert await MdRaid(system).list() == {NAME: array}


async def test_foreign_arrays_are_not_seen(system: Path) -> None:
    attribute(system, "metadata_version").write_text("1.2\n")
    assert await MdRaid(system).get(NAME) is None
    assert await MdRaid(system).list() == {}
    with pytest.raises(Invalid, match="not one of Millpond's arrays"):
        await MdRaid(system).stop("root")


async def test_a_member_that_leaves_while_we_look_is_not_there(system: Path) -> None:
    attribute(system, "dev-dm-7/errors").unlink()
    array = await MdRaid(system).get(NAME)
    assert array is not None
    assert [member.slot for member in array.members] == [0, 2]
    attribute(system, "array_state").unlink()
    assert read_array(attribute(system, "."), NAME) is None


async def test_a_failure_without_a_record_is_not_answered(system: Path) -> None:
    assert not await MdRaid(system).acknowledge(NAME)
    assert attribute(system, "array_state").read_text() == "write-pending\n"


async def test_a_failure_that_was_acknowledged_hinders_no_answer(system: Path) -> None:
    attribute(system, "dev-dm-7/state").write_text("faulty,write_error\n")
    assert await MdRaid(system).acknowledge(NAME)
    assert attribute(system, "array_state").read_text().startswith("active")


async def test_what_is_not_pending_is_not_written(system: Path) -> None:
    attribute(system, "dev-dm-7/state").write_text("in_sync\n")
    attribute(system, "array_state").write_text("clean\n")
    assert await MdRaid(system).acknowledge(NAME)
    assert attribute(system, "array_state").read_text() == "clean\n"
    assert not await MdRaid(system).acknowledge("mpnothing")


async def test_a_rebuild_is_never_faster_than_its_ceiling_nor_slower_than_its_floor(system: Path) -> None:
    speeds = [attribute(system, f"sync_speed_{end}") for end in ("min", "max")]
    for speed in speeds:
        speed.write_text("")
    raid = MdRaid(system)
    for ceiling, wanted in ((0, ["40960", "system"]), (1000, ["1000", "1000"]), (200000, ["40960", "200000"])):
        for speed in speeds:
            speed.write_text("")
        await raid.set_speed(NAME, ceiling)
        assert [speed.read_text() for speed in speeds] == wanted


async def test_a_leg_that_is_too_short_is_refused_before_md_sees_it(system: Path) -> None:
    (system / "dev/block/253:9").mkdir(parents=True)
    (system / "dev/block/253:9/size").write_text("2048\n")
    with pytest.raises(Invalid, match="has 2048 sectors"):
        await MdRaid(system).add(NAME, 1, "253:9", delta=False, write_mostly=False)
    with pytest.raises(NotFound):
        await MdRaid(system).add("mpnothing", 1, "253:9", delta=False, write_mostly=False)


def test_progress() -> None:
    assert parse_progress("24064 / 63488") == (24064, 63488)
    assert parse_progress("none") == (0, 0)
    assert parse_progress("delayed") == (0, 0)


@pytest.mark.parametrize(
    ("bitmap", "runs"),
    [
        (b"\0" * 64, []),
        (b"\x01", [(0, 0)]),
        (b"\x80\x01", [(7, 8)]),
        (b"\xff\xff\x01\x00\x05", [(0, 16), (32, 32), (34, 34)]),
    ],
)
def test_bits_are_counted_from_the_lowest_of_each_byte(bitmap: bytes, runs: list[tuple[int, int]]) -> None:
    assert runs_of_bits(bitmap) == runs
