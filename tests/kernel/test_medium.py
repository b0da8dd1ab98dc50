"""Sectors that cannot be read. That is no path's error: it passes a gate, and md deals with it by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from rig import BLOCK, RAM_MIB, Volume, gate_status, md, until

from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import MillpondError
from millpond_core.units import MIB

DRIVER = Path("/sys/bus/pseudo/drivers/scsi_debug")
MEDIUM_ERROR = "0x2"
BAD = 200
"""The block of the volume whose first sectors go bad; writing does not heal them."""


@pytest.fixture
async def spoil(volume: Volume) -> AsyncIterator[Callable[[bool], object]]:
    """Leg a lies on a SCSI disk; makes block ``BAD`` unreadable there, or readable again."""
    start = layout.LABEL_SECTORS + layout.BITMAP_SECTORS + BAD * BLOCK // 512
    options = (f"dev_size_mb={RAM_MIB}", "delay=0", f"medium_error_start={start}", "medium_error_count=8")
    await run("modprobe", "scsi_debug", *options)

    def spoil(bad: bool) -> None:
        (DRIVER / "opts").write_text(MEDIUM_ERROR if bad else "0")

    async def appeared() -> bool:
        return any(Path(f"/dev/{disk.name}").exists() for disk in disks())

    def disks() -> list[Path]:
        return list(DRIVER.glob("adapter0/host*/target*/*/block/sd*"))

    try:
        await until(appeared, "the disk appears")
        volume.disks["a"] = (disks()[0] / "dev").read_text().strip()
        yield spoil
        spoil(False)
        await volume.compare()
    finally:
        spoil(False)
        volume.compare_at_end = False
        await volume.close()

        async def unloaded() -> bool:
            try:
                await run("modprobe", "-r", "scsi_debug")
            except MillpondError:
                return False  # udev still looks at it
            return True

        await until(unloaded, "scsi_debug is gone")


async def test_what_one_leg_cannot_read_comes_from_the_other(volume: Volume, spoil: Callable[[bool], object]) -> None:
    """md writes the block anew and reads it again; a leg on which that does not help is lost, not the data."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(BAD, 4)
    spoil(True)
    assert await volume.read(BAD) == volume.written[BAD]
    status = await gate_status(names.gate(volume.uuid, "a"))
    assert status.path_up, "its gate takes no part"
    number = volume.gate_number("a")

    async def lost() -> bool:
        array = await volume.look()
        return any(m.major_minor == number and {"faulty", "blocked"} <= m.flags for m in array.members)

    await until(lost, "leg a is called faulty")
    assert (await volume.look()).array_state == "write-pending"
    writer = volume.start_write(3)
    await asyncio.sleep(0.7)
    assert not writer.done(), "writes wait for the record"
    await volume.drop("a")
    await asyncio.wait_for(writer, 10)
    assert await volume.read(BAD) == volume.written[BAD]


async def test_a_rebuild_ends_where_its_only_source_cannot_be_read(
    volume: Volume, spoil: Callable[[bool], object]
) -> None:
    """Its target is not called in sync, whatever the checkpoint says, and loses its slot: that is how to tell."""
    await volume.legs("ab", holding="a")
    await volume.assemble("a", disks=2)
    await volume.write(0, 2 * BAD)
    spoil(True)
    number = volume.gate_number("b")

    async def given_up() -> bool:
        array = await volume.look()
        (member,) = [m for m in array.members if m.major_minor == number]
        assert "in_sync" not in member.flags
        return member.slot is None and array.sync_action == "idle"

    for _ in range(2):
        await volume.add("b", delta=False)
        await until(given_up, "md gives the copy up", seconds=20)
    with pytest.raises(MillpondError, match="Input/output error"):
        await volume.read(BAD)
    await volume.write(7)
    assert await volume.read(BAD + 1) == volume.written[BAD + 1], "the rest can be read, and written"
    await md.fail(volume.array, number)
    await md.acknowledge_failure(volume.array, number)
    assert number not in [member.major_minor for member in (await volume.look()).members], "as when another takes over"
    spoil(False)
    await volume.add("b", delta=False)
    await volume.in_sync("b")


async def test_the_last_leg_survives_what_it_cannot_read(volume: Volume, spoil: Callable[[bool], object]) -> None:
    """Unlike a write's error, which ruins the array (kernel fact 16)."""
    await volume.legs("a")
    await volume.assemble("a")
    await volume.write(BAD, 2)
    spoil(True)
    with pytest.raises(MillpondError, match="Input/output error"):
        await volume.read(BAD)
    await volume.write(3)
    (member,) = (await md.get(volume.array)).members  # type: ignore[union-attr]
    assert "in_sync" in member.flags


async def test_a_check_writes_anew_what_one_leg_cannot_read(volume: Volume, spoil: Callable[[bool], object]) -> None:
    """It counts as a difference; the leg stays, and has what the other has. To show it, it had something else."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(BAD, 4)
    await volume._put(f"/dev/mapper/{volume.leg_name('a')}", os.urandom(BLOCK), skip=MIB // BLOCK + BAD)
    sectors = BLOCK // 512
    last = (BAD + 2) * sectors
    spoil(True)
    await md.check(volume.array, BAD * sectors, last)

    async def arrived() -> bool:
        array = await volume.look()
        return array.sync_action == "check" and array.sync_done_sectors >= last

    await until(arrived, "compared", seconds=20)
    assert (await volume.look()).mismatch_count == sectors
    await md.end_check(volume.array)
    spoil(False)
    assert all("in_sync" in member.flags for member in (await volume.look()).members)
    assert not await volume.differing("a", "b")
