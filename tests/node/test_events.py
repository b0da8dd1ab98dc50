"""What people are told by Events: a hold, a lost leg, a disk that failed, and that all is well again."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_cluster import Cluster

from millpond_core import names
from millpond_core.errors import Unavailable
from millpond_core.model import StorageDevice, StorageNode
from millpond_core.model.virtualvolume import OnFailure


def told(cluster: Cluster, name: str) -> list[tuple[str, bool]]:
    """(reason, warning) of the Events about an object, in their order."""
    return [(event.reason, event.warning) for event in cluster.kube.events if event.name == name]


async def test_a_lost_disk_is_told_from_the_hold_to_its_end(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2", on_failure=OnFailure(hold_seconds=30))
        await cluster.attach("v", "n1")
        cluster.world.cut("n2")
        write = cluster.write("n1", "v", 7, 77)
        await cluster.until(lambda: ("Holding", True) in told(cluster, "v"), seconds=5)
        assert not write.done
        cluster.machine("n2").pull("nvme1")
        cluster.world.restore("n2")
        await cluster.until(lambda: ("HoldEnded", False) in told(cluster, "v"))
        assert write.state == "acknowledged"
        assert told(cluster, "v").index(("LegLost", True)) < told(cluster, "v").index(("HoldEnded", False))
        await cluster.until(lambda: ("DiskFailed", True) in told(cluster, "n2-nvme1"))
        cluster.machine("n2").plug("nvme1")
        await cluster.rejoin("v", "b")
        await cluster.until(lambda: told(cluster, "v")[-2:] == [("LegRebuilding", False), ("LegInSync", False)])
        await cluster.pass_time(4)
        assert cluster.data("v", "a") == cluster.data("v", "b")


async def test_a_silent_api_server_does_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        raise Unavailable("no answer")

    caplog.set_level("INFO", "millpond_node.manager")
    async with Cluster(tmp_path, "n1") as cluster:
        await cluster.pass_time(5)
        caplog.clear()
        with monkeypatch.context() as patched:
            patched.setattr(cluster.kube, "renew_lease", silent)
            await cluster.pass_time(60)
        await cluster.pass_time(5)
    said = [record.getMessage() for record in caplog.records if "heartbeat" in record.getMessage()]
    assert said == ["heartbeat: no answer", "heartbeat: goes on"]


async def test_a_leg_is_offered_under_the_names_of_a_database_that_was_made_anew(tmp_path: Path) -> None:
    """Hosts are named after the cluster: whoever offered a leg to the old name would refuse the new one for ever."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n1")
        await cluster.detach("v")
        before = (await cluster.kube.get(StorageNode, "n1")).status.host_nqn
        old = (await cluster.kube.raw("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]
        await cluster.kube.raw("DELETE", "/api/v1/namespaces/kube-system")
        await cluster.kube.raw("POST", "/api/v1/namespaces", {"metadata": {"name": "kube-system"}})
        for node in cluster.nodes:
            await cluster.kube.delete(StorageNode, node)
            taken_over = {"metadata": {"annotations": {names.ANNOTATION_FROM_CLUSTER: old}}}
            await cluster.kube.merge(StorageDevice, f"{node}-nvme1", taken_over)
        await cluster.pass_time(10)
        assert (await cluster.kube.get(StorageNode, "n1")).status.host_nqn not in ("", before)
        await cluster.attach("v", "n1")
        assert cluster.in_sync("v") == ["a", "b"]
