"""Going still: long operations halt, reads and writes are held where asked, and everything goes on in the end."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
from node_cluster import Cluster

from millpond_core import names
from millpond_core.model.operation import LongOperation
from millpond_core.model.virtualvolume import OnFailure
from millpond_core.nodeplan import still
from millpond_core.units import KIB
from millpond_node import holds
from millpond_node.watchdog import Watchdog


async def mirrored(cluster: Cluster) -> None:
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    await cluster.volume("v", "n1", "n2")
    await cluster.attach("v", "n1")
    for block in range(8):
        cluster.write("n1", "v", block * 300, block + 1)
    await cluster.pass_time(3)


def phase(cluster: Cluster, node: str, name: str = "q") -> str:
    answer = cluster.answer(node, name)
    return answer.phase if answer else ""


async def test_without_a_hold_the_barrier_halts_long_operations_alone(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        cluster.machine("n2").pull("nvme1")
        write = cluster.write("n1", "v", 9, 9)
        await cluster.until(lambda: write.done)
        cluster.machine("n2").plug("nvme1")
        await cluster.rejoin("v", "b")
        array = cluster.machine("n1").arrays[names.array(cluster.vvol("v").spec.uuid)]
        await cluster.until(array.copying, chunks=0)
        await cluster.ring("q", "v", nodes=("n1",))
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced", chunks=0)
        assert array.frozen
        assert cluster.answer("n1", "q").halted_operations == ["v/b@0"]
        assert cluster.answer("n1", "q").hold_remaining_ms == 0
        late = cluster.write("n1", "v", 10, 10)
        await cluster.pass_time(5)
        assert late.state == "acknowledged"
        assert cluster.report("v", "n1").progress[0].halted
        await cluster.silence("n1")
        await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])
        assert phase(cluster, "n1") == "Released"


async def test_a_rebuild_keeps_to_the_least_of_its_limits(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        array = cluster.machine("n1").arrays[names.array(cluster.vvol("v").spec.uuid)]
        copy = LongOperation(id="rebuild-b", kind="Rebuild", state="Waiting", target="b", max_rate=900 * KIB)
        await cluster.change("v", operations=[copy])
        await cluster.until(lambda: array.speed == 900)
        await cluster.limit("v", 500)
        await cluster.until(lambda: array.speed == 500)
        await cluster.change("v", operations=[])
        await cluster.limit("v", 0)
        await cluster.until(lambda: array.speed == 0)


async def test_a_hold_drains_suspends_and_ends_at_the_release(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await cluster.ring("q", "v", nodes=("n1",), hold_io=True)
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced")
        answer = cluster.answer("n1", "q")
        assert answer.held_volumes == ["v"]
        assert 20_000 < answer.hold_remaining_ms <= 30_000
        await cluster.until(lambda: cluster.report("v", "n1").front == "Suspended")
        write = cluster.write("n1", "v", 9, 9)
        await cluster.pass_time(3)
        assert not write.done
        assert cluster.read("n1", "v", 0) is None
        await cluster.silence("n1")
        await cluster.until(lambda: write.done, seconds=5)
        await cluster.until(lambda: (a := cluster.answer("n1", "q")).phase == "Released" and a.held_ms >= 3000)
        assert holds.read(str(tmp_path / "n1" / cluster.machine("n1").boot_id / "holds")) == []


async def test_a_hold_ends_at_its_deadline_with_no_master_and_no_api_server(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await cluster.ring("q", "v", nodes=("n1",), hold_io=True, deadline=10)
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced")
        write = cluster.write("n1", "v", 9, 9)
        with cluster.kube.outage():
            await cluster.pass_time(5)
            assert not write.done
            await cluster.until(lambda: write.done, seconds=8)
        await cluster.until(lambda: phase(cluster, "n1") == "Expired")


async def test_the_watchdog_ends_a_hold_whose_state_manager_is_dead(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await cluster.ring("q", "v", nodes=("n1",), hold_io=True, deadline=10)
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced")
        await cluster.kill("n1")
        machine = cluster.machine("n1")

        resumed = threading.Event()

        def resume(front: str) -> None:
            machine.dm[front].suspended = False
            cluster.world.pump()
            resumed.set()

        run = tmp_path / "n1" / machine.boot_id
        dog = Watchdog(
            str(run),
            str(tmp_path / "sys"),
            boot_id=machine.boot_id,
            boottime=cluster.world.ports("n1").clock.boottime,
            resume=resume,
        )
        write = cluster.write("n1", "v", 9, 9)
        dog.look()
        assert not write.done
        await cluster.pass_time(12)
        dog.look()
        assert resumed.wait(5), "it is a thread that resumes"
        await cluster.until(lambda: write.done, seconds=3)
        await cluster.start("n1")
        await cluster.until(lambda: phase(cluster, "n1") == "Expired")
        await cluster.until(lambda: cluster.report("v", "n1").front == "Active")


async def test_a_restart_in_the_middle_keeps_the_hold_and_its_deadline(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await cluster.ring("q", "v", nodes=("n1",), hold_io=True, deadline=20)
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced")
        acknowledged = cluster.answer("n1", "q").acknowledged_at
        write = cluster.write("n1", "v", 9, 9)
        await cluster.restart("n1")
        await cluster.pass_time(5)
        assert not write.done, "still held"
        assert cluster.answer("n1", "q").acknowledged_at == acknowledged
        await cluster.until(lambda: write.done, seconds=18)


async def test_a_front_suspended_without_a_hold_is_resumed_at_start(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await cluster.kill("n1")
        cluster.machine("n1").dm[names.front(cluster.vvol("v").spec.uuid)].suspended = True
        write = cluster.write("n1", "v", 9, 9)
        await cluster.start("n1")
        await cluster.until(lambda: write.done, seconds=10)


async def test_a_hold_waits_for_a_leg_that_holds_and_records_it_first(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        cluster.machine("n2").pull("nvme1")
        write = cluster.write("n1", "v", 9, 9)
        await cluster.ring("q", "v", nodes=("n1",), hold_io=True)
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced")
        assert cluster.states("v")["b"] == "Stale"
        assert write.state == "acknowledged"


async def test_who_is_no_participant_does_nothing(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        await cluster.ring("q", "v", nodes=("n2",), hold_io=True)
        await cluster.until(lambda: phase(cluster, "n2") == "Quiesced", why="nothing is attached there: still at once")
        assert cluster.answer("n1", "q") is None
        assert cluster.report("v", "n1").front == "Active"


async def test_a_new_generation_comes_into_force_under_the_hold(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2", on_failure=OnFailure(hold_seconds=60))
        await cluster.attach("v", "n1")
        spare = cluster.new_leg("c", "n3", 16)
        await cluster.change("v", spares=[spare])
        await cluster.until(lambda: cluster.exported("v", "c"))
        await cluster.ring("q", "v", nodes=("n1",), hold_io=True)
        await cluster.until(lambda: phase(cluster, "n1") == "Quiesced")
        await cluster.commit(
            "v",
            lambda leg: msgspec.structs.replace(leg, state="Failed", releasing=True) if leg.id == "b" else leg,
            spare,
        )
        await cluster.change("v", spares=[])
        await cluster.until(lambda: phase(cluster, "n1") == "Applied")
        assert cluster.report("v", "n1").generation == 2
        await cluster.silence("n1")
        await cluster.until(lambda: cluster.states("v")["c"] == "InSync")
        await cluster.until(lambda: next(r for r in cluster.report("v", "n2").legs if r.id == "b").released)
        label = cluster.machine("n2").slots["nvme1"].labels[-1]
        assert label.legs == ()


async def test_what_is_over_never_begins_anew_however_many_ring(tmp_path: Path) -> None:
    """No master silences the doorbell, and there are more instructions than a node keeps."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await mirrored(cluster)
        every = [f"q{number}" for number in range(still.KEPT + 2)]
        for name in every:
            await cluster.ring(name, "v", nodes=("n1",), hold_io=True, deadline=10)
        await cluster.until(lambda: phase(cluster, "n1", every[-1]) == "Quiesced")
        await cluster.until(lambda: phase(cluster, "n1", every[-1]) == "Expired", seconds=20)
        for second in range(40):
            await cluster.pass_time(1)
            assert cluster.report("v", "n1").front == "Active", f"held again {second} s after every deadline"
        assert {phase(cluster, "n1", name) for name in every} == {"Expired"}
