"""Long operations: whole copies, halted and resumed while I/O flows, and what may fail meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest
from rig import BLOCKS, Volume, md, until

from millpond_core.errors import DeadlineExceeded
from millpond_core.units import SECTOR

SLOW_KIB = 3000  # 31 MiB take ten seconds


async def _rebuilding(volume: Volume, leg: str, *, floor: int = 512 * 1024) -> None:
    """Take a leg in for a whole copy, slowly, and wait until part of it is copied."""
    await md.set_speed(volume.array, SLOW_KIB)
    await volume.gate_fail(leg)
    await volume.add(leg, delta=False)

    async def begun() -> bool:
        array = await volume.look()
        return array.sync_action == "recover" and array.sync_done_sectors * 512 >= floor

    await until(begun, f"the rebuild of leg {leg} has begun")


async def _checkpoint(volume: Volume, leg: str) -> int:
    number = volume.gate_number(leg)
    (member,) = [m for m in (await volume.look()).members if m.major_minor == number]
    assert "in_sync" not in member.flags
    assert member.recovery_start is not None
    return member.recovery_start


async def test_a_rebuild_is_halted_while_writes_flow_and_goes_on_where_it_stood(volume: Volume) -> None:
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await volume.write(0, 100)
    await _rebuilding(volume, "b")
    await md.freeze(volume.array)
    await md.freeze(volume.array)
    halted = await _checkpoint(volume, "b")
    assert halted > 0
    assert await volume.write(300, 3) < 5
    assert (await volume.look()).sync_action == "frozen"
    assert await _checkpoint(volume, "b") == halted
    await md.unfreeze(volume.array)
    await md.unfreeze(volume.array)

    async def moves() -> bool:
        return (await volume.look()).sync_done_sectors > 0

    await until(moves, "the rebuild goes on")
    assert (await volume.look()).sync_done_sectors >= halted - 2048, "it began anew"
    await md.set_speed(volume.array, 0)
    await volume.in_sync("b")


async def test_a_rebuild_keeps_to_its_rate(volume: Volume) -> None:
    """Seen where it is written. md's own mean has a second too many, so it is ahead by what a second may copy."""
    kib, seconds = 1200, 20.0
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await md.set_speed(volume.array, kib)
    await volume.gate_fail("b")
    before, since = volume.written_kib("b"), time.monotonic()
    await volume.add("b", delta=False)
    await asyncio.sleep(seconds)
    copied, passed = volume.written_kib("b") - before, time.monotonic() - since
    assert (await volume.look()).sync_action == "recover", "it is over already"
    assert 0.9 * kib * passed < copied < 1.1 * kib * (passed + 1)
    await md.set_speed(volume.array, 0)
    await volume.in_sync("b")


async def test_the_end_of_a_rebuild_waits_for_its_record(volume: Volume) -> None:
    """Promote: gate holding, look again, record InSync, then answer. Until then new writes wait."""
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await volume.write(0, 10)
    with volume.silence():
        await volume.gate_fail("b")
        await volume.add("b", delta=False)

        async def asks() -> bool:
            return (await volume.look()).array_state == "write-pending"

        await until(asks, "md asks for the record")
        writer = volume.start_write(50)
        await asyncio.sleep(0.5)
        assert not writer.done()
        await volume.gate_hold("b")
        assert await md.acknowledge(volume.array)
        await asyncio.wait_for(writer, 5)
    await volume.in_sync("b")


async def test_one_copy_grows_to_two_while_it_is_written_to(volume: Volume) -> None:
    await volume.legs("ab", holding="a")
    array = await volume.assemble("a")
    assert (array.raid_disks, len(array.members)) == (1, 1)
    await volume.write(0, 100)
    await md.set_speed(volume.array, SLOW_KIB * 3)
    writers = [volume.start_write(200 + 20 * n, 10) for n in range(3)]
    await volume.add("b", delta=False)
    await asyncio.gather(*writers)
    await md.set_speed(volume.array, 0)
    await volume.in_sync("b")
    assert (await volume.look()).raid_disks == 2


async def test_the_target_of_a_rebuild_fails_and_another_takes_its_slot(volume: Volume) -> None:
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await volume.write(0, 20)
    await _rebuilding(volume, "b")
    await volume.break_leg("b")

    async def faulty() -> bool:
        return any("faulty" in member.flags for member in (await volume.look()).members)

    await until(faulty, "md calls the target faulty")
    await md.acknowledge_failure(volume.array, volume.gate_number("b"))
    await volume.write(50, 2)
    await volume.legs("c", holding="")
    await md.set_speed(volume.array, 0)
    number = volume.gate_number("c")
    await md.add(volume.array, 1, number, delta=False, write_mostly=True)
    await volume.in_sync("c")


async def test_a_leg_fails_while_another_is_rebuilt(volume: Volume) -> None:
    await volume.legs("abc", holding="ab")
    await volume.assemble("ab", disks=3)
    await volume.write(0, 20)
    await _rebuilding(volume, "c")
    await volume.break_leg("b")
    writer = volume.start_write(100)
    await asyncio.sleep(0.7)
    assert not writer.done()
    await volume.drop("b")
    await asyncio.wait_for(writer, 10)
    await md.set_speed(volume.array, 0)
    await volume.in_sync("c")


async def test_a_freeze_behind_a_held_source_is_given_up_and_works_later(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel fact 20: the write of ``frozen`` sleeps in D until the source answers. We do not."""
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await volume.write(0, 20)
    await _rebuilding(volume, "b")
    await volume.break_leg("a")
    await volume.held("a")
    monkeypatch.setattr("millpond_adapters.md.FREEZE_SECONDS", 1.0)
    with pytest.raises(DeadlineExceeded):
        await md.freeze(volume.array)
    assert (await volume.look()).name == volume.array, "a look must not hang"
    await volume.heal("a")
    await volume.reinstate("a")
    await until(lambda: _is(volume, "frozen"), "frozen in the end")
    await md.freeze(volume.array)
    await md.set_speed(volume.array, 0)
    await md.unfreeze(volume.array)
    await volume.in_sync("b")


async def test_a_checkpoint_can_pass_what_was_never_copied(volume: Volume) -> None:
    """Kernel fact 13, and why none is carried over: an array that began there would call a differing leg in sync."""
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await volume.write(0, BLOCKS)
    await _rebuilding(volume, "b")
    await volume.break_leg("a")
    await volume.held("a")
    halting = asyncio.create_task(md.freeze(volume.array))
    await until(lambda: _is(volume, "frozen"), "the copy is told to halt")
    await volume.gate_fail("a")
    await asyncio.wait_for(halting, 10)
    checkpoint = await _checkpoint(volume, "b")
    await volume.heal("a")
    await volume.reinstate("a")
    await volume.gate_hold("a")
    source, copy = await volume.data("a"), await volume.data("b")
    places = range(0, len(copy), SECTOR)
    copied = next(at for at in places if copy[at : at + SECTOR] != source[at : at + SECTOR])
    assert checkpoint * SECTOR > copied
    await md.unfreeze(volume.array)

    async def given_up() -> bool:
        array = await volume.look()
        (member,) = [m for m in array.members if m.major_minor == volume.gate_number("b")]
        assert "in_sync" not in member.flags
        return member.slot is None and array.sync_action == "idle"

    await until(given_up, "this array does not go on there: the leg loses its place")
    await md.set_speed(volume.array, 0)
    await volume.add("b", delta=False)
    await volume.in_sync("b")


async def test_the_ceiling_is_kept_and_lifted(volume: Volume) -> None:
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await _rebuilding(volume, "b")
    begun = (await volume.look()).sync_done_sectors
    await asyncio.sleep(2)
    done = (await volume.look()).sync_done_sectors - begun
    assert done * 512 < 4 * SLOW_KIB * 1024, "the ceiling was not kept"
    await md.set_speed(volume.array, 0)
    await volume.in_sync("b", seconds=6)


async def _is(volume: Volume, action: str) -> bool:
    return (await volume.look()).sync_action == action
