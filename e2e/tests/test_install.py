"""What an administrator sees after ``helm install``: pods ready, disks taken in, words where words are due."""

from __future__ import annotations

from demo import install
from demo.cluster import Cluster


def test_devices_can_be_waited_for(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "storagedevices", "--all", "--timeout=300s", seconds=310)


def test_tables_tell_the_story(cluster: Cluster) -> None:
    table = cluster.kubectl("get", "snode,sdev").splitlines()
    assert [line.split()[0].removeprefix("storagenode.millpond.io/") for line in table[1:4]] == ["n1", "n2", "n3"]
    assert all("Ready" in line for line in table[1:4]), table
    devices = [line for line in table if line.startswith("storagedevice.")]
    assert len(devices) == 6
    assert all("Online" in line for line in devices), table


def test_every_field_is_explained(cluster: Cluster) -> None:
    text = cluster.kubectl("explain", "virtualvolumes.status.mapping.legs")
    assert "write-intent bitmap" in text
    assert "no description" not in cluster.kubectl("explain", "virtualvolumes", "--recursive").lower()


def test_every_node_runs_the_driver(cluster: Cluster) -> None:
    for node in cluster.items("csinodes"):
        drivers = {driver["name"]: driver for driver in node["spec"].get("drivers") or ()}
        assert "csi.millpond.io" in drivers, node["metadata"]["name"]
        assert drivers["csi.millpond.io"]["topologyKeys"] == ["topology.millpond.io/node"]


def test_nothing_restarted(cluster: Cluster) -> None:
    """A process that needs two starts has a fault, even when it ends well."""
    restarts = []
    for pod in cluster.items("pods", "-n", install.NAMESPACE):
        name = pod["metadata"]["name"]
        for state in install.container_states(pod):
            if state["restartCount"]:
                last = cluster.kubectl(
                    "logs", "-n", install.NAMESPACE, name, "-c", state["name"], "--previous", "--tail=15", check=False
                )
                restarts.append(f"{name}/{state['name']}: {state['restartCount']}, {state['lastState']}\n{last}")
    assert not restarts, "\n".join(restarts)
