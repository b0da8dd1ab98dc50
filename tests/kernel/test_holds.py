"""Record before degrade: what a gate holds is acknowledged to nobody before somebody has recorded the loss."""

from __future__ import annotations

import asyncio

import pytest
from rig import Volume, dm, gate_status, md, until

from millpond_core import names
from millpond_core.errors import Busy, CommandFailed, DeadlineExceeded


async def _pair(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0, 2)


async def test_eight_writers_wait_for_the_record_and_then_all_go_on(volume: Volume) -> None:
    await _pair(volume)
    await volume.break_leg("b")
    writers = [volume.start_write(20 + 10 * n, 2) for n in range(8)]
    await volume.held("b")
    await asyncio.sleep(0.7)
    assert not any(writer.done() for writer in writers), "a write was acknowledged before the record"
    array = await volume.look()
    assert array.degraded == 0
    assert not any("faulty" in member.flags for member in array.members), "md saw an error that the gate should hold"
    await volume.drop("b")
    await asyncio.wait_for(asyncio.gather(*writers), 10)
    array = await volume.look()
    assert (array.degraded, len(array.members)) == (1, 1)


async def test_an_opened_gate_leaves_writes_waiting_for_the_acknowledgement(volume: Volume) -> None:
    """md's own hold, the second line: after the gate lets the error through, only what was in flight completes."""
    await _pair(volume)
    await volume.break_leg("b")
    first = volume.start_write(100)
    await volume.held("b")
    await volume.gate_fail("b")

    async def faulty() -> bool:
        return any({"faulty", "blocked"} <= member.flags for member in (await volume.look()).members)

    await until(faulty, "md calls leg b faulty and blocked")
    later = volume.start_write(200)
    await asyncio.sleep(0.7)
    assert not later.done(), "a new write went on although the loss is not acknowledged"
    assert (await volume.look()).array_state == "write-pending"
    assert not await md.acknowledge(volume.array), "a write-pending with a faulty leg needs a record"
    await md.acknowledge_failure(volume.array, volume.gate_number("b"))
    await asyncio.wait_for(asyncio.gather(first, later), 10)


async def test_a_short_outage_is_reinstated_and_nothing_is_degraded(volume: Volume) -> None:
    await _pair(volume)
    await volume.break_leg("b")
    writer = volume.start_write(100, 3)
    await volume.held("b")
    await volume.heal("b")
    await volume.reinstate("b")
    assert await asyncio.wait_for(writer, 5) > 0
    status = await gate_status(names.gate(volume.uuid, "b"))
    assert (status.holding, status.path_up, status.queued) == (True, True, 0)
    assert (await volume.look()).degraded == 0


async def test_the_path_below_a_holding_gate_can_be_swapped(volume: Volume) -> None:
    """A remote leg comes back under another number: the path takes it up, the held write goes on."""
    await _pair(volume)
    await volume.break_leg("b")
    writer = volume.start_write(100, 3)
    await volume.held("b")
    await volume.heal("b")
    path, leg = names.path(volume.uuid, "b"), await dm.get(volume.leg_name("b"))
    before = (await dm.get(path)).major_minor
    await dm.swap(path, f"0 {8 * 8192} linear {leg.major_minor} 0")
    assert (await dm.get(path)).major_minor == before
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 5)


async def test_a_front_drains_once_the_held_leg_is_recorded(volume: Volume) -> None:
    """Order: record, then drain. Before the record a suspend waits and can be given up."""
    await _pair(volume)
    await volume.make_front()
    await volume.break_leg("b")
    writer = volume.start_write(100, front=True)
    await volume.held("b")
    suspending = asyncio.create_task(dm.suspend(volume.front))
    await asyncio.sleep(0.7)
    assert not suspending.done(), "the front was suspended over a write that is held"
    await volume.drop("b")
    await asyncio.wait_for(asyncio.gather(suspending, writer), 10)
    assert (await dm.get(volume.front)).suspended
    waiting = volume.start_write(200, front=True)
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await dm.suspend(volume.front)
    await dm.resume(volume.front)
    await dm.resume(volume.front)
    await asyncio.wait_for(waiting, 5)


async def test_a_suspend_that_is_given_up_leaves_the_front_running(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _pair(volume)
    await volume.make_front()
    await volume.break_leg("b")
    writer = volume.start_write(100, front=True)
    await volume.held("b")
    monkeypatch.setattr("millpond_adapters.dm.DRAIN_SECONDS", 1.0)
    with pytest.raises(DeadlineExceeded):
        await dm.suspend(volume.front)
    await volume.heal("b")
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 5)

    async def runs() -> bool:
        return not (await dm.get(volume.front)).suspended

    await until(runs, "the front runs again")
    await volume.write(120, front=True)


async def test_the_last_leg_is_held_and_never_failed(volume: Volume) -> None:
    await _pair(volume)
    await volume.drop("b")
    await volume.break_leg("a")
    writer = volume.start_write(100)
    await volume.held("a")
    with pytest.raises((Busy, CommandFailed)):
        await md.fail(volume.array, volume.gate_number("a"))
    await asyncio.sleep(0.7)
    assert not writer.done()
    await volume.heal("a")
    await volume.reinstate("a")
    await asyncio.wait_for(writer, 5)


async def test_nobody_answers_and_the_first_write_waits(volume: Volume) -> None:
    await volume.legs("ab")
    with volume.silence():
        await volume.assemble("ab")
        writer = volume.start_write(0)
        await asyncio.sleep(0.7)
        assert not writer.done()
        assert (await volume.look()).array_state == "write-pending"
        with pytest.raises(Busy):
            await md.stop(volume.array)
    await asyncio.wait_for(writer, 5)
