"""What a request may contain. Everything that becomes a name, a path or an argument passes through here first.

An id is matched against one strict pattern and never becomes part of a path unseen: drivers that joined it to a
folder's name have let callers out of that folder (CVE-2026-3864, CVE-2026-3865).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from millpond_core.errors import Invalid
from millpond_core.model.meta import UUID_PATTERN
from millpond_csi.stubs import csi

MAX_ID = 63
MAX_NAME = 128
MAX_PATH = 4095
MAX_PART = 255
"""Bytes of one name in a path."""

FS_TYPES = ("ext4", "xfs")
UUID_KEY = "uuid"
"""Key of spec.uuid in volume and publish contexts."""

EPOCH_KEY = "epoch"
"""Key of the attachment's epoch in publish contexts."""

_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_DERIVED = re.compile(r"vol-[0-9a-f]{40}")
_UUID = re.compile(UUID_PATTERN)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_PATH_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_PLAIN_MOUNT = re.compile(
    r"(?i:r?bind|r?move|remount|loop|offset|sizelimit|x-mount\..*|r?(?:shared|private|slave|unbindable))"
)
_MOUNT_OPTION = re.compile(r"[A-Za-z0-9_.:=+@%/-]{1,256}")

Mode = csi.VolumeCapability.AccessMode
MODES = {
    Mode.SINGLE_NODE_WRITER: "SINGLE_NODE_WRITER",
    Mode.SINGLE_NODE_READER_ONLY: "SINGLE_NODE_READER_ONLY",
    Mode.SINGLE_NODE_SINGLE_WRITER: "SINGLE_NODE_SINGLE_WRITER",
    Mode.SINGLE_NODE_MULTI_WRITER: "SINGLE_NODE_MULTI_WRITER",
}
"""A volume is assembled on one node at a time: no multi-node mode can be had."""


class Capability(NamedTuple):
    """What a caller wants to do with a volume, checked."""

    block: bool
    mode: int
    fs_type: str = ""
    """Empty for raw block."""
    options: tuple[str, ...] = ()

    @property
    def readonly(self) -> bool:
        return bool(self.mode == Mode.SINGLE_NODE_READER_ONLY)

    @property
    def mounted_readonly(self) -> bool:
        """Whether its mount is read-only, be it by the mode or by a mount option."""
        said = [option for option in self.options if option in ("ro", "rw")]
        return self.readonly or said[-1:] == ["ro"]

    @property
    def exclusive(self) -> bool:
        """One pod's alone, even on its node (ReadWriteOncePod)."""
        return bool(self.mode == Mode.SINGLE_NODE_SINGLE_WRITER)


def volume_id(value: str) -> str:
    """``value``, a volume's id: the name of its VirtualVolume."""
    if not value:
        raise Invalid("volume_id is missing")
    if len(value) > MAX_ID or _ID.fullmatch(value) is None:
        raise Invalid(
            f"volume_id {_shown(value)} is no volume of Millpond's: an id has 1 to {MAX_ID} lower-case letters, digits "
            "and dashes, and begins and ends with a letter or digit"
        )
    return value


def name_to_id(name: str) -> str:
    """The id of the volume that is to be called ``name``: the name itself where it can be one, else its hash.

    The CSI allows any text of up to 128 bytes. Equal names give equal ids, other names others.
    """
    if not name:
        raise Invalid("name is missing")
    if len(name.encode()) > MAX_NAME:
        raise Invalid(f"name {_shown(name)} has more than {MAX_NAME} bytes")
    if _CONTROL.search(name):
        raise Invalid(f"name {_shown(name)} has control characters")
    if len(name) <= MAX_ID and _ID.fullmatch(name) and not _DERIVED.fullmatch(name):
        return name
    return f"vol-{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def node_id(value: str) -> str:
    """``value``, a node's id: its name."""
    if not value:
        raise Invalid("node_id is missing")
    if len(value) > 253 or _NODE.fullmatch(value) is None:
        raise Invalid(f"node_id {_shown(value)} is no node's name (RFC 1123 subdomain)")
    return value


def uuid(*contexts: Mapping[str, str]) -> str:
    """spec.uuid from the contexts of a stage or publish call. They must agree."""
    found = {context[UUID_KEY] for context in contexts if UUID_KEY in context}
    if len(found) != 1 or _UUID.fullmatch(value := found.pop()) is None:
        raise Invalid(
            f"volume_context and publish_context must carry the volume's one {UUID_KEY}: a PersistentVolume made by "
            f"hand needs spec.csi.volumeAttributes.{UUID_KEY} equal to spec.uuid of the VirtualVolume"
        )
    return value


def check_context(value: str, context: Mapping[str, str]) -> None:
    """Invalid when ``context`` belongs to another volume than the one with the uuid ``value``."""
    if context.get(UUID_KEY, value) != value:
        raise Invalid(f"volume_context names {UUID_KEY} {_shown(context[UUID_KEY])}, the volume's is {value}")


def capability(value: Any) -> Capability:
    """A VolumeCapability. ``fs_type`` is ext4 when not said."""
    kind = value.WhichOneof("access_type")
    if kind is None:
        raise Invalid("volume_capability is missing or has no access_type: ask for block or mount")
    mode = value.access_mode.mode
    if mode not in MODES:
        raise Invalid(
            f"access mode {mode} cannot be had: a volume is used on one node at a time "
            f"({', '.join(MODES.values())}; in Kubernetes ReadWriteOnce or ReadWriteOncePod)"
        )
    if kind == "block":
        return Capability(True, mode)
    return Capability(False, mode, fs_type(value.mount.fs_type), _options(value.mount.mount_flags))


def capabilities(values: Iterable[Any]) -> list[Capability]:
    """The capabilities that a volume must have, at least one."""
    checked = [capability(value) for value in values]
    if not checked:
        raise Invalid("volume_capabilities are missing")
    return checked


def fs_type(value: str) -> str:
    """A filesystem that a volume can be formatted with; ext4 when not said."""
    if value not in ("", *FS_TYPES):
        raise Invalid(f"fs_type {_shown(value)} is not known: {' or '.join(FS_TYPES)}")
    return value or FS_TYPES[0]


def path(value: str, field: str, root: str) -> str:
    """``value``, a path below ``root`` (the kubelet's folder): absolute, normalized, with no symlink on the way.

    ``root`` itself may be one. The path need not exist.
    """
    if not value:
        raise Invalid(f"{field} is missing")
    plain_path(value, field)
    if not value.startswith(f"{root}/"):
        raise Invalid(f"{field} {_shown(value)} is not below {root}")
    here = root
    for part in value.removeprefix(f"{root}/").split("/"):
        here = f"{here}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(here).st_mode):
                raise Invalid(f"{field} {_shown(value)} leads through the symbolic link {here}")
        except FileNotFoundError:
            break
        except NotADirectoryError:
            raise Invalid(
                f"{field} {_shown(value)} leads through {here.rpartition('/')[0]}, which is no folder"
            ) from None
    return value


def plain_path(value: str, field: str) -> str:
    """``value``, a path that says where it leads: no ``..``, ``//`` or NUL, and not too long."""
    if len(value.encode(errors="replace")) > MAX_PATH:
        raise Invalid(f"{field} {_shown(value)} has more than {MAX_PATH} bytes")
    if "\0" in value or any(part in ("", ".", "..") for part in value.removeprefix("/").split("/")):
        raise Invalid(f"{field} {_shown(value)} is not normalized: no '.', '..', empty part or NUL may be in it")
    if _PATH_CONTROL.search(value):
        raise Invalid(f"{field} {_shown(value)} has control characters")
    if any(len(part.encode(errors="replace")) > MAX_PART for part in value.split("/")):
        raise Invalid(f"{field} {_shown(value)} has a name of more than {MAX_PART} bytes")
    return value


def _options(flags: Iterable[str]) -> tuple[str, ...]:
    options = tuple(option for flag in flags for option in flag.split(",") if option)
    for option in options:
        if _MOUNT_OPTION.fullmatch(option) is None:
            raise Invalid(f"mount option {_shown(option)} has characters that no option has")
        if _NO_PLAIN_MOUNT.fullmatch(option.partition("=")[0]):
            raise Invalid(f"mount option {_shown(option)} does something else than to mount the volume (mount(8))")
    return options


def _shown(value: str) -> str:
    """``value`` for a message: quoted, and no longer than a line."""
    return repr(value) if len(value) <= 80 else f"{value[:60]!r}… ({len(value)} characters)"
