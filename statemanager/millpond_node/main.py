"""The state manager's process: puts its parts together and runs until it is told to end.

Environment: NODE_NAME (of the Kubernetes node), NODE_IP (on which legs are exported), POD_NAMESPACE (of the heartbeat
Lease), RUN_DIR (/run/millpond), LOG_LEVEL, KUBECONFIG outside of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import sys
from pathlib import Path

from millpond_adapters import modules, udev
from millpond_adapters.block import BlockDevices
from millpond_adapters.clock import SystemClock
from millpond_adapters.dm import DeviceMapper
from millpond_adapters.kube import Access, ApiKube, load
from millpond_adapters.label import LabelArea
from millpond_adapters.md import MdRaid
from millpond_adapters.nvme_host import NvmeTcpHost
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_core import __version__, names
from millpond_core.errors import Invalid, MillpondError
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager
from millpond_node.takeover import Takeover

log = logging.getLogger("millpond")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def main() -> None:
    """Entry point of ``millpond-node``."""
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(run(configure(), load()))
    except MillpondError as error:
        log.error("%s", error)
        sys.exit(1)


def configure() -> Config:
    """Who and where this process is. Raises Invalid, naming the variable, when the environment does not say."""
    found = {name: os.environ.get(name, "") for name in ("NODE_NAME", "NODE_IP")}
    for name, value in found.items():
        if not value:
            raise Invalid(f"{name} is not set: the DaemonSet gives it from the pod's own fields")
    return Config(
        node=found["NODE_NAME"],
        address=found["NODE_IP"],
        run_dir=Path(os.environ.get("RUN_DIR", "/run/millpond")),
        boot_id=lambda: _BOOT_ID.read_text().strip(),
        kernel=platform.release(),
        version=__version__,
    )


async def run(config: Config, access: Access) -> None:
    """Run until a signal comes or a newer state manager asks for this node."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    takeover = Takeover(config.run_dir)
    await takeover.take()
    try:
        await modules.load()
        await udev.install()
        namespace = os.environ.get("POD_NAMESPACE") or access.namespace
        component = names.node_manager(config.node)
        async with ApiKube(access, component=component, namespace=namespace, instance=config.node) as kube:
            ports = Ports(
                dm=DeviceMapper(),
                md=MdRaid(),
                nvme=NvmeTcpHost(),
                nvmet=NvmeTcpTarget(),
                block=BlockDevices(),
                labels=LabelArea(),
                clock=SystemClock(),
                kube=kube,
            )
            await _until(stop, takeover, StateManager(ports, config))
    finally:
        takeover.give()


async def _until(stop: asyncio.Event, takeover: Takeover, manager: StateManager) -> None:
    """Act until told to end; what is then half done is taken up by the next one."""
    acting = asyncio.create_task(manager.run(), name="state manager")
    ends = [asyncio.create_task(stop.wait()), asyncio.create_task(takeover.succeeded())]
    await asyncio.wait([acting, *ends], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: %s", "told to" if stop.is_set() else "a newer state manager takes over")
    for task in (*ends, acting):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await acting


if __name__ == "__main__":
    main()
