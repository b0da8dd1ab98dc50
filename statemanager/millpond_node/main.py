"""``millpond-node``: the state manager's process. Puts the adapters and the parts together; nothing else knows them.

The environment gives what the flags do not: NODE_NAME, NODE_IP (where legs are exported), POD_NAMESPACE (of the
heartbeat Lease), RUN_DIR (/run/millpond), LOG_LEVEL; KUBECONFIG outside of a cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from millpond_adapters import modules, shutdown, stacks, udev
from millpond_adapters.block import BlockDevices
from millpond_adapters.clock import SystemClock
from millpond_adapters.dm import DeviceMapper
from millpond_adapters.kube import ApiKube, load
from millpond_adapters.label import LabelArea
from millpond_adapters.md import MdRaid
from millpond_adapters.nvme_host import NvmeTcpHost
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_adapters.pods import PodProcesses
from millpond_core import __version__, names
from millpond_core.errors import MillpondError
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager
from millpond_node.takeover import Takeover

log = logging.getLogger("millpond.node")
ENDING_SECONDS = 80
"""systemd kills what is left 90 s after it asked it to end."""
FILES = 65536
"""Open files, where as many may be had. Each volume that is attached here takes four (``sysfs.watch``), each child
three: 250 volumes take more than the 1024 that systemd allows at first.
"""
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Fields(logging.Formatter):
    """One line a record: the sentence, then what it is about as ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        about = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _PLAIN)
        return f"{super().format(record)} {about}".rstrip()


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Each option's default comes from the environment that the chart sets."""
    environment = os.environ
    parser = argparse.ArgumentParser(prog="millpond-node", description="Millpond's state manager: one on each node.")
    parser.add_argument("--node-name", default=environment.get("NODE_NAME", ""), help="($NODE_NAME)")
    parser.add_argument(
        "--node-ip",
        default=environment.get("NODE_IP", ""),
        help="IP address of this node on the storage network: legs are exported there ($NODE_IP)",
    )
    parser.add_argument(
        "--namespace", default=environment.get("POD_NAMESPACE", ""), help="of the heartbeat Lease ($POD_NAMESPACE)"
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=environment.get("RUN_DIR", "/run/millpond"),
        help="the host's folder for what outlives the pod, not the boot ($RUN_DIR)",
    )
    parser.add_argument("--log-level", default=environment.get("LOG_LEVEL", "INFO"), help="DEBUG, INFO … ($LOG_LEVEL)")
    parsed = parser.parse_args(argv)
    for option in ("node_name", "node_ip"):
        if not getattr(parsed, option):
            parser.error(f"--{option.replace('_', '-')} or ${option.upper()} is needed")
    return parsed


def allow_files(wanted: int = FILES) -> None:
    """Let this process have so many open files, or as many as its hard limit says. Never fewer than before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unbound = resource.RLIM_INFINITY
    most = wanted if hard == unbound else min(wanted, hard)
    if soft != unbound and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``millpond-node``."""
    parsed = options(argv)
    allow_files()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Fields("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=parsed.log_level.upper(), handlers=[handler])
    try:
        asyncio.run(run(parsed))
    except MillpondError as error:
        log.error("%s", error)
        sys.exit(1)


async def run(parsed: argparse.Namespace) -> None:
    """Until SIGTERM, SIGINT or a successor."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    stacks.tell_on_signal()
    takeover = Takeover(parsed.run_dir)
    await takeover.take()
    try:
        await modules.load()
        await udev.install()
        access = load()
        manager_name = names.node_manager(parsed.node_name)
        async with ApiKube(access, component=manager_name, namespace=parsed.namespace) as kube:
            manager = StateManager(_ports(kube), _config(parsed))
            await manager.start()
            log.info("state manager %s of node %s started", __version__, parsed.node_name)
            succeeded = loop.create_task(takeover.succeeded())
            ended = loop.create_task(stopped.wait())
            await asyncio.wait([succeeded, ended], return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping: %s", "told to" if stopped.is_set() else "another state manager takes over")
            for task in (succeeded, ended):
                task.cancel()
            ending = stopped.is_set() and await shutdown.begun()
            if ending:
                await _end_with_node(manager)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(manager.stop(on_purpose=not ending), 12.0)
    finally:
        takeover.give()


async def _end_with_node(manager: StateManager) -> None:
    """Nobody takes over from here: who still waits for a leg afterwards would keep the node from switching off."""
    log.info("the node is shutting down: staying until no volume is in use here")
    manager.end_with_node()
    for _ in range(ENDING_SECONDS * 5):
        if not manager.volumes.in_use():
            return
        await asyncio.sleep(0.2)
    log.warning("still in use: %s", ", ".join(manager.volumes.in_use()))


def _ports(kube: ApiKube) -> Ports:
    return Ports(
        dm=DeviceMapper(),
        md=MdRaid(),
        nvme=NvmeTcpHost(),
        nvmet=NvmeTcpTarget(),
        block=BlockDevices(),
        labels=LabelArea(),
        pods=PodProcesses(),
        clock=SystemClock(),
        kube=kube,
    )


def _config(parsed: argparse.Namespace) -> Config:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Config(
        node=parsed.node_name,
        address=parsed.node_ip,
        run_dir=parsed.run_dir,
        boot_id=lambda: boot_id,
        kernel=os.uname().release,
        version=__version__,
        features=tuple((name, "yes") for name in modules.MODULES),
    )


if __name__ == "__main__":
    main()
