"""Reading device-mapper without a child: the ioctls behind ``dmsetup table`` and ``status`` (linux/dm-ioctl.h).

A look at every device is taken each second and before each step; ``dmsetup`` costs a tenth of a second on a slow node,
this a millisecond. Only what cannot wait for I/O is asked this way, and in a thread, so that a kernel that
does not answer stops nobody else.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from millpond_adapters.patience import patiently
from millpond_core.errors import CommandFailed, NotFound

Answer = TypeVar("Answer")

_HEADER = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
"""version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid, data."""

_TARGET = struct.Struct("=Q Q i I 16s")
"""sector_start, length, status, next (from the start of the first), target_type; its parameters follow."""

_ENTRY = struct.Struct("=Q I")
"""dev, next (from this one's start); its name follows."""

_LIST_DEVICES, _TABLE_STATUS = 2, 12
_SUSPENDED, _WANT_TABLE, _BUFFER_FULL, _NOFLUSH = 1 << 1, 1 << 4, 1 << 8, 1 << 11
_SECONDS = 5.0


class Seen(NamedTuple):
    """One device: its live table, or its targets' status, one line a target as ``dmsetup`` prints them."""

    name: str
    uuid: str
    major_minor: str
    open_count: int
    suspended: bool
    lines: str
    status: str = ""
    """Beside the table, where it was asked for too."""


class Reader:
    """``control`` is the node /dev/mapper/control."""

    def __init__(self, control: Path) -> None:
        self._control = control

    async def read(self, prefix: str, *, with_status: str) -> dict[str, Seen]:
        """Live tables of the devices whose names start with ``prefix``, by name; those of the target type
        ``with_status`` with its status, nothing flushed for it.

        DeadlineExceeded when the kernel does not answer.
        """
        return await self._ask(lambda control: _all(control, prefix, with_status))

    async def number(self, name: str) -> str:
        """``major:minor`` of one. Raises NotFound when there is none of that name."""

        def number(control: int) -> str:
            try:
                return _status(control, name, _NOFLUSH).major_minor
            except FileNotFoundError as error:
                raise NotFound(f"there is no device-mapper device {name}") from error

        return await self._ask(number)

    async def _ask(self, what: Callable[[int], Answer]) -> Answer:
        """What ``what`` says, called with the open node."""

        def ask() -> Answer:
            control = os.open(self._control, os.O_RDWR | os.O_CLOEXEC)
            try:
                return what(control)
            finally:
                os.close(control)

        try:
            return await patiently("device-mapper", ask, seconds=_SECONDS)
        except OSError as error:
            raise CommandFailed(("ioctl", str(self._control)), error.errno or 1, str(error)) from error


def _all(control: int, prefix: str, with_status: str) -> dict[str, Seen]:
    found = {}
    for name in parse_names(_call(control, _LIST_DEVICES, "", 0), prefix):
        try:
            seen = _status(control, name, _WANT_TABLE)
            if f" {with_status} " in seen.lines:
                seen = seen._replace(status=_status(control, name, _NOFLUSH).lines)
        except FileNotFoundError:
            continue  # gone meanwhile (ENXIO is raised as such by _call)
        found[name] = seen
    return found


def _status(control: int, name: str, flags: int) -> Seen:
    return parse_status(_call(control, _TABLE_STATUS, name, flags))


def _call(control: int, command: int, name: str, flags: int) -> bytes:
    """One ioctl; the buffer grows until the answer fits."""
    size = 16 * 1024
    while True:
        buffer = bytearray(size)
        _HEADER.pack_into(buffer, 0, 4, 0, 0, size, _HEADER.size, 0, 0, flags, 0, 0, 0, name.encode(), b"", b"")
        # _IOWR(0xfd, command, struct dm_ioctl)
        number = (3 << 30) | (_HEADER.size << 16) | (0xFD << 8) | command
        try:
            fcntl.ioctl(control, number, buffer, True)
        except OSError as error:
            if error.errno in (6, 22) and name:  # ENXIO: no such device
                raise FileNotFoundError(name) from error
            raise
        if not _HEADER.unpack_from(buffer)[7] & _BUFFER_FULL:
            return bytes(buffer)
        size *= 4


def parse_names(buffer: bytes, prefix: str) -> list[str]:
    """Names that start with ``prefix``, from the answer to DM_LIST_DEVICES: a chain of (dev, offset of the next,
    name).
    """
    header = _HEADER.unpack_from(buffer)
    at: int = header[4]
    found: list[str] = []
    wanted = prefix.encode()
    while True:
        dev, following = _ENTRY.unpack_from(buffer, at)
        if not dev:
            return found
        name = at + _ENTRY.size
        if buffer.startswith(wanted, name):
            found.append(buffer[name : buffer.index(b"\0", name)].decode())
        if not following:
            return found
        at += following


def parse_status(buffer: bytes) -> Seen:
    """A device from the answer to DM_TABLE_STATUS."""
    _, _, _, _, start, targets, opened, flags, _, _, dev, name, uuid, _ = _HEADER.unpack_from(buffer)
    lines = "\n".join(_lines(buffer, start, targets))
    return Seen(
        name=_text(name),
        uuid=_text(uuid),
        major_minor=f"{os.major(dev)}:{os.minor(dev)}",
        open_count=opened,
        suspended=bool(flags & _SUSPENDED),
        lines=lines,
    )


def _lines(buffer: bytes, start: int, targets: int) -> Iterator[str]:
    at = start
    for _ in range(targets):
        first, length, _, following, kind = _TARGET.unpack_from(buffer, at)
        begin = at + _TARGET.size
        parameters = buffer[begin : buffer.index(b"\0", begin)].decode().strip()
        yield f"{first} {length} {_text(kind)} {parameters}".rstrip()
        at = start + following


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode()
