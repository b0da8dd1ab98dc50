"""``kubectl millpond quiesce``, ``release`` and ``explain``: what is asked for, and how it is followed."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner

from millpond_cli import asked, explain, main, stillness
from millpond_cli.shown import formatted
from millpond_core.errors import DeadlineExceeded, Invalid, NotFound
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, VirtualVolume
from millpond_core.model.quiescence import ClaimScope, QuiescenceSpec, Scope
from millpond_core.testing.kube import MemoryKube


@pytest.mark.parametrize(
    ("said", "claims"),
    [
        ({"namespace": "shop"}, [ClaimScope(namespace="shop")]),
        ({"claims": ["db-0"], "namespace": "shop"}, [ClaimScope(namespace="shop", names=["db-0"])]),
        (
            {"claims": ["shop/db-0", "logs/log", "shop/db-1"]},
            [ClaimScope(namespace="logs", names=["log"]), ClaimScope(namespace="shop", names=["db-0", "db-1"])],
        ),
        (
            {"namespace": "shop", "selector": "app=db,tier==a"},
            [ClaimScope(namespace="shop", match_labels={"app": "db", "tier": "a"})],
        ),
    ],
)
def test_claims_are_named_as_with_kubectl(said: dict[str, Any], claims: list[ClaimScope]) -> None:
    made = asked.quiescence(**said, hold=True, seconds=9)
    assert made.spec == QuiescenceSpec(scope=Scope(claims=claims), hold_io=True, deadline_seconds=9)
    assert made.metadata.name.startswith("manual-")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "say what is to go still"),
        ({"claims": ["db-0"]}, "claim 'db-0': say namespace/name, or --namespace"),
        ({"selector": "app=db"}, "--selector needs --namespace"),
        ({"namespace": "shop", "selector": "app in (a)"}, "'app in (a)' is no label"),
        ({"namespace": "shop", "selector": "app!=a"}, "'app!=a' is no label"),
    ],
)
def test_what_says_too_little_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid, match=re.escape(why)):
        asked.quiescence(**said)


@pytest.fixture
def kube() -> MemoryKube:
    return MemoryKube()


async def made(kube: MemoryKube, name: str = "q") -> Quiescence:
    return await kube.create(asked.quiescence(name=name, volumes=["v1"], hold=True))


async def master(kube: MemoryKube, *phases: str, release: str = "Released", pause: float = 0.05) -> None:
    """Says one phase after the other; when it is asked to, releases."""
    for phase in phases:
        await asyncio.sleep(pause)
        await kube.apply_status(Quiescence, "q", {"phase": phase, "message": f"now {phase}"}, manager="master")
    while not (await kube.get(Quiescence, "q")).spec.release:
        await asyncio.sleep(pause)
    status = {"phase": release, "message": f"now {release}"}
    await kube.apply_status(Quiescence, "q", status, manager="master")


async def followed(kube: MemoryKube, *phases: str, command: tuple[str, ...] = (), **how: Any) -> tuple[int, list[str]]:
    told: list[str] = []
    q = await made(kube)
    acting = asyncio.create_task(master(kube, *phases, **how))
    try:
        async with asyncio.timeout(20):
            outcome = await stillness.hold(kube, q, command, told.append)
    finally:
        acting.cancel()
    return outcome.status, told


async def test_it_is_followed_until_all_is_still(kube: MemoryKube) -> None:
    status, told = await followed(kube, "Instructed", "Quiesced")
    assert status == 0
    assert told == ["Instructed: now Instructed", "Quiesced: now Quiesced", "it ends with: kubectl millpond release q"]


@pytest.mark.parametrize(("phase", "status"), [("Aborted", 3), ("Expired", 4)])
async def test_what_does_not_come_about_has_an_exit_status(kube: MemoryKube, phase: str, status: int) -> None:
    assert (await followed(kube, "Instructed", phase))[0] == status


async def test_a_command_runs_while_it_is_still(kube: MemoryKube) -> None:
    look = "import os, sys; sys.exit(9 if os.environ['MILLPOND_QUIESCENCE'] == 'q' else 1)"
    status, told = await followed(kube, "Quiesced", command=(sys.executable, "-c", look))
    assert status == 9
    assert (await kube.get(Quiescence, "q")).status.phase == "Released"
    assert "may not be of one moment" not in " ".join(told)


async def test_a_command_that_outlasts_it_is_told_so(kube: MemoryKube) -> None:
    status, told = await followed(kube, "Quiesced", command=("sleep", "0.3"), release="Expired")
    assert (status, told[-1]) == (
        4,
        "it was over before the command ended: what that has seen may not be of one moment",
    )


async def test_a_command_that_is_not_there_holds_nothing(kube: MemoryKube) -> None:
    status, told = await followed(kube, "Quiesced", command=("/no/such/program",))
    assert status == 127
    assert any("could not be started: No such file" in each for each in told)
    assert (await kube.get(Quiescence, "q")).spec.release


async def test_who_goes_away_leaves_nothing_held(kube: MemoryKube) -> None:
    following = asyncio.create_task(followed(kube, "Quiesced", command=("sleep", "30")))
    await asyncio.sleep(0.5)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert (await kube.get(Quiescence, "q")).spec.release


async def test_nobody_waits_for_ever(kube: MemoryKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stillness, "BEGIN_SECONDS", 0.2)
    monkeypatch.setattr(stillness, "RELEASE_SECONDS", 0.2)
    with pytest.raises(DeadlineExceeded, match="nothing has become of quiescence q in 0 s: does the operator run"):
        await followed(kube, pause=5)
    assert (await kube.get(Quiescence, "q")).spec.release, "nor does it come about when nobody waits any more"
    with pytest.raises(DeadlineExceeded, match="is asked to end, and is Pending after"):
        await stillness.release(kube, "q", lambda _: None)


async def test_what_was_deleted_meanwhile_is_told(kube: MemoryKube) -> None:
    q = await made(kube)
    await kube.delete(Quiescence, "q")
    with pytest.raises(NotFound, match="was deleted: everything goes on"):
        await stillness.hold(kube, q, (), lambda _: None)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("qui/q", Quiescence),
        ("vvol/q", VirtualVolume),
        ("StorageDevice/q", StorageDevice),
        ("storagedevices/q", StorageDevice),
    ],
)
def test_an_object_is_named_as_with_kubectl(what: str, kind: type) -> None:
    assert explain.parse(what) == (kind, "q")


@pytest.mark.parametrize("what", ["q", "pod/q", "qui/"])
def test_what_is_none_of_ours_is_refused(what: str) -> None:
    with pytest.raises(Invalid, match="say one of snode/NAME, sdev/NAME, vvol/NAME, qui/NAME"):
        explain.parse(what)


def test_an_explanation_has_what_happened_and_who_holds_what() -> None:
    status = {
        "phase": "Quiesced",
        "message": "still; goes on when spec.release is true",
        "scope": "2 vols, 2 nodes",
        "participants": ["n1", "n2"],
        "acknowledgements": [
            {
                "node": "n1",
                "at": "2026-11-22T14:02:11.250000Z",
                "holdRemainingMs": 29750,
                "held": ["v1"],
                "halted": ["v2/b@8"],
            }
        ],
        "timeline": [
            {"phase": "Instructed", "at": "2026-11-22T14:02:11.000000Z", "message": "instructed n1, n2"},
            {"phase": "Quiesced", "at": "2026-11-22T14:02:11.260000Z", "message": "all still"},
        ],
    }
    q = msgspec.convert({"metadata": {"name": "q"}, "spec": {"holdIo": True}, "status": status}, Quiescence)
    assert explain.explain(q) == [
        "q: Quiesced, Manual, reads and writes wait, 2 vols, 2 nodes",
        "  still; goes on when spec.release is true",
        "    +0.000 s  Instructed   instructed n1, n2",
        "    +0.260 s  Quiesced     all still",
        "  n1: still at 14:02:11.250 by its own clock, holds v1 for 30 s at most, has halted v2/b@8",
        "  n2: not still yet",
    ]


def test_an_object_for_a_program_is_as_on_the_wire() -> None:
    q = Quiescence(metadata=ObjectMeta(name="q"), spec=QuiescenceSpec(hold_io=True, scope=Scope(cluster=True)))
    wanted = {"apiVersion": "millpond.io/v1alpha1", "kind": "Quiescence", "metadata": {"name": "q"}}
    for document in (json.loads(formatted(q, "json")), yaml.safe_load(formatted(q, "yaml"))):
        assert document.items() >= wanted.items()
        assert document["spec"] == {"holdIo": True, "scope": {"cluster": True}}
    assert formatted(q, "text") == ""


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """The words that name each command, subcommands too."""
    for name, command in sorted(group.commands.items()):
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("command", [*commands(main.cli)], ids=" ".join)
def test_help_has_examples_each_on_a_line_and_a_wrong_command_line_is_2(command: tuple[str, ...]) -> None:
    runner = CliRunner()
    shown = runner.invoke(main.cli, [*command, "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"^  kubectl millpond {' '.join(command)}\b", shown.output, re.MULTILINE)
    assert runner.invoke(main.cli, [*command, "--nonsense"]).exit_code == 2
