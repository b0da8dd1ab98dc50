"""csi-sanity against the real gRPC services on doubles: quick, and where the driver alone can be at fault.

The run that counts is test_sanity_cluster.py: the same program against the installed driver.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import csi_sanity
import pytest
import pytest_asyncio

from millpond_core import names
from millpond_core.model import ObjectMeta, StorageNode
from millpond_core.testing.kube import MemoryKube
from millpond_core.testing.mounts import MemoryMounts
from millpond_csi.controller import ControllerService
from millpond_csi.formats import FormatMarks
from millpond_csi.identity import Identity
from millpond_csi.node import NodeService
from millpond_csi.server import Server
from millpond_csi.stubs import csi
from millpond_csi.testing import ScriptedMaster

NODE = "n1"
MAX_VOLUMES = 2
MIB = 1 << 20
SECONDS = 300


class MountsWithFolders(MemoryMounts):
    """csi-sanity looks whether the pod's path is there."""

    async def make(self, path: str, *, folder: bool) -> None:
        await super().make(path, folder=folder)
        if folder:
            Path(path).mkdir(parents=True, exist_ok=True)
        else:
            Path(path).touch()

    async def remove(self, path: str) -> None:
        await super().remove(path)
        if Path(path).is_dir():
            Path(path).rmdir()
        else:
            Path(path).unlink(missing_ok=True)


@pytest_asyncio.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """Both services on sockets in the folder that is yielded, which is the kubelet's as well."""
    kube, mounts = MemoryKube(), MountsWithFolders()
    kube.seed(StorageNode(metadata=ObjectMeta(name=NODE)))

    def front(node: str, uuid: str, size: int) -> None:
        name = names.front(uuid)
        if size and name in mounts.devices:
            mounts.devices[name].size = size
        elif size:
            mounts.add_device(name, names.dm_uuid(name), size=size)
        else:
            del mounts.devices[name]

    async def ready() -> bool:
        return True

    kinds, identity = csi.DESCRIPTOR.services_by_name, Identity(ready)
    service = NodeService(mounts, NODE, str(tmp_path), FormatMarks(tmp_path / "formatting"), max_volumes=MAX_VOLUMES)
    master = asyncio.ensure_future(ScriptedMaster(kube, NODE, front=front).run())
    servers = [
        Server(
            tmp_path / "controller.sock",
            [
                (kinds["Identity"], identity),
                (kinds["Controller"], ControllerService(kube, max_volumes=MAX_VOLUMES)),
            ],
        ),
        Server(tmp_path / "node.sock", [(kinds["Identity"], identity), (kinds["Node"], service)]),
    ]
    try:
        for server in servers:
            await server.start()
        yield tmp_path
    finally:
        for server in servers:
            await server.stop()
        master.cancel()
        await asyncio.gather(master, return_exceptions=True)


@pytest.mark.timeout(SECONDS + 900)  # the program may have to be built first
@pytest.mark.parametrize("access", ["mount", "block"])
async def test_csi_sanity_finds_no_fault(folder: Path, access: str, csi_sanity_program: Path) -> None:
    (folder / "sanity").mkdir()
    junit, mutable = folder / "junit.xml", folder / "mutable"
    mutable.write_text(csi_sanity.MUTABLE)
    process = await asyncio.create_subprocess_exec(
        csi_sanity_program,
        *csi_sanity.arguments(
            node_socket=f"unix://{folder}/node.sock",
            controller_socket=f"unix://{folder}/controller.sock",
            folder=f"{folder}/sanity",
            junit=str(junit),
            size=64 * MIB,
            mutable=str(mutable),
            access=access,
        ),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert junit.exists(), output.decode(errors="replace")[-4000:]
    outcome = csi_sanity.read(junit.read_bytes())
    csi_sanity.check(outcome, csi_sanity.advertised(max_volumes=MAX_VOLUMES))
    assert process.returncode == 0, output.decode(errors="replace")[-4000:]
