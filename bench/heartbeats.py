"""``make bench-heartbeats``: what the nodes' Leases cost the control plane, into docs/performance.md.

A real etcd and API server on the host; the state manager's own adapter renews the Leases of so many nodes at the state
manager's own pace. What the two servers take of a core is compared with what they take while nobody asks anything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figures, described, host, replace_section

from lab import processes
from lab.controlplane import ControlPlane
from lab.progress import say
from millpond_adapters.kube import ApiKube, load
from millpond_core import names
from millpond_node.host import Config

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 30.0
SERVERS = ("etcd", "kube-apiserver")
TICKS = os.sysconf("SC_CLK_TCK")
NAMESPACE = "default"
EVERY_SECONDS: float = Config._field_defaults["heartbeat_seconds"]
LEASE_SECONDS: int = Config._field_defaults["lease_seconds"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written."""
    parser = argparse.ArgumentParser(prog="bench.heartbeats", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args(argv)
    figures = Figures()
    with ControlPlane() as plane:
        for run in range(1, arguments.runs + 1):
            say(f"run {run} of {arguments.runs}")
            idle = asyncio.run(measure(plane, 0))
            busy = asyncio.run(measure(plane, arguments.nodes, figures))
            for server in SERVERS:
                used = max(busy[server] - idle[server], 0.0)
                figures.add(f"{server}, {arguments.nodes} nodes renewing", 100 * used, "% of a core")
    machine = {"host": host(), "nodes": str(arguments.nodes), "runs": str(arguments.runs)}
    told = described(machine, "make bench-heartbeats")
    every = f"Each node renews its Lease every {EVERY_SECONDS:g} s: one PUT, no watch."
    content = f"## Heartbeats\n\n{told} {every}\n\n{figures.table()}"
    path = ROOT / "docs" / "performance.md"
    replace_section(path, "heartbeats", content, "# Performance\n")
    print(f"\n{figures.table()}\n\nwritten to {path}")
    return 0


async def measure(plane: ControlPlane, nodes: int, figures: Figures | None = None) -> dict[str, float]:
    """Cores that each server uses while ``nodes`` renew; what one renewal takes goes into ``figures``."""
    took: list[float] = []
    async with ApiKube(load(str(plane.kubeconfig)), component="bench", namespace=NAMESPACE) as kube:
        before, began = _used(plane), time.monotonic()
        await asyncio.gather(
            asyncio.sleep(SECONDS),
            *(_renew(kube, f"node-{number}", number / nodes, began + SECONDS, took) for number in range(nodes)),
        )
        passed = time.monotonic() - began
    if figures is not None and took:
        figures.add("one renewal", 1000 * statistics.median(took), "ms")
    return {server: (seconds - before[server]) / passed for server, seconds in _used(plane).items()}


async def _renew(kube: ApiKube, node: str, share: float, until: float, took: list[float]) -> None:
    """Spread over the interval, as nodes are that were not started at once."""
    await asyncio.sleep(share * EVERY_SECONDS)
    while (now := time.monotonic()) < until:
        await kube.renew_lease(names.node_manager(node), node, LEASE_SECONDS)
        took.append(time.monotonic() - now)
        await asyncio.sleep(max(now + EVERY_SECONDS - time.monotonic(), 0.0))


def _used(plane: ControlPlane) -> dict[str, float]:
    """Seconds of processor that each server has used."""
    used = {}
    for process in processes.below(plane.folder):
        if process.name in SERVERS:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used[process.name] = (int(fields[11]) + int(fields[12])) / TICKS
    return used


if __name__ == "__main__":
    raise SystemExit(main())
