"""``lab status`` in words."""

from __future__ import annotations

from lab import components, processes
from lab.cluster import Cluster
from lab.errors import LabError
from lab.node import Node


def status(lab: Cluster) -> str:
    """Several lines: the nodes with their disks and processes, the control plane, and how to go on."""
    ready = _ready_nodes(lab)
    lines = [f"Lab {lab.name!r}, kernel {lab.kernel}, Kubernetes {components.kubernetes_version()}"]
    lines += [_node(node, ready) for node in lab.nodes]
    for daemon in processes.below(lab.control_plane.folder):
        lines.append(
            f"  {daemon.name:24} {'pid ' + str(daemon.pid) if daemon.alive() else 'ended':12} log {daemon.log}"
        )
    lines += [
        f"  API server  https://127.0.0.1:{lab.control_plane.port}" if lab.kubeconfig.exists() else "  no API server",
        f"  kubectl     export KUBECONFIG={lab.kubeconfig}",
        f"  shell       make lab-shell NODE={lab.nodes[0].name}",
        "  end it      make lab-down",
    ]
    return "\n".join(lines)


def _node(node: Node, ready: set[str] | None) -> str:
    process = node.machine.process
    alive = process is not None and process.alive()
    state = "off" if not alive else "up" if ready is None else "Ready" if node.name in ready else "not Ready"
    disks = " ".join(disk.name + ("" if node.machine.plugged(disk) else "(unplugged)") for disk in node.disks)
    kubelet = f"kubelet {node.record.loopback}:{node.record.kubelet_port}"
    where = f"pid {process.pid}, {node.address}, {kubelet}" if process else ""
    return f"  {node.name}  {state:9} {disks:24} {where}"


def _ready_nodes(lab: Cluster) -> set[str] | None:
    try:
        items = lab.control_plane.api.request("GET", "/api/v1/nodes", seconds=5)["items"]
    except (LabError, OSError):
        return None
    return {
        item["metadata"]["name"]
        for item in items
        if any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
    }
