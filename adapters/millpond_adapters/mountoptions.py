"""What a filesystem of this kernel has against mount options.

mount(8) of util-linux before 2.39 has one sentence for a wrong option, a damaged filesystem and a few things more. The
kernel judges options one by one, and in words, while a mount is prepared (fsopen(2), fsconfig(2), Linux 5.2; kernel
document filesystems/mount_api). Nothing is mounted by that, and no device is touched.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Sequence

from millpond_adapters.patience import patiently

_FSOPEN, _FSCONFIG = 430, 431  # the same on every architecture
_FSOPEN_CLOEXEC, _SET_FLAG, _SET_STRING = 1, 0, 1
_MESSAGE_BYTES = 4096
_SECONDS = 10.0
"""It may load the filesystem's module."""

_NOT_THE_FILESYSTEMS = re.compile(
    r"(?:no)?(?:(?:dir|rel|strict)?atime|dev|exec|suid|symfollow|auto|users?|owner|group|fail|iversion)"
    r"|defaults|silent|loud|_netdev|helper|comment|[xX]-.*|(?:fs|def|root)?context"
)
"""What mount(8) keeps to itself or makes flags of (its FILESYSTEM-INDEPENDENT MOUNT OPTIONS): no filesystem hears it.

Nor does it hear of a context, unless SELinux is on.
"""


async def objection(fs_type: str, options: Sequence[str]) -> str:
    """The kernel's words on the first of ``options`` that it does not take for ``fs_type``; empty: it takes them all.

    Empty, too, when it cannot be asked: it takes CAP_SYS_ADMIN, and the filesystem. That values fit each other, and the
    filesystem on the device, is seen only when it is mounted.
    """
    return await patiently(f"a mount of {fs_type}", lambda: _asked(fs_type, options), seconds=_SECONDS)


def _asked(fs_type: str, options: Sequence[str]) -> str:
    try:
        context = _call(_FSOPEN, fs_type.encode(), _FSOPEN_CLOEXEC)
    except OSError:
        return ""
    try:
        for option in options:
            key, has_value, value = option.partition("=")
            if _NOT_THE_FILESYSTEMS.fullmatch(key):
                continue
            how, given = (_SET_STRING, value.encode()) if has_value else (_SET_FLAG, None)
            try:
                _call(_FSCONFIG, context, how, key.encode(), given, 0)
            except OSError as error:
                return _said(context) or f"{option}: {error.strerror}"
        return ""
    finally:
        os.close(context)


def _said(context: int) -> str:
    """The last error of the context's log; each line begins with its level and a space: e, w or i."""
    found = ""
    while True:
        try:
            line = os.read(context, _MESSAGE_BYTES).decode(errors="replace").strip()
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return found
        if line.startswith("e "):
            found = line.removeprefix("e ")


def _call(number: int, *arguments: object) -> int:
    answer: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer
