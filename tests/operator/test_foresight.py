"""A plan and what the master then does are the same, step by step and byte by byte: the master of the operator, with
nodes around it that know nothing of plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from harness import Cluster, attached, remote

from millpond_core import names
from millpond_core.master import conditions, foresight, maintenance
from millpond_core.master.foresight import Deed, Plan, Work
from millpond_core.master.moves import Step, steps
from millpond_core.master.world import KINDS, World
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.units import MIB

SIZE = 400 * MIB


async def world(cluster: Cluster) -> World:
    """What a person with a kubeconfig knows."""
    return foresight.as_recorded([obj for kind in KINDS for obj in await cluster.kube.list(kind)])


@asynccontextmanager
async def account(cluster: Cluster) -> AsyncIterator[list[Step]]:
    """Every step that volumes take meanwhile."""
    seen: list[Step] = []
    known = {volume.metadata.name: volume for volume in await cluster.kube.list(VirtualVolume)}

    async def look() -> None:
        async with aclosing(cluster.kube.watch(VirtualVolume)) as changes:  # type: ignore[type-var]
            async for event, volume in changes:
                if event in ("ADDED", "MODIFIED"):
                    seen.extend(steps(known[volume.metadata.name], volume))
                    known[volume.metadata.name] = volume

    task = asyncio.create_task(look())
    await asyncio.sleep(0)
    yield seen
    await asyncio.sleep(0)
    task.cancel()


async def act(cluster: Cluster, deed: Deed, device: str, seconds: float) -> None:
    """What ``kubectl millpond`` does of it; then everyone acts."""
    if deed == "Replace":
        await cluster.kube.delete(StorageDevice, device)
    else:
        wanted = {"Drain": "Drained", "Retire": "Retired"}[deed]
        await cluster.kube.merge(StorageDevice, device, {"spec": {"desiredState": wanted}})
    await cluster.settle()
    await cluster.later(seconds)


async def planned_and_done(cluster: Cluster, deed: Deed, device: str, *, seconds: float = 5) -> tuple[Plan, list[Step]]:
    plan = foresight.plan(await world(cluster), deed, device, cluster.clock.now())
    async with account(cluster) as seen:
        await act(cluster, deed, device, plan.wait_seconds + seconds)
    assert foresight.departures(plan, seen) == []
    assert sum(step.bytes for step in seen) == plan.bytes
    left = {one.metadata.name: one.status.phase for one in await cluster.kube.list(StorageDevice)}
    assert left.get(device, "Deleted") == plan.ends
    return plan, seen


async def two_volumes(cluster: Cluster) -> str:
    """v1 and v2, attached to n1, each with one leg there and another on one and the same device of n2."""
    await cluster.kube.merge(StorageDevice, "n2-d2", {"spec": {"desiredState": "Drained"}})
    for name in ("n3-d1", "n3-d2"):
        await cluster.kube.merge(StorageDevice, name, {"spec": {"desiredState": "Drained"}})
    await attached(cluster)
    await cluster.nodes.add_volume("v2", 2, preferred_node="n1")
    await cluster.settle()
    await cluster.nodes.want("v2", "n1")
    await cluster.settle()
    for name in ("v1", "v2"):
        assert remote(await cluster.volume(name)).extents[0].device == "n2-d1"
    return "n2-d1"


async def room(cluster: Cluster, *devices: str) -> None:
    for name in devices:
        await cluster.kube.merge(StorageDevice, name, {"spec": {"desiredState": "InService"}})
    await cluster.settle()


@pytest.mark.parametrize("together", [1, 25], ids=["one-by-one", "together"])
@pytest.mark.parametrize("deed", ["Drain", "Retire", "Replace"])
async def test_a_device_with_two_volumes(
    cluster: Cluster, deed: Deed, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rehearsed at a time or not, the plan is the same: it is what comes about."""
    monkeypatch.setattr(foresight, "TOGETHER", together)
    device = await two_volumes(cluster)
    await room(cluster, "n3-d1", "n3-d2")
    plan, seen = await planned_and_done(cluster, deed, device)
    assert plan.ends == {"Drain": "Drained", "Retire": "Retired", "Replace": "Deleted"}[deed]
    assert plan.bytes == 2 * SIZE
    assert [(move.copies, move.fewest, move.obstacle) for move in plan.moves] == [(2, 2, "")] * 2
    assert {step.event for step in seen} == {"Allocated", "Joined", "Copied", "GivenUp", "Released"}
    places = {device for step in seen if step.event == "Allocated" for device in step.devices}
    assert places == {"n3-d1", "n3-d2"}, "what was promised to v1 is counted before v2 is placed"


@pytest.mark.parametrize("work", ["Retire", "Replace"])
async def test_a_node_that_is_to_be_emptied(cluster: Cluster, work: Work) -> None:
    """Both its devices, of which one has the legs."""
    await two_volumes(cluster)
    await room(cluster, "n2-d2", "n3-d1", "n3-d2")
    plan = foresight.plan_node(await world(cluster), work, "n2", cluster.clock.now())
    async with account(cluster) as seen:
        await cluster.kube.merge(StorageNode, "n2", {"spec": {"maintenance": {"intent": work}}})
        await cluster.settle()
        await cluster.later(plan.wait_seconds + 5)
    assert foresight.departures(plan, seen) == []
    assert (plan.device, plan.subject, plan.bytes) == ("", "n2", 2 * SIZE)
    assert [(move.copies, move.fewest, move.obstacle) for move in plan.moves] == [(2, 2, "")] * 2
    verdict = conditions.find((await cluster.node("n2")).status.conditions, maintenance.READY)
    assert verdict is not None
    assert (plan.ends, plan.message) == (verdict.reason, verdict.message)
    assert plan.ends == "Empty"


async def test_what_cannot_leave_a_node_is_in_its_way(cluster: Cluster) -> None:
    await two_volumes(cluster)
    await room(cluster, "n2-d2")
    plan = foresight.plan_node(await world(cluster), "Replace", "n2", cluster.clock.now())
    assert plan.ends == "LegsHere"
    assert all("no spare can be placed" in move.obstacle for move in plan.moves)
    assert plan.losses == []


async def test_two_legs_that_want_the_last_room(cluster: Cluster) -> None:
    """The device that is left has room for one leg: v2 lost its other copy, so it is v2's."""
    device = await two_volumes(cluster)
    await cluster.nodes.add_device("n3-small", "n3", units=150)
    v2_local = (
        next(leg for leg in (await cluster.volume("v2")).status.mapping.legs if leg.node == "n1").extents[0].device
    )
    assert v2_local != (await cluster.volume()).status.mapping.legs[0].extents[0].device
    cluster.nodes.pull(v2_local)
    await cluster.settle()
    plan, _ = await planned_and_done(cluster, "Drain", device, seconds=120)
    assert [move.volume for move in plan.moves] == ["v2", "v1"]
    first, last = plan.moves
    assert first.steps[0].devices == ["n3-small"]
    assert "no spare can be placed: needs 404Mi on each of 1 more node(s), 0 found" in last.obstacle
    assert "n3-small (n3): 196Mi free, 208Mi short" in last.obstacle
    assert plan.at_risk == ["v2"]


async def test_the_only_copy_moves_while_it_is_attached(cluster: Cluster) -> None:
    await attached(cluster, copies=1)
    [leg] = (await cluster.volume()).status.mapping.legs
    plan, _ = await planned_and_done(cluster, "Replace", leg.extents[0].device)
    assert (plan.ends, plan.losses, plan.at_risk) == ("Deleted", [], ["v1"])


async def test_the_only_copy_of_a_volume_that_is_not_attached_stays(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1", copies=1)
    await cluster.settle()
    [leg] = (await cluster.volume()).status.mapping.legs
    plan, _ = await planned_and_done(cluster, "Drain", leg.extents[0].device)
    assert (plan.ends, plan.losses, plan.bytes) == ("Draining", ["v1"], 0)
    assert plan.moves[0].obstacle.startswith("it is not attached, and nothing is copied before it is")
    await cluster.nodes.want("v1", "n1")
    await cluster.settle()
    assert (await cluster.device(leg.extents[0].device)).status.phase == "Drained", "the obstacle was the one named"


async def test_a_dead_disk_that_is_replaced_is_not_waited_for(cluster: Cluster) -> None:
    await attached(cluster, grace=600)
    device = remote(await cluster.volume()).extents[0].device
    cluster.nodes.pull(device)
    await cluster.settle()
    plan, _ = await planned_and_done(cluster, "Replace", device)
    assert (plan.ends, plan.losses, plan.bytes) == ("Deleted", [], SIZE)
    assert plan.wait_seconds < 10, "its grace period ends with the word that it does not come back"
    assert [move.fewest for move in plan.moves] == [1]


async def test_the_last_copy_on_a_dead_disk_is_a_loss(cluster: Cluster) -> None:
    await attached(cluster, copies=1)
    [leg] = (await cluster.volume()).status.mapping.legs
    device = leg.extents[0].device
    cluster.nodes.pull(device)
    await cluster.settle()
    plan, seen = await planned_and_done(cluster, "Replace", device, seconds=120)
    assert (plan.losses, seen, plan.wait_seconds) == (["v1"], [], 0), "nothing comes of any waiting"
    assert plan.moves[0].obstacle.startswith("no copy is in reach that could be copied: no leg in sync is in reach")
    uuid = leg.extents[0].device_uuid
    accepted = {"metadata": {"annotations": {names.ANNOTATION_ACCEPT_DATA_LOSS: uuid}}}
    await cluster.kube.merge(StorageDevice, device, accepted)
    plan = foresight.plan(await world(cluster), "Replace", device, cluster.clock.now())
    assert plan.losses == ["v1"], "a plan shows what there is to accept, not what follows when it is accepted"


async def test_what_is_under_way_is_planned_from_where_it_stands(cluster: Cluster) -> None:
    """Planned again while the spare is being copied: what is done already is not in the plan."""
    device = await two_volumes(cluster)
    await room(cluster, "n3-d1", "n3-d2")
    cluster.nodes.nodes["n1"].slow_rebuild = True
    await act(cluster, "Drain", device, 3)
    plan = foresight.plan(await world(cluster), "Drain", device, cluster.clock.now())
    assert {step.event for move in plan.moves for step in move.steps} == {"Copied", "GivenUp", "Released"}
    cluster.nodes.nodes["n1"].slow_rebuild = False
    async with account(cluster) as seen:
        await cluster.later(5)
    assert foresight.departures(plan, seen) == []


async def test_a_quiescence_that_people_hold_is_waited_for(cluster: Cluster) -> None:
    device = await two_volumes(cluster)
    await room(cluster, "n3-d1", "n3-d2")
    await cluster.manual("mine", hold_io=True, deadline_seconds=45)
    await cluster.settle()
    plan, _ = await planned_and_done(cluster, "Drain", device)
    assert 40 < plan.wait_seconds <= 45
    assert plan.ends == "Drained"


async def test_a_plan_touches_nothing(cluster: Cluster) -> None:
    device = await two_volumes(cluster)
    before = await world(cluster)
    objects = list(before.all())
    foresight.plan(before, "Replace", device, cluster.clock.now())
    assert list(before.all()) == objects
