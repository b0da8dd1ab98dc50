"""Each rule is needed: a state manager that breaks one of them is caught, in a story that the right one passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invariants import watch
from node_cluster import Cluster

from millpond_core.model.virtualvolume import OnFailure
from millpond_core.nodeplan import attach, losing, node, steps
from millpond_core.nodeplan.attaching import Attaching
from millpond_core.nodeplan.steps import Plan, Step
from millpond_core.testing.world import Hook
from millpond_node import volumes

Story = Callable[[Cluster], Awaitable[None]]
Mutation = Callable[[pytest.MonkeyPatch], None]


async def begin(cluster: Cluster, at: str = "n1", hold_seconds: int = 6) -> None:
    for name in cluster.nodes:
        await cluster.disk(name, "nvme1")
    await cluster.volume("v", "n1", "n2", on_failure=OnFailure(hold_seconds=hold_seconds))
    await cluster.attach("v", at)
    watch(cluster, "v")
    for block in range(6):
        cluster.write(at, "v", block * 300, block + 1)
    await cluster.pass_time(2)


async def whole(cluster: Cluster, *legs: str) -> None:
    """In the end the legs are in sync, and equal."""
    await cluster.until(lambda: cluster.in_sync("v") == list(legs))
    await cluster.pass_time(4)
    first, second = (cluster.data("v", leg) for leg in legs)
    assert first == second, "legs in sync differ"


async def a_disk_is_lost(cluster: Cluster) -> None:
    await begin(cluster)
    cluster.machine("n2").pull("nvme1")
    write = cluster.write("n1", "v", 7, 77)
    await cluster.until(lambda: write.done)


async def both_disks_are_lost(cluster: Cluster) -> None:
    await a_disk_is_lost(cluster)
    cluster.machine("n1").pull("nvme1")
    cluster.write("n1", "v", 8, 88)
    await cluster.pass_time(20)
    refused = "the last leg in sync stays"
    assert refused not in cluster.report("v", "n1").message, "no leg is in sync, had the API server let it happen"


async def a_leg_node_loses_power_for_a_moment(cluster: Cluster) -> None:
    await begin(cluster, hold_seconds=60)
    write = cluster.write("n1", "v", 7, 77, fua=False)
    await cluster.until(lambda: write.done)
    await cluster.power_off("n2")
    held = cluster.write("n1", "v", 9, 99)
    await cluster.power_on("n2")
    await cluster.until(lambda: cluster.exported("v", "b"))
    await cluster.until(lambda: held.done)
    if cluster.states("v")["b"] == "Stale":
        await cluster.rejoin("v", "b")
    await whole(cluster, "a", "b")


async def a_disk_with_a_cache_returns(cluster: Cluster) -> None:
    await begin(cluster)
    write = cluster.write("n1", "v", 7, 77, fua=False)
    await cluster.until(lambda: write.done)
    cluster.machine("n2").pull("nvme1")
    await cluster.until(lambda: cluster.states("v")["b"] == "Stale")
    await cluster.pass_time(10)
    cluster.machine("n2").plug("nvme1")
    await cluster.rejoin("v", "b")
    await whole(cluster, "a", "b")


async def a_spare_comes_in(cluster: Cluster, *, meanwhile: Hook | None = None) -> None:
    await a_disk_is_lost(cluster)
    cluster.world.hooks += [meanwhile] if meanwhile else []
    spare = cluster.new_leg("c", "n3", 16)
    await cluster.change("v", spares=[spare])
    await cluster.until(lambda: cluster.exported("v", "c"))
    await cluster.change("v", spares=[])
    await cluster.commit(
        "v",
        lambda leg: msgspec.structs.replace(leg, state="Failed", releasing=True) if leg.id == "b" else leg,
        spare,
    )
    if not meanwhile:
        await whole(cluster, "a", "c")


async def a_crash_while_a_leg_is_away(cluster: Cluster) -> None:
    await begin(cluster, "n3")
    await cluster.pass_time(5)
    cluster.machine("n2").pull("nvme1")
    write = cluster.write("n3", "v", 2000, 77)
    await cluster.until(lambda: write.done)
    await cluster.power_off("n3")
    await cluster.power_on("n3")
    await cluster.attach("v", "n3")
    await cluster.pass_time(10)
    cluster.machine("n2").plug("nvme1")
    await cluster.rejoin("v", "b")
    await whole(cluster, "a", "b")


async def every_cache_is_lost_under_a_flush(cluster: Cluster) -> None:
    await begin(cluster)
    write = cluster.write("n1", "v", 7, 77, fua=False)
    await cluster.until(lambda: write.done)
    for name in ("n1", "n2"):
        cluster.machine(name).pull("nvme1")
    flush = cluster.flush("n1", "v")
    await cluster.pass_time(5)
    for name in ("n1", "n2"):
        cluster.machine(name).plug("nvme1")
    await cluster.until(lambda: flush.done)
    await cluster.pass_time(3)


def steps_changed(change: Callable[[list[Step]], list[Step]]) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        real = node.plan

        def plan(*arguments: Any) -> Plan:
            made = real(*arguments)
            return msgspec.structs.replace(made, parts=tuple(tuple(change(list(part))) for part in made.parts))

        patch.setattr(volumes.plans, "plan", plan)

    return mutate


def without(kind: type[Step]) -> Mutation:
    return steps_changed(lambda part: [step for step in part if not isinstance(step, kind)])


def record_last(part: list[Step]) -> list[Step]:
    return sorted(part, key=lambda step: isinstance(step, steps.Record))


def answers(owner: Any, name: str, answer: Any) -> Mutation:
    return lambda patch: patch.setattr(owner, name, lambda *_, **__: answer)


def both(*mutations: Mutation) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        for mutation in mutations:
            mutation(patch)

    return mutate


def own_bitmap_ignored(part: list[Step]) -> list[Step]:
    return [msgspec.structs.replace(s, dirty_from="") if isinstance(s, steps.Add) else s for s in part]


def bitmaps_ignored(part: list[Step]) -> list[Step]:
    return [msgspec.structs.replace(s, dirty_from=()) if isinstance(s, steps.Assemble) else s for s in part]


pytestmark = pytest.mark.timeout(900)
MUTATIONS: dict[str, tuple[Mutation, Story]] = {
    "the gate fails before the record": (steps_changed(record_last), a_disk_is_lost),
    "the last good leg is given up": (answers(losing, "may_lose", True), both_disks_are_lost),
    "any life is taken for the same": (
        both(answers(Attaching, "same_life", True), answers(Attaching, "gone_for_good", False)),
        a_leg_node_loses_power_for_a_moment,
    ),
    "what the disk's cache lost is forgotten": (steps_changed(own_bitmap_ignored), a_disk_with_a_cache_returns),
    "every leg comes by a delta": (answers(attach, "_delta", True), a_spare_comes_in),
    "gates are opened for who can go on": (without(steps.KillPods), every_cache_is_lost_under_a_flush),
    "dirty chunks are not told to the array": (steps_changed(bitmaps_ignored), a_crash_while_a_leg_is_away),
    "promoted while it is copied": (
        lambda patch: patch.setattr(attach, "in_sync", lambda member: member is not None),
        a_spare_comes_in,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_the_right_one_passes(tmp_path: Path, name: str) -> None:
    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        await MUTATIONS[name][1](cluster)


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_rule_broken_is_caught(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation, story = MUTATIONS[name]
    mutation(monkeypatch)
    async with Cluster(tmp_path, "n1", "n2", "n3") as cluster:
        cluster.expected_violations = True
        caught = ""
        try:
            await story(cluster)
        except AssertionError as error:
            caught = str(error)
        found = cluster.violations or [caught]
        assert any(
            word in found[0]
            for word in ("although it is InSync", "acknowledged was", "no leg is in sync", "legs in sync differ")
        ), found[0][:300]
