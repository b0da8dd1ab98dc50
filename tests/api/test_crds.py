"""The CRDs as people meet them: applied, explained, listed, selected, waited for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from millpond_adapters.kube import ApiKube
from millpond_core.model import KINDS, ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.schema import schema
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import VirtualVolumeSpec

ROOT = Path(__file__).parents[2]
Kubectl = Callable[..., str]


def test_the_committed_files_are_the_models() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_api_server_takes_them_whole(kubectl: Kubectl) -> None:
    crds = json.loads(kubectl("get", "crd", "-o", "json"))["items"]
    assert {crd["metadata"]["name"] for crd in crds} == {f"{kind.plural}.millpond.io" for kind in KINDS}
    for crd in crds:
        said = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
        assert said["Established"] == "True"
        assert "NonStructuralSchema" not in said
        assert crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] == schema(
            next(kind for kind in KINDS if kind.__name__ == crd["spec"]["names"]["kind"])
        )


def structs(part: Mapping[str, Any], path: str) -> Iterator[str]:
    """Each path below which kubectl explains fields."""
    part = part.get("items", part)
    if "properties" in part:
        yield path
        for name, child in part["properties"].items():
            if name != "metadata":
                yield from structs(child, f"{path}.{name}")


@pytest.mark.parametrize("path", [path for kind in KINDS for path in structs(schema(kind), kind.__name__.lower())])
def test_every_field_is_explained(kubectl: Kubectl, path: str) -> None:
    said = kubectl("explain", path)
    assert "<no description>" not in said
    assert re.search(r"DESCRIPTION:\n\s+\S", said)


def undescribed(part: Mapping[str, Any], path: str) -> Iterator[str]:
    if not part.get("description") and "items" not in path:
        yield path
    for name, child in part.get("properties", {}).items():
        if path or name != "metadata":
            yield from undescribed(child, f"{path}.{name}")
    if "properties" in part.get("items", {}):
        yield from undescribed(part["items"], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_description(kind: type[Any]) -> None:
    assert list(undescribed(schema(kind), "")) == []


async def story(kube: ApiKube) -> None:
    """The moment of the design's section 10: a disk was pulled, one volume is rebuilding."""
    for name, phase, free, message in (
        ("n1-nvme1", "Online", "603Gi", ""),
        ("n2-nvme1", "Failed", "-", "unplugged 14:02:11; 5/7 legs replaced; safe to delete in ~6m"),
    ):
        spec = StorageDeviceSpec(node_name=name[:2], identity=Identity(serial=name), pool="fast")
        await kube.create(StorageDevice(metadata=ObjectMeta(name=name), spec=spec))
        status = {"phase": phase, "size": "1Ti", "free": free, "legs": 6, "message": message}
        await kube.apply_status(StorageDevice, name, status, manager="millpond-master")
    metadata = ObjectMeta(name="pvc-4f1c", annotations={"millpond.io/claim": "shop/db-0"})
    await kube.create(VirtualVolume(metadata=metadata, spec=VirtualVolumeSpec(size="50Gi")))
    legs = [{"id": "a", "node": "n1", "state": "InSync"}, {"id": "b", "node": "n3", "state": "Rebuilding"}]
    record = [
        {"op": "add", "path": "/status/mapping", "value": {"generation": 8, "recordSeq": 12, "legs": legs}},
        {"op": "add", "path": "/status/attachment", "value": {"node": "n1", "epoch": 3, "clean": False}},
    ]
    await kube.patch(VirtualVolume, "pvc-4f1c", record, status=True)
    status = {"copies": "1/2", "phase": "Degraded", "message": "leg b lost with n2-nvme1; rebuilding on n3, 38%, ~4m"}
    await kube.apply_status(VirtualVolume, "pvc-4f1c", status, manager="millpond-master")
    spec_q = QuiescenceSpec(reason="DeviceFailed", scope=Scope(volumes=["pvc-4f1c"]))
    await kube.create(Quiescence(metadata=ObjectMeta(name="q-7d2k"), spec=spec_q))
    status = {"scope": "7 vols, 3 nodes", "phase": "Released", "acks": "3/3", "held": "0ms", "message": "committed"}
    await kube.apply_status(Quiescence, "q-7d2k", status, manager="millpond-master")
    await kube.create(StorageNode(metadata=ObjectMeta(name="n1")))
    status = {"phase": "Ready", "disks": "1 claimed, 1 unclaimed", "kernel": "6.1.0-56-amd64"}
    await kube.apply_status(StorageNode, "n1", status, manager="millpond-node-n1")


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]


async def test_the_columns_tell_the_story(kube: ApiKube, kubectl: Kubectl) -> None:
    await story(kube)
    assert rows(kubectl("get", "sdev,vvol,qui,snode")) == [
        ["NAME", "NODE", "POOL", "PHASE", "SIZE", "FREE", "LEGS", "MESSAGE"],
        ["storagedevice.millpond.io/n1-nvme1", "n1", "fast", "Online", "1Ti", "603Gi", "6"],
        [
            *("storagedevice.millpond.io/n2-nvme1", "n2", "fast", "Failed", "1Ti", "-", "6"),
            "unplugged 14:02:11; 5/7 legs replaced; safe to delete in ~6m",
        ],
        ["NAME", "CLAIM", "SIZE", "COPIES", "PHASE", "NODE", "GEN", "MESSAGE"],
        [
            *("virtualvolume.millpond.io/pvc-4f1c", "shop/db-0", "50Gi", "1/2", "Degraded", "n1", "8"),
            "leg b lost with n2-nvme1; rebuilding on n3, 38%, ~4m",
        ],
        ["NAME", "REASON", "SCOPE", "PHASE", "ACKS", "HELD", "MESSAGE"],
        ["quiescence.millpond.io/q-7d2k", "DeviceFailed", "7 vols, 3 nodes", "Released", "3/3", "0ms", "committed"],
        ["NAME", "PHASE", "DISKS", "KERNEL", "MESSAGE"],
        ["storagenode.millpond.io/n1", "Ready", "1 claimed, 1 unclaimed", "6.1.0-56-amd64"],
    ]
    heading, volume = rows(kubectl("get", "vvol", "-o", "wide"))
    assert heading[-5:] == ["EPOCH", "RECORD", "SCRUBBED", "UUID", "AGE"]
    assert volume[-3:-1] == ["3", "12"]


async def test_one_word_lists_everything(kube: ApiKube, kubectl: Kubectl) -> None:
    await story(kube)
    listed = kubectl("get", "millpond", "-o", "name").split()
    assert {name.partition(".")[0] for name in listed} == {kind.__name__.lower() for kind in KINDS}


async def test_fields_select(kube: ApiKube, kubectl: Kubectl) -> None:
    await story(kube)
    chosen = kubectl("get", "sdev", "--field-selector=spec.nodeName=n2,status.phase=Failed", "-o", "name").split()
    assert chosen == ["storagedevice.millpond.io/n2-nvme1"]
    for kind in KINDS:
        for path in kind.selectable_fields:
            assert await kube.list(kind, fields=f"{path.lstrip('.')}=nowhere") == []


async def test_kubectl_waits_for_a_condition(kube: ApiKube, kubectl: Kubectl) -> None:
    await kube.create(VirtualVolume(metadata=ObjectMeta(name="v"), spec=VirtualVolumeSpec(size="1Gi")))
    said: list[str] = []
    waiting = threading.Thread(
        target=lambda: said.append(kubectl("wait", "--for=condition=Ready", "--timeout=20s", "vvol/v"))
    )
    waiting.start()
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "InSync",
        "message": "every leg is in sync",
        "lastTransitionTime": "2026-11-22T12:00:00Z",
    }
    await kube.apply_status(VirtualVolume, "v", {"conditions": [condition]}, manager="millpond-master")
    waiting.join(30)
    assert said == ["virtualvolume.millpond.io/v condition met\n"]
