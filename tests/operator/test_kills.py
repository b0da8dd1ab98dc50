"""The master is killed after each of its writes, before it learns of the answer; the next one has the objects alone."""

from __future__ import annotations

from harness import Cluster, MasterKube, attached, remote

from millpond_core.errors import Unavailable
from millpond_core.model import VirtualVolume


def mortal(cluster: Cluster, writes: int = 1) -> None:
    """From now on a master dies after so many writes."""
    MasterKube.budget = cluster.next_budget = writes


async def test_a_master_that_dies_after_every_write_gets_the_whole_thread_done(cluster: Cluster) -> None:
    mortal(cluster)
    await attached(cluster, grace=10)
    first = await cluster.volume()
    lost = remote(first)
    cluster.nodes.pull(lost.extents[0].device)
    await cluster.later(30)
    volume = await cluster.volume()
    assert volume.status.phase == "Ready", volume.status.message
    assert volume.status.mapping.generation == 2
    assert volume.status.next_leg == 3, "no spare was allocated twice"
    cluster.nodes.plug(lost.extents[0].device)
    await cluster.nodes.want("v1", "")
    await cluster.settle()
    await cluster.kube.delete(VirtualVolume, "v1")
    await cluster.settle()
    assert await cluster.kube.list(VirtualVolume) == []
    assert all(q.status.phase in ("Released", "Aborted") for q in await cluster.quiescences())
    assert cluster.kills > 30


async def test_a_leg_that_returns_is_taken_back_by_mortal_masters(cluster: Cluster) -> None:
    mortal(cluster, 2)
    await attached(cluster)
    lost = remote(await cluster.volume())
    cluster.nodes.pull(lost.extents[0].device)
    await cluster.later(15)
    cluster.nodes.plug(lost.extents[0].device)
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    assert [leg.id for leg in volume.status.mapping.legs] == ["a", "b"]


async def test_writes_whose_outcome_is_unknown_are_looked_up(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1")
    for verb in ("patch", "merge", "apply_status"):
        cluster.kube.fail_next(verb, Unavailable("no answer"), times=1)
    await cluster.later(10)
    assert (await cluster.volume()).status.phase == "Ready"
