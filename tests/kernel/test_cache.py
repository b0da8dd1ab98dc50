"""A leg whose disk has a volatile cache loses its power: what was acknowledged and not flushed is gone from it.

Ramdisks forget nothing, so that is imitated: an image of leg b is what its disk had kept at the last flush, and putting
the image back is the loss. It is a true one as long as md has not written to b's bitmap since, for each such write
flushes the leg (``test_delta.py``): rounds of the bitmap are far apart here, and that none came is asserted.
"""

from __future__ import annotations

import asyncio

import pytest
from rig import BLOCK, Volume, dm, md

from millpond_adapters.run import run
from millpond_core import names

FLUSHED, CACHED, HELD = 16, 20, 24
"""Blocks of one chunk of the bitmap, so that its bit is written but once."""


@pytest.fixture
async def forgotten(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What leg b's disk has kept: not the write of ``CACHED``, acknowledged and on leg a."""
    monkeypatch.setattr("millpond_adapters.md.BITMAP_SECONDS", 60)
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(FLUSHED, 4)
    await run("sync", f"/dev/md_{volume.array}")
    kept, bits = await volume.images("b"), await volume.dirty("b")
    await volume.write(CACHED, 2)
    assert bits == await volume.dirty("b") == [(1, 1)], "md wrote to the bitmap, and so flushed the leg"
    return kept


async def lose_power(volume: Volume, kept: dict[str, bytes]) -> asyncio.Task[float]:
    """Leg b is gone and back without what was in its cache; its gate holds the write that is returned."""
    await volume.break_leg("b")
    writer = volume.start_write(HELD)
    await volume.held("b")
    await volume.heal("b")
    await volume.restore(kept)
    return writer


async def test_reinstated_it_is_called_in_sync_and_lacks_what_was_acknowledged(
    volume: Volume, forgotten: dict[str, bytes]
) -> None:
    """What rule 5 is for (``docs/safety.md``). When this fails, a kernel has learned to tell."""
    writer = await lose_power(volume, forgotten)
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 10)
    await volume.in_sync("b")
    volume.compare_at_end = False
    lacking = (await volume.data("b"))[CACHED * BLOCK : (CACHED + 1) * BLOCK]
    assert lacking != volume.written[CACHED]
    assert (await volume.data("a"))[CACHED * BLOCK : (CACHED + 1) * BLOCK] == volume.written[CACHED]


async def test_dropped_and_taken_back_by_a_delta_it_has_everything(volume: Volume, forgotten: dict[str, bytes]) -> None:
    """As the planner does with a leg in a new life: recorded, out of the array, path and gate made anew, a delta."""
    writer = await lose_power(volume, forgotten)
    await volume.drop("b")
    await asyncio.wait_for(writer, 10)
    for name in (names.gate(volume.uuid, "b"), names.path(volume.uuid, "b")):
        await dm.remove(name)
    await volume.connect("b", holding=False)
    await volume.add("b", delta=True, own=await md.dirty_chunks(f"/dev/mapper/{names.path(volume.uuid, 'b')}"))
    await volume.in_sync("b")
    await volume.gate_hold("b")
    assert not await volume.differing("a", "b")


@pytest.mark.parametrize("own", [True, False], ids=["read", "unread"])
async def test_a_new_array_is_told_what_the_legs_own_bitmap_knows(
    volume: Volume, forgotten: dict[str, bytes], own: bool
) -> None:
    """Leg a was flushed and its bit cleared, b lost its power before that, and the node went, too: b alone knows.

    Unread, md calls the leg in sync and it differs.
    """
    await volume.stop()
    await volume.restore(forgotten)
    assert await volume.dirty("a") == []
    await volume.assemble("a", disks=2, dirty=await volume.dirty("a"))
    await volume.add("b", delta=True, own=await volume.dirty("b") if own else ())
    await volume.in_sync("b")
    volume.compare_at_end = own
    assert await volume.differing("a", "b") is not own
