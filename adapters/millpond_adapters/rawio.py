"""Reading and writing a block device past the page cache (O_DIRECT, open(2)), with a deadline.

Offsets and lengths are whole blocks of 4 KiB: what every disk takes.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

from millpond_adapters.patience import patiently
from millpond_core.errors import IOFailed


async def read(path: str, start: int, length: int, *, seconds: float) -> bytes:
    """``length`` bytes from ``start``, fewer at the end of the device. IOFailed or DeadlineExceeded."""

    def work() -> bytes:
        device = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, length) as buffer:  # its pages are aligned, as O_DIRECT wants
                return buffer[: os.preadv(device, [buffer], start)]
        finally:
            os.close(device)

    return await _done(path, work, seconds)


async def write(path: str, start: int, data: bytes, *, seconds: float) -> None:
    """Write ``data`` at ``start`` and flush the device's cache. IOFailed or DeadlineExceeded."""

    def work() -> bytes:
        device = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, len(data)) as buffer:
                buffer[:] = data
                if os.pwritev(device, [buffer], start) != len(data):
                    raise OSError(errno.EIO, "a part of it was written only")
            os.fsync(device)
        finally:
            os.close(device)
        return b""

    await _done(path, work, seconds)


async def _done(path: str, work: Callable[[], bytes], seconds: float) -> bytes:
    try:
        return await patiently(path, work, seconds=seconds)
    except OSError as error:
        raise IOFailed(f"{path}: {error.strerror or error}") from error
