"""Stacks are built on a node that is slow, or has many to build: no leg is lost by that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from node_cluster import Cluster

from millpond_core.nodeplan.losing import ATTACH_SECONDS
from millpond_core.nodeplan.steps import Connect, CreateDm, PutLeg, Step
from millpond_node import volumes
from millpond_node.volumes import Volume

STEP_SECONDS = 20.0


async def two_nodes(cluster: Cluster, *names: str, nodes: tuple[str, ...] = ("n1", "n2")) -> None:
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    for number, name in enumerate(names):
        await cluster.volume(name, *nodes, start=number * 5)


def slow(cluster: Cluster, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer steps of an attachment take ``STEP_SECONDS`` on ``node``."""
    executor = cluster.managers[node].volumes._executor
    real = executor.do

    async def do(known: Volume, step: Step) -> None:
        if isinstance(step, PutLeg | Connect | CreateDm):
            await asyncio.sleep(STEP_SECONDS)
        await real(known, step)

    monkeypatch.setattr(executor, "do", do)


async def test_a_leg_is_not_given_up_for_what_the_own_node_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await two_nodes(cluster, "v")
        slow(cluster, "n1", monkeypatch)
        began = cluster.world.ports("n1").clock.boottime()
        await cluster.attach("v", "n1", wait=False)
        await cluster.until(lambda: cluster.report("v", "n1").front == "Active", seconds=400)
        assert cluster.world.ports("n1").clock.boottime() - began > 1.5 * ATTACH_SECONDS
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}
        assert not any("md add" in step for step in cluster.world.steps), "it was never without it"


async def test_a_leg_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await two_nodes(cluster, "v")
        await cluster.kill("n2")
        await cluster.attach("v", "n1", wait=False)
        await cluster.pass_time(ATTACH_SECONDS - 5)
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}
        await cluster.until(lambda: cluster.report("v", "n1").front == "Active", seconds=15)
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}


async def test_a_leg_that_is_offered_but_cannot_be_reached_is_given_up(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await two_nodes(cluster, "v")
        cluster.world.cut("n2")
        await cluster.attach("v", "n1", wait=False)
        await cluster.until(lambda: cluster.report("v", "n1").front == "Active", seconds=int(2 * ATTACH_SECONDS) + 15)
        assert cluster.states("v") == {"a": "InSync", "b": "Stale"}


async def test_of_many_stacks_a_few_are_built_at_once_and_the_first_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"v{number:02}" for number in range(12)]
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await two_nodes(cluster, *names)
        slow(cluster, "n1", monkeypatch)
        node = cluster.managers["n1"].volumes
        real = node._settle
        now, most, said = set[str](), 0, set[str]()

        async def settle(known: Volume) -> float | None:
            nonlocal most
            if known.building_since is not None:
                now.add(known.name)
            most = max(most, len(now))
            try:
                return await real(known)
            finally:
                now.discard(known.name)

        def ready() -> list[str]:
            said.update(cluster.report(name, "n1").message for name in names)
            return [name for name in names if cluster.report(name, "n1").front == "Active"]

        monkeypatch.setattr(node, "_settle", settle)
        for name in names:
            await cluster.attach(name, "n1", wait=False)
        await cluster.until(lambda: len(ready()) >= 4, seconds=400)
        assert set(ready()) <= set(names[:6]), "who began first is done first"
        await cluster.until(lambda: len(ready()) == 12, seconds=1200)
        assert most <= volumes._BUILT_AT_ONCE
        assert "n1 attaches other volumes first" in said
        for name in names:
            assert cluster.states(name) == {"a": "InSync", "b": "InSync"}
