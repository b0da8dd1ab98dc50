"""The thread: a disk is claimed, a leg prepared, a volume attached, written, read, detached."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from node_cluster import Cluster

from millpond_core.testing.world import Machine


async def attached(cluster: Cluster) -> None:
    """Volume v with a leg on n1 and one on n2, at n1."""
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    await cluster.volume("v", *cluster.nodes)
    await cluster.attach("v", "n1")


async def test_from_a_disk_to_a_write_on_both_legs_and_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await attached(cluster)
        report = cluster.report("v", "n1")
        assert report.device == f"/dev/mapper/millpond-{cluster.vvol('v').spec.uuid}"
        assert {(p.id, p.gate, p.path, p.member) for p in report.paths} == {
            ("a", "Holding", "Up", "InSync"),
            ("b", "Holding", "Up", "InSync"),
        }
        write = cluster.write("n1", "v", 3, 42)
        await cluster.until(lambda: write.done, seconds=5)
        assert write.state == "acknowledged"
        assert cluster.data("v", "a") == cluster.data("v", "b") == {3: 42}
        await cluster.detach("v")
        await cluster.until(lambda: not cluster.machine("n2").subsystems)
        assert not cluster.machine("n1").arrays
        await cluster.attach("v", "n2")
        assert cluster.read("n2", "v", 3) == 42


async def test_nobody_asks_about_a_leg_that_only_just_comes(tmp_path: Path) -> None:
    """An attachment takes a dozen looks; what the API server knows of others matters to a leg that stays away."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await attached(cluster)
        await cluster.detach("v")
        before = len(cluster.kube.calls)
        await cluster.attach("v", "n1")
        asked = Counter(call for call in cluster.kube.calls[before:] if call[0] == "get")
        assert {kind: count for (_, kind), count in asked.items() if kind != "VirtualVolume"} == {}


async def test_a_detach_that_has_begun_is_finished_before_the_volume_is_attached_again(tmp_path: Path) -> None:
    """A stack half taken down is never taken up again under its epoch: what was remembered of it is no longer true."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await attached(cluster)
        epoch = cluster.vvol("v").status.attachment.epoch

        async def change_of_mind(machine: Machine, call: str) -> None:
            if machine.node == "n1" and call.startswith("dm remove") and not cluster.vvol("v").spec.attachment.node:
                await cluster.want("v", "n1")

        cluster.world.hooks.append(change_of_mind)
        await cluster.want("v", "")
        await cluster.until(lambda: cluster.report("v", "n1").clean_epoch == epoch, seconds=20)
        assert not cluster.machine("n1").arrays
        assert sum("md assemble" in step for step in cluster.world.steps) == 1


async def test_writes_are_done_while_a_volume_in_use_is_to_be_detached(tmp_path: Path) -> None:
    """A pod that is to end may have to write before it can: its writes must not wait for its end."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await attached(cluster)
        await cluster.kill("n1")
        await cluster.pass_time(10)
        write = cluster.write("n1", "v", 3, 42)
        await cluster.want("v", "")
        await cluster.start("n1")
        await cluster.until(lambda: write.done, seconds=10)
        await cluster.until(lambda: cluster.report("v", "n1").clean_epoch == 1, seconds=20)
        assert cluster.data("v", "a") == cluster.data("v", "b") == {3: 42}
