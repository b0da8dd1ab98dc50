"""How often a state manager looks at the whole kernel: the more there is to see, the more seldom, and never for a step
of one volume.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from node_cluster import Cluster

from millpond_node.look import Look


async def test_looks_that_take_long_leave_time_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n1")
        manager = cluster.managers["n1"]
        real, looks = manager.polls._looker.look, 0

        async def slow() -> Look:
            nonlocal looks
            looks += 1
            await asyncio.sleep(2)
            return await real()

        await cluster.pass_time(4)
        monkeypatch.setattr(manager.polls._looker, "look", slow)
        await cluster.pass_time(100)
        assert 4 <= looks <= 6, "two seconds each, and eighteen of rest"


async def test_a_volume_is_attached_without_a_look_at_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        looks = 0

        async def never() -> None:
            """Polls nothing."""

        async def look() -> Look:
            nonlocal looks
            looks += 1
            return Look({}, {}, {}, {})

        for manager in cluster.managers.values():
            monkeypatch.setattr(manager.polls, "everything", never)
            monkeypatch.setattr(manager.volumes._looker, "look", look)
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n1")
        assert not looks


async def test_of_many_volumes_that_wait_some_are_looked_at_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        manager = cluster.managers["n1"]
        names = [f"v{number:02}" for number in range(40)]
        waiting = {name: SimpleNamespace(waits=True) for name in names}
        asked: list[str] = []
        monkeypatch.setattr(manager.volumes, "volumes", {**waiting, "idle": SimpleNamespace(waits=False)})
        monkeypatch.setattr(manager.volumes.work, "ask", asked.append)
        for _ in range(5):
            manager.polls.some_that_wait()
        monkeypatch.undo()
    assert asked == names * 2, "sixteen each time"
