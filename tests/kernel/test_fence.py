"""A volume whose epoch has moved on: its writer must die without ever hearing that its write was made."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from rig import Volume, dm, md, until

# Tells in a file what its write returned: what an application would do next.
WRITER = """
import mmap, os, sys
device = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 65536)
open(sys.argv[2], "w").write("begun")
os.pwrite(device, buffer, 40 * 65536)
open(sys.argv[2], "w").write("returned")
"""


async def test_a_fenced_writer_dies_without_returning_and_all_is_removed(volume: Volume, tmp_path: Path) -> None:
    """Kernel fact 18. The order: kill first; only when SIGKILL is pending are gates opened and md answered."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.make_front()
    await volume.write(0, 2, front=True)
    await volume.break_leg("b")
    told = tmp_path / "told"
    # not asyncio's: nobody may wait for a child that sleeps in D
    writer = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-IS", "-c", WRITER, f"/dev/mapper/{volume.front}", str(told)]
    )
    try:
        await volume.held("b", seconds=20)
        writer.send_signal(signal.SIGKILL)
        await asyncio.sleep(0.3)
        assert _state(writer.pid) == "D", "it should sleep until its write is answered"
        await volume.break_leg("a")
        await volume.gate_fail("a")
        await volume.gate_fail("b")

        async def faulty() -> list[str]:
            return [m.major_minor for m in (await volume.look()).members if "faulty" in m.flags]

        async def given_up() -> bool:
            return bool(await faulty())

        # b, whose write waited; or a, where md came to write its bitmap just before its gate was opened.
        await until(given_up, "md gives a leg up")
        for number in await faulty():
            await md.acknowledge_failure(volume.array, number)

        async def gone() -> bool:
            return writer.poll() is not None

        await until(gone, "the writer is gone", seconds=10)
        assert writer.returncode == -signal.SIGKILL
        assert told.read_text() == "begun", "it went on after its write"
        await dm.remove(volume.front)
        await volume.stop()
    finally:
        writer.kill()
    volume.compare_at_end = False  # a write of a fenced epoch may be on one leg: the next epoch chooses a source


async def test_nothing_but_a_change_of_legs_makes_a_write_wait(volume: Volume) -> None:
    """Kernel fact 19: with nobody to answer, a volume that only does I/O goes on; so a restart costs no write."""
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.make_front()
    await volume.write(0, front=True)
    with volume.silence():
        device = f"/dev/mapper/{volume.front}"
        await volume.write(10, 4, front=True, seconds=5)
        fd = os.open(device, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        await dm.suspend(volume.front)
        await dm.resume(volume.front)
        await volume.write(20, 2, front=True, seconds=5)
        await volume.break_leg("b")
        writer = volume.start_write(30, front=True)
        await volume.held("b")
        await volume.heal("b")
        await volume.reinstate("b")
        await asyncio.wait_for(writer, 5)
        await asyncio.sleep(6)  # more than a round of the bitmap
        await volume.write(40, 2, front=True, seconds=5)
        assert (await volume.look()).array_state == "active"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
