"""``kubectl millpond vdb``: who is asked, what is shown, and when something is written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from millpond_cli import collected, main, vdb
from millpond_core import names
from millpond_core.errors import CommandFailed, Conflict, Invalid, NotFound
from millpond_core.model import ObjectMeta, StorageDevice, VirtualVolume
from millpond_core.observed import Label, LabelLeg, PeerLeg
from millpond_core.testing.kube import MemoryKube
from millpond_core.vdb.seen import DiskRead, NodeSeen

UUID = "4f1c0000-0000-4000-8000-000000000001"
DEVICE = "85ce4959-59a4-4dd1-b374-e303c38e4d59"
LEG = LabelLeg(
    volume=UUID,
    volume_name="pvc-1",
    leg="a",
    size_bytes=16 << 20,
    extents=((0, 0, 5),),
    epoch=2,
    generation=1,
    record_seq=1,
    state="InSync",
    zeroed=True,
    extent_count=1,
    next_leg=1,
    peers=(PeerLeg(leg="a", node="n1", state="InSync"),),
)


@pytest.fixture
def kube() -> MemoryKube:
    made = MemoryKube()
    asyncio.run(made.raw("POST", "/api/v1/namespaces", {"metadata": {"name": "kube-system"}}))
    volume = {"csi": {"driver": names.DRIVER, "volumeHandle": "pvc-1"}, "claimRef": {"namespace": "shop", "name": "db"}}
    for name, spec in (("pv", volume), ("other", {"nfs": {}})):
        asyncio.run(made.raw("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec}))
    return made


@pytest.fixture
def look(kube: MemoryKube, tmp_path: Path) -> str:
    """What millpond-labels has printed on n1, in a file."""
    cluster = asyncio.run(kube.raw("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    label = Label(
        cluster=cluster,
        device_uuid=DEVICE,
        device_name="n1-d1",
        sequence=3,
        legs=(LEG,),
    )
    seen = NodeSeen(node="n1", disks=(DiskRead(path="/dev/sdb", label=label),), dm={names.leg(UUID, "a"): 0})
    path = tmp_path / "n1.json"
    path.write_bytes(msgspec.json.encode(seen))
    return str(path)


def said(kube: MemoryKube, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    def run(_: str, work: Any) -> None:
        raise SystemExit(asyncio.run(work(kube)) or 0)

    monkeypatch.setattr(vdb, "run", run)
    return CliRunner().invoke(main.cli, ["vdb", *arguments])


def volumes(kube: MemoryKube) -> list[VirtualVolume]:
    return asyncio.run(kube.list(VirtualVolume))


def test_without_yes_the_plan_is_shown_and_nothing_is_changed(
    kube: MemoryKube, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = said(kube, monkeypatch, "import", "--from", look)
    assert shown.exit_code == 0
    assert "leg a on n1 (n1-d1): InSync" in shown.output
    assert "nothing was changed: 2 objects would be, with --yes" in shown.output
    assert volumes(kube) == []


def test_with_yes_it_is_done_and_then_the_two_places_agree(
    kube: MemoryKube, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(kube, monkeypatch, "import", "--from", look, "--yes").exit_code == 0
    [volume] = volumes(kube)
    assert volume.status.mapping.legs[0].extents[0].device == "n1-d1"
    assert volume.metadata.annotations[names.ANNOTATION_CLAIM] == "shop/db"
    again = said(kube, monkeypatch, "import", "--from", look, "--yes")
    assert (again.exit_code, again.output) == (0, "nothing is to be done\n")
    checked = said(kube, monkeypatch, "check", "--from", look)
    assert (checked.exit_code, checked.output) == (0, "objects, labels and kernels agree\n")


def test_a_check_that_finds_something_ends_with_3(kube: MemoryKube, look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(kube, monkeypatch, "check", "--from", look)
    assert text.exit_code == 3
    assert "sdev/n1-d1: /dev/sdb on n1 is labelled so, and there is no such object" in text.output
    found = json.loads(said(kube, monkeypatch, "check", "--from", look, "-o", "json").output)
    assert {finding["about"] for finding in found} == {"sdev/n1-d1", "vvol/pvc-1", "snode/n1"}


def test_what_is_refused_is_shown_and_ends_with_3(kube: MemoryKube, look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = VirtualVolume(metadata=ObjectMeta(name="pvc-1"))
    kube.seed(blank)
    shown = said(kube, monkeypatch, "import", "--from", look, "--yes")
    assert shown.exit_code == 3
    assert "REFUSED vvol/pvc-1: the VirtualVolume of its name has spec.uuid none" in shown.output
    assert len(asyncio.run(kube.list(StorageDevice))) == 1, "the rest is done"


def test_one_object_that_cannot_be_written_does_not_keep_the_others(
    kube: MemoryKube, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.fail_next("create", Conflict("it has appeared meanwhile"))
    shown = said(kube, monkeypatch, "import", "--from", look, "--yes")
    assert shown.exit_code == 1
    assert "sdev/n1-d1: it has appeared meanwhile" in shown.output
    assert len(volumes(kube)) == 1


def test_every_state_managers_pod_is_asked(kube: MemoryKube) -> None:
    """One that does not answer is said to be so; its disks are not taken for empty."""
    part = {"app.kubernetes.io/name": "millpond", "app.kubernetes.io/component": "node"}
    pods = [("node-1", "n1", part), ("node-2", "n2", part), ("new", "", part), ("operator", "n1", {})]
    for name, node, labels in pods:
        body = {"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node} if node else {}}
        asyncio.run(kube.raw("POST", "/api/v1/namespaces/millpond-system/pods", body))

    async def ask(namespace: str, pod: str) -> bytes:
        if pod == "node-2":
            raise CommandFailed(("kubectl", "exec"), 1, "no route to host")
        return msgspec.json.encode(NodeSeen(node="n1"))

    one, two = asyncio.run(collected.from_pods(kube, "millpond-system", ask))
    assert one == NodeSeen(node="n1")
    assert two.node == "n2"
    assert "its pod node-2 does not tell: kubectl exec failed with exit status 1: no route to host" in two.problems[0]
    with pytest.raises(NotFound, match="say --namespace"):
        asyncio.run(collected.from_pods(kube, "elsewhere", ask))


def test_kubectl_is_run_in_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for kubectl that prints its arguments, and fails when it is to."""
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\n[ -z "$FAILS" ] || { echo "$FAILS" >&2; exit 1; }\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    output = asyncio.run(collected.Kubectl("some.conf")("ns", "node-1"))
    assert output.split() == b"--kubeconfig=some.conf exec -n ns node-1 -c state-manager -- millpond-labels".split()
    monkeypatch.setenv("FAILS", "forbidden")
    with pytest.raises(CommandFailed, match="forbidden"):
        asyncio.run(collected.Kubectl("")("ns", "node-1"))


def test_files_are_of_one_node_each_and_nothing_else(look: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="node n1 was given already"):
        collected.from_files([look, look])
    (tmp_path / "other").write_text("{}")
    with pytest.raises(Invalid, match="not what millpond-labels prints"):
        collected.from_files([str(tmp_path / "other")])
