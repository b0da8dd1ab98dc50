"""``kubectl millpond balance``: what it shows, what it asks for, and until when it is followed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner
from harness import Cluster, three_nodes

from millpond_cli import balances, main, terminal
from millpond_core.errors import DeadlineExceeded, NotFound


@pytest.fixture
async def cluster() -> Cluster:
    """Four volumes on two of three devices."""
    made = await three_nodes(1, 1, units=512)
    for number in range(1, 5):
        await made.nodes.add_volume(f"v{number}", number)
        await made.settle()
        await made.nodes.want(f"v{number}", "n1")
        await made.settle()
    await made.nodes.add_device("n3-d1", "n3", units=512)
    await made.settle()
    return made


async def invoked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    works: list[Any] = []
    monkeypatch.setattr(terminal, "run", lambda _, work: works.append(work))
    monkeypatch.setattr("time.time", cluster.clock.now)
    parsed = CliRunner().invoke(main.cli, [*arguments])
    assert works, parsed.output

    async def act() -> None:
        while True:
            await cluster.turn()
            await cluster.nodes.act()
            cluster.clock.pass_(0.25)

    acting = asyncio.create_task(act())
    try:
        async with asyncio.timeout(60):
            await works.pop()(cluster.kube)
    finally:
        acting.cancel()


async def test_a_plan_shows_each_move_and_does_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await invoked(cluster, monkeypatch, "plan", "balance")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("pool default: ")
    assert shown[0].endswith("legs to move, 800Mi to copy") or shown[0].endswith("legs to move, 1.2Gi to copy")
    assert any("to n3-d1 on n3" in line for line in shown)
    assert any(line.startswith("  n3-d1: 0% full → ") for line in shown)
    assert [(await cluster.volume(f"v{n}")).spec.placement.moving for n in range(1, 5)] == [[]] * 4


async def test_it_is_followed_until_every_leg_has_left_and_leaves_nothing_behind(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await invoked(cluster, monkeypatch, "balance")
    said = capsys.readouterr()
    assert "is copied and in sync" in said.err
    assert said.out.startswith("pool default: done, ")
    volumes = [await cluster.volume(f"v{n}") for n in range(1, 5)]
    assert any(leg.node == "n3" for volume in volumes for leg in volume.status.mapping.legs)
    assert [volume.spec.placement.moving for volume in volumes] == [[]] * 4
    await invoked(cluster, monkeypatch, "plan", "balance")
    assert "more cannot be evened out" in (out := capsys.readouterr().out) or "nothing is to be moved" in out


async def test_who_does_not_wait_has_asked_all_the_same(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await invoked(cluster, monkeypatch, "balance", "--no-wait")
    await cluster.later(60)
    volumes = [await cluster.volume(f"v{n}") for n in range(1, 5)]
    assert any(leg.node == "n3" for volume in volumes for leg in volume.status.mapping.legs)


async def test_nobody_waits_for_ever(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balances, "SILENT_SECONDS", 0.3)
    cluster.nodes.nodes["n1"].slow_rebuild = True
    with pytest.raises(DeadlineExceeded, match="What was asked for stands"):
        await invoked(cluster, monkeypatch, "balance")


async def test_a_pool_that_nobody_knows(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="pool fast has no device that legs may be placed on; there are: default"):
        await invoked(cluster, monkeypatch, "balance", "--pool", "fast")
