"""Taking a leg back: the one place where md, left alone, calls a leg in sync that differs (kernel facts 6, 14, 15)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from rig import BLOCK, BLOCKS, Volume, md, until

from millpond_adapters.run import run
from millpond_core.errors import Invalid
from millpond_core.layout import BITMAP_SECTORS
from millpond_core.units import MIB

TRACING = Path("/sys/kernel/tracing")


async def test_after_a_reassembly_the_dirty_chunks_bring_the_leg_back_equal(volume: Volume) -> None:
    await volume.leave_b_behind()
    dirty = await volume.dirty("a")
    assert dirty
    await volume.assemble("a", disks=2, dirty=dirty)
    await volume.write(120, 2)
    await volume.add("b", delta=True)
    await volume.in_sync("b")
    assert not await volume.differing("a", "b")


async def test_without_the_dirty_chunks_md_calls_a_differing_leg_in_sync(volume: Volume) -> None:
    """What we work around. When this fails, the kernel has learned better: keep the workaround, tell docs/decisions."""
    await volume.leave_b_behind()
    await volume.assemble("a", disks=2)
    await volume.add("b", delta=True)
    await volume.in_sync("b")
    volume.compare_at_end = False
    assert await volume.differing("a", "b")


async def test_in_the_same_array_a_leg_comes_back_by_the_bitmap(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 20)
    await volume.drop("b")
    await volume.write(100, 20)
    await volume.gate_hold("b")
    await volume.add("b", delta=True)
    await volume.in_sync("b")


async def test_a_slot_that_is_new_gets_no_delta(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("a")
    with pytest.raises(Invalid, match="whole copy"):
        await volume.add("b", delta=True)
    assert (await volume.look()).sync_action != "frozen"


async def test_after_a_crash_with_writes_in_flight_the_source_wins_everywhere(volume: Volume) -> None:
    """The legs differ where writes were in flight; the bitmap on the source covers all of it."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 40)
    await asyncio.sleep(0)
    images = await volume.images("ab", scribble={"b": 30})
    await volume.stop()
    await volume.restore(images)
    assert await volume.differing("a", "b")
    dirty = await volume.dirty("ab")
    await volume.assemble("a", disks=2, dirty=dirty)
    await volume.write(200, 3)
    await volume.add("b", delta=True)
    await volume.in_sync("b")


async def test_three_legs_dropped_one_after_the_other_come_back_together(volume: Volume) -> None:
    await volume.legs("abc")
    await volume.assemble("abc")
    await volume.write(0, 10)
    await volume.drop("c")
    await volume.write(100, 5)
    await volume.drop("b")
    await volume.write(200, 5)
    await volume.stop()
    dirty = await volume.dirty("a")
    await volume.assemble("a", disks=3, dirty=dirty)
    await volume.write(210, 2)
    for leg in "cb":
        await volume.gate_hold(leg)
        await volume.add(leg, delta=True)
    await volume.in_sync("b")
    await volume.in_sync("c")


async def test_after_a_crash_the_source_dies_while_two_others_catch_up(volume: Volume) -> None:
    """Its gate holds all of it, copies and writes; nothing that was not copied is called in sync meanwhile."""
    await volume.legs("abc")
    await volume.assemble("abc")
    await volume.write(0, 2 * BLOCKS // 3)
    images = await volume.images("abc", scribble={"b": 30, "c": 200})
    await volume.stop()
    await volume.restore(images)
    assert await volume.differing("a", "b")
    dirty = [(0, BLOCKS * BLOCK // MIB - 1)]  # all of it, so that it takes a while
    await volume.assemble("a", disks=3, dirty=dirty)
    await md.set_speed(volume.array, 2000)
    for leg in "bc":
        await volume.gate_fail(leg)
        await volume.add(leg, delta=True)
    writer = volume.start_write(250, 3)
    await asyncio.wait_for(writer, 10)
    await volume.break_leg("a")
    held = volume.start_write(10, 2)
    await volume.held("a")
    await asyncio.sleep(1)
    assert not held.done()
    synced = [member.major_minor for member in (await volume.look()).members if "in_sync" in member.flags]
    assert synced == [volume.gate_number("a")]
    await volume.heal("a")
    await volume.reinstate("a")
    await asyncio.wait_for(held, 10)
    await md.set_speed(volume.array, 0)
    await volume.in_sync("b")
    await volume.in_sync("c")


async def test_the_bitmap_is_where_dirty_chunks_looks(volume: Volume) -> None:
    """64 KiB blocks 16 to 31 are the chunk of 1 MiB number 1; the chunk goes clean when all legs have it."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(16)
    assert (1, 1) in await volume.dirty("a")
    assert await md.dirty_chunks(f"/dev/mapper/{volume.leg_name('b')}") == await volume.dirty("b")
    await volume.stop()
    assert await volume.dirty("ab") == []


async def test_a_leg_is_flushed_before_a_bit_is_cleared_on_it(cached: Volume) -> None:
    """So what a leg's own bitmap calls clean its disk has kept, with a volatile cache too: what a delta stands on.

    ``md_super_write``: each write of the bitmap carries PREFLUSH and FUA, on every leg for itself.
    """
    await cached.legs("ab")
    await cached.assemble("ab")
    await cached.write(0)
    if not (TRACING / "events").exists():
        await run("mount", "-t", "tracefs", "tracefs", str(TRACING))
    queued = TRACING / "events/block/block_bio_queue/enable"
    queued.write_text("1")
    try:

        async def clean() -> bool:
            return not await cached.dirty("ab")

        assert not await clean()
        await until(clean, "md has cleared the bit on both legs", seconds=60)
    finally:
        queued.write_text("0")
    seen = re.findall(r"block_bio_queue: (\S+) (\S+) (\d+) \+", (TRACING / "trace").read_text())
    for leg in "ab":
        gate = cached.gate_number(leg).replace(":", ",")
        flags = [how for device, how, sector in seen if device == gate and int(sector) < BITMAP_SECTORS and "W" in how]
        assert flags, f"no write of the bitmap on leg {leg} was seen"
        assert all(how.startswith("FWF") for how in flags), f"PREFLUSH, write, FUA: {set(flags)}"
