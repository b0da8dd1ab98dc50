"""Legs that are moved from full devices to emptier ones: what is planned is what the operator's master then does."""

from __future__ import annotations

import pytest
from harness import Cluster, three_nodes

from millpond_core.master import balance, foresight
from millpond_core.master.balance import Balance
from millpond_core.master.world import KINDS, World
from millpond_core.model import VirtualVolume
from millpond_core.units import MIB

SIZE = 400 * MIB


@pytest.fixture
async def cluster() -> Cluster:
    """Three nodes, one device of 2 GiB each, of which the third comes later."""
    return await three_nodes(1, 1, units=512)


async def volumes(cluster: Cluster, number: int, *, attached: bool = True) -> None:
    for count in range(1, number + 1):
        name = f"v{count}"
        await cluster.nodes.add_volume(name, count)
        await cluster.settle()
        if attached:
            await cluster.nodes.want(name, "n1")
        await cluster.settle()


async def world(cluster: Cluster) -> World:
    return foresight.as_recorded([obj for kind in KINDS for obj in await cluster.kube.list(kind)])


async def planned(cluster: Cluster) -> Balance:
    return balance.plan(await world(cluster), "default", cluster.clock.now())


async def asked(cluster: Cluster, plan: Balance) -> None:
    for one in plan.transfers:
        volume = await cluster.volume(one.volume)
        moving = balance.asked_to_move(volume, one.leg)
        await cluster.kube.merge(VirtualVolume, one.volume, {"spec": {"placement": {"moving": moving}}})


async def test_a_new_device_takes_its_part_and_every_copy_is_kept(cluster: Cluster) -> None:
    await volumes(cluster, 4)
    await cluster.nodes.add_device("n3-d1", "n3", units=512)
    await cluster.settle()
    plan = await planned(cluster)
    assert balance.spread(plan.before) > 0.7
    assert len(plan.transfers) in (2, 3), "8 legs on three devices"
    assert {target for one in plan.transfers for target in one.target} == {"n3-d1"}
    assert plan.bytes == len(plan.transfers) * SIZE
    cluster.nodes.nodes["n1"].slow_rebuild = True
    await asked(cluster, plan)
    await cluster.later(30)
    for name in ("v1", "v2", "v3", "v4"):
        assert (await cluster.volume(name)).status.copies == "2/2", "a leg stays until the other is copied"
    moved = await cluster.volume(plan.transfers[0].volume)
    [move] = moved.status.operations
    assert (move.kind, move.replaces) == ("Move", plan.transfers[0].leg)
    assert move.why == f"leg {move.replaces} is to leave {plan.transfers[0].source[0]}"
    cluster.nodes.nodes["n1"].slow_rebuild = False
    await cluster.later(60)
    assert balance.fullness(await world(cluster), "default") == plan.after
    for name in ("v1", "v2", "v3", "v4"):
        volume = await cluster.volume(name)
        assert volume.status.phase == "Ready"
        assert len({leg.node for leg in volume.status.mapping.legs}) == 2


async def test_what_is_about_equal_stays_and_so_does_what_would_only_change_places(cluster: Cluster) -> None:
    await volumes(cluster, 1)
    assert (await planned(cluster)).transfers == [], "both devices have one leg"
    await cluster.nodes.add_device("n3-d1", "n3", units=512)
    await cluster.settle()
    plan = await planned(cluster)
    assert balance.spread(plan.before) > balance.TOLERANCE
    assert plan.transfers == [], "one leg less there is one more here"


async def test_nothing_is_copied_of_what_is_not_attached_so_it_is_not_chosen(cluster: Cluster) -> None:
    await volumes(cluster, 4, attached=False)
    await cluster.nodes.add_device("n3-d1", "n3", units=512)
    await cluster.settle()
    plan = await planned(cluster)
    assert (plan.transfers, plan.unattached) == ([], 4)


async def test_a_volume_that_lacks_a_copy_is_left_in_peace(cluster: Cluster) -> None:
    await volumes(cluster, 2)
    cluster.nodes.pull("n2-d1")
    await cluster.settle()
    for name, node in (("n1-d2", "n1"), ("n3-d1", "n3")):
        await cluster.nodes.add_device(name, node, units=512)
    await cluster.settle()
    assert (await planned(cluster)).transfers == []
    await cluster.later(120)
    assert (await planned(cluster)).transfers != [], "now that it has both again"


async def test_a_leg_is_not_moved_back_to_where_it_is_to_leave(cluster: Cluster) -> None:
    """Its own device has the most room, once it is gone."""
    await volumes(cluster, 1)
    await cluster.nodes.add_device("n3-d1", "n3", units=300)
    await cluster.settle()
    [leg] = [leg for leg in (await cluster.volume("v1")).status.mapping.legs if leg.node == "n2"]
    await cluster.kube.merge(VirtualVolume, "v1", {"spec": {"placement": {"moving": [leg.id]}}})
    await cluster.later(60)
    volume = await cluster.volume("v1")
    assert sorted(leg.node for leg in volume.status.mapping.legs) == ["n1", "n3"]
    assert balance.asked_to_move(volume) == []


async def test_the_search_ends(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await volumes(cluster, 4)
    await cluster.nodes.add_device("n3-d1", "n3", units=512)
    await cluster.settle()
    monkeypatch.setattr(balance, "ATTEMPTS", 1)
    assert len((await planned(cluster)).transfers) == 1


@pytest.mark.parametrize(
    ("full", "spread"), [({}, 0.0), ({"a": 0.4}, 0.0), ({"a": 0.4, "b": 0.1, "c": 0.2}, 0.3)], ids=["none", "one", "3"]
)
def test_how_far_apart_devices_are(full: dict[str, float], spread: float) -> None:
    assert balance.spread(full) == pytest.approx(spread)
