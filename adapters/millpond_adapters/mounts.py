"""Filesystems and mounts, through the tools of util-linux, e2fsprogs and xfsprogs.

A device under a held leg does not answer: whatever touches one is a child with a deadline (``run``).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from millpond_adapters import mountoptions, sysfs
from millpond_adapters.run import run
from millpond_core.errors import Busy, CommandFailed, Invalid, IOFailed, NotFound
from millpond_core.observed import Contents, Mount, Usage
from millpond_core.units import MIB, SECTOR

_PROBE_SECONDS = 15.0
_FORMAT_SECONDS = 300.0
_CHECK_SECONDS = 1800.0
_MOUNT_SECONDS = 90.0
_GROW_SECONDS = 300.0

_NOTHING_FOUND = 2
_AMBIVALENT = 8
_CHECKED_LIMIT = 4
"""e2fsck(8): below this bit everything is well, or well now."""

_FORMAT = {
    # Inode tables and journal are initialised by the kernel later; the device was zeroed, so nothing is discarded.
    "ext4": ("mkfs.ext4", "-q", "-m0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-K"),
}


class NodeMounts:
    """The ``Mounts`` port. ``sys``, ``dev`` and ``proc`` are where the node's own are seen."""

    def __init__(self, sys: Path = Path("/sys"), dev: Path = Path("/dev"), proc: Path = Path("/proc")) -> None:
        self._sys = sys
        self._dev = dev
        self._mountinfo = proc / "self" / "mountinfo"

    async def table(self) -> Sequence[Mount]:
        return parse_mountinfo(self._mountinfo.read_text(errors="surrogateescape"))

    async def device(self, name: str, uuid: str) -> tuple[str, str] | None:
        for kernel_name in sysfs.entries(self._sys / "class" / "block"):
            block = self._sys / "class" / "block" / kernel_name
            if not kernel_name.startswith("dm-") or sysfs.peek(block / "dm" / "name") != name:
                continue
            number = sysfs.peek(block / "dev")
            if sysfs.peek(block / "dm" / "uuid") != uuid or sysfs.peek(block / "size", "0") == "0":
                return None
            node = self._dev / kernel_name
            return (str(node), number) if await self.block_device(str(node)) == number else None
        return None

    async def contents(self, device: str) -> Contents:
        try:
            found = await run("blkid", "-p", "-o", "export", device, seconds=_PROBE_SECONDS)
        except CommandFailed as error:
            if error.code == _AMBIVALENT:
                return Contents(kind="Other", detail="signatures of more than one kind (blkid calls it ambivalent)")
            if error.code != _NOTHING_FOUND:
                raise
            return await self._without_signature(device)
        return parse_blkid(found.decode(errors="replace"))

    async def format(self, device: str, fs_type: str) -> None:
        await run(*_FORMAT[fs_type], device, seconds=_FORMAT_SECONDS)

    async def check(self, device: str, fs_type: str) -> None:
        if fs_type != "ext4":
            return  # xfs replays its log when it is mounted, and has nothing to repair unasked
        try:
            await run("e2fsck", "-p", device, seconds=_CHECK_SECONDS)
        except CommandFailed as error:
            if error.code < _CHECKED_LIMIT:
                return
            raise IOFailed(
                f"e2fsck -p {device} found what it does not repair unasked (exit status {error.code}): "
                f"{error.stderr.strip() or 'no message'}; a person has to run e2fsck on the raw volume"
            ) from error

    async def mount(self, device: str, target: str, fs_type: str, options: Sequence[str]) -> None:
        arguments = ["-o", ",".join(options)] if options else []
        try:
            await run("mount", "-t", fs_type, *arguments, device, target, seconds=_MOUNT_SECONDS)
        except CommandFailed as error:
            if objection := await mountoptions.objection(fs_type, options):
                raise Invalid(
                    f"the mount options {','.join(options)} are refused: {objection}; change mountOptions of the "
                    "PersistentVolume and start the pod anew, and those of the StorageClass for volumes to come"
                ) from error
            raise

    async def grow(self, major_minor: str, target: str, fs_type: str) -> None:
        if fs_type == "xfs":
            await run("xfs_growfs", "-d", target, seconds=_GROW_SECONDS)
            return
        # resize2fs finds the mount by the device's number, and asks the kernel to grow it there. One that it does not
        # find it would take offline, and opens exclusively: the kernel refuses that of a device that is mounted.
        node = self._dev / (self._sys / "dev" / "block" / major_minor).resolve().name
        if await self.block_device(str(node)) != major_minor:
            raise NotFound(f"there is no device {major_minor} any more")
        await run("resize2fs", str(node), seconds=_GROW_SECONDS)

    async def bind(self, source: str, target: str, *, readonly: bool) -> None:
        # Not canonicalized: libmount would show /dev/dm-7 as /dev/mapper/<name>, which may be another node.
        options = "bind,ro" if readonly else "bind"
        await run("mount", "--no-canonicalize", "-o", options, source, target, seconds=_MOUNT_SECONDS)

    async def unmount(self, target: str) -> None:
        try:
            await run("umount", target, seconds=_MOUNT_SECONDS)
        except CommandFailed as error:
            if "busy" in error.stderr:
                raise Busy(f"{target} is in use and stays mounted: {error.stderr.strip()}") from error
            raise

    async def make(self, path: str, *, folder: bool) -> None:
        place = Path(path)
        try:
            (place if folder else place.parent).mkdir(mode=0o750, parents=True, exist_ok=True)
            if not folder:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError as error:
            if folder or not _is_empty_file(place):
                raise Invalid(f"{path} is there and is no {'folder' if folder else 'empty file'}") from error
        except OSError as error:
            raise _failed("make", path, error) from error

    async def remove(self, path: str) -> None:
        place = Path(path)
        try:
            if stat.S_ISDIR(place.lstat().st_mode):
                place.rmdir()
            elif _is_empty_file(place):
                place.unlink()
            else:
                raise Invalid(f"{path} was not made here and stays: it is no folder and no empty file")
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EBUSY):
                raise Busy(
                    f"{path} stays: {'it is not empty' if error.errno == errno.ENOTEMPTY else 'busy'}"
                ) from error
            raise _failed("remove", path, error) from error

    async def usage(self, path: str) -> Usage:
        said = await run("stat", "--file-system", "--format=%S %b %f %a %c %d", path, seconds=_PROBE_SECONDS)
        block, blocks, free, available, inodes, free_inodes = map(int, said.split())
        return Usage(
            total_bytes=blocks * block,
            used_bytes=(blocks - free) * block,
            available_bytes=available * block,
            total_inodes=inodes,
            used_inodes=inodes - free_inodes,
            available_inodes=free_inodes,
        )

    async def block_device(self, path: str) -> str | None:
        try:
            found = Path(path).stat()
        except OSError:
            return None
        if not stat.S_ISBLK(found.st_mode):
            return None
        return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"

    async def size(self, major_minor: str) -> int:
        return int(sysfs.read(self._sys / "dev" / "block" / major_minor / "size")) * SECTOR

    async def _without_signature(self, device: str) -> Contents:
        """blkid found nothing, or could not read (the same status): a filesystem's places are compared with zeroes."""
        number = await self.block_device(device)
        if number is None:
            raise NotFound(f"{device} is no block device any more")
        size = await self.size(number)
        for start, length in ((0, 4 * MIB), (max(0, size - MIB), MIB)):
            try:
                where = (f"--ignore-initial={start}:0", f"--bytes={min(length, size)}")
                await run("cmp", "--quiet", *where, device, "/dev/zero", seconds=_PROBE_SECONDS)
            except CommandFailed as error:
                if error.code != 1:
                    raise
                return Contents(kind="Other", detail=f"data near byte {start} that no known signature explains")
        return Contents(kind="Blank")


def parse_mountinfo(text: str) -> list[Mount]:
    """The lines of mountinfo (proc_pid_mountinfo(5)): fields, ``-``, then type, source and super options."""
    mounts = []
    # Not splitlines(): the kernel escapes no vertical tab in a name, and no U+2028.
    for line in filter(None, text.split("\n")):
        mine, _, theirs = line.partition(" - ")
        fields, tail = mine.split(" "), theirs.split(" ")
        mounts.append(
            Mount(
                major_minor=fields[2],
                root=_unescaped(fields[3]),
                target=_unescaped(fields[4]),
                options=frozenset(fields[5].split(",")),
                fs_type=tail[0],
                source=_unescaped(tail[1]),
            )
        )
    return mounts


def parse_blkid(text: str) -> Contents:
    """What ``blkid -p -o export`` found: KEY=value lines."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    kind = found.get("TYPE", "")
    if kind and found.get("USAGE") == "filesystem" and "PTTYPE" not in found:
        return Contents(kind="Filesystem", fs_type=kind, detail=kind)
    detail = kind or (f"a {found['PTTYPE']} partition table" if "PTTYPE" in found else "an unknown signature")
    return Contents(kind="Other", fs_type=kind or found.get("PTTYPE", "unknown"), detail=detail)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _is_empty_file(place: Path) -> bool:
    """Whether ``place`` can be a target of ours: where a device node is shown there is an empty file below."""
    found = place.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _failed(doing: str, path: str, error: OSError) -> IOFailed:
    return IOFailed(f"cannot {doing} {path}: {error.strerror}")
