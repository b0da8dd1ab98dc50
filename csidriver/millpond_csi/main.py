"""``millpond-csi controller`` and ``millpond-csi node``: the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from millpond_core.errors import MillpondError

# Before gRPC is imported: children are started beside its threads, and its fork handlers would stop them at each one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

log = logging.getLogger("millpond.csi")


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Each option's default comes from the environment that the chart sets."""
    environment = os.environ
    parser = argparse.ArgumentParser(prog="millpond-csi", description="The CSI driver of Millpond.")
    parser.add_argument("--log-level", default=environment.get("LOG_LEVEL", "INFO"), help="DEBUG, INFO … ($LOG_LEVEL)")
    parser.add_argument(
        "--endpoint",
        default=environment.get("CSI_ENDPOINT", "unix:///csi/csi.sock"),
        help="where to serve: unix:// and an absolute path ($CSI_ENDPOINT)",
    )
    parser.add_argument(
        "--max-volumes",
        type=int,
        default=environment.get("MAX_VOLUMES", "0"),
        help="volumes that one node may have attached, the same for both modes; 0: no bound ($MAX_VOLUMES)",
    )
    parser.add_argument(
        "--health-address",
        default=environment.get("HEALTH_ADDRESS", ""),
        help="host:port (or :port) of /healthz for liveness probes; empty: none ($HEALTH_ADDRESS)",
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("controller", help="the calls made once a cluster, by the sidecars")
    node = modes.add_parser("node", help="the calls made on each node, by the kubelet")
    node.add_argument("--node-name", default=environment.get("NODE_NAME", ""), help="($NODE_NAME)")
    node.add_argument(
        "--kubelet-dir",
        default=environment.get("KUBELET_DIR", "/var/lib/kubelet"),
        help="the kubelet's folder, at the same path here as on the node ($KUBELET_DIR)",
    )
    parsed = parser.parse_args(argv)
    if not parsed.endpoint.startswith("unix:///"):
        parser.error(f"--endpoint is {parsed.endpoint!r}: write unix:// and an absolute path: unix:///csi/csi.sock")
    if parsed.health_address and not re.fullmatch(r"[^:]*:[0-9]{1,5}", parsed.health_address):
        parser.error(f"--health-address is {parsed.health_address!r}: write host:port, such as 127.0.0.1:9808")
    if parsed.mode == "node" and not parsed.node_name:
        parser.error("--node-name or $NODE_NAME is needed: the name of the node that this runs on")
    return parsed


async def _until_signalled(parsed: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    socket = Path(parsed.endpoint.removeprefix("unix://"))
    # Each process imports its own half alone: the node's has no API client, which is a third of its memory.
    if parsed.mode == "controller":
        from millpond_csi.serve_controller import serve_controller  # noqa: PLC0415

        serving = serve_controller(socket, parsed.max_volumes, stopped)
    else:
        from millpond_csi.serve_node import serve_node  # noqa: PLC0415

        serving = serve_node(socket, parsed.node_name, Path(parsed.kubelet_dir), parsed.max_volumes, stopped)
    from millpond_csi.health import health  # noqa: PLC0415

    async with health(parsed.health_address, socket):
        await serving


def main() -> int:
    """Exit status 1 when it cannot serve; the log says why."""
    parsed = options()
    logging.basicConfig(
        level=parsed.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    try:
        asyncio.run(_until_signalled(parsed))
    except (MillpondError, OSError, RuntimeError) as error:
        log.error("cannot serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
