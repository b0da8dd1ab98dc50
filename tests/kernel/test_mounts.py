"""Filesystems and mounts: the contract of their port, on a front over a loop device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond_adapters.dm import DeviceMapper
from millpond_adapters.mounts import NodeMounts
from millpond_adapters.run import run
from millpond_core import names
from millpond_core.errors import Busy, CommandFailed, Invalid, IOFailed, MillpondError, NotFound
from millpond_core.ports import Mounts
from millpond_core.units import MIB, SECTOR

SIZE = 400 * MIB
dm, mounts = DeviceMapper(), NodeMounts()
_contract: Mounts = mounts


class Front:
    """A dm device with a front's name and dm UUID, all zeroes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = names.front(str(uuid.uuid4()))
        self.node = ""
        self.number = ""
        self.loop = ""

    async def open(self) -> None:
        await run("modprobe", "loop")
        image = self.folder / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        self.loop = (await run("losetup", "--find", "--show", str(image))).decode().strip()
        await dm.create(self.name, names.dm_uuid(self.name), f"0 {SIZE // SECTOR} linear {self.loop} 0")
        found = await mounts.device(self.name, names.dm_uuid(self.name))
        assert found is not None
        self.node, self.number = found

    async def close(self) -> None:
        for mount in reversed(await mounts.table()):
            if mount.target.startswith(f"{self.folder}/"):
                with contextlib.suppress(MillpondError):
                    await mounts.unmount(mount.target)
        await dm.remove(self.name)
        await run("losetup", "--detach", self.loop)

    def write(self, at: int, data: bytes) -> None:
        file = os.open(self.node, os.O_WRONLY | os.O_SYNC)
        try:
            os.pwrite(file, data, at)
        finally:
            os.close(file)

    async def mounted(self, name: str = "staging", fs_type: str = "ext4", *options: str) -> str:
        target = f"{self.folder}/{name}"
        await mounts.make(target, folder=True)
        await mounts.mount(self.node, target, fs_type, options)
        return target


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    made = Front(tmp_path)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def test_a_front_is_found_by_name_and_uuid(front: Front) -> None:
    assert front.node.startswith("/dev/dm-")
    assert await mounts.block_device(front.node) == front.number
    assert await mounts.size(front.number) == SIZE
    assert await mounts.device(front.name, "MILLPOND-other") is None
    other = names.front(str(uuid.uuid4()))
    assert await mounts.device(other, names.dm_uuid(other)) is None


async def test_zeroes_are_blank(front: Front) -> None:
    assert (await mounts.contents(front.node)).kind == "Blank"


@pytest.mark.parametrize("at", [0, 4096, 3 * MIB, SIZE - MIB, SIZE - 1])
async def test_a_single_byte_is_not_blank(front: Front, at: int) -> None:
    front.write(at, b"x")
    found = await mounts.contents(front.node)
    assert (found.kind, found.fs_type) == ("Other", "")


async def test_what_cannot_be_read_is_not_blank(front: Front) -> None:
    """blkid gives the same exit status for nothing found and for a device that it cannot read."""
    await dm.swap(front.name, f"0 {SIZE // SECTOR} error")
    with pytest.raises(MillpondError):
        await mounts.contents(front.node)
    with pytest.raises(MillpondError):
        await mounts.contents("/dev/dm-9999")


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_filesystem_is_made_mounted_written_and_checked(front: Front, fs_type: str) -> None:
    await mounts.format(front.node, fs_type)
    found = await mounts.contents(front.node)
    assert (found.kind, found.fs_type) == ("Filesystem", fs_type)
    await mounts.check(front.node, fs_type)
    target = await front.mounted(fs_type=fs_type)
    Path(target, "file").write_text("kept")
    shown = [mount for mount in await mounts.table() if mount.target == target]
    assert [(m.major_minor, m.fs_type, m.root) for m in shown] == [(front.number, fs_type, "/")]
    usage = await mounts.usage(target)
    assert 0.5 * SIZE < usage.total_bytes < SIZE
    assert usage.used_bytes + usage.available_bytes <= usage.total_bytes
    assert usage.used_inodes + usage.available_inodes == usage.total_inodes
    await mounts.unmount(target)
    assert not [mount for mount in await mounts.table() if mount.target == target]
    await mounts.check(front.node, fs_type)
    again = await front.mounted("again", fs_type, "ro", "noatime")
    assert Path(again, "file").read_text() == "kept"
    with pytest.raises(OSError, match="Read-only"):
        Path(again, "file").write_text("x")


TAKEN = [
    "noatime",
    "nodiratime",
    "nodev",
    "nosuid",
    "noexec",
    "norelatime",
    "lazytime",
    "nofail",
    "_netdev",
    "x-a.b",
    "ro",
]


@pytest.mark.parametrize(("fs_type", "wrong", "said"), [
    ("ext4", "nosuch", "Unknown parameter 'nosuch'"),
    ("ext4", "largeio", "Unknown parameter 'largeio'"),
    ("ext4", "commit=soon", "Bad value for 'commit'"),
    ("xfs", "nosuch=1", "Unknown parameter 'nosuch'"),
    ("xfs", "data=ordered", "Unknown parameter 'data'"),
])  # fmt: skip
async def test_a_wrong_mount_option_is_named(front: Front, fs_type: str, wrong: str, said: str) -> None:
    """mount(8) says the same of a wrong option and of a damaged filesystem; only the first is the caller's fault."""
    await mounts.format(front.node, fs_type)
    with pytest.raises(Invalid, match=said):
        await front.mounted("staging", fs_type, *TAKEN, wrong)
    await mounts.unmount(await front.mounted("staging", fs_type, *TAKEN))


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_what_is_no_filesystem_is_not_blamed_on_options(front: Front, fs_type: str) -> None:
    own = "discard,inode64" if fs_type == "xfs" else "discard,commit=30"
    with pytest.raises(CommandFailed):
        await front.mounted("staging", fs_type, *TAKEN, *own.split(","))


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_mounted_filesystem_fills_a_device_that_has_grown(front: Front, fs_type: str) -> None:
    small = 320 * MIB  # the least that mkfs.xfs takes is 300
    await dm.swap(front.name, f"0 {small // SECTOR} linear {front.loop} 0")
    await mounts.format(front.node, fs_type)
    target = await front.mounted(fs_type=fs_type)
    Path(target, "file").write_text("kept")
    pod = f"{front.folder}/pod"
    await mounts.make(pod, folder=True)
    await mounts.bind(target, pod, readonly=True)
    await mounts.grow(front.number, target, fs_type)
    assert (await mounts.usage(target)).total_bytes < small, "nothing to do is done"
    await dm.swap(front.name, f"0 {SIZE // SECTOR} linear {front.loop} 0")
    assert await mounts.size(front.number) == SIZE
    for _ in range(2):
        await mounts.grow(front.number, target, fs_type)
        assert small < (await mounts.usage(pod)).total_bytes < SIZE
    assert Path(pod, "file").read_text() == "kept"
    await mounts.unmount(pod)
    await mounts.unmount(target)
    await mounts.check(front.node, fs_type)


async def test_what_is_not_mounted_is_not_grown_offline(front: Front) -> None:
    """resize2fs wants a check first; xfs grows through its mount alone."""
    await mounts.format(front.node, "ext4")
    await dm.swap(front.name, f"0 {(SIZE - 40 * MIB) // SECTOR} linear {front.loop} 0")
    with pytest.raises(CommandFailed):
        await mounts.grow(front.number, f"{front.folder}/staging", "ext4")
    with pytest.raises(CommandFailed):
        await mounts.grow(front.number, f"{front.folder}/staging", "xfs")
    with pytest.raises(NotFound):
        await mounts.grow("250:9999", f"{front.folder}/staging", "ext4")


async def test_xfs_is_not_made_over_something(front: Front) -> None:
    await mounts.format(front.node, "ext4")
    with pytest.raises(CommandFailed):
        await mounts.format(front.node, "xfs")
    assert (await mounts.contents(front.node)).fs_type == "ext4"


async def test_swap_space_is_something_else(front: Front) -> None:
    await run("mkswap", front.node)
    found = await mounts.contents(front.node)
    assert (found.kind, found.detail) == ("Other", "swap")


async def test_a_mounted_device_is_not_formatted(front: Front) -> None:
    await mounts.format(front.node, "ext4")
    target = await front.mounted()
    Path(target, "file").write_text("kept")
    for fs_type in ("ext4", "xfs"):
        with pytest.raises(CommandFailed):
            await mounts.format(front.node, fs_type)
    assert Path(target, "file").read_text() == "kept"


async def test_an_unclean_ext4_is_replayed_and_a_broken_one_needs_a_person(front: Front) -> None:
    await mounts.format(front.node, "ext4")
    await run("debugfs", "-w", "-R", "feature needs_recovery", front.node)
    await mounts.check(front.node, "ext4")
    await run("debugfs", "-w", "-R", "clri <2>", front.node)
    await run("debugfs", "-w", "-R", "dirty", front.node)
    with pytest.raises(IOFailed, match="a person has to run e2fsck"):
        await mounts.check(front.node, "ext4")


async def test_a_folder_is_shown_elsewhere_and_read_only(front: Front) -> None:
    await mounts.format(front.node, "ext4")
    source = await front.mounted()
    for name, readonly in (("pod-a", False), ("pod-b", True)):
        target = f"{front.folder}/{name}"
        await mounts.make(target, folder=True)
        await mounts.bind(source, target, readonly=readonly)
    Path(front.folder, "pod-a", "file").write_text("x")
    assert Path(front.folder, "pod-b", "file").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        Path(front.folder, "pod-b", "file").write_text("y")
    shown = {mount.target: mount for mount in await mounts.table()}
    assert "ro" in shown[f"{front.folder}/pod-b"].options
    assert "rw" in shown[f"{front.folder}/pod-a"].options
    assert shown[f"{front.folder}/pod-b"].major_minor == front.number


async def test_a_device_is_shown_as_a_file(front: Front) -> None:
    target = f"{front.folder}/pods/a/device"
    await mounts.make(target, folder=False)
    await mounts.make(target, folder=False)
    assert await mounts.block_device(target) is None
    await mounts.bind(front.node, target, readonly=False)
    assert await mounts.block_device(target) == front.number
    shown = next(mount for mount in await mounts.table() if mount.target == target)
    assert (shown.fs_type, shown.root) == ("devtmpfs", front.node.removeprefix("/dev"))
    await mounts.unmount(target)
    await mounts.remove(target)
    await mounts.remove(target)
    assert not Path(target).exists()


async def test_what_is_in_use_stays(front: Front) -> None:
    await mounts.format(front.node, "ext4")
    target = await front.mounted()
    held = os.open(target, os.O_RDONLY)
    try:
        with pytest.raises(Busy):
            await mounts.unmount(target)
    finally:
        os.close(held)
    await mounts.unmount(target)
    with pytest.raises(MillpondError):
        await mounts.unmount(target)


async def test_a_folder_with_something_in_it_is_not_removed(front: Front) -> None:
    target = f"{front.folder}/full"
    await mounts.make(target, folder=True)
    Path(target, "file").touch()
    with pytest.raises(Busy):
        await mounts.remove(target)
    assert Path(target, "file").exists()


async def test_a_front_that_holds_its_io_is_waited_for_no_longer_than_the_deadline(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millpond_adapters.mounts._PROBE_SECONDS", 1.0)
    await dm.suspend(front.name)
    try:
        with pytest.raises(MillpondError):
            await asyncio.wait_for(mounts.contents(front.node), 10)
    finally:
        await dm.resume(front.name)
    assert (await mounts.contents(front.node)).kind == "Blank"


async def test_a_front_that_is_gone(front: Front) -> None:
    with pytest.raises(NotFound):
        await mounts.size("250:9999")
