"""Writers that do not wait for each other, and a power failure under them."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
import threading
from types import TracebackType

from rig import BLOCK, Volume, dm, until

LANES = 4
LANE_BLOCKS = 32
FAILING_BLOCKS = 4
"""So few of them are written while the power fails: the others' last acknowledged writes must all be there."""


class Load:
    """Threads that write to a volume's array past the page cache, each to its own blocks over and over."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._rounds = [0] * LANES
        self._powered = True
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(lane,), daemon=True) for lane in range(LANES)]

    async def __aenter__(self) -> Load:
        """They run, and each has written all of its blocks."""
        for thread in self._threads:
            thread.start()
        try:
            await until(self._once_round, "every block is written", seconds=40)
        except BaseException:
            self._ending.set()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        await until(self._ended, "the writers have ended", seconds=30)

    async def power_fails(self, legs: str) -> dict[str, bytes]:
        """What is on the legs' disks when they lose their power one after the other.

        What was acknowledged before is on all of them; what was in flight then is on those that failed later.
        """
        self._powered = False
        try:
            for leg in legs:
                await dm.suspend(self._volume.leg_name(leg))
                await asyncio.sleep(0.3)  # every writer comes to wait for this leg
            return await self._volume.images(legs)
        finally:
            self._ending.set()
            for leg in legs:
                await dm.resume(self._volume.leg_name(leg))

    def _write(self, lane: int) -> None:
        volume = self._volume
        file = os.open(f"/dev/md_{volume.array}", os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, BLOCK) as buffer:
                for count in itertools.count():
                    block = lane * LANE_BLOCKS + count % (LANE_BLOCKS if self._powered else FAILING_BLOCKS)
                    self._rounds[lane] = count // LANE_BLOCKS
                    if self._ending.is_set():
                        return
                    buffer[:] = os.urandom(BLOCK)
                    volume.in_doubt.add(block)
                    os.pwrite(file, buffer, block * BLOCK)
                    if self._powered:
                        volume.written[block] = buffer[:]
                        volume.in_doubt.discard(block)
        finally:
            os.close(file)

    async def _once_round(self) -> bool:
        return all(self._rounds)

    async def _ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)
