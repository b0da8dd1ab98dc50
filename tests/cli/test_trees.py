"""``kubectl millpond tree``: what lies on a device, and what a volume lies on, down to the nodes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from millpond_cli import trees
from millpond_cli.shown import formatted
from millpond_core.errors import NotFound, Unavailable
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.testing.kube import MemoryKube

PODS = "/api/v1/namespaces/shop/pods"
NODES = {"n1": "Ready", "n2": "Failed"}
UUIDS = {"d1": "4f1c0000-0000-4000-8000-0000000000d1", "d2": "4f1c0000-0000-4000-8000-0000000000d2"}


def leg(id_: str, node: str, state: str, *extents: tuple[str, int, int]) -> dict[str, Any]:
    """``extents``: (device, first unit, number of units), 4 MiB each."""
    runs = [{"device": d, "deviceUuid": UUIDS.get(d, "-"), "start": s, "length": n} for d, s, n in extents]
    return {"id": id_, "node": node, "state": state, "extents": runs}


def volume(name: str, claim: str = "", **status: Any) -> VirtualVolume:
    wanted = {
        "metadata": {"name": name, "annotations": {"millpond.io/claim": claim} if claim else {}},
        "spec": {"uuid": "4f1c0000-0000-4000-8000-000000000001", "size": "2Gi"},
        "status": status,
    }
    return msgspec.convert(wanted, VirtualVolume)


@pytest.fixture
async def kube() -> MemoryKube:
    """n1 with d1, and n2, which is dead, with d2; pvc-1 (shop/db-0) on both, pvc-2 on d1 alone."""
    made = MemoryKube()
    for node, device, phase, message in (("n1", "d1", "Online", ""), ("n2", "d2", "Failed", "unplugged 14:02:11")):
        made.seed(msgspec.convert({"metadata": {"name": node}, "status": {"phase": NODES[node]}}, StorageNode))
        spec = {"nodeName": node, "identity": {"serial": device}}
        status = {"phase": phase, "size": "1Ti", "free": "600Gi" if not message else "", "message": message}
        made.seed(msgspec.convert({"metadata": {"name": device}, "spec": spec, "status": status}, StorageDevice))
    legs = [
        leg("a", "n1", "InSync", ("d1", 0, 256), ("d1", 512, 257)),
        {**leg("b", "n2", "Stale", ("d2", 0, 513)), "releasing": True},
    ]
    status = {"phase": "Degraded", "copies": "1/2", "attachment": {"node": "n1", "epoch": 1}}
    mapping = {"generation": 2, "recordSeq": 3, "legs": legs}
    spares = [leg("c", "n3", "Rebuilding", ("d3", 0, 513))]
    made.seed(volume("pvc-1", "shop/db-0", mapping=mapping, spares=spares, nextLeg=3, **status))
    mapping = {"generation": 1, "recordSeq": 1, "legs": [leg("a", "n1", "InSync", ("d1", 1024, 513))]}
    made.seed(volume("pvc-2", mapping=mapping, nextLeg=1, phase="Ready", copies="1/1"))
    for pod, claim in (("web", "db-0"), ("other", "log")):
        body = {
            "metadata": {"name": pod, "namespace": "shop"},
            "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]},
        }
        await made.raw("POST", PODS, body)
    return made


async def test_every_device_shows_what_lies_on_it(kube: MemoryKube) -> None:
    assert (await trees.grow(kube)).lines() == [
        "d1  on n1, Online, 600Gi free of 1Ti",
        "  pvc-2  leg a, 2Gi, InSync",
        "  shop/db-0  leg a, 2Gi, InSync",
        "d2  on n2, Failed, - free of 1Ti",
        "  shop/db-0  leg b, 2Gi, being released",
    ]
    assert ("raw", f"GET {PODS}") not in kube.calls, "the pods of a whole cluster are many"


async def test_a_device_leads_back_to_claims_and_pods(kube: MemoryKube) -> None:
    tree = await trees.grow(kube, "d1")
    assert tree.lines() == [
        "d1  on n1, Online, 600Gi free of 1Ti",
        "  pvc-2  leg a, 2Gi, InSync",
        "  shop/db-0  leg a, 2Gi, InSync; used by shop/web",
    ]
    [device] = json.loads(formatted(tree, "json"))["devices"]
    assert (device["name"], device["node"], device["phase"]) == ("d1", "n1", "Online")
    assert device["legs"][1] == {
        "id": "a",
        "state": "InSync",
        "spare": False,
        "releasing": False,
        "bytes": 513 * 4 << 20,
        "volume": "pvc-1",
        "claim": "shop/db-0",
        "pods": ["shop/web"],
    }


@pytest.mark.parametrize("name", ["pvc-1", "shop/db-0"], ids=["by its name", "by its claim"])
async def test_a_volume_leads_down_to_devices_and_nodes(kube: MemoryKube, name: str) -> None:
    tree = await trees.grow(kube, name)
    assert tree.lines() == [
        "shop/db-0  volume pvc-1, 2Gi, Degraded, 1/2 copies, attached on n1; used by shop/web",
        "  leg a, InSync",
        "    1Gi from 0 of d1, Online  on n1, Ready",
        "    1Gi from 2Gi of d1, Online  on n1, Ready",
        "  leg b, being released",
        "    2Gi from 0 of d2, Failed: unplugged 14:02:11  on n2, Failed",
        "  spare c, Rebuilding",
        "    2Gi from 0 of d3, there is no such StorageDevice  on n3, there is no such StorageNode",
    ]
    document = json.loads(formatted(tree, "json"))
    assert (document["kind"], document["name"], document["claim"]) == ("VolumeTree", "pvc-1", "shop/db-0")
    assert [(leg["id"], leg["spare"], leg["releasing"]) for leg in document["legs"]] == [
        ("a", False, False),
        ("b", False, True),
        ("c", True, False),
    ]
    assert document["legs"][1]["extents"] == [
        {
            "startBytes": 0,
            "lengthBytes": 513 * 4 << 20,
            "device": {
                "name": "d2",
                "uuid": UUIDS["d2"],
                "phase": "Failed",
                "message": "unplugged 14:02:11",
                "node": {"name": "n2", "phase": "Failed", "message": ""},
            },
        }
    ]


async def test_who_may_not_see_pods_sees_the_rest(kube: MemoryKube) -> None:
    kube.fail_next("raw", Unavailable("not yours"))
    assert (await trees.grow(kube, "d2")).lines()[1] == "  shop/db-0  leg b, 2Gi, being released"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("db-0", "no device and no volume is called db-0: .* claims are NAMESPACE/NAME"),
        ("shop/db-1", "no volume serves claim shop/db-1"),
    ],
)
async def test_what_is_not_there_is_told(kube: MemoryKube, name: str, why: str) -> None:
    with pytest.raises(NotFound, match=why):
        await trees.grow(kube, name)
