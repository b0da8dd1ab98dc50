"""Registers the node service with the kubelet, with no sidecar.

The kubelet watches its plugins_registry folder and calls whoever serves there: at our start, at its own, and again
whenever a registration failed. All we do is answer, and see to it that the socket stays.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from millpond_core import names
from millpond_csi.deadline import Deadline
from millpond_csi.stubs import registration

log = logging.getLogger("millpond.csi")

CSI_VERSION = "1.0.0"
"""What the kubelet asks of a CSI plugin: the major version of the interface."""


class Registration:
    """``endpoint`` is the driver's socket as the kubelet sees it."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.registered = False

    async def get_info(self, request: Any, deadline: Deadline) -> Any:
        return registration.PluginInfo(
            type="CSIPlugin", name=names.DRIVER, endpoint=str(self._endpoint), supported_versions=[CSI_VERSION]
        )

    async def notify_registration_status(self, request: Any, deadline: Deadline) -> Any:
        self.registered = request.plugin_registered
        if request.plugin_registered:
            log.info("registered with the kubelet as %s at %s", names.DRIVER, self._endpoint)
        else:
            log.error("the kubelet did not register %s: %s; it will try again", names.DRIVER, request.error)
        return registration.RegistrationStatusResponse()
