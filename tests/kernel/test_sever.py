"""A volume that cannot go on here, on disks with a volatile cache: nobody takes an answer for a success.

An error of a flush is lost in md, so a process that waits for one is told that all is well when the gate that holds it
opens. Whoever waits is killed first; whoever comes later finds a front that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rig import VOLUME_BYTES, Volume, dm, md, until

from millpond_adapters.mounts import NodeMounts
from millpond_adapters.pods import PodProcesses
from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import MillpondError
from millpond_core.units import SECTOR

POD = str(uuid.uuid4())
CGROUP = Path("/sys/fs/cgroup/kubepods") / f"pod{POD}"

# Writes, then flushes when it is told to; says in a file how far it came: what an application would do next.
WRITER = """
import mmap, os, sys, time
target, said, direct = sys.argv[1], sys.argv[2], os.O_DIRECT if sys.argv[3] == "raw" else os.O_CREAT
file = os.open(target, os.O_RDWR | direct, 0o600)
block = mmap.mmap(-1, 65536)
def say(word):
    with open(said + ".new", "w") as note:
        note.write(word)
    os.rename(said + ".new", said)
os.pwrite(file, block, 65536)
os.fsync(file)
block[:] = b"x" * 65536
os.pwrite(file, block, 65536)
say("written")
while not os.path.exists(said + ".go"):
    time.sleep(0.02)
try:
    os.fsync(file)
    say("flushed")
except OSError as error:
    say(str(error.errno))
"""


class Writer:
    """A process of a pod, in the pod's cgroup."""

    def __init__(self, target: str, folder: Path, kind: str) -> None:
        self.said = folder / "said"
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", WRITER, target, str(self.said), kind],
        )
        (CGROUP / "cgroup.procs").write_text(str(self.process.pid))

    def word(self) -> str:
        return self.said.read_text() if self.said.exists() else ""

    async def says(self, word: str) -> None:
        async def there() -> bool:
            return self.word() == word

        await until(there, f"the writer says {word}", seconds=30)

    async def ends(self) -> None:
        async def gone() -> bool:
            return self.process.poll() is not None

        await until(gone, "the writer is gone", seconds=20)


@pytest.fixture
async def used(cached: Volume, tmp_path: Path) -> AsyncIterator[Volume]:
    """A volume on disks with a cache, and the cgroup of a pod that uses it."""
    CGROUP.mkdir(parents=True, exist_ok=True)
    cached.compare_at_end = False  # what is in flight at the end may be on one leg: the next epoch chooses
    try:
        yield cached
    finally:
        with contextlib.suppress(MillpondError):
            await NodeMounts().unmount(f"{tmp_path}/mount")
        (CGROUP / "cgroup.kill").write_text("1")
        with contextlib.suppress(MillpondError):
            await dm.remove(names.wall(cached.uuid))
        await cached.close()
        CGROUP.rmdir()


async def prepared(volume: Volume, legs: str, folder: Path, kind: str) -> Writer:
    """A front in use by a process that has written and not flushed."""
    await volume.legs(legs)
    await volume.assemble(legs)
    await volume.make_front()
    target = f"/dev/mapper/{volume.front}"
    if kind != "raw":
        mounts = NodeMounts()
        if kind == "xfs":  # it refuses less than 300 MB, but for its developers' own tests
            small = ("TEST_DIR=small", "TEST_DEV=small", "QA_CHECK_FS=small")
            await run("env", *small, "mkfs.xfs", "-q", "-K", target, seconds=30)
        else:
            await mounts.format(target, kind)
        await mounts.make(f"{folder}/mount", folder=True)
        await mounts.mount(target, f"{folder}/mount", kind, [])
        target = f"{folder}/mount/file"
    writer = Writer(target, folder, kind)
    await writer.says("written")
    return writer


async def lose(volume: Volume, leg: str) -> None:
    """The disk is gone. The path is failed as well: the ``error`` target alone would call a flush done, see below."""
    await volume.break_leg(leg)
    await dm.gate_fail_path(names.gate(volume.uuid, leg), volume.path_number(leg))


async def test_md_tells_of_no_error_of_a_flush(used: Volume, tmp_path: Path) -> None:
    """Why ``leave._sever`` kills. Should a kernel tell one day, this fails, and the kill may be thought over."""
    writer = await prepared(used, "a", tmp_path, "raw")
    await lose(used, "a")
    writer.said.with_name("said.go").touch()
    await used.held("a")
    await used.gate_fail("a")
    await writer.ends()
    assert writer.word() == "flushed", "the flush failed on every leg, and was called done"


@pytest.mark.parametrize("legs", ["a", "ab"])
@pytest.mark.parametrize("kind", ["raw", "ext4", "xfs"])
async def test_whoever_waits_is_killed_before_the_gates_open(
    used: Volume, tmp_path: Path, legs: str, kind: str
) -> None:
    writer = await prepared(used, legs, tmp_path, kind)
    front = next(device for name, device in (await dm.list()).items() if name == used.front)
    for leg in legs:
        await lose(used, leg)
    writer.said.with_name("said.go").touch()
    await used.held(legs[0], seconds=30)

    wall = await build_wall(used)
    swap = asyncio.create_task(dm.swap(used.front, layout.front_table(wall, VOLUME_BYTES), drain_seconds=60))
    await asyncio.sleep(1)
    assert not swap.done(), "it must wait for what is inside"
    late = subprocess.Popen(["dd", f"if=/dev/mapper/{used.front}", "of=/dev/null", "iflag=direct", "count=1"])  # noqa: ASYNC220
    await asyncio.sleep(0.3)
    assert late.poll() is None, "what is asked now must wait for the new table"

    assert await pods(tmp_path, front.major_minor, kind).kill(front.major_minor) == [POD]
    await asyncio.sleep(0.3)
    assert writer.process.poll() is None, "it should sleep until its flush is answered"
    for leg in legs:
        await used.gate_fail(leg)

    async def out() -> bool:
        for member in (await used.look()).members:
            if "faulty" in member.flags:
                await md.acknowledge_failure(used.array, member.major_minor)
        await md.acknowledge(used.array)
        return swap.done()

    await until(out, "the front fails", seconds=30)
    await swap
    await writer.ends()
    assert (writer.process.returncode, writer.word()) == (-9, "written"), "it went on after its flush"
    assert late.wait(10) == 1, "a read of the severed front should fail"

    with pytest.raises(OSError, match=f"{os.strerror(errno.EIO)}|{os.strerror(errno.EROFS)}"):
        flush(f"/dev/mapper/{used.front}" if kind == "raw" else f"{tmp_path}/mount/file")
    if kind != "raw":
        await NodeMounts().unmount(f"{tmp_path}/mount")
    await dm.remove(used.front)
    await dm.remove(names.wall(used.uuid))
    await used.stop()


async def test_the_error_target_calls_a_flush_done(volume: Volume) -> None:
    """Why a wall is no ``error`` target: who comes later would be told that what is lost is safe."""
    await volume.legs("a")
    await volume.assemble("a")
    await volume.make_front()
    await dm.swap(volume.front, f"0 {VOLUME_BYTES // SECTOR} error")
    flush(f"/dev/mapper/{volume.front}")
    await dm.swap(volume.front, layout.front_table(await build_wall(volume), VOLUME_BYTES))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        flush(f"/dev/mapper/{volume.front}")
    await dm.remove(volume.front)
    await dm.remove(names.wall(volume.uuid))


async def build_wall(volume: Volume) -> str:
    """The wall's number."""
    name, array = names.wall(volume.uuid), (await volume.look()).major_minor
    number = (await dm.create(name, names.dm_uuid(name), layout.wall_table(array, VOLUME_BYTES))).major_minor
    await dm.gate_fail_path(name, array)
    return number


def pods(folder: Path, major_minor: str, kind: str) -> PodProcesses:
    """The port, with the kubelet's mount of the volume told to it; the cgroup is the kernel's."""
    block = Path(f"/sys/dev/block/{major_minor}").resolve().name
    kubelet = f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/v/mount"
    raw = f"/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/v/{POD}"
    line = (
        f"0:5 /{block} {raw} rw - devtmpfs udev rw" if kind == "raw" else f"{major_minor} / {kubelet} rw - {kind} x rw"
    )
    (folder / "proc/1").mkdir(parents=True)
    (folder / "proc/1/mountinfo").write_text(f"30 1 {line}\n")
    return PodProcesses(folder / "proc")


def flush(path: str) -> None:
    """What a process that comes later does: it flushes what it finds."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
