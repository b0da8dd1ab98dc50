"""The life of an array: assembled, watched, stopped, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rig import Volume, dm, md, until

from millpond_core import names
from millpond_core.errors import Busy, CommandFailed, Conflict, DeadlineExceeded, Invalid, MillpondError
from millpond_core.ports import Md

_contract: Md = md


async def test_an_array_is_what_was_asked_for(volume: Volume) -> None:
    await volume.legs("abc")
    members = [(slot, volume.gate_number(leg), leg == "c") for slot, leg in enumerate("abc")]
    array = await md.assemble(
        volume.array, raid_disks=3, component_sectors=volume.component, members=members, dirty_chunks=()
    )
    assert (array.name, array.device) == (volume.array, f"/dev/md_{volume.array}")
    assert (array.raid_disks, array.degraded, array.component_sectors) == (3, 0, volume.component)
    assert array.sync_action == "idle"
    assert [(m.slot, m.major_minor) for m in array.members] == [(slot, number) for slot, number, _ in members]
    assert [sorted(m.flags) for m in array.members] == [["in_sync"], ["in_sync"], ["in_sync", "write_mostly"]]
    assert (await md.list())[volume.array] == array
    assert await md.get("mpnothing") is None
    with pytest.raises(Conflict):
        await md.assemble(volume.array, raid_disks=3, component_sectors=volume.component, members=members)
    with pytest.raises(Conflict):
        await md.add(volume.array, 2, members[0][1], delta=False, write_mostly=False)
    await md.add(volume.array, 2, members[2][1], delta=False, write_mostly=True)
    with pytest.raises(Invalid):
        await md.get("root")


async def test_a_leg_that_cannot_be_used_leaves_no_half_array(volume: Volume) -> None:
    await volume.legs("a")
    number = volume.gate_number("a")
    with pytest.raises(MillpondError):
        await md.assemble(
            volume.array,
            raid_disks=2,
            component_sectors=volume.component * 2,  # larger than the leg
            members=[(0, number, False)],
        )
    assert await md.get(volume.array) is None
    await volume.assemble("a")


async def test_stopping(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.make_front()
    await volume.write(0, front=True)
    with pytest.raises(Busy, match="open"):
        await md.stop(volume.array)
    await dm.remove(volume.front)
    await volume.stop()
    await md.stop(volume.array)
    assert await md.get(volume.array) is None
    await volume.assemble("ab")


async def test_a_stop_behind_a_held_bitmap_is_given_up_and_ends_with_the_gate(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel fact 17: see that no gate holds before stopping."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 4)
    await volume.break_leg("b")
    monkeypatch.setattr("millpond_adapters.md.STOP_SECONDS", 1.0)
    with pytest.raises(DeadlineExceeded):
        await volume.stop()
    await volume.heal("b")
    await volume.reinstate("b")

    async def gone() -> bool:
        return await md.get(volume.array) is None

    await until(gone, "the stop that was given up takes effect")


async def test_an_array_whose_start_waits_for_a_leg_can_be_stopped_and_made_again(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed while it waits to stop an array leaves it closed for ever (6.9 and later): see ``Md.stop``."""
    monkeypatch.setattr("millpond_adapters.md.RUN_SECONDS", 1.0)
    monkeypatch.setattr("millpond_adapters.md.STOP_SECONDS", 1.0)
    await volume.legs("ab")
    await volume.break_leg("b")
    with pytest.raises(DeadlineExceeded):
        await volume.assemble("ab")
    with pytest.raises(MillpondError):
        await md.stop(volume.array)
    await volume.heal("b")
    await volume.reinstate("b")

    async def stopped() -> bool:
        try:
            await md.stop(volume.array)
        except Busy:
            return False
        return await md.get(volume.array) is None

    await until(stopped, "the array is stopped", seconds=30)
    monkeypatch.undo()
    await volume.assemble("ab")
    await volume.write(0, 20)
    await volume.compare()


async def test_a_watch_tells_of_a_lost_leg_and_of_a_rebuild(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0)
    seen: set[tuple[str, str, int]] = set()
    wake = asyncio.Event()
    stop = md.watch(volume.array, wake.set)

    async def woken(what: str) -> None:
        await asyncio.wait_for(wake.wait(), 3)
        wake.clear()
        array = await volume.look()
        seen.add((what, array.array_state, array.degraded))

    with volume.silence():
        await volume.gate_fail("b")
        await md.fail(volume.array, volume.gate_number("b"))
        await woken("lost")
        await md.acknowledge_failure(volume.array, volume.gate_number("b"))
        await woken("acknowledged")
    assert ("lost", "write-pending", 1) in seen or ("lost", "write-pending", 0) in seen
    await asyncio.sleep(0.3)
    wake.clear()
    await volume.gate_hold("b")
    await volume.add("b", delta=True)
    await woken("back")
    await volume.in_sync("b")
    stop()
    stop()
    wake.clear()
    await asyncio.sleep(0.3)
    assert not wake.is_set()
    await volume.stop()


async def test_failing_twice_and_acknowledging_twice_is_once(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    number = volume.gate_number("b")
    with pytest.raises(Conflict, match="no failure"):
        await md.acknowledge_failure(volume.array, number)
    for _ in range(2):
        await md.fail(volume.array, number)
    for _ in range(2):
        await md.acknowledge_failure(volume.array, number)
    await md.fail(volume.array, number)
    assert [m.slot for m in (await volume.look()).members] == [0]
    await volume.write(0)


async def test_reads_come_from_the_leg_that_is_not_write_mostly(volume: Volume) -> None:
    await volume.legs("ab")
    members = [(0, volume.gate_number("a"), True), (1, volume.gate_number("b"), False)]
    await md.assemble(volume.array, raid_disks=2, component_sectors=volume.component, members=members)
    before = [_sectors_read(number) for _, number, _ in members]
    await volume.read(0, 40)
    after = [_sectors_read(number) for _, number, _ in members]
    assert after[0] == before[0]
    assert after[1] >= before[1] + 40 * 128


async def test_an_opened_gate_of_the_last_leg_ruins_the_array_until_it_is_assembled_anew(volume: Volume) -> None:
    """Kernel fact 16, and why the last leg's gate is never opened on a volume that is to live."""
    await volume.legs("a")
    await volume.assemble("a")
    await volume.write(0, 4)
    await volume.gate_fail("a")
    await volume.break_leg("a")
    with pytest.raises(CommandFailed):
        await volume.write(8)
    await volume.heal("a")
    await volume.gate_hold("a")
    await volume.reinstate("a")
    with pytest.raises(CommandFailed):
        await volume.write(8)
    await volume.stop()
    await volume.assemble("a")
    await volume.write(8)


async def test_stops_and_goes_on_with_another_epoch(volume: Volume) -> None:
    """Clean detach and attach: no bit is dirty, both legs are taken as equal, and are."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 30)
    await volume.stop()
    assert await volume.dirty("ab") == []
    await volume.assemble("ab")
    await volume.write(10, 5)
    assert names.array(volume.uuid) in await md.list()


def _sectors_read(major_minor: str) -> int:
    return int(Path(f"/sys/dev/block/{major_minor}/stat").read_text().split()[2])
