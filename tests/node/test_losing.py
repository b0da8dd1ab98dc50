"""A leg is lost: held, recorded, dropped; it comes back, or a spare takes its place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from invariants import watch
from node_cluster import Cluster

from millpond_core.model import StorageNode
from millpond_core.model.virtualvolume import Leg, OnFailure
from millpond_core.nodeplan.losing import UNRECORDED_SECONDS


async def mirrored(cluster: Cluster, *, attach: str = "n1", on_failure: OnFailure | None = None) -> None:
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    await cluster.volume("v", "n1", "n2", on_failure=on_failure)
    await cluster.attach("v", attach)
    for block in range(8):
        cluster.write(attach, "v", block * 300, block + 1)
    await cluster.pass_time(3)


@pytest.mark.parametrize("lost", ["n1", "n2"], ids=["the local disk", "the remote disk"])
async def test_a_pulled_disk_is_recorded_and_writes_go_on(tmp_path: Path, lost: str) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        gone, kept = ("a", "b") if lost == "n1" else ("b", "a")
        cluster.machine(lost).pull("nvme1")
        write = cluster.write("n1", "v", 7, 77)
        assert not write.done, "the gate holds what one leg lacks"
        assert cluster.states("v")[gone] == "InSync"
        await cluster.until(lambda: write.done, seconds=4)
        assert write.state == "acknowledged"
        assert cluster.states("v") == {gone: "Stale", kept: "InSync"}
        assert cluster.vvol("v").status.mapping.record_seq == 2
        await cluster.until(lambda: cluster.sdev(f"{lost}-nvme1").status.observation.state == "Failed", seconds=3)
        assert cluster.read("n1", "v", 7) == 77
        await cluster.until(lambda: not any(p.id == gone for p in cluster.report("v", "n1").paths))
        assert not any(f"gate-{gone}" in name for name in cluster.machine("n1").dm)


async def test_a_path_that_fails_is_looked_at_at_once(tmp_path: Path) -> None:
    """The kernel tells of it; every second in which nobody looks is one more that writes wait."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await asyncio.sleep(0.5)  # between two looks that come by themselves
        cluster.world.cut("n2")
        cluster.write("n1", "v", 7, 77)
        await asyncio.sleep(0.1)
        assert list(cluster.managers["n1"].volumes.volumes["v"].held_since) == ["b"]


@pytest.mark.parametrize("lost", ["n1", "n2"], ids=["the local disk", "the remote disk"])
async def test_a_disk_that_comes_back_catches_up_by_a_delta(tmp_path: Path, lost: str) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        gone = "a" if lost == "n1" else "b"
        # Written, acknowledged, not flushed: only the disk's cache has it on the leg that goes.
        early = cluster.write("n1", "v", 900, 9, fua=False)
        await cluster.until(lambda: early.done)
        cluster.machine(lost).pull("nvme1")
        late = cluster.write("n1", "v", 1200, 12)
        await cluster.until(lambda: late.done)
        await cluster.pass_time(5)
        cluster.machine(lost).plug("nvme1")
        await cluster.rejoin("v", gone)
        await cluster.until(lambda: cluster.states("v")[gone] == "InSync")
        assert any("md add" in step and step.endswith("delta") for step in cluster.world.steps)
        await cluster.pass_time(5)
        assert cluster.data("v", "a") == cluster.data("v", "b")
        assert cluster.data("v", gone)[900] == 9


async def test_a_copy_whose_source_cannot_be_read_is_explained_and_tried_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        cluster.machine("n2").pull("nvme1")
        write = cluster.write("n1", "v", 1200, 12)
        await cluster.until(lambda: write.done)
        disk = cluster.machine("n1").slots["nvme1"]
        (bad,) = [sector for sector in (*disk.durable, *disk.cache) if disk.read(sector) == 12]
        disk.unreadable.add(bad)
        cluster.machine("n2").plug("nvme1")
        await cluster.rejoin("v", "b")
        await cluster.until(lambda: "its copy stopped, 1 times" in cluster.report("v", "n1").message)
        assert "leg a on n1 cannot be read" in cluster.report("v", "n1").message
        assert {path.id: path.member for path in cluster.report("v", "n1").paths} == {"a": "InSync", "b": "Stopped"}
        tries = [step for step in cluster.world.steps if "md add" in step]
        await cluster.pass_time(50)
        assert [step for step in cluster.world.steps if "md add" in step] == tries, "not again and again"
        meanwhile = cluster.write("n1", "v", 300, 13)
        await cluster.until(lambda: meanwhile.done)
        assert cluster.states("v") == {"a": "InSync", "b": "Rebuilding"}
        healed = cluster.write("n1", "v", 1200, 14)
        await cluster.until(lambda: healed.done)
        await cluster.until(lambda: cluster.states("v")["b"] == "InSync")
        await cluster.pass_time(5)
        assert cluster.data("v", "a") == cluster.data("v", "b")


async def test_a_spare_takes_the_place_of_a_lost_leg(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        await mirrored(cluster)
        cluster.machine("n2").pull("nvme1")
        write = cluster.write("n1", "v", 7, 77)
        await cluster.until(lambda: write.done)
        spare = cluster.new_leg("c", "n3", 16)
        await cluster.change("v", spares=[spare])
        await cluster.until(lambda: cluster.exported("v", "c"))
        await cluster.ring("q", "v", nodes=("n1",), deadline=200)
        await cluster.until(lambda: (a := cluster.answer("n1", "q")) and a.phase == "Quiesced")

        def lost(leg: Leg) -> Leg:
            return msgspec.structs.replace(leg, state="Failed", releasing=True) if leg.id == "b" else leg

        await cluster.change("v", spares=[])
        await cluster.commit("v", lost, spare)
        await cluster.until(lambda: cluster.report("v", "n1").generation == 2)
        assert cluster.states("v")["c"] == "Rebuilding"
        await cluster.pass_time(30)
        assert cluster.states("v")["c"] == "Rebuilding", "long operations are halted until the release"
        await cluster.silence("n1")
        late = cluster.write("n1", "v", 1300, 13)
        await cluster.until(lambda: cluster.states("v")["c"] == "InSync")
        assert late.state == "acknowledged"
        assert cluster.data("v", "a") == cluster.data("v", "c")
        assert cluster.answer("n1", "q").phase == "Released"
        # The second of the first disks goes too: only the rebuilt copy is left.
        cluster.machine("n1").pull("nvme1")
        last = cluster.write("n1", "v", 8, 88)
        await cluster.until(lambda: last.done)
        assert last.state == "acknowledged"
        assert cluster.in_sync("v") == ["c"]
        assert cluster.read("n1", "v", 7) == 77


async def test_the_last_leg_in_sync_holds_and_is_never_given_up(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        cluster.machine("n2").pull("nvme1")
        await cluster.until(lambda: cluster.in_sync("v") == ["a"])
        cluster.machine("n1").pull("nvme1")
        write = cluster.write("n1", "v", 1, 11)
        await cluster.pass_time(60)
        assert not write.done
        assert cluster.in_sync("v") == ["a"]
        assert "writes wait" in cluster.report("v", "n1").message


async def test_the_leg_being_rebuilt_and_the_way_to_its_source_lost_together_come_back(tmp_path: Path) -> None:
    """md keeps a failed leg while a write that failed on it waits elsewhere: that must keep us from nothing else."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(hold_seconds=30))
        cluster.machine("n1").pull("nvme1")
        first = cluster.write("n1", "v", 1, 11)
        await cluster.until(lambda: first.done and cluster.in_sync("v") == ["b"])
        for block in range(0, 3600, 300):
            cluster.write("n1", "v", block, block + 1)
        await cluster.pass_time(5)
        cluster.machine("n1").plug("nvme1")
        await cluster.rejoin("v", "a")
        await cluster.until(lambda: any(r.progress for r in cluster.vvol("v").status.nodes))
        cluster.world.cut("n2")
        cluster.machine("n1").pull("nvme1")
        write = cluster.write("n1", "v", 2, 22)
        await cluster.pass_time(20)
        assert cluster.states("v") == {"a": "Stale", "b": "InSync"}
        assert not write.done
        cluster.world.restore("n2")
        await cluster.until(lambda: write.done, seconds=30)
        assert write.state == "acknowledged"
        assert cluster.read("n1", "v", 2) == 22


async def test_a_short_cut_of_the_network_costs_a_hold_and_nothing_else(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(hold_seconds=30))
        cluster.world.cut("n2")
        write = cluster.write("n1", "v", 2, 22)
        await cluster.pass_time(5)
        assert not write.done
        cluster.world.restore("n2")
        await cluster.until(lambda: write.done, seconds=5)
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}
        assert cluster.data("v", "a") == cluster.data("v", "b")
        await cluster.until(lambda: cluster.report("v", "n1").longest_hold_ms >= 4000, seconds=5)


async def test_a_long_cut_ends_when_hold_seconds_have_passed(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(hold_seconds=10))
        cluster.world.cut("n2")
        write = cluster.write("n1", "v", 2, 22)
        await cluster.pass_time(7)
        assert not write.done
        await cluster.until(lambda: write.done, seconds=10)
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}
        cluster.world.restore("n2")
        await cluster.rejoin("v", "b")
        await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])
        assert cluster.data("v", "a") == cluster.data("v", "b")


async def test_all_connections_lost_at_once_are_our_own_network_for_a_while(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(hold_seconds=0))
        cluster.world.cut("n1")
        await cluster.pass_time(3)
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}
        await cluster.until(lambda: cluster.states("v")["b"] == "Stale", seconds=8)


async def test_a_leg_node_that_lost_power_is_not_reinstated(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(hold_seconds=60))
        early = cluster.write("n1", "v", 900, 9, fua=False)
        await cluster.until(lambda: early.done)
        await cluster.power_off("n2")
        write = cluster.write("n1", "v", 2, 22)
        await cluster.pass_time(3)
        assert not write.done
        await cluster.power_on("n2")
        await cluster.until(lambda: write.done, seconds=20)
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}, "a new life is recorded, never reinstated"
        await cluster.rejoin("v", "b")
        await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])
        await cluster.pass_time(5)
        assert cluster.data("v", "a") == cluster.data("v", "b")


async def test_a_node_that_lost_power_attaches_anew_and_the_others_follow_one_source(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n3")
        done = [cluster.write("n3", "v", block * 300, block + 1) for block in range(6)]
        await cluster.until(lambda: all(write.done for write in done))
        cluster.machine("n2").slots["nvme1"].failing = True
        cluster.write("n3", "v", 5, 55)  # reaches one leg only
        await cluster.power_off("n3")
        cluster.machine("n2").slots["nvme1"].failing = False
        await cluster.power_on("n3")
        await cluster.until(lambda: "rebooted" in cluster.report("v", "n3").message)
        await cluster.attach("v", "n3")
        await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])
        assert cluster.data("v", "a") == cluster.data("v", "b")
        assert all(cluster.read("n3", "v", block * 300) == block + 1 for block in range(6))


async def test_an_outage_of_the_api_server_holds_writes_and_loses_none(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        with cluster.kube.outage():
            cluster.machine("n2").pull("nvme1")
            write = cluster.write("n1", "v", 7, 77)
            await cluster.pass_time(20)
            assert not write.done, "no record, no degrade"
            shown = cluster.shown("n1", "v")
            assert [bool(path.holding_since) for path in shown.paths] == [False, True], "on the node it is seen"
            assert "API server" in shown.message, shown.message
        await cluster.until(lambda: write.done, seconds=30)
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}


@pytest.mark.parametrize("patience", [0.0, 25.0], ids=["refused at once", "25 s for each try"])
async def test_who_would_rather_fail_gets_errors_and_nothing_is_acknowledged_meanwhile(
    tmp_path: Path, patience: float
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(unrecorded="Fail"))
        front = cluster.world.front("n1", cluster.vvol("v").spec.uuid)
        assert front is not None
        front.openers = 1
        watch(cluster, "v")
        with cluster.kube.outage(patience):
            cluster.machine("n2").pull("nvme1")
            write = cluster.write("n1", "v", 7, 77)
            await cluster.pass_time(UNRECORDED_SECONDS - 5)
            assert not write.done
            await cluster.until(lambda: write.done, seconds=300)
            assert write.state == "lost", "its pod was killed: md would have called it done"
            late = cluster.write("n1", "v", 8, 88)
            await cluster.until(lambda: late.done)
            assert late.state == "failed"
            await cluster.until(lambda: "unrecorded is Fail" in cluster.shown("n1", "v").message)
        await cluster.until(lambda: cluster.report("v", "n1").front == "Fenced")
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}, "nothing was acknowledged that one of them lacks"
        front.openers = 0
        await cluster.until(lambda: cluster.report("v", "n1").ended_epoch == 1)
        await cluster.attach("v", "n1")
        assert cluster.read("n1", "v", 300) == 2


async def test_a_short_outage_costs_a_hold_even_where_writes_may_fail(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, on_failure=OnFailure(unrecorded="Fail"))
        for _ in range(2):  # the clock begins anew with each loss
            with cluster.kube.outage():
                cluster.machine("n2").pull("nvme1")
                write = cluster.write("n1", "v", 7, 77)
                await cluster.pass_time(UNRECORDED_SECONDS - 20)
                assert "reads and writes fail in" in cluster.shown("n1", "v").message
            await cluster.until(lambda: write.done, seconds=30)  # noqa: B023
            assert write.state == "acknowledged"
            cluster.machine("n2").plug("nvme1")
            await cluster.rejoin("v", "b")
            await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])


@pytest.mark.parametrize("nodes", [("n1",), ("n1", "n2")], ids=["one copy", "two copies"])
async def test_a_flush_that_waits_while_every_cache_is_lost_is_never_called_done(
    tmp_path: Path, nodes: tuple[str, ...]
) -> None:
    """md tells of no error of a flush: its pod is killed before the gates let it go, and who comes later fails."""
    async with Cluster(tmp_path, *nodes) as cluster:
        for node in nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", *nodes)
        await cluster.attach("v", "n1")
        watch(cluster, "v")
        early = cluster.write("n1", "v", 7, 77, fua=False)
        await cluster.until(lambda: early.state == "acknowledged")
        front = cluster.world.front("n1", cluster.vvol("v").spec.uuid)
        assert front is not None
        front.openers = 1  # mounted
        for node in nodes:
            cluster.machine(node).pull("nvme1")
        flush = cluster.flush("n1", "v")
        await cluster.pass_time(5)
        for node in nodes:
            cluster.machine(node).plug("nvme1")
        await cluster.until(lambda: flush.done)
        assert flush.state == "lost"
        late = cluster.flush("n1", "v")
        await cluster.until(lambda: late.done)  # it may have come while the front was still being put on the wall
        assert late.state == "failed"
        await cluster.until(lambda: "end the pods" in cluster.report("v", "n1").message)
        assert cluster.report("v", "n1").front == "Fenced"
        front.openers = 0
        await cluster.until(lambda: cluster.report("v", "n1").ended_epoch == 1)
        assert not cluster.machine("n1").arrays


async def test_a_flush_after_the_only_disk_has_gone_is_held_not_called_done(tmp_path: Path) -> None:
    """Nothing was asked meanwhile, so no gate has met an error: the path is failed before it leads nowhere."""
    async with Cluster(tmp_path, "n1") as cluster:
        await cluster.disk("n1", "nvme1")
        await cluster.volume("v", "n1")
        await cluster.attach("v", "n1")
        early = cluster.write("n1", "v", 7, 77, fua=False)
        await cluster.until(lambda: early.state == "acknowledged")
        cluster.machine("n1").pull("nvme1")
        await cluster.until(lambda: any(" error" in dm.table for dm in cluster.machine("n1").dm.values()))
        flush = cluster.flush("n1", "v")
        await cluster.pass_time(10)
        assert not flush.done


@pytest.mark.parametrize(
    ("status", "waits"),
    [({"phase": "Failed"}, False), ({"phase": "Ready", "shuttingDown": True}, False), ({"phase": "Ready"}, True)],
    ids=["failed", "shutting down", "silent"],
)
async def test_an_attachment_does_not_wait_for_a_node_that_is_gone(
    tmp_path: Path, status: dict[str, object], waits: bool
) -> None:
    """A node that was shut down in good order: its leg is in sync on record, and somebody's pod has moved here."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster, attach="n2")
        await cluster.detach("v")
        await cluster.power_off("n2")
        await cluster.kube.merge(StorageNode, "n2", {"status": status}, status=True)
        await cluster.attach("v", "n1", wait=False)
        began = cluster.world.time
        await cluster.until(lambda: cluster.report("v", "n1").front == "Active", seconds=90)
        assert (cluster.world.time - began > 20) is waits
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}
        assert cluster.read("n1", "v", 300) == 2
