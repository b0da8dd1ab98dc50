"""How often a state manager looks at the whole kernel: the more there is to see, the more seldom unasked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from node_cluster import Cluster


async def test_looks_that_take_long_leave_time_between_them_unless_the_kernel_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n1")
        manager = cluster.managers["n1"]
        real, looks = manager.volumes.poll, 0

        async def slow() -> None:
            nonlocal looks
            looks += 1
            await asyncio.sleep(2)
            await real()

        await cluster.pass_time(4)
        monkeypatch.setattr(manager.volumes, "poll", slow)
        await cluster.pass_time(40)
        assert 4 <= looks <= 6, "two seconds each, and six of rest"
        looks = 0
        for _ in range(5):
            manager._uevent("change", "dm-0")
            await cluster.pass_time(2.5)
        assert looks == 5
