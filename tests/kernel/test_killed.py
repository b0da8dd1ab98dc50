"""Whoever drives md dies between two of its writes, at each place in turn; one that begins anew goes on from there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from rig import Volume, md

from millpond_adapters import sysfs


class Killed(BaseException):
    """The process is gone: nothing after it is done either."""


class Life:
    """Ends after so many writes to sysfs; None: it does not."""

    def __init__(self) -> None:
        self.left: int | None = None
        self._write = sysfs.write

    async def write(self, path: Path, value: str, *, seconds: float = 5.0) -> None:
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1
        await self._write(path, value, seconds=seconds)

    async def write_all(self, writes: Sequence[tuple[Path, str]], *, seconds: float = 10.0) -> None:
        for path, value in writes:
            await self.write(path, value, seconds=seconds)


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    made = Life()
    monkeypatch.setattr(sysfs, "write", made.write)
    monkeypatch.setattr(sysfs, "write_all", made.write_all)
    return made


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
            await volume.write(200 + writes)
            for member in (await volume.look()).members:
                assert member.major_minor != number or "in_sync" not in member.flags or member.slot is None
            continue
        break
    life.left = None
    assert writes > 3, "it was ended before each of the writes that give it its place"
    await md.unfreeze(volume.array)
    volume.begin_answering()
    await volume.in_sync("b")
    assert not await volume.differing("a", "b")
