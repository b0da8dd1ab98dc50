"""Whole disks: which there are, who holds them, what is on them.

Everything is read from sysfs, procfs and the device itself. udev's links are used where a node has them, never needed:
in a container ``/run/udev`` may be absent.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from millpond_adapters import sysfs
from millpond_adapters.run import run
from millpond_core import names
from millpond_core.errors import CommandFailed, DeadlineExceeded, IOFailed, MillpondError
from millpond_core.observed import BlockDisk
from millpond_core.units import SECTOR

# Only what can be a disk of its own: no dm, md, loop, ram, zram, floppy, optical or network block device.
_WHOLE = re.compile(r"^(nvme\d+n\d+|sd[a-z]+|vd[a-z]+|xvd[a-z]+|hd[a-z]+|mmcblk\d+|dasd[a-z]+|pmem\d+)$")
_LINK_FOLDERS = ("by-id", "by-path")
_NETLINK_KERNEL_GROUP = 1
_ZERO_SECONDS_PER_GIB = 600.0
_NOT_A_SIGNATURE = frozenset({"PMBR"})
"""What our own label area shows to others."""


class BlockDevices:
    """The ``Block`` port. ``root`` is where /sys, /proc and /dev are, for tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._sys, self._proc, self._dev = root / "sys", root / "proc", root / "dev"

    async def disks(self) -> dict[str, BlockDisk]:
        links = _links(self._dev / "disk")
        used = self._used()
        found = {}
        for name in sysfs.entries(self._sys / "block"):
            if _WHOLE.match(name) and not self._ours(name):
                disk = self._disk(name, links.get(name, ()), used)
                if disk is not None:
                    found[name] = disk
        return found

    async def signatures(self, path: str) -> Sequence[str]:
        """Raises IOFailed when the device cannot be read: unreadable is not empty."""
        try:
            output = await run("wipefs", "--no-act", "--json", path, seconds=20)
        except CommandFailed as error:
            raise IOFailed(f"cannot look for signatures on {path}: {error.stderr.strip()}") from error
        return parse_wipefs(output.decode(errors="replace"))

    async def erase(self, path: str) -> None:
        await run("wipefs", "--all", "--quiet", path, seconds=30)

    async def zero(self, path: str) -> None:
        size = int(await run("blockdev", "--getsize64", path))
        # --zeroout: the device's own write zeroes where it has that, zeroes written by the kernel else.
        seconds = 60 + _ZERO_SECONDS_PER_GIB * size / 2**30
        await run("blkdiscard", "--zeroout", "--step", "67108864", path, seconds=seconds)
        await self.flush(path)

    async def flush(self, path: str) -> None:
        await run("blockdev", "--flushbufs", path, seconds=30)
        # fsync on the block device sends a flush to the disk; --flushbufs alone only empties the page cache.
        argv = ("dd", "if=/dev/null", f"of={path}", "conv=notrunc,nocreat,fsync", "status=none")
        await run(*argv, seconds=30)

    async def alive(self, path: str) -> bool:
        argv = ("dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none")
        try:
            await run(*argv, seconds=5)
        except (CommandFailed, DeadlineExceeded):
            return False
        return True

    def watch(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        return watch_uevents(changed)

    # --- what a disk is ---

    def _disk(self, name: str, links: tuple[str, ...], used: _Used) -> BlockDisk | None:
        folder = self._sys / "block" / name
        try:
            number, sectors = sysfs.read(folder / "dev"), int(sysfs.read(folder / "size"))
        except (MillpondError, ValueError):
            return None  # it has just gone
        if sectors == 0:
            return None  # a drive without a medium
        parts = [entry for entry in sysfs.entries(folder) if (folder / entry / "partition").exists()]
        return BlockDisk(
            name=name,
            path=next((link for link in links if "/by-id/" in link), f"/dev/{name}"),
            major_minor=number,
            serial=_first(folder, "device/serial", "serial", "device/vpd_pg80"),
            wwn=_first(folder, "wwid", "device/wwid"),
            model=_first(folder, "device/model", "model"),
            size_bytes=sectors * SECTOR,
            diskseq=int(sysfs.peek(folder / "diskseq", "0") or 0),
            links=links,
            holders=tuple(self._holders(name, number, parts, used)),
        )

    def _holders(self, name: str, number: str, parts: Sequence[str], used: _Used) -> Iterable[str]:
        """Everything that has it, or one of its partitions, in use."""
        folder = self._sys / "block" / name
        for each, where in ((name, folder), *((part, folder / part) for part in parts)):
            on = "" if each == name else f"{each} "
            mine = sysfs.peek(where / "dev", number)
            yield from (f"{on}mounted on {target}" for target in used.mounts.get(mine, ()))
            if f"/dev/{each}" in used.swaps:
                yield f"{on}used as swap"
            for holder in sysfs.entries(where / "holders"):
                dm = sysfs.peek(self._sys / "block" / holder / "dm/name")
                if not dm.startswith(names.DM_PREFIX):
                    yield f"{on}held by {dm or holder}"
        if not used.mounts.get(number) and not any(self._held_by_us(name)) and _exclusively_open(self._dev / name):
            yield "opened exclusively by a process"

    def _held_by_us(self, name: str) -> Iterable[bool]:
        """Our own dm devices hold the disk exclusively: that is no reason to call it busy."""
        for holder in sysfs.entries(self._sys / "block" / name / "holders"):
            yield sysfs.peek(self._sys / "block" / holder / "dm/name").startswith(names.DM_PREFIX)

    def _ours(self, name: str) -> bool:
        """A leg of ours that is connected over NVMe/TCP, or any other network namespace."""
        if not name.startswith("nvme"):
            return False
        device = self._sys / "block" / name / "device"
        if sysfs.peek(device / "subsysnqn").startswith(names.NQN_PREFIX):
            return True
        # With native multipath `device` is the subsystem, with one folder a controller; else the controller itself.
        controllers = [device, *(device / e for e in sysfs.entries(device) if re.match(r"^nvme\d+$", e))]
        return any(sysfs.peek(each / "transport") in ("tcp", "rdma", "fc", "loop") for each in controllers)

    def _used(self) -> _Used:
        mounts: dict[str, list[str]] = {}
        for line in sysfs.peek(self._proc_of_host() / "mountinfo").splitlines():
            fields = line.split(" ")
            if len(fields) > 4:
                mounts.setdefault(fields[2], []).append(fields[4].replace("\\040", " "))
        swaps = {line.split()[0] for line in sysfs.peek(self._proc / "swaps").splitlines()[1:] if line.split()}
        return _Used(mounts, swaps)

    def _proc_of_host(self) -> Path:
        """Process 1 of the host's where its processes can be seen (hostPID): our own mounts are a container's."""
        host = self._proc / "1"
        return host if sysfs.peek(host / "mountinfo") else self._proc / "self"


class _Used:
    """What is in use on the node: major:minor → mount points, and swap devices."""

    def __init__(self, mounts: dict[str, list[str]], swaps: set[str]) -> None:
        self.mounts, self.swaps = mounts, swaps


def _first(folder: Path, *places: str) -> str:
    """The first of some attributes that says anything."""
    for place in places:
        # vpd_pg80 begins with four binary bytes (SPC, Unit Serial Number page).
        text = "".join(c for c in sysfs.peek(folder / place) if c.isprintable() and c != "\ufffd").strip()
        if text:
            return text
    return ""


def _links(folder: Path) -> dict[str, tuple[str, ...]]:
    """Kernel name → stable paths to the whole disk."""
    found: dict[str, list[str]] = {}
    for kind in _LINK_FOLDERS:
        for entry in sysfs.entries(folder / kind):
            target = ""
            with contextlib.suppress(OSError):
                target = (folder / kind / entry).readlink().name
            found.setdefault(target, []).append(f"/dev/disk/{kind}/{entry}")
    return {name: tuple(paths) for name, paths in found.items()}


def _exclusively_open(node: Path) -> bool:
    """Whether someone has the block device open with O_EXCL (open(2)): a filesystem, md, dm, a formatting tool."""
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def parse_wipefs(output: str) -> list[str]:
    """Names of signatures in ``wipefs --json``'s answer, each once, in order; nothing is printed for an empty disk."""
    if not output.strip():
        return []
    found = [str(each.get("type", "")) for each in json.loads(output).get("signatures", [])]
    return [name for name in dict.fromkeys(found) if name and name not in _NOT_A_SIGNATURE]


def watch_uevents(changed: Callable[[str, str], None]) -> Callable[[], None]:
    """Call ``changed(action, kernel name)`` in the running loop for the kernel's block uevents (netlink(7)).

    A burst that overflows the socket costs events; whoever watches looks by himself now and then.
    """
    loop = asyncio.get_running_loop()
    # The kernel's own events, not udev's: they come without udev, and at once.
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 15)  # NETLINK_KOBJECT_UEVENT
    listener.setblocking(False)
    listener.bind((0, _NETLINK_KERNEL_GROUP))

    def receive() -> None:
        while True:
            try:
                event = parse_uevent(listener.recv(65536))
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: some were lost
                changed("lost", "")
                return
            if event is not None:
                changed(*event)

    loop.add_reader(listener.fileno(), receive)

    def stop() -> None:
        loop.remove_reader(listener.fileno())
        listener.close()

    return stop


def parse_uevent(message: bytes) -> tuple[str, str] | None:
    """(action, kernel name) of a block device's event; None for any other."""
    fields = dict(part.split("=", 1) for part in message.decode(errors="replace").split("\0") if "=" in part)
    if fields.get("SUBSYSTEM") != "block" or "DEVNAME" not in fields:
        return None
    return fields.get("ACTION", ""), fields["DEVNAME"].removeprefix("/dev/")
