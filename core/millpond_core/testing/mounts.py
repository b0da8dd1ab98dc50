"""The ``Mounts`` port in memory: devices that tests put there, a mount table, folders and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from millpond_core.errors import Busy, CommandFailed, IOFailed, MillpondError, NotFound
from millpond_core.observed import Contents, Mount, Usage
from millpond_core.units import MIB

DEVTMPFS = "0:6"


@dataclass
class MemoryDevice:
    """A dm device, with what lies on it."""

    name: str
    uuid: str
    node: str
    major_minor: str
    size: int = 64 * MIB
    contents: Contents = field(default_factory=lambda: Contents(kind="Blank"))
    used: int = 0
    """Bytes of it that its filesystem takes up."""


class MemoryMounts:
    """See the module. ``calls`` are for assertions; umount refuses ``busy`` targets; ``failures`` come once."""

    def __init__(self) -> None:
        self.devices: dict[str, MemoryDevice] = {}
        self.mounts: list[Mount] = []
        self.folders: set[str] = set()
        self.files: set[str] = set()
        self.busy: set[str] = set()
        self.failures: dict[str, MillpondError] = {}
        self.calls: list[tuple[str, ...]] = []
        self._next = 0

    def add_device(self, name: str, uuid: str, *, size: int = 64 * MIB) -> MemoryDevice:
        """A blank dm device appears."""
        made = MemoryDevice(name, uuid, f"/dev/dm-{self._next}", f"253:{self._next}", size)
        self._next += 1
        self.devices[name] = made
        return made

    # --- the port ---

    async def table(self) -> Sequence[Mount]:
        return list(self.mounts)

    async def device(self, name: str, uuid: str) -> tuple[str, str] | None:
        found = self.devices.get(name)
        return (found.node, found.major_minor) if found is not None and found.uuid == uuid else None

    async def contents(self, device: str) -> Contents:
        self._call("contents", device)
        return self._at(device).contents

    async def format(self, device: str, fs_type: str) -> None:
        self._call("format", device, fs_type)
        found = self._at(device)
        found.contents, found.used = Contents(kind="Filesystem", fs_type=fs_type, detail=fs_type), found.size

    async def check(self, device: str, fs_type: str) -> None:
        self._call("check", device, fs_type)

    async def mount(self, device: str, target: str, fs_type: str, options: Sequence[str]) -> None:
        self._call("mount", device, target, fs_type, *options)
        found = self._at(device)
        if target not in self.folders:
            raise CommandFailed(("mount", device, target), 32, "mount point does not exist")
        if found.contents.fs_type != fs_type:
            raise CommandFailed(("mount", device, target), 32, "wrong fs type, bad superblock")
        flags = frozenset({"ro" if "ro" in options else "rw"})
        self.mounts.append(
            Mount(target=target, root="/", major_minor=found.major_minor, fs_type=fs_type, source=device, options=flags)
        )

    async def grow(self, major_minor: str, target: str, fs_type: str) -> None:
        self._call("grow", major_minor, target, fs_type)
        shown = next((mount for mount in reversed(self.mounts) if mount.target == target), None)
        if shown is None or (shown.major_minor, shown.fs_type) != (major_minor, fs_type):
            raise CommandFailed(("grow", target), 1, f"is not a mounted {fs_type}")
        if "ro" in shown.options:
            raise CommandFailed(("grow", target), 1, "Read-only file system")
        found = self._numbered(major_minor)
        found.used = found.size

    async def bind(self, source: str, target: str, *, readonly: bool) -> None:
        self._call("bind", source, target, "ro" if readonly else "rw")
        below = next((mount for mount in reversed(self.mounts) if mount.target == source), None)
        inherited = below is not None and "ro" in below.options
        flags = frozenset({"ro" if readonly or inherited else "rw"})
        if source.startswith("/dev/"):
            root = f"/{source.removeprefix('/dev/')}"
            bound = Mount(
                target=target, root=root, major_minor=DEVTMPFS, fs_type="devtmpfs", source="udev", options=flags
            )
        else:
            if below is None:
                raise CommandFailed(("mount", source, target), 32, "special device does not exist")
            bound = Mount(
                target=target,
                root="/",
                major_minor=below.major_minor,
                fs_type=below.fs_type,
                source=below.source,
                options=flags,
            )
        self.mounts.append(bound)

    async def unmount(self, target: str) -> None:
        self._call("unmount", target)
        if target in self.busy:
            raise Busy(f"{target} is in use")
        for mount in reversed(self.mounts):
            if mount.target == target:
                self.mounts.remove(mount)
                return
        raise CommandFailed(("umount", target), 32, "not mounted")

    async def make(self, path: str, *, folder: bool) -> None:
        self._call("make", path, "folder" if folder else "file")
        (self.folders if folder else self.files).add(path)

    async def remove(self, path: str) -> None:
        self._call("remove", path)
        if any(mount.target == path for mount in self.mounts):
            raise IOFailed(f"cannot remove {path}: it is a mount point")
        self.folders.discard(path)
        self.files.discard(path)

    async def usage(self, path: str) -> Usage:
        self._call("usage", path)
        return Usage(
            total_bytes=60 * MIB,
            used_bytes=MIB,
            available_bytes=59 * MIB,
            total_inodes=1000,
            used_inodes=11,
            available_inodes=989,
        )

    async def block_device(self, path: str) -> str | None:
        shown = next((mount for mount in reversed(self.mounts) if mount.target == path), None)
        node = f"/dev{shown.root}" if shown is not None and shown.fs_type == "devtmpfs" else path
        return next((each.major_minor for each in self.devices.values() if each.node == node), None)

    async def size(self, major_minor: str) -> int:
        return self._numbered(major_minor).size

    # --- inside ---

    def _call(self, verb: str, *arguments: str) -> None:
        self.calls.append((verb, *arguments))
        if (failure := self.failures.pop(verb, None)) is not None:
            raise failure

    def _numbered(self, major_minor: str) -> MemoryDevice:
        found = next((each for each in self.devices.values() if each.major_minor == major_minor), None)
        if found is None:
            raise NotFound(f"there is no device {major_minor}")
        return found

    def _at(self, node: str) -> MemoryDevice:
        found = next((each for each in self.devices.values() if each.node == node), None)
        if found is None:
            raise NotFound(f"{node} is no block device any more")
        return found
