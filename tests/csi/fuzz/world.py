"""The driver as it is installed, on doubles: both processes' sockets, a kubelet's folder, and a tree beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import grpc.aio

from fuzz import words
from millpond_adapters.mounts import NodeMounts
from millpond_core import names
from millpond_core.errors import CommandFailed, NotFound
from millpond_core.model import ObjectMeta, StorageNode, VirtualVolume
from millpond_core.observed import Contents
from millpond_core.testing.kube import MemoryKube, _key, _typed
from millpond_core.testing.mounts import MemoryMounts
from millpond_csi.controller import ControllerService
from millpond_csi.formats import FormatMarks
from millpond_csi.identity import Identity
from millpond_csi.node import NodeService
from millpond_csi.server import Server
from millpond_csi.stubs import csi
from millpond_csi.testing import ScriptedMaster

TROUBLES = ("outage", "allocate", "attach", "detach", "release")
"""What may be wrong with the rest of the world: see ``World.trouble``."""

ROOM = 1 << 40
"""Bytes of the largest volume that the master places."""

SETTLE_SECONDS = 10.0
Snapshot = dict[str, tuple[int, int, bytes]]


class FolderMounts(MemoryMounts):
    """Folders and files are made and removed as on a node; mounts stay in memory, and want a place that is there."""

    def __init__(self) -> None:
        super().__init__()
        self._real = NodeMounts()

    async def make(self, path: str, *, folder: bool) -> None:
        await super().make(path, folder=folder)
        await self._real.make(path, folder=folder)

    async def remove(self, path: str) -> None:
        await super().remove(path)
        await self._real.remove(path)

    async def mount(self, device: str, target: str, fs_type: str, options: Any) -> None:
        if not Path(target).is_dir():
            raise CommandFailed(("mount", device, target), 32, "mount point does not exist")
        await super().mount(device, target, fs_type, options)

    async def bind(self, source: str, target: str, *, readonly: bool) -> None:
        if Path(target).is_dir() == source.startswith("/dev/"):
            raise CommandFailed(("mount", source, target), 32, "not a directory")
        await super().bind(source, target, readonly=readonly)


class Records(logging.Handler):
    """What was logged since it was last ``taken``."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self._lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.levelno, self.format(record)))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Everything that is logged meanwhile, at any level."""
        root = logging.getLogger()
        level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.removeHandler(self)
            root.setLevel(level)

    def taken(self) -> list[tuple[int, str]]:
        lines, self._lines = self._lines, []
        return lines


class World:
    """In ``folder``, which is empty before; ``real``: the kubelet's folder is looked at, or all of it is in memory.

    ``kube`` and ``mounts``: other doubles than the plain ones. ``around``: what is served instead of a service.
    """

    def __init__(
        self,
        folder: Path,
        *,
        real: bool,
        kube: MemoryKube | None = None,
        mounts: MemoryMounts | None = None,
        around: Callable[[Any], Any] = lambda service: service,
    ) -> None:
        self.root, self.outside, self.real = folder / "kubelet", folder / "outside", real
        self.kube = kube or MemoryKube()
        self.mounts = mounts or (FolderMounts() if real else MemoryMounts())
        self.formats = self.root / "plugins" / names.DRIVER / "formatting"
        self._count = 0
        for name in ("n1", "n2", "n3"):
            self.kube.seed(StorageNode(metadata=ObjectMeta(name=name)))
        self._plant()
        self.before = snapshot(self.outside)
        self._around, self._folder = around, folder
        self._out = contextlib.ExitStack()
        self._contents: dict[str, Contents] = {}
        self._serve()
        self.channels: dict[str, Any] = {}
        self._master = ScriptedMaster(self.kube, words.NODE, room=ROOM, front=self._front)
        self._running: asyncio.Task[None] | None = None

    def _serve(self) -> None:
        """Services that know nothing yet, as after the start of their processes."""
        kinds = csi.DESCRIPTOR.services_by_name
        self.services: dict[str, object] = {
            "Identity": Identity(self._ready),
            "Controller": ControllerService(self.kube, new_uuid=self._uuid),
            "Node": NodeService(self.mounts, words.NODE, str(self.root), FormatMarks(self.formats)),
        }
        self.services = {name: self._around(service) for name, service in self.services.items()}
        sockets = {
            "Controller": self._folder / "controller.sock",
            "Node": self.root / "plugins" / names.DRIVER / "csi.sock",
        }
        self.servers = {
            name: Server(at, [(kinds[each], self.services[each]) for each in ("Identity", name)])
            for name, at in sockets.items()
        }

    async def start(self) -> None:
        if self._running is None:
            self._running = asyncio.ensure_future(self._master.run())
        for name, server in self.servers.items():
            await server.start()
            options = [("grpc.use_local_subchannel_pool", 1)]
            self.channels[name] = grpc.aio.insecure_channel(f"unix:{server.socket}", options=options)
        self.channels["Identity"] = self.channels["Controller"]

    def trouble(self, kind: str) -> None:
        """From now on the API server is out ("outage"), or the master does no more of one thing; empty: all is well."""
        if kind == "outage":
            self._out.enter_context(self.kube.outage())
        elif kind:
            self._master.stuck.add(kind)

    async def kill(self) -> None:
        """Both processes end where they are, half-way through whatever they do, and others start."""
        for name, server in self.servers.items():
            await self.channels[name].close()
            await server.stop(0)
            # Then: until the server has stopped, calls still come in.
            tasks = [task for _, task in server._locks._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._serve()
        await self.start()

    async def stop(self) -> None:
        """Raises what the master failed with, if it did."""
        for name in self.servers:
            await self.channels[name].close()
        for server in self.servers.values():
            await server.stop(0)
        self._out.close()
        assert self._running is not None
        if not self._running.done():
            self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def settle(self) -> None:
        """Until no call runs any more and the master has nothing left to do."""
        for server in self.servers.values():
            await server._locks.drain(SETTLE_SECONDS)
        seen, quiet = "", 0
        while quiet < 20:
            version = self.kube._store.version()
            seen, quiet = version, quiet + 1 if version == seen else 0
            await asyncio.sleep(0)

    def meaning(self, word: str, argument: str) -> str:
        """For ``plan.resolve``."""
        if word in ("root", "outside"):
            return str(self.root if word == "root" else self.outside)
        try:
            volume = self._volume(argument)
        except NotFound:
            return str(uuid5(NAMESPACE_OID, argument)) if word == "uuid" else "1"
        return volume.spec.uuid if word == "uuid" else str(volume.status.attachment.epoch)

    def _volume(self, name: str) -> VirtualVolume:
        return _typed(VirtualVolume, self.kube._store.get(_key(VirtualVolume, name)))

    def _uuid(self) -> str:
        self._count += 1
        return str(uuid5(NAMESPACE_OID, str(self._count)))

    async def _ready(self) -> bool:
        return True

    def _front(self, node: str, uuid: str, size: int) -> None:
        name = names.front(uuid)
        if node == words.NODE and size:
            device = self.mounts.add_device(name, names.dm_uuid(name), size=size)
            device.contents = self._contents.get(name, device.contents)
        elif node == words.NODE and (gone := self.mounts.devices.pop(name, None)) is not None:
            self._contents[name] = gone.contents

    def _plant(self) -> None:
        for folder in (self.root / "plugins" / names.DRIVER, self.root / "pods" / "kept", self.outside / "empty"):
            folder.mkdir(parents=True)
        for file in (self.outside / "file", self.outside / "no-content", *self.kept()):
            file.write_text("" if file.name == "no-content" else "precious")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.root / "pods" / "kept" / "socket"))
        pods = self.root / "pods"
        for link, to in (
            ("out", self.outside),
            ("file-link", self.outside / "file"),
            ("dangling", self.outside / "new"),
            ("loop", pods / "loop"),
            ("in", pods / "kept"),
        ):
            (pods / link).symlink_to(to)

    def kept(self) -> tuple[Path, ...]:
        """Files inside the kubelet's folder that are someone's."""
        return self.root / "config.yaml", self.root / "pods" / "kept" / "file"

    def lost(self) -> list[str]:
        """What of the things that must stay is not as it was."""
        wrong = [] if snapshot(self.outside) == self.before else [f"{self.outside} has changed"]
        wrong += [f"{file} is gone" for file in self.kept() if not file.is_file() or file.read_text() != "precious"]
        wrong += [f"{server.socket} is gone" for server in self.servers.values() if not server.reachable()]
        kept = self.root / "pods" / "kept" / "socket"
        wrong += [] if kept.is_socket() else [f"{kept} is gone"]
        links = ("out", "file-link", "dangling", "loop", "in")
        return wrong + [f"the link {link} is gone" for link in links if not (self.root / "pods" / link).is_symlink()]


def snapshot(folder: Path) -> Snapshot:
    """Everything in ``folder``, itself included: mode, time of change, content."""
    found = {}
    for here, _, files in os.walk(folder):
        for path in (Path(here), *(Path(here, name) for name in files)):
            about = path.lstat()
            found[str(path)] = (
                about.st_mode,
                about.st_mtime_ns,
                path.read_bytes() if stat.S_ISREG(about.st_mode) else b"",
            )
    return found
