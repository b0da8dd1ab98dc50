"""A state manager is killed before its n-th change of anything, for every n, and started again: the work goes on.

Each story is told once with nobody killed, to count its changes, and then once for each of them. It ends with the
record as in the story, legs equal byte by byte, and every acknowledged write on every leg in sync.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from invariants import watch
from node_cluster import Cluster

from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import OnFailure

Story = Callable[[Cluster], Awaitable[None]]
EVERY = 1
"""Each n-th point is tried: all of them."""


async def prepared(cluster: Cluster, *nodes: str) -> None:
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    await cluster.volume("v", *nodes, on_failure=OnFailure(hold_seconds=8))


async def begin(cluster: Cluster) -> None:
    """What comes before the killing."""
    await prepared(cluster, "n1", "n2")
    await cluster.attach("v", "n1")
    for block in range(6):
        cluster.write("n1", "v", block * 300, block + 1)
    await cluster.pass_time(2)


async def attach_and_detach(cluster: Cluster) -> None:
    await cluster.detach("v")
    await cluster.attach("v", "n1")
    write = cluster.write("n1", "v", 77, 77)
    await cluster.until(lambda: write.done)
    await cluster.detach("v")
    assert not cluster.machine("n1").arrays
    await cluster.attach("v", "n2")


async def lose_and_take_back(cluster: Cluster) -> None:
    cluster.machine("n2").pull("nvme1")
    write = cluster.write("n1", "v", 901, 9)
    await cluster.until(lambda: write.done)
    cluster.machine("n2").plug("nvme1")
    await cluster.rejoin("v", "b")
    late = cluster.write("n1", "v", 1201, 12)
    await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"] and late.done)


async def lose_the_local_disk(cluster: Cluster) -> None:
    cluster.machine("n1").pull("nvme1")
    write = cluster.write("n1", "v", 901, 9)
    await cluster.until(lambda: write.done)
    cluster.machine("n1").plug("nvme1")
    await cluster.rejoin("v", "a")
    await cluster.until(lambda: cluster.in_sync("v") == ["a", "b"])


async def replace_under_a_quiescence(cluster: Cluster) -> None:
    spare = cluster.new_leg("c", "n3", 16)
    await cluster.change("v", spares=[spare])
    await cluster.until(lambda: cluster.exported("v", "c"))
    await cluster.ring("q", "v", nodes=("n1",), hold_io=True, deadline=100)
    await cluster.until(lambda: (a := cluster.answer("n1", "q")) is not None and a.phase == "Quiesced")
    await cluster.change("v", spares=[])
    await cluster.commit(
        "v",
        lambda leg: msgspec.structs.replace(leg, state="Failed", releasing=True) if leg.id == "b" else leg,
        spare,
    )
    await cluster.until(lambda: cluster.report("v", "n1").generation == 2)
    await cluster.silence("n1")
    await cluster.until(lambda: cluster.in_sync("v") == ["a", "c"])


STORIES: dict[str, tuple[Story, tuple[str, ...]]] = {
    "attach and detach": (attach_and_detach, ("n1", "n2")),
    "lose and take back": (lose_and_take_back, ("n1", "n2")),
    "lose the local disk": (lose_the_local_disk, ("n1",)),
    "replace under a quiescence": (replace_under_a_quiescence, ("n1", "n3")),
}


async def tell(folder: Path, story: Story, victim: str, die_before: int | None) -> list[str]:
    """Tell a story; returns the changes that the victim made in it."""
    async with Cluster(folder, "n1", "n2", "n3") as cluster:
        await begin(cluster)
        watch(cluster, "v")
        life = cluster.lives[victim]
        known = len(life.calls)
        if die_before is not None:
            life.die_before = known + die_before
            cluster.revive(victim)
        await story(cluster)
        await cluster.pass_time(4)
        legs = [cluster.data("v", leg) for leg in cluster.in_sync("v")]
        assert len(legs) == 2
        assert legs[0] == legs[1]
        assert all(legs[0].get(block * 300) == block + 1 for block in range(6))
        return life.calls[known:]


@pytest.mark.parametrize(
    ("name", "victim"), [(name, victim) for name, (_, victims) in STORIES.items() for victim in victims]
)
@pytest.mark.timeout(3600)
async def test_killed_before_each_change_and_started_again(tmp_path: Path, name: str, victim: str) -> None:
    story, _ = STORIES[name]
    calls = await tell(tmp_path / "whole", story, victim, None)
    assert len(calls) > 5
    for number in range(0, len(calls), EVERY):
        try:
            await tell(tmp_path / str(number), story, victim, number)
        except AssertionError as error:
            raise AssertionError(f"killed before change {number}, {calls[number]}: {str(error)[:300]}") from None


async def test_a_copied_volume_disturbs_nothing_of_its_original(tmp_path: Path) -> None:
    """The same YAML under another name, node labels and uuid included, without a mapping; whichever is seen first."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await begin(cluster)
        original = cluster.vvol("v")
        remembered = cluster.memory("n1", original.spec.uuid)
        metadata = ObjectMeta(name="a-copy", labels=original.metadata.labels)
        await cluster.kube.create(VirtualVolume(metadata=metadata, spec=original.spec))
        await cluster.pass_time(3)
        assert cluster.vvol("a-copy").status.nodes == []
        assert cluster.memory("n1", original.spec.uuid) == remembered
        await cluster.restart("n1")
        await cluster.pass_time(3)
        assert cluster.vvol("a-copy").status.nodes == []
        await cluster.kube.delete(VirtualVolume, "a-copy")
        await cluster.pass_time(3)
        assert cluster.memory("n1", original.spec.uuid) == remembered
        write = cluster.write("n1", "v", 33, 33)
        await cluster.until(lambda: write.done)
        await cluster.detach("v")
        assert not cluster.machine("n1").arrays
