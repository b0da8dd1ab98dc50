"""Taking a leg back: the one place where md, left alone, calls a leg in sync that differs (kernel facts 6, 14, 15)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from load import Load
from rig import BLOCK, BLOCKS, Volume, md, until

from millpond_adapters.run import run
from millpond_core.errors import Invalid
from millpond_core.layout import BITMAP_SECTORS
from millpond_core.units import MIB

TRACING = Path("/sys/kernel/tracing")
SLOW_KIB = 2000


async def crashed(volume: Volume, ids: str) -> None:
    """Legs in sync lose their power in this order while several threads write: leg a differs from all others."""
    await volume.legs("".join(sorted(ids)))
    await volume.assemble("".join(sorted(ids)))
    async with Load(volume) as load:
        images = await load.power_fails(ids)
    await volume.stop()
    await volume.restore(images)
    for leg in set(ids) - {"a"}:
        assert await volume.differing("a", leg), "nothing was in flight"


async def take_back(volume: Volume, legs: str, *, together: bool) -> None:
    """Add legs by a delta in this order: while the one before is copied, or when it is in sync and after a write."""
    await md.set_speed(volume.array, SLOW_KIB if together else 0)
    for leg, block in zip(legs, (300, 320), strict=False):
        await volume.gate_hold(leg)
        await volume.add(leg, delta=True)
        if not together:
            await volume.in_sync(leg)
            await volume.write(block, 3)
    await md.set_speed(volume.array, 0)
    for leg in legs:
        await volume.in_sync(leg)


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


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
@pytest.mark.parametrize("back", ["bc", "cb"])
@pytest.mark.parametrize("dropped", ["bc", "cb"])
async def test_three_legs_dropped_and_returning_in_every_order(
    volume: Volume, dropped: str, back: str, together: bool
) -> None:
    await volume.legs("abc")
    await volume.assemble("abc")
    await volume.write(0, 10)
    for leg, block in zip(dropped, (100, 200), strict=True):
        await volume.drop(leg)
        await volume.write(block, 5)
    await volume.stop()
    await volume.assemble("a", disks=3, dirty=await volume.dirty("a"))
    await volume.write(210, 2)
    await take_back(volume, back, together=together)


@pytest.mark.parametrize("failing", ["ab", "ba"], ids=["the source first", "the source last"])
async def test_after_a_crash_under_load_the_source_wins_everywhere(volume: Volume, failing: str) -> None:
    """The legs differ where writes were in flight; the bitmaps cover all of it."""
    await crashed(volume, failing)
    await volume.assemble("a", disks=2, dirty=await volume.dirty("ab"))
    await volume.write(20, 3)
    await take_back(volume, "b", together=False)


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
@pytest.mark.parametrize("back", ["bc", "cb"])
async def test_after_a_crash_under_load_two_legs_return_in_every_order(
    volume: Volume, back: str, together: bool
) -> None:
    await crashed(volume, "abc")
    await volume.assemble("a", disks=3, dirty=await volume.dirty("abc"))
    await volume.write(20, 3)
    await take_back(volume, back, together=together)


async def test_after_a_crash_the_source_dies_while_two_others_catch_up(volume: Volume) -> None:
    """Its gate holds all of it, copies and writes; nothing that was not copied is called in sync meanwhile."""
    await crashed(volume, "abc")
    dirty = [(0, BLOCKS * BLOCK // MIB - 1)]  # all of it, so that it takes a while
    await volume.assemble("a", disks=3, dirty=dirty)
    await md.set_speed(volume.array, SLOW_KIB)
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
