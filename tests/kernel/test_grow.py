"""A volume grows online: legs, paths, gates, array, front, with writes going on; and whoever drives it may die."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from rig import BLOCK, VOLUME_BYTES, Killed, Life, Volume, dm, md, until
from test_nvme import Wire, wire

from millpond_core import layout, names
from millpond_core.errors import Invalid
from millpond_core.units import MIB

__all__ = ["wire"]

SMALL = 12 * MIB
LAST = VOLUME_BYTES // BLOCK - 1
"""The last block of the larger volume."""


async def small(volume: Volume, ids: str = "ab") -> None:
    volume.resized(SMALL)
    await volume.legs(ids)
    await volume.assemble(ids)
    await volume.make_front()


async def test_it_grows_under_writes_and_nothing_is_copied(volume: Volume) -> None:
    await small(volume)
    done = asyncio.Event()

    async def writes() -> int:
        count = 0
        while not done.is_set():
            await volume.write(count % (SMALL // BLOCK), front=True)
            count += 1
        return count

    writer = asyncio.create_task(writes())
    await asyncio.sleep(0.5)
    await volume.grow("ab", VOLUME_BYTES)
    await asyncio.sleep(0.5)
    done.set()
    assert await asyncio.wait_for(writer, 30) > 1
    array = await volume.look()
    assert (array.component_sectors, array.sync_action, array.degraded) == (volume.component, "idle", 0)
    assert all("in_sync" in member.flags for member in array.members)
    await volume.write(LAST - 3, 4, front=True)
    assert await volume.read(LAST) == volume.written[LAST]


async def test_what_was_written_since_is_in_the_bitmap_and_a_delta_brings_it(volume: Volume) -> None:
    """The chunk is what it was: legs are told what they missed by their number in it."""
    await small(volume)
    await volume.write(0, 8, front=True)
    await volume.grow("ab", VOLUME_BYTES)
    await volume.drop("b")
    await volume.write(LAST - 20, 21, front=True)
    await volume.write(100, 3, front=True)
    assert await volume.dirty("a")
    await volume.gate_hold("b")
    await volume.add("b", delta=True)
    await volume.in_sync("b")
    assert not await volume.differing("a", "b")


async def test_it_is_assembled_again_in_its_new_size(volume: Volume) -> None:
    await small(volume)
    await volume.grow("ab", VOLUME_BYTES)
    await volume.write(LAST, front=True)
    await dm.remove(volume.front)
    await volume.stop()
    await volume.assemble("ab")
    assert await volume.read(LAST) == volume.written[LAST]


async def test_it_grows_frozen_and_while_legs_are_compared(volume: Volume) -> None:
    await small(volume)
    await volume.write(0, 20, front=True)
    await md.freeze(volume.array)
    await volume.grow("ab", 16 * MIB)
    assert (await volume.look()).sync_action == "frozen"
    await md.unfreeze(volume.array)
    await md.set_speed(volume.array, 64)
    await md.check(volume.array, 0, 2048 * 12)
    await volume.grow("ab", 20 * MIB)
    await md.set_speed(volume.array, 0)
    await md.end_check(volume.array)
    array = await volume.look()
    assert (array.component_sectors, array.mismatch_count) == (layout.component_sectors(20 * MIB), 0)


async def test_a_leg_that_is_too_small_is_refused(volume: Volume) -> None:
    await small(volume)
    with pytest.raises(Invalid, match="sectors"):
        await md.grow(volume.array, layout.component_sectors(VOLUME_BYTES))
    with pytest.raises(Invalid, match="bitmap"):
        await md.grow(volume.array, layout.component_sectors(1 << 44))
    assert (await volume.look()).component_sectors == layout.component_sectors(SMALL)
    await volume.write(3, front=True)


async def test_it_goes_on_wherever_that_ended(volume: Volume, life: Life) -> None:
    await small(volume)
    await volume.write(0, 8, front=True)
    await volume.grow_below("ab", VOLUME_BYTES)
    for writes in itertools.count():
        life.left = writes
        try:
            await md.grow(volume.array, layout.component_sectors(VOLUME_BYTES))
        except Killed:
            life.left = None
            await md.unfreeze(volume.array)  # as the state manager does where nothing is to be halted
            await volume.write(20 + writes, front=True)
            continue
        break
    life.left = None
    assert writes > 3, "so many writes it takes"
    volume.resized(VOLUME_BYTES)

    async def settled() -> bool:
        return (await volume.look()).sync_action == "idle"

    await until(settled, "what md copies, if it was let go before it was told that there is nothing to copy")
    await dm.swap(volume.front, layout.front_table((await volume.look()).major_minor, VOLUME_BYTES))
    await volume.write(LAST, front=True)
    assert not await volume.differing("a", "b")


async def test_a_host_sees_that_a_leg_has_grown(wire: Wire) -> None:
    """The device that it has open stays, and with it what lies on it."""
    volume = wire.volume
    volume.resized(SMALL)
    await volume.bare_legs("a")
    await wire.export("a")
    number = await wire.connect("a")
    volume.resized(VOLUME_BYTES)
    await dm.swap(volume.leg_name("a"), volume.leg_table("a"))
    await wire.target.resize(wire.nqn("a"))

    async def seen() -> bool:
        (namespace,) = (await wire.host.list())[wire.nqn("a")].namespaces
        assert namespace.major_minor == number
        return namespace.sectors == layout.leg_sectors(VOLUME_BYTES)

    await until(seen, "the host sees the new size", seconds=20)
    path = names.path(volume.uuid, "a")
    await dm.create(path, names.dm_uuid(path), layout.path_table(number, VOLUME_BYTES))
    await dm.remove(path)
