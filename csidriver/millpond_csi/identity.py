"""The Identity service, the same in both processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.wrappers_pb2 import BoolValue

from millpond_core import __version__, names
from millpond_csi.deadline import Deadline
from millpond_csi.stubs import csi

Service = csi.PluginCapability.Service


class Identity:
    """Who we are, and whether we can work: ``ready`` is asked each time."""

    def __init__(self, ready: Callable[[], Awaitable[bool]]) -> None:
        self.ready = ready

    async def get_plugin_info(self, request: Any, deadline: Deadline) -> Any:
        return csi.GetPluginInfoResponse(name=names.DRIVER, vendor_version=__version__)

    async def get_plugin_capabilities(self, request: Any, deadline: Deadline) -> Any:
        offered = (Service.CONTROLLER_SERVICE, Service.VOLUME_ACCESSIBILITY_CONSTRAINTS)
        # Online: also, not only, while it is in use.
        expansion = csi.PluginCapability.VolumeExpansion(type=csi.PluginCapability.VolumeExpansion.ONLINE)
        return csi.GetPluginCapabilitiesResponse(
            capabilities=[
                *(csi.PluginCapability(service=Service(type=each)) for each in offered),
                csi.PluginCapability(volume_expansion=expansion),
            ]
        )

    async def probe(self, request: Any, deadline: Deadline) -> Any:
        """Not ready is an answer; an error would have the container restarted, which helps against no outage."""
        return csi.ProbeResponse(ready=BoolValue(value=await self.ready()))
