"""The controller process: the services on the real API server."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from millpond_adapters.kube import ApiKube, load
from millpond_core.errors import MillpondError
from millpond_core.model import API_VERSION
from millpond_csi.controller import ControllerService
from millpond_csi.identity import Identity
from millpond_csi.server import Server, serve
from millpond_csi.stubs import csi

log = logging.getLogger("millpond.csi")


async def serve_controller(socket: Path, max_volumes: int, stopped: asyncio.Event) -> None:
    """Serve until ``stopped``. Raises OSError when the socket cannot be bound."""
    environment = os.environ
    async with ApiKube(
        load(),
        component="millpond-csi",
        namespace=environment.get("POD_NAMESPACE", ""),
        instance=environment.get("POD_NAME", ""),
    ) as kube:

        async def ready() -> bool:
            try:
                await kube.raw("GET", f"/apis/{API_VERSION}/storagenodes?limit=1")
            except MillpondError as error:
                log.warning("not ready: %s", error)
                return False
            return True

        kinds = csi.DESCRIPTOR.services_by_name
        service = ControllerService(kube, max_volumes=max_volumes)
        services = [(kinds["Identity"], Identity(ready)), (kinds["Controller"], service)]
        await serve([Server(socket, services)], stopped)
