"""What ``kubectl millpond`` says."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from millpond_cli import main, report
from millpond_cli.shown import formatted
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import NodeReport
from millpond_core.testing.kube import MemoryKube


def device(name: str, node: str, phase: str = "Online", message: str = "") -> StorageDevice:
    status = {"phase": phase, "size": "1Ti", "free": "600Gi", "message": message}
    return msgspec.convert(
        {"metadata": {"name": name}, "spec": {"nodeName": node, "identity": {"serial": name}}, "status": status},
        StorageDevice,
    )


def volume(name: str, phase: str, copies: str, devices: dict[str, str], claim: str = "") -> VirtualVolume:
    legs = [
        {
            "id": "ab"[i],
            "node": where,
            "state": state,
            "extents": [{"device": where, "deviceUuid": "-", "start": 0, "length": 256}],
        }
        for i, (where, state) in enumerate(devices.items())
    ]
    annotations = {"millpond.io/claim": claim} if claim else {}
    return msgspec.convert(
        {
            "metadata": {"name": name, "annotations": annotations},
            "status": {"phase": phase, "copies": copies, "mapping": {"legs": legs}, "message": "leg b lost with d2"},
        },
        VirtualVolume,
    )


def node(name: str, phase: str = "Ready", message: str = "", intent: str = "None") -> StorageNode:
    return msgspec.convert(
        {
            "metadata": {"name": name},
            "spec": {"maintenance": {"intent": intent}},
            "status": {"phase": phase, "message": message},
        },
        StorageNode,
    )


def quiescence(name: str, phase: str, acks: str = "") -> Quiescence:
    return msgspec.convert(
        {"metadata": {"name": name}, "spec": {"holdIo": True}, "status": {"phase": phase, "acks": acks}}, Quiescence
    )


def holding(name: str) -> VirtualVolume:
    """In sync, with a leg that holds a write and a front that is suspended."""
    path = {"id": "b", "holdingSince": "2026-11-22T14:02:11Z"}
    made = volume(name, "Ready", "2/2", {})
    reports = msgspec.convert([{"node": "n1", "paths": [path], "front": "Suspended"}], list[NodeReport])
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, nodes=reports))


READY = volume("pvc-1", "Ready", "2/2", {"d1": "InSync", "d2": "InSync"}, "shop/db-0")
DEGRADED = volume("pvc-2", "Degraded", "1/2", {"d1": "InSync", "d2": "Stale"}, "shop/db-1")
EVERYTHING = (
    [node("n1", intent="Replace"), node("n2", "Failed", "its lease stands still")],
    [device("d1", "n1"), device("d2", "n2", "Failed", "unplugged 14:02:11")],
    [READY, DEGRADED, holding("pvc-4")],
    [quiescence("backup", "Draining", "1/2"), quiescence("done", "Released")],
)


def test_all_is_well() -> None:
    assert report.status([], [device("d1", "n1")], [READY], []).lines() == ["OK: 1 volumes, every copy in sync"]


def test_a_lost_disk_is_named_with_the_claim_that_it_concerns() -> None:
    gone = device("d2", "n2", "Failed", "unplugged 14:02:11")
    lines = report.status([], [gone], [READY, DEGRADED], []).lines()
    assert lines[0] == "DEGRADED: no data lost, 1 of 2 volumes short of copies, 1 on one copy"
    assert "  device       d2: unplugged 14:02:11" in lines
    assert "  volume       shop/db-1: leg b lost with d2" in lines


def test_a_faulted_volume_outranks_a_degraded_one() -> None:
    found = report.status([], [], [DEGRADED, volume("pvc-3", "Faulted", "0/2", {})], [])
    assert found.lines()[0] == "FAULTED: 1 of 2 volumes need help: pvc-3"


def test_a_program_finds_each_thing_by_its_kind_name_and_reason() -> None:
    document = json.loads(formatted(report.status(*EVERYTHING), "json"))
    assert (document["kind"], document["verdict"]) == ("Report", "Degraded")
    assert [[f[key] for key in ("about", "kind", "name", "claim", "reason")] for f in document["findings"]] == [
        ["Node", "StorageNode", "n2", "", "Failed"],
        ["Maintenance", "StorageNode", "n1", "", "Replace"],
        ["Device", "StorageDevice", "d2", "", "Failed"],
        ["Volume", "VirtualVolume", "pvc-2", "shop/db-1", "Degraded"],
        ["Quiescence", "Quiescence", "backup", "", "Manual"],
        ["HeldIO", "VirtualVolume", "pvc-4", "", "LegHolds"],
        ["HeldIO", "VirtualVolume", "pvc-4", "", "FrontSuspended"],
    ]


def test_a_person_reads_the_same() -> None:
    assert report.status(*EVERYTHING).lines() == [
        "DEGRADED: no data lost, 1 of 3 volumes short of copies, 1 on one copy",
        "  node         n2: its lease stands still",
        "  maintenance  n1: Replace; not looked at yet",
        "  device       d2: unplugged 14:02:11",
        "  volume       shop/db-1: leg b lost with d2",
        "  going still  backup: Manual, Draining, 1/2 acknowledged, reads and writes wait",
        "  held I/O     pvc-4: on n1, leg b, since 2026-11-22T14:02:11Z",
        "  held I/O     pvc-4: on n1: the front is suspended",
    ]


def test_what_says_nothing_of_itself_is_told_by_its_phase() -> None:
    assert report.status([], [device("d1", "n1", "Pending")], [], []).lines()[1] == "  device       d1: Pending"


@pytest.mark.parametrize(("there", "status"), [([], 0), ([device("d1", "n1", "Failed")], 3)], ids=["well", "not well"])
def test_a_script_knows_by_the_exit_status(
    there: list[StorageDevice], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube, statuses = MemoryKube(), []
    for one in there:
        kube.seed(one)
    monkeypatch.setattr(main, "run", lambda _, work: statuses.append(asyncio.run(work(kube))))
    shown = CliRunner().invoke(main.cli, ["status", "-o", "yaml"])
    assert shown.exception is None
    assert yaml.safe_load(shown.output)["verdict"] == "OK", "no copy is lost"
    assert statuses == [status]


@pytest.mark.parametrize(("command", "said"), [("status", "OK: 0 volumes"), ("tree", "d1  on n1, Pending")])
def test_the_commands_read_the_database(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kube = MemoryKube()
    asyncio.run(kube.create(device("d1", "n1")))
    monkeypatch.setattr(main, "run", lambda _, work: asyncio.run(work(kube)))
    shown = CliRunner().invoke(main.cli, [command])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert said in shown.output
