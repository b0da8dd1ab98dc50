"""Folders, files and the mount table of a node; what mounts is in tests/kernel."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from millpond_adapters.mounts import NodeMounts, parse_mountinfo
from millpond_core.errors import Busy, Invalid


async def test_what_someone_else_keeps_there_is_never_removed(tmp_path: Path) -> None:
    """A path in a request may lead to the kubelet's own files: a target of ours is an empty file or an empty folder."""
    mounts, file, folder = NodeMounts(), tmp_path / "config.yaml", tmp_path / "pods"
    file.write_text("precious")
    (folder / "p").mkdir(parents=True)
    (tmp_path / "link").symlink_to(file)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for kept in (file, tmp_path / "link", tmp_path / "socket"):
        with pytest.raises(Invalid, match="not made here"):
            await mounts.remove(str(kept))
    with pytest.raises(Busy, match="not empty"):
        await mounts.remove(str(folder))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.yaml", "link", "pods", "socket"]


async def test_targets_are_made_and_removed_any_number_of_times(tmp_path: Path) -> None:
    mounts = NodeMounts()
    for folder in (True, False):
        target = tmp_path / "pods" / f"{folder}"
        for _ in range(2):
            await mounts.make(str(target), folder=folder)
        assert target.is_dir() == folder
        for _ in range(2):
            await mounts.remove(str(target))
        assert not target.exists()


async def test_a_target_that_is_something_else_is_refused(tmp_path: Path) -> None:
    mounts, file, folder = NodeMounts(), tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    with pytest.raises(Invalid, match="is no folder"):
        await mounts.make(str(file), folder=True)
    with pytest.raises(Invalid, match="is no empty file"):
        await mounts.make(str(folder), folder=False)
    file.write_text("precious")
    with pytest.raises(Invalid, match="is no empty file"):
        await mounts.make(str(file), folder=False)


def test_a_mount_with_an_odd_name_does_not_hide_the_others() -> None:
    """The kernel escapes space, tab, line feed and backslash, and nothing else (proc_pid_mountinfo(5))."""
    odd = "/media/\x0b\x1c\x85\u2028stick\\040one"
    text = f"36 35 8:1 / {odd} rw - vfat /dev/sda1 rw\n37 35 253:0 / /mnt ro,relatime shared:1 - ext4 /dev/dm-0 rw\n"
    first, second = parse_mountinfo(text)
    assert first.target == "/media/\x0b\x1c\x85\u2028stick one"
    assert (second.target, second.major_minor) == ("/mnt", "253:0")


async def test_a_mount_whose_name_is_no_text_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_bytes(b"36 35 8:1 / /media/\xff\xfe rw - vfat /dev/sda1 rw\n")
    assert len(await NodeMounts(proc=tmp_path).table()) == 1
