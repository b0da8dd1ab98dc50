"""What a disk says of its own health: the critical warnings of NVMe.

NVM Express Base Specification, Get Log Page, SMART / Health Information (log 02h), byte 0; asked for with
NVME_IOCTL_ADMIN_CMD (linux/nvme_ioctl.h), which takes CAP_SYS_ADMIN. Other disks are not asked: their self-tests need
tools and intervals of their own, and what they suffer from shows as errors.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from pathlib import Path

from millpond_adapters.patience import patiently
from millpond_core.errors import IOFailed
from millpond_core.model.storagedevice import DiskWarning

_BITS: tuple[DiskWarning, ...] = ("SpareLow", "TooHot", "Unreliable", "ReadOnly", "BackupFailed", "MemoryUnreliable")
_ADMIN_COMMAND = 0xC0484E41  # _IOWR('N', 0x41, struct nvme_admin_cmd)
_COMMAND = struct.Struct("=BBHIIIQQII6III")
_GET_LOG_PAGE, _HEALTH, _WHOLE_CONTROLLER, _BYTES = 0x02, 0x02, 0xFFFFFFFF, 512
_SECONDS = 3.0


async def warnings(path: str) -> tuple[DiskWarning, ...]:
    """Of an NVMe namespace's disk; empty: none, or it is another kind of disk. IOFailed or DeadlineExceeded."""
    name = Path(path).resolve().name
    if not re.fullmatch(r"nvme\d+n\d+", name):
        return ()
    try:
        return named(await patiently(f"the health of {name}", lambda: _asked(f"/dev/{name}"), seconds=_SECONDS))
    except OSError as error:
        raise IOFailed(f"{path} does not tell its health: {error.strerror or error}") from error


def named(bits: int) -> tuple[DiskWarning, ...]:
    """The warnings that are set."""
    return tuple(name for bit, name in enumerate(_BITS) if bits >> bit & 1)


def _asked(device: str) -> int:
    log = ctypes.create_string_buffer(_BYTES)
    dwords = (_HEALTH | (_BYTES // 4 - 1) << 16, 0, 0, 0, 0, 0)
    address, timeout_ms = ctypes.addressof(log), int(_SECONDS * 1000)
    command = _COMMAND.pack(_GET_LOG_PAGE, 0, 0, _WHOLE_CONTROLLER, 0, 0, 0, address, 0, _BYTES, *dwords, timeout_ms, 0)
    opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        refused = fcntl.ioctl(opened, _ADMIN_COMMAND, bytearray(command), True)
    finally:
        os.close(opened)
    if refused:
        raise OSError(0, f"NVMe status {refused:#x}")
    return log.raw[0]
