"""The driver's services on doubles: the API server and the mounts in memory, a scripted master.

Services are called as gRPC would call them, without gRPC; test_server.py has the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from millpond_core import names
from millpond_core.model import ObjectMeta, StorageNode
from millpond_core.testing.kube import MemoryKube
from millpond_core.testing.mounts import MemoryMounts
from millpond_csi.controller import ControllerService
from millpond_csi.deadline import Deadline
from millpond_csi.formats import FormatMarks
from millpond_csi.node import NodeService
from millpond_csi.stubs import csi
from millpond_csi.testing import ScriptedMaster, mount_capability

NODE = "n1"
MIB = 1 << 20


class Driver(SimpleNamespace):
    """Both services, and shorthands for calls that succeed."""

    async def call(self, method: str, seconds: float = 2.0, **fields: Any) -> Any:
        service = self.node if method.startswith("node_") else self.controller
        kind = "".join(part.title() for part in method.split("_"))
        request = getattr(csi, f"{kind}Request")(**fields)
        return await getattr(service, method)(request, Deadline.after(seconds))

    async def create(self, name: str = "pvc-1", size: int = 64 * MIB, **fields: Any) -> Any:
        fields.setdefault("volume_capabilities", [mount_capability()])
        fields.setdefault("capacity_range", {"required_bytes": size})
        return (await self.call("create_volume", name=name, **fields)).volume

    async def attach(self, volume: Any, node: str = NODE) -> Any:
        answer = await self.call(
            "controller_publish_volume",
            volume_id=volume.volume_id,
            node_id=node,
            volume_capability=mount_capability(),
            volume_context=volume.volume_context,
        )
        return answer.publish_context

    def staging(self, name: str = "s") -> str:
        return f"{self.root}/plugins/kubernetes.io/csi/{names.DRIVER}/{name}/globalmount"

    def target(self, pod: str = "p") -> str:
        return f"{self.root}/pods/{pod}/volumes/kubernetes.io~csi/pvc-1/mount"

    async def stage(self, volume: Any, context: Any, capability: Any = None, **fields: Any) -> Any:
        return await self.call(
            "node_stage_volume",
            volume_id=volume.volume_id,
            volume_context=volume.volume_context,
            publish_context=context,
            volume_capability=capability or mount_capability(),
            **{"staging_target_path": self.staging(), **fields},
        )

    async def publish(self, volume: Any, context: Any, capability: Any = None, **fields: Any) -> Any:
        return await self.call(
            "node_publish_volume",
            volume_id=volume.volume_id,
            volume_context=volume.volume_context,
            publish_context=context,
            volume_capability=capability or mount_capability(),
            **{"staging_target_path": self.staging(), "target_path": self.target(), **fields},
        )


@pytest.fixture
def kubelet_dir(tmp_path: Path) -> Path:
    root = tmp_path / "kubelet"
    (root / "plugins_registry").mkdir(parents=True)
    return root


@pytest_asyncio.fixture
async def driver(kubelet_dir: Path) -> AsyncIterator[Driver]:
    kube, mounts = MemoryKube(), MemoryMounts()
    for name in ("n1", "n2", "n3"):
        kube.seed(StorageNode(metadata=ObjectMeta(name=name)))

    def front(node: str, uuid: str, size: int) -> None:
        name = names.front(uuid)
        if node == NODE and size and name in mounts.devices:
            mounts.devices[name].size = size
        elif node == NODE and size:
            mounts.add_device(name, names.dm_uuid(name), size=size)
        elif node == NODE:
            del mounts.devices[name]

    master = ScriptedMaster(kube, NODE, room=1024 * MIB, front=front)
    running = asyncio.ensure_future(master.run())
    root = str(kubelet_dir)
    service = NodeService(mounts, NODE, root, FormatMarks(kubelet_dir / "formatting"))
    yield Driver(kube=kube, mounts=mounts, master=master, root=root, controller=ControllerService(kube), node=service)
    if not running.done():
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running  # what it failed with, if it did
