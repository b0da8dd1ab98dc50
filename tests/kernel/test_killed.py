"""Whoever drives the kernel dies between two of its steps, at each place in turn; one that begins anew goes on."""

from __future__ import annotations

import itertools

import pytest
from rig import Killed, Life, Volume, md
from test_nvme import HOST, Wire

from millpond_adapters import sysfs


async def test_an_assembly_is_made_again_wherever_it_ended(volume: Volume, life: Life) -> None:
    await volume.leave_b_behind()
    dirty = await volume.dirty("a")
    for writes in itertools.count():
        life.left = writes
        try:
            await volume.assemble("a", disks=2, dirty=dirty)
        except Killed:
            life.left = None
            if await md.get(volume.array) is not None:
                await md.stop(volume.array)  # as the state manager does with one that is half made
            continue
        break
    life.left = None
    assert writes > 18, "so many writes an assembly has"
    await volume.add("b", delta=True)
    await volume.in_sync("b")
    assert not await volume.differing("a", "b")


@pytest.mark.parametrize("let_go", [False, True], ids=["added again", "let go first"])
async def test_a_leg_is_taken_back_wherever_that_ended(volume: Volume, life: Life, let_go: bool) -> None:
    """md adds by itself what it finds without a place: at the wrong offset, or as in sync, if that is how far it came.

    ``let go first``: the freeze is ended before the leg is added again, as when the leg is out of reach by then.
    """
    await volume.leave_b_behind()
    await volume.assemble("a", disks=2, dirty=await volume.dirty("a"))
    number = volume.gate_number("b")
    for writes in itertools.count():
        volume.end_answering()
        life.left = writes
        try:
            await volume.add("b", delta=True)
        except Killed:
            life.left = None
            if let_go:
                await md.unfreeze(volume.array)
            volume.begin_answering()
            if any(m.major_minor == number and "faulty" in m.flags for m in (await volume.look()).members):
                # It died while it discarded what it had found: writes wait until that is recorded as a loss.
                await md.acknowledge_failure(volume.array, number)
            await volume.write(200 + writes)
            for member in (await volume.look()).members:
                if member.major_minor == number and "in_sync" in member.flags and member.slot is not None:
                    # It had its place already, and what it missed was copied in no time.
                    assert not await volume.differing("a", "b")
            continue
        break
    life.left = None
    assert writes > 3, "it was ended before each of the writes that give it its place"
    await md.unfreeze(volume.array)
    volume.begin_answering()
    await volume.in_sync("b")
    assert not await volume.differing("a", "b")


class Leg(Wire):
    """Leg a, exported and taken back."""

    async def make(self) -> None:
        await self.export("a")

    async def take_back(self) -> None:
        await self.target.unexport(self.nqn("a"))

    async def complete(self) -> bool:
        """Whether hosts reach all of it; a host that reaches less is refused for good."""
        seen = (await self.target.list()).get(self.nqn("a"))
        whole = seen is not None and seen.enabled and seen.allowed_hosts == (HOST,)
        assert whole or seen is None or not seen.linked
        return whole and seen is not None and seen.linked


async def test_an_export_is_made_wherever_that_ended(volume: Volume, life: Life) -> None:
    await volume.bare_legs("a")
    leg = Leg(volume)
    for steps in itertools.count():
        life.left = steps
        try:
            await leg.make()
        except Killed:
            life.left = None
            assert not await leg.complete()
            await leg.make()
            assert await leg.complete()
            await leg.take_back()
            continue
        break
    life.left = None
    assert steps > 12, "so many steps it has"
    assert await leg.complete()
    await leg.take_back()
    assert not await leg.target.list()
    assert not sysfs.entries("/sys/kernel/config/nvmet/ports")


async def test_an_export_is_taken_back_wherever_that_ended(volume: Volume, life: Life) -> None:
    await volume.bare_legs("a")
    leg = Leg(volume)
    for steps in itertools.count():
        await leg.make()
        life.left = steps
        try:
            await leg.take_back()
        except Killed:
            life.left = None
            await leg.complete()
            await leg.take_back()
            assert not await leg.target.list()
            continue
        break
    life.left = None
    assert steps > 5, "so many steps it has"
    assert not await leg.target.list()
    assert not sysfs.entries("/sys/kernel/config/nvmet/ports")
