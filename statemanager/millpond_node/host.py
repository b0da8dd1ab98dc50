"""What a state manager is given: the ports of its node, and who it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from millpond_core.ports import Block, Clock, Dm, Kube, Labels, Md, NvmeHost, Nvmet, Pods


class Ports(NamedTuple):
    """The node's kernel, the API server, time."""

    dm: Dm
    md: Md
    nvme: NvmeHost
    nvmet: Nvmet
    block: Block
    labels: Labels
    pods: Pods
    clock: Clock
    kube: Kube


class Config(NamedTuple):
    """Who and where this state manager is."""

    node: str
    """Name of the Kubernetes node, and of its StorageNode."""
    address: str
    """IP address on which legs are exported."""
    run_dir: Path
    """Where what must survive a restart, but not a reboot, is kept."""
    boot_id: Callable[[], str]
    kernel: str = ""
    version: str = ""
    features: tuple[tuple[str, str], ...] = ()
    poll_seconds: float = 1.0
    """How often device-mapper, md and NVMe are looked at without a cause."""
    scan_seconds: float = 5.0
    """How often disks are looked at without an event."""
    alive_seconds: float = 5.0
    """How often each device is read from."""
    heartbeat_seconds: float = 2.0
    lease_seconds: int = 20
    """After so long a silence is a question. What the pace costs the control plane: ``make bench-heartbeats``."""
    progress_seconds: float = 15.0
    """How often the progress of a rebuild is reported."""
