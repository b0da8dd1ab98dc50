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

from millpond_adapters import health, rawio, sysfs
from millpond_adapters.label import NOTICE
from millpond_adapters.patience import patiently
from millpond_adapters.run import run
from millpond_core import names
from millpond_core.errors import Busy, CommandFailed, DeadlineExceeded, IOFailed, MillpondError
from millpond_core.model.storagedevice import DiskWarning
from millpond_core.observed import BlockDisk
from millpond_core.units import SECTOR

# Only what can be a disk of its own: no dm, md, loop, ram, zram, floppy, optical or network block device.
_WHOLE = re.compile(r"^(nvme\d+n\d+|sd[a-z]+|vd[a-z]+|xvd[a-z]+|hd[a-z]+|mmcblk\d+|dasd[a-z]+|pmem\d+)$")
_LINK_FOLDERS = ("by-id", "by-path")
_KOBJECT_UEVENT = 15  # NETLINK_KOBJECT_UEVENT of linux/netlink.h
_KERNELS_OWN = 1  # its first group carries the kernel's events, at once and without udev; the second one udev's
_ZERO_SECONDS_PER_GIB = 600.0
_OPEN_SECONDS = 3.0
_PROTECTIVE_MBR = "PMBR"

ALIVE_SECONDS = 3.0
COMPARE_SECONDS = 0.5
"""How often the list of disks is compared with the last one, for what no event told: a folder's names, no more."""


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
                disk = await self._disk(name, links.get(name, ()), used)
                if disk is not None:
                    found[name] = disk
        return found

    async def signatures(self, path: str) -> Sequence[str]:
        """Raises IOFailed when the device cannot be read: unreadable is not empty."""
        try:
            output = await run("wipefs", "--no-act", "--json", path, seconds=20)
        except CommandFailed as error:
            raise IOFailed(f"cannot look for signatures on {path}: {error.stderr.strip()}") from error
        found = parse_wipefs(output.decode(errors="replace"))
        if found == [_PROTECTIVE_MBR] and await self._bears_our_notice(path):
            return []
        return found

    async def erase(self, path: str) -> None:
        """Busy when anything holds the disk: wipefs opens it exclusively."""
        try:
            await run("wipefs", "--all", "--quiet", path, seconds=30)
        except CommandFailed as error:
            if "busy" in error.stderr:
                raise Busy(f"{path} is in use and was not erased: {error.stderr.strip()}") from error
            raise
        left = await self.signatures(path)
        if left:
            raise IOFailed(f"{path} still shows {', '.join(left)} after it was erased")

    async def zero(self, path: str, start_bytes: int = 0) -> None:
        size = int(await run("blockdev", "--getsize64", path)) - start_bytes
        # --zeroout: the device's own write zeroes where it has that, zeroes written by the kernel else.
        seconds = 60 + _ZERO_SECONDS_PER_GIB * size / 2**30
        argv = ["blkdiscard", "--zeroout", "--step", "67108864"]
        if start_bytes:
            # Of one that is in use, which cannot be opened exclusively (tests/kernel/test_grow.py).
            argv += ["--force", "--offset", str(start_bytes)]
        await run(*argv, path, seconds=seconds)
        await self.flush(path)

    async def flush(self, path: str) -> None:
        await run("sync", path, seconds=30)  # fsync(2) on a block device ends with a flush of its cache

    async def alive(self, path: str) -> bool:
        try:
            return len(await rawio.read(path, 0, 4096, seconds=ALIVE_SECONDS)) == 4096
        except DeadlineExceeded:
            raise
        except MillpondError:
            return False

    async def warnings(self, path: str) -> Sequence[DiskWarning]:
        return await health.warnings(path)

    def watch(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        return Watch(self._sys / "block", changed).stop

    # --- what a disk is ---

    async def _disk(self, name: str, links: tuple[str, ...], used: _Used) -> BlockDisk | None:
        folder = f"{self._sys}/block/{name}"
        try:
            number, sectors = sysfs.read(f"{folder}/dev"), int(sysfs.read(f"{folder}/size"))
        except (MillpondError, ValueError):
            return None  # it has just gone
        if sectors == 0 or sysfs.peek(f"{folder}/ro") == "1":
            return None  # a drive without a medium, or one that cannot be written
        # The kernel names a partition after its disk (block/partitions/core.c).
        parts = [e for e in sysfs.entries(folder) if e.startswith(name) and sysfs.peek(f"{folder}/{e}/partition")]
        holders = list(self._holders(name, number, parts, used))
        if not holders and not any(self._held_by_us(name)):
            holders += await self._claimed_unseen(name)
        return BlockDisk(
            name=name,
            path=next((link for link in links if "/by-id/" in link), f"/dev/{name}"),
            major_minor=number,
            serial=_first(folder, "device/serial", "serial", "device/vpd_pg80"),
            wwn=_first(folder, "wwid", "device/wwid"),
            model=_first(folder, "device/model", "model"),
            size_bytes=sectors * SECTOR,
            diskseq=int(sysfs.peek(f"{folder}/diskseq", "0") or 0),
            links=links,
            holders=tuple(holders),
        )

    def _holders(self, name: str, number: str, parts: Sequence[str], used: _Used) -> Iterable[str]:
        """Everything that has it, or one of its partitions, in use."""
        block = f"{self._sys}/block"
        for each, where in ((name, f"{block}/{name}"), *((part, f"{block}/{name}/{part}") for part in parts)):
            on = "" if each == name else f"{each} "
            mine = sysfs.peek(f"{where}/dev", number)
            yield from (f"{on}mounted on {target}" for target in used.mounts.get(mine, ()))
            if f"/dev/{each}" in used.swaps:
                yield f"{on}used as swap"
            for holder in sysfs.entries(f"{where}/holders"):
                dm = sysfs.peek(f"{block}/{holder}/dm/name")
                if not dm.startswith(names.DM_PREFIX):
                    yield f"{on}held by {dm or holder}"

    async def _claimed_unseen(self, name: str) -> list[str]:
        """Whether somebody has it whom we cannot see: a mount in another namespace, a tool that formats it.

        Opening can wait for a sick disk, and no small tool opens exclusively without doing more.
        """
        try:
            taken = await patiently(f"open {name}", lambda: _exclusively_open(self._dev / name), seconds=_OPEN_SECONDS)
        except DeadlineExceeded:
            return ["it does not answer"]
        return ["opened exclusively by a process"] if taken else []

    async def _bears_our_notice(self, path: str) -> bool:
        return (await rawio.read(path, 0, 4096, seconds=ALIVE_SECONDS)).startswith(NOTICE)

    def _held_by_us(self, name: str) -> Iterable[bool]:
        """Our own dm devices hold the disk exclusively: that is no reason to call it busy."""
        for holder in sysfs.entries(f"{self._sys}/block/{name}/holders"):
            yield sysfs.peek(f"{self._sys}/block/{holder}/dm/name").startswith(names.DM_PREFIX)

    def _ours(self, name: str) -> bool:
        """A leg of ours that is connected over NVMe/TCP, or any other network namespace."""
        if not name.startswith("nvme"):
            return False
        device = f"{self._sys}/block/{name}/device"
        if sysfs.peek(f"{device}/subsysnqn").startswith(names.NQN_PREFIX):
            return True
        # With native multipath `device` is the subsystem, with one folder a controller; else the controller itself.
        controllers = [device, *(f"{device}/{e}" for e in sysfs.entries(device) if re.match(r"^nvme\d+$", e))]
        return any(sysfs.peek(f"{each}/transport") in ("tcp", "rdma", "fc", "loop") for each in controllers)

    def _used(self) -> _Used:
        mounts: dict[str, list[str]] = {}
        for line in sysfs.lines(self._proc_of_host() / "mountinfo"):
            fields = line.split(" ")
            if len(fields) > 4:
                mounts.setdefault(fields[2], []).append(fields[4].replace("\\040", " "))
        swaps = {line.split()[0] for line in sysfs.lines(self._proc / "swaps")[1:] if line.split()}
        return _Used(mounts, swaps)

    def _proc_of_host(self) -> Path:
        """Process 1 of the host's where its processes can be seen (hostPID): our own mounts are a container's."""
        host = self._proc / "1"
        return host if sysfs.lines(host / "mountinfo") else self._proc / "self"


class _Used:
    """What is in use on the node: major:minor → mount points, and swap devices."""

    def __init__(self, mounts: dict[str, list[str]], swaps: set[str]) -> None:
        self.mounts, self.swaps = mounts, swaps


def _first(folder: str, *places: str) -> str:
    """The first of some attributes that says anything."""
    for place in places:
        # vpd_pg80 begins with four binary bytes (SPC, Unit Serial Number page).
        text = "".join(c for c in sysfs.peek(f"{folder}/{place}") if c.isprintable() and c != "\ufffd").strip()
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
    return {name: tuple(sorted(paths, key=_preference)) for name, paths in found.items()}


def _preference(link: str) -> tuple[bool, bool, int, str]:
    """The best name for people first: by id, by model and serial, short."""
    name = link.rpartition("/")[2]
    return "/by-id/" not in link, name.startswith(("wwn-", "nvme-eui.", "nvme-nvme.", "scsi-")), len(name), name


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
    return [name for name in dict.fromkeys(found) if name]


class Watch:
    """The kernel's block uevents (netlink(7)), and beside them a comparison of the list of disks.

    The comparison covers what the socket cannot: an overrun, a network namespace that is sent no events.
    """

    def __init__(self, folder: Path, changed: Callable[[str, str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._folder = folder
        self._changed = changed
        self._known = set(sysfs.entries(folder))
        self._socket = _uevents()
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._receive)
        self._timer = self._loop.call_later(COMPARE_SECONDS, self._compare)

    def stop(self) -> None:
        """Idempotent."""
        self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                message = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: some were lost
                self._changed("lost", "")
                return
            event = parse_uevent(message)
            if event is not None:
                self._note(*event)

    def _compare(self) -> None:
        self._timer = self._loop.call_later(COMPARE_SECONDS, self._compare)
        seen = set(sysfs.entries(self._folder))
        for name in sorted(self._known - seen):
            self._note("remove", name)
        for name in sorted(seen - self._known):
            self._note("add", name)

    def _note(self, action: str, name: str) -> None:
        if (self._folder / name).exists():
            self._known.add(name)
        else:
            self._known.discard(name)
        self._changed(action, name)


def _uevents() -> socket.socket | None:
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _KOBJECT_UEVENT)
    try:
        found.setblocking(False)
        found.bind((0, _KERNELS_OWN))
    except OSError:
        found.close()
        return None
    return found


def parse_uevent(message: bytes) -> tuple[str, str] | None:
    """(action, name) of a block device's event; None for any other.

    The name is the kernel's, but of a gate whose path was lost or found the one that device-mapper knows it by
    (``dm_send_uevents`` in drivers/md/dm-uevent.c).
    """
    fields = dict(part.split("=", 1) for part in message.decode(errors="replace").split("\0") if "=" in part)
    if fields.get("SUBSYSTEM") != "block" or "DEVNAME" not in fields:
        return None
    return fields.get("ACTION", ""), fields.get("DM_NAME") or fields["DEVNAME"].removeprefix("/dev/")
