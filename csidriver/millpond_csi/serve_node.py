"""The node process: the services on the node's own mounts, registered with the kubelet."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from millpond_adapters.mounts import NodeMounts
from millpond_core import names
from millpond_csi.formats import FormatMarks
from millpond_csi.identity import Identity
from millpond_csi.node import NodeService
from millpond_csi.registration import Registration
from millpond_csi.server import Server, serve
from millpond_csi.stubs import csi, registration


async def serve_node(socket: Path, node: str, kubelet_dir: Path, max_volumes: int, stopped: asyncio.Event) -> None:
    """Serve until ``stopped``. Raises OSError when a socket cannot be bound."""
    root = Path(os.path.normpath(kubelet_dir))

    async def ready() -> bool:
        return root.is_dir() and Path("/sys/class/block").is_dir()

    marks = FormatMarks(root / "plugins" / names.DRIVER / "formatting")
    service = NodeService(NodeMounts(), node, str(root), marks, max_volumes=max_volumes)
    kinds = csi.DESCRIPTOR.services_by_name
    driver = Server(socket, [(kinds["Identity"], Identity(ready)), (kinds["Node"], service)])
    registrar = Server(
        root / "plugins_registry" / f"{names.DRIVER}-reg.sock",
        [(registration.DESCRIPTOR.services_by_name["Registration"], Registration(socket))],
    )
    # The driver's socket first: the kubelet calls it as soon as it sees the other one.
    await serve([driver, registrar], stopped)
