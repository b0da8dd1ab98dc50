"""Scrubbing: what md compares, where it stops, what it tells, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os

from rig import BLOCK, VOLUME_BYTES, Volume, md, until

from millpond_core.units import MIB

SLOW_KIB = 3000  # 28 MiB take ten seconds
SECTORS = BLOCK // 512


async def _arrived(volume: Volume, last: int, *, seconds: float = 20) -> int:
    """Wait until the check has come to ``last``; sectors that differ."""

    async def there() -> bool:
        array = await volume.look()
        if array.sync_action == "idle" and array.sync_max_sectors is None and array.last_sync_action == "check":
            return last == volume.component
        return array.sync_action == "check" and array.sync_done_sectors >= last

    await until(there, f"compared up to sector {last}", seconds=seconds)
    return (await volume.look()).mismatch_count


async def _alter(volume: Volume, leg: str, block: int) -> bytes:
    """Other bytes in a block of one leg, beneath everything; returns what was there."""
    before = (await volume.data(leg))[block * BLOCK : (block + 1) * BLOCK]
    await volume._put(f"/dev/mapper/{volume.leg_name(leg)}", os.urandom(BLOCK), skip=MIB // BLOCK + block)
    return before


async def test_equal_legs_are_compared_to_the_end_while_they_are_written_to(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 100)
    await md.set_speed(volume.array, SLOW_KIB * 2)
    await md.check(volume.array, 0, volume.component)
    for block in range(100, 130):
        await volume.write(block)
    await md.set_speed(volume.array, 0)
    assert await _arrived(volume, volume.component) == 0
    await md.end_check(volume.array)
    array = await volume.look()
    assert (array.sync_action, array.sync_min_sectors, array.sync_max_sectors) == ("idle", 0, None)
    assert await volume.write(5) < 5


async def test_what_differs_is_counted_within_the_bounds_alone(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 40)
    before = await _alter(volume, "b", 17)
    for first, last, found in ((0, 17, 0), (16, 32, SECTORS), (18, 400, 0), (17, 18, SECTORS)):
        await md.check(volume.array, first * SECTORS, last * SECTORS)
        assert await _arrived(volume, last * SECTORS) == found, f"blocks {first} to {last}"
        await md.end_check(volume.array)
        assert (await volume.look()).sync_action == "idle"
    assert await volume.differing("a", "b"), "a check is not to write"
    await volume._put(f"/dev/mapper/{volume.leg_name('b')}", before, skip=MIB // BLOCK + 17)


async def test_what_differs_in_the_last_sectors_is_found(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    last = VOLUME_BYTES // BLOCK - 1
    before = await _alter(volume, "b", last)
    await md.check(volume.array, (last - 3) * SECTORS, volume.component)
    assert await _arrived(volume, volume.component) == SECTORS
    await volume._put(f"/dev/mapper/{volume.leg_name('b')}", before, skip=MIB // BLOCK + last)


async def test_a_check_is_halted_and_goes_on_where_it_stood(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await md.set_speed(volume.array, SLOW_KIB)
    await md.check(volume.array, 0, volume.component)

    async def half() -> bool:
        return (await volume.look()).sync_done_sectors * 2 > volume.component

    await until(half, "half of it is compared", seconds=40)
    await md.freeze(volume.array)
    halted = await volume.look()
    assert halted.sync_action == "frozen"
    assert halted.sync_min_sectors * 2 > volume.component
    assert halted.sync_max_sectors == volume.component
    assert await volume.write(3, 3) < 5
    await md.unfreeze(volume.array)
    await md.set_speed(volume.array, 0)
    await md.check(volume.array, halted.sync_min_sectors, volume.component)
    assert await _arrived(volume, volume.component) == 0


async def test_a_leg_lost_during_a_check_is_rebuilt_to_the_end(volume: Volume) -> None:
    """md keeps the bound of the check that it gave up, and a rebuild that came to it would wait there for ever."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 400)
    await md.set_speed(volume.array, SLOW_KIB)
    await md.check(volume.array, 0, 20 * MIB // 512)
    await asyncio.sleep(1)
    await volume.break_leg("b")
    writer = volume.start_write(30)
    await asyncio.sleep(0.5)
    await volume.drop("b")
    await asyncio.wait_for(writer, 10)
    assert (await volume.look()).sync_max_sectors == 20 * MIB // 512
    await volume.heal("b")
    await volume.reinstate("b")
    await md.set_speed(volume.array, 0)
    await volume.add("b", delta=False)
    await volume.in_sync("b")


async def test_an_array_is_stopped_in_the_middle_of_a_check(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 10)
    await md.set_speed(volume.array, SLOW_KIB)
    await md.check(volume.array, 0, 20 * MIB // 512)
    await asyncio.sleep(1)
    await volume.stop()
    assert await md.get(volume.array) is None
    await volume.assemble("ab")
    array = await volume.look()
    assert array.sync_max_sectors is None
    assert array.last_sync_action != "check", "it would be taken for one that came to its end"
