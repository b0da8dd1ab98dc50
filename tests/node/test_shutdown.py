"""A node that shuts down: its volumes leave with their last users, and nothing waits for what will not come."""

from __future__ import annotations

from pathlib import Path

from invariants import watch
from node_cluster import Cluster
from test_losing import mirrored

from millpond_core.nodeplan.losing import ENDING_SECONDS
from millpond_core.testing.world.machine import DmMapped


def mounted(cluster: Cluster) -> DmMapped:
    """Volume v on n1; its front, which is open until somebody sets ``openers`` to 0."""
    front = cluster.world.front("n1", cluster.vvol("v").spec.uuid)
    assert front is not None
    front.openers = 1
    return front


async def far_away(cluster: Cluster) -> None:
    """Volume v on n1, its only leg on n2."""
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    await cluster.volume("v", "n2")
    await cluster.attach("v", "n1")


async def test_a_volume_leaves_cleanly_when_its_last_user_has_gone(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        front = mounted(cluster)
        watch(cluster, "v")
        cluster.managers["n1"].end_with_node()
        await cluster.until(lambda: cluster.snode("n1").status.shutting_down)
        assert "is shutting down" in cluster.snode("n1").status.message
        await cluster.pass_time(5)
        late = cluster.write("n1", "v", 7, 77)
        await cluster.until(lambda: late.done)
        assert late.state == "acknowledged", "a database may still write what it has to when it is asked to end"
        assert cluster.managers["n1"].volumes.in_use() == ["v"]
        front.openers = 0
        await cluster.until(lambda: not cluster.managers["n1"].volumes.in_use(), seconds=10)
        assert not cluster.machine("n1").arrays
        await cluster.until(lambda: cluster.report("v", "n1").clean_epoch == 1)
        assert cluster.data("v", "a") == cluster.data("v", "b")


async def test_a_leg_that_goes_meanwhile_is_recorded_at_once(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        mounted(cluster)
        watch(cluster, "v")
        cluster.managers["n1"].end_with_node()
        cluster.world.cut("n2")
        write = cluster.write("n1", "v", 7, 77)
        await cluster.until(lambda: write.done, seconds=int(ENDING_SECONDS))
        assert write.state == "acknowledged"
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}


async def test_where_nobody_can_record_a_loss_the_volume_ends_before_its_node(tmp_path: Path) -> None:
    """Services of the network end before pods do on many a node: what is held then would keep the kernel for ever."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        front = mounted(cluster)
        watch(cluster, "v")
        with cluster.kube.outage():
            cluster.world.cut("n2")
            write = cluster.write("n1", "v", 7, 77)
            await cluster.pass_time(60)
            assert not write.done
            cluster.managers["n1"].end_with_node()
            await cluster.until(lambda: write.done, seconds=2 * int(ENDING_SECONDS))
            assert write.state == "lost", "its pod was killed: nobody heard that it was done"
            front.openers = 0
            await cluster.until(lambda: not cluster.managers["n1"].volumes.in_use(), seconds=10)
            assert not cluster.machine("n1").arrays
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}, "nothing was acknowledged that one of them lacks"


async def test_a_volume_whose_last_copy_is_away_ends_too(tmp_path: Path) -> None:
    """Its only leg is elsewhere: there is nothing to record, and nothing to wait for."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await far_away(cluster)
        front = mounted(cluster)
        cluster.world.cut("n2")
        write = cluster.write("n1", "v", 7, 77)
        await cluster.pass_time(30)
        assert not write.done
        cluster.managers["n1"].end_with_node()
        await cluster.until(lambda: write.done, seconds=2 * int(ENDING_SECONDS))
        assert write.state == "lost"
        front.openers = 0
        await cluster.until(lambda: not cluster.managers["n1"].volumes.in_use(), seconds=10)


async def test_writes_elsewhere_do_not_wait_for_the_silence_of_a_node_that_says_it_goes(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        watch(cluster, "v")
        cluster.managers["n2"].end_with_node()
        write = cluster.write("n1", "v", 7, 77)
        await cluster.until(lambda: cluster.states("v") == {"a": "InSync", "b": "Stale"}, seconds=5)
        await cluster.until(lambda: write.done, seconds=3)
        assert write.state == "acknowledged"
        await cluster.until(lambda: not cluster.managers["n2"].volumes.in_use(), seconds=5)
        await cluster.power_off("n2")
        await cluster.power_on("n2")
        await cluster.rejoin("v", "b")
        await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])
        await cluster.pass_time(5)
        assert cluster.data("v", "a") == cluster.data("v", "b")


async def test_the_last_leg_in_sync_stays_to_the_end(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await far_away(cluster)
        cluster.managers["n2"].end_with_node()
        await cluster.pass_time(10)
        write = cluster.write("n1", "v", 7, 77)
        await cluster.until(lambda: write.done, seconds=3)
        assert write.state == "acknowledged"
        assert not cluster.managers["n2"].volumes.in_use(), "the node is not kept up for it"
