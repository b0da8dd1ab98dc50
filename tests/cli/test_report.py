"""What ``kubectl millpond`` says."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from click.testing import CliRunner

from millpond_cli import main, report
from millpond_core.model import StorageDevice, VirtualVolume
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


READY = volume("pvc-1", "Ready", "2/2", {"d1": "InSync", "d2": "InSync"}, "shop/db-0")
DEGRADED = volume("pvc-2", "Degraded", "1/2", {"d1": "InSync", "d2": "Stale"}, "shop/db-1")


def test_all_is_well() -> None:
    assert report.status([], [device("d1", "n1")], [READY], []) == ["OK: 1 volumes, every copy in sync"]


def test_a_lost_disk_is_named_with_the_claim_that_it_concerns() -> None:
    gone = device("d2", "n2", "Failed", "unplugged 14:02:11")
    lines = report.status([], [gone], [READY, DEGRADED], [])
    assert lines[0] == "DEGRADED: no data lost, 1 of 2 volumes short of copies, 1 on one copy"
    assert "  device       d2: unplugged 14:02:11" in lines
    assert "  volume       shop/db-1: leg b lost with d2" in lines


def test_a_faulted_volume_outranks_a_degraded_one() -> None:
    assert report.verdict([DEGRADED, volume("pvc-3", "Faulted", "0/2", {})]).startswith("FAULTED: 1 of 2")


def test_the_tree_shows_each_leg_under_its_device() -> None:
    lines = report.tree([device("d1", "n1"), device("d2", "n2")], [DEGRADED])
    assert lines[1] == "  shop/db-1  leg a, 1Gi, InSync"
    assert lines[3] == "  shop/db-1  leg b, 1Gi, Stale"
    assert report.tree([device("d1", "n1"), device("d2", "n2")], [DEGRADED], "d2") == lines[2:]


@pytest.mark.parametrize(("command", "said"), [("status", "OK: 0 volumes"), ("tree", "d1  on n1, Pending")])
def test_the_commands_read_the_database(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kube = MemoryKube()
    asyncio.run(kube.create(device("d1", "n1")))
    monkeypatch.setattr(main, "run", lambda _, work: asyncio.run(work(kube)))
    shown = CliRunner().invoke(main.cli, [command])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert said in shown.output
