"""Puts Millpond on a cluster with its chart, and hands it disks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.cluster import Cluster, Object
from demo.errors import DemoError

CHART = Path(__file__).resolve().parents[2] / "charts" / "millpond"
NAMESPACE = "millpond-system"
RELEASE = "millpond"
API_VERSION = "millpond.io/v1alpha1"
READY_SECONDS = 900.0
DISK_SECONDS = 300.0


@dataclass(frozen=True)
class Images:
    """Which images the chart is to use: ``repository:tag`` each."""

    millpond: str
    provisioner: str
    attacher: str
    resizer: str


def chart(cluster: Cluster, helm: Path, images: Images, values: Mapping[str, Any] | None = None) -> None:
    """Install the chart, or bring it to these values; returns before the pods are ready. ``values`` override.

    Those of a group, such as ``controller``, are named one by one: the rest of it stays.
    """
    repository, _, tag = images.millpond.rpartition(":")
    given: dict[str, Any] = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "controller": {
            "provisioner": {"image": images.provisioner},
            "attacher": {"image": images.attacher},
            "resizer": {"image": images.resizer},
        },
    }
    for name, value in (values or {}).items():
        given[name] = {**given[name], **value} if isinstance(value, Mapping) and name in given else value
    argv = [str(helm), "upgrade", "--install", RELEASE, str(CHART), "--kubeconfig", str(cluster.kubeconfig)]
    argv += ["--namespace", NAMESPACE, "--create-namespace", "--values", "-"]
    done = subprocess.run(argv, input=json.dumps(given), capture_output=True, text=True, timeout=180, check=False)
    if done.returncode != 0:
        raise DemoError(f"helm could not install {CHART.name}:\n{done.stderr.strip()}")


def ready(cluster: Cluster, *, seconds: float = READY_SECONDS) -> None:
    """Wait until every pod of Millpond is ready and every node has reported."""

    def missing() -> str:
        pods = cluster.items("pods", "-n", NAMESPACE)
        wanted = {name: count for name, count in _wanted(cluster) if count}
        if len(pods) < sum(wanted.values()):
            return f"{len(pods)} of {sum(wanted.values())} pods are there"
        waiting = [_why(pod) for pod in pods if not _ready(pod)]
        if waiting:
            return "; ".join(waiting)
        nodes = {node["metadata"]["name"] for node in cluster.items("nodes")}
        known = {node["metadata"]["name"] for node in cluster.items("storagenodes") if node.get("status")}
        silent = sorted(nodes - known)
        return f"no report yet from {', '.join(silent)}" if silent else ""

    cluster.wait(missing, "Millpond is ready", seconds=seconds, every=1)


def unclaimed(cluster: Cluster) -> dict[str, list[Object]]:
    """Empty disks that no StorageDevice names, by node."""
    return {
        node["metadata"]["name"]: [
            disk for disk in node.get("status", {}).get("unclaimedDisks", ()) if disk["state"] == "Empty"
        ]
        for node in cluster.items("storagenodes")
    }


def adopt(cluster: Cluster, *, per_node: int) -> list[str]:
    """Hand over empty disks with ``kubectl millpond adopt``, until each node has given ``per_node``.

    Returns the names of all StorageDevices.
    """
    found: dict[str, list[Object]] = {}

    def missing() -> str:
        found.update(unclaimed(cluster))
        taken = _by_node(cluster.items("storagedevices"))
        short = [n for n, disks in found.items() if len(disks) + taken.get(n, 0) < per_node]
        return f"fewer than {per_node} disks on {', '.join(sorted(short))}" if short or not found else ""

    cluster.wait(missing, "every node reports its disks", seconds=DISK_SECONDS, every=1)
    taken = _by_node(cluster.items("storagedevices"))
    wanted = [
        f"{node}/{disk['serial']}"
        for node, disks in found.items()
        for disk in sorted(disks, key=lambda disk: str(disk["serial"]))[: per_node - taken.get(node, 0)]
    ]
    if wanted:
        hand_over(cluster, *wanted)
    return sorted(d["metadata"]["name"] for d in cluster.items("storagedevices"))


def hand_over(cluster: Cluster, *disks: str) -> list[str]:
    """``kubectl millpond adopt`` of disks, ``NODE/SERIAL`` each; returns the names of their StorageDevices, Online."""
    done = cluster.millpond("adopt", *disks, "--wait", f"{DISK_SECONDS:.0f}s", "-o", "json", seconds=DISK_SECONDS + 60)
    if done.returncode != 0:
        raise DemoError(f"kubectl millpond adopt {' '.join(disks)}:\n{done.stderr.strip()}\n{done.stdout.strip()}")
    return [each["metadata"]["name"] for each in json.loads(done.stdout)]


def device(node: str, serial: str, **spec: Any) -> Object:
    """A StorageDevice for the disk with that serial number."""
    name = serial.lower() if serial.lower().startswith(node) else f"{node}-{serial.lower()}"
    return {
        "apiVersion": API_VERSION,
        "kind": "StorageDevice",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "identity": {"serial": serial}, **spec},
    }


def container_states(pod: Object) -> list[Object]:
    """The status of each of a pod's containers, sidecars (``initContainers``) first."""
    return [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]


def _wanted(cluster: Cluster) -> list[tuple[str, int]]:
    found = []
    for each in cluster.items("deployments,daemonsets", "-n", NAMESPACE):
        if each["kind"] == "Deployment":
            found.append((each["metadata"]["name"], int(each["spec"]["replicas"])))
        else:
            found.append((each["metadata"]["name"], int(each["status"].get("desiredNumberScheduled", 0)) or 1))
    return found


def _ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _why(pod: Object) -> str:
    for container in container_states(pod):
        waiting = container["state"].get("waiting")
        if waiting and waiting.get("reason") != "PodInitializing":
            return f"{pod['metadata']['name']}/{container['name']}: {waiting.get('message') or waiting.get('reason')}"
    return f"{pod['metadata']['name']} is {pod['status'].get('phase', 'new')}"


def _by_node(devices: Sequence[Object]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in devices:
        counts[each["spec"]["nodeName"]] = counts.get(each["spec"]["nodeName"], 0) + 1
    return counts
