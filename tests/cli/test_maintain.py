"""``kubectl millpond maintain``: what is asked for, how it is followed, and what its exit status says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner, Result

from millpond_cli import explain, main, maintenance, report, terminal
from millpond_core.errors import DeadlineExceeded, NotFound
from millpond_core.instants import parse
from millpond_core.model import ObjectMeta, StorageNode
from millpond_core.testing.kube import MemoryKube

READY = ("True", "CopiesElsewhere", "it may be away until 14:30:00")
REBUILDING = ("False", "Rebuilding", "not yet: leg c of v1 on n3 is being rebuilt: it ends first")
ONE_COPY = ("False", "OneCopy", "not yet: v1 cannot be read or written without its copy here")


@pytest.fixture
def kube() -> MemoryKube:
    return MemoryKube()


async def judged(kube: MemoryKube, *verdicts: tuple[str, str, str], generation: int = 0) -> None:
    """The master says one thing after the other of the intent that stands."""
    for status, reason, message in verdicts:
        await asyncio.sleep(0.05)
        node = await kube.get(StorageNode, "n2")
        said = {
            "type": "MaintenanceReady",
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-11-22T14:00:00Z",
            "observedGeneration": generation or node.metadata.generation,
        }
        await kube.apply_status(StorageNode, "n2", {"conditions": [said]}, manager="master")


async def followed(kube: MemoryKube, *verdicts: tuple[str, str, str], **how: Any) -> tuple[str, int, list[str]]:
    """(the last reason, the exit status, what was told meanwhile)."""
    await kube.create(StorageNode(metadata=ObjectMeta(name="n2")))
    node = await kube.merge(StorageNode, "n2", maintenance.wanted("reboot", 1_800_000_000.0))
    told: list[str] = []
    acting = asyncio.create_task(judged(kube, *verdicts, **how))
    try:
        async with asyncio.timeout(20):
            verdict, status = await maintenance.may_go(kube, node, 0.4, told.append)
    finally:
        acting.cancel()
    return verdict.reason, status, told


async def test_what_is_in_the_way_is_told_until_the_node_may_go(kube: MemoryKube) -> None:
    assert await followed(kube, REBUILDING, REBUILDING, READY) == ("CopiesElsewhere", 0, [REBUILDING[2]])


async def test_what_stays_in_the_way_is_not_waited_for(kube: MemoryKube) -> None:
    assert await followed(kube, REBUILDING, ONE_COPY) == ("OneCopy", 3, [REBUILDING[2]])


async def test_what_takes_too_long_says_what_is_still_in_the_way(kube: MemoryKube) -> None:
    assert await followed(kube, REBUILDING) == ("Rebuilding", 4, [REBUILDING[2]])


async def test_nobody_waits_for_an_operator_that_is_not_there(
    kube: MemoryKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BEGIN_SECONDS", 0.3)
    with pytest.raises(DeadlineExceeded, match="nothing is said of n2 in 0 s: does the operator run"):
        await followed(kube, READY, generation=1)  # said of what stood there before


async def test_a_node_that_is_deleted_meanwhile_is_told(kube: MemoryKube) -> None:
    node = await kube.create(StorageNode(metadata=ObjectMeta(name="n2")))
    await kube.delete(StorageNode, "n2")
    with pytest.raises(NotFound, match="StorageNode n2 was deleted"):
        await maintenance.may_go(kube, node, 1.0, lambda _: None)


def test_the_command_notes_the_intent_and_takes_it_back(kube: MemoryKube, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(terminal, "run", lambda _, work: statuses.append(asyncio.run(work(kube))))
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    asyncio.run(kube.create(StorageNode(metadata=ObjectMeta(name="n2"))))
    asked = maintain("n2", "--intent", "reboot", "--for", "1h30m", "--wait", "0s")
    assert "reboot of n2 is noted" in asked.output
    work = asyncio.run(kube.get(StorageNode, "n2")).spec.maintenance
    assert (work.intent, parse(work.until)) == ("Reboot", 1_800_000_000.0 + 5400)
    assert "n2 is as any other node again" in maintain("n2", "--done").output
    assert asyncio.run(kube.get(StorageNode, "n2")).spec.maintenance.intent == "None"
    assert statuses == [0, 0]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["n2"], "say --intent, or --done"),
        (["n2", "--intent", "retire", "--done"], "say --intent, or --done"),
        (["n2", "--intent", "reboot"], "say --for with --intent reboot"),
        (["n2", "--intent", "replace", "--for", "30m"], "say --for with --intent reboot, and with no other"),
        (["n2", "--intent", "reboot", "--for", "30"], "'30' is no duration: say 90s, 30m, 1h30m or 2d"),
        (["n2", "--intent", "burn"], "'burn' is not one of"),
    ],
)
def test_a_wrong_command_line_is_refused(said: list[str], why: str) -> None:
    result = maintain(*said)
    assert result.exit_code == 2
    assert why in result.output


def test_a_node_that_is_worked_on_is_shown() -> None:
    kube = MemoryKube()
    asyncio.run(followed(kube, REBUILDING))
    node = asyncio.run(kube.get(StorageNode, "n2"))
    assert "  maintenance: Reboot until 2027-01-15T08:00:00Z" in explain.explain(node)
    assert f"  MaintenanceReady False (Rebuilding) since 2026-11-22T14:00:00Z: {REBUILDING[2]}" in explain.explain(node)
    assert f"  maintenance  n2: Reboot; {REBUILDING[2]}" in report.status([node], [], [], []).lines()


def maintain(*said: str) -> Result:
    return CliRunner().invoke(main.cli, ["maintain", *said])
