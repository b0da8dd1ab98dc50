"""What the ``Kube`` port promises, as tests of a fixture ``kube``: in memory (tests/core) and on a real API server
(tests/api). Both begin without any object of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millpond_core.errors import Conflict, Invalid, NotFound
from millpond_core.model import ObjectMeta, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import VirtualVolumeSpec
from millpond_core.ports import Kube


def volume(name: str = "v", size: str = "1Gi", **labels: str) -> VirtualVolume:
    return VirtualVolume(metadata=ObjectMeta(name=name, labels=labels), spec=VirtualVolumeSpec(size=size))


def device(name: str, node: str) -> StorageDevice:
    spec = StorageDeviceSpec(node_name=node, identity=Identity(serial=name))
    return StorageDevice(metadata=ObjectMeta(name=name), spec=spec)


def expects(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def mapping(generation: int, record_seq: int, **legs: str) -> list[dict[str, Any]]:
    entries = [{"id": leg, "node": f"n-{leg}", "state": state} for leg, state in legs.items()]
    value = {"generation": generation, "recordSeq": record_seq, "legs": entries}
    return [{"op": "replace", "path": "/status/mapping", "value": value}]


async def take(stream: AsyncIterator[tuple[str, Any]], count: int) -> list[tuple[str, str]]:
    return [(verb, obj.metadata.name) for verb, obj in [await asyncio.wait_for(anext(stream), 1) for _ in range(count)]]


async def test_a_watch_lists_says_synced_and_follows(kube: Kube) -> None:
    await kube.create(volume("a"))
    stream = kube.watch(VirtualVolume)
    assert await take(stream, 2) == [("ADDED", "a"), ("SYNCED", "")]
    await kube.create(volume("b"))
    await kube.merge(VirtualVolume, "a", {"spec": {"size": "2Gi"}})
    await kube.delete(VirtualVolume, "b")
    assert await take(stream, 3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


async def test_of_what_is_gone_a_watch_has_name_and_uid_alone(kube: Kube) -> None:
    made = await kube.create(volume("a"))
    stream = kube.watch(VirtualVolume)
    await take(stream, 2)
    await kube.delete(VirtualVolume, "a")
    event, gone = await asyncio.wait_for(anext(stream), 1)
    assert (event, gone) == ("DELETED", VirtualVolume(metadata=ObjectMeta(name="a", uid=made.metadata.uid)))


async def test_a_scan_has_what_a_list_has(kube: Kube) -> None:
    for node in ("n1", "n2", "n2"):
        await kube.create(volume(f"v{len(await kube.list(VirtualVolume))}", node=node))
    for labels in ("", "node=n2", "node=n9"):
        listed = await kube.list(VirtualVolume, labels=labels)
        assert [obj async for obj in kube.scan(VirtualVolume, labels=labels)] == listed
        assert len(listed) == {"": 3, "node=n2": 2, "node=n9": 0}[labels]


async def test_leaving_a_selection_looks_like_a_deletion(kube: Kube) -> None:
    await kube.create(volume("a", node="n1"))
    stream = kube.watch(VirtualVolume, labels="node=n1")
    await take(stream, 2)
    await kube.merge(VirtualVolume, "a", {"metadata": {"labels": {"node": "n2"}}})
    await kube.merge(VirtualVolume, "a", {"metadata": {"labels": {"node": "n1"}}})
    assert await take(stream, 2) == [("DELETED", "a"), ("ADDED", "a")]


async def test_only_selectable_fields_select(kube: Kube) -> None:
    await kube.create(device("d1", "n1"))
    await kube.create(device("d2", "n2"))
    assert [d.metadata.name for d in await kube.list(StorageDevice, fields="spec.nodeName=n2")] == ["d2"]
    with pytest.raises(Invalid, match="field label not supported"):
        await kube.list(StorageDevice, fields="spec.identity.serial=d1")


async def test_a_failed_test_is_a_conflict_and_changes_nothing(kube: Kube) -> None:
    await kube.create(volume())
    await kube.patch(
        VirtualVolume, "v", [expects("/status/mapping/generation", 0), *mapping(1, 1, a="InSync")], status=True
    )
    with pytest.raises(Conflict, match="test"):
        await kube.patch(VirtualVolume, "v", [expects("/status/mapping/generation", 0), *mapping(1, 2)], status=True)
    with pytest.raises(Conflict, match="read"):
        await kube.patch(VirtualVolume, "v", [expects("/status/mapping/legs/4/id", "a")], status=True)
    assert [leg.id for leg in (await kube.get(VirtualVolume, "v")).status.mapping.legs] == ["a"]


async def test_a_broken_rule_is_refused_with_its_sentence(kube: Kube) -> None:
    await kube.create(volume())
    await kube.patch(VirtualVolume, "v", mapping(1, 1, a="InSync", b="Stale"), status=True)
    with pytest.raises(Invalid, match=r"legs\[1\].state: .*through Rebuilding only"):
        await kube.patch(VirtualVolume, "v", mapping(1, 2, a="InSync", b="InSync"), status=True)
    with pytest.raises(Invalid, match="the last leg in sync stays"):
        await kube.patch(VirtualVolume, "v", mapping(1, 2, a="Stale", b="Stale"), status=True)
    with pytest.raises(Invalid, match="it starts as Rebuilding"):
        await kube.patch(VirtualVolume, "v", mapping(2, 2, a="InSync", b="Stale", c="InSync"), status=True)


async def test_unknown_and_missing_fields_are_refused(kube: Kube) -> None:
    with pytest.raises(Invalid, match=r"spec\.size: Required value"):
        await kube.create(volume(size=""))
    await kube.create(volume())
    with pytest.raises(Invalid, match=r'unknown field "spec\.colour"'):
        await kube.merge(VirtualVolume, "v", {"spec": {"colour": "red"}})
    with pytest.raises(Invalid, match=r"layout\.copies"):
        await kube.merge(VirtualVolume, "v", {"spec": {"layout": {"copies": 9}}})


async def test_appliers_keep_their_own_entries(kube: Kube) -> None:
    await kube.create(volume())
    await kube.apply_status(VirtualVolume, "v", {"phase": "Ready", "message": "m"}, manager="master")
    await kube.apply_status(
        VirtualVolume, "v", {"nodes": [{"node": "n1", "epoch": 1, "message": "busy"}]}, manager="n1"
    )
    await kube.apply_status(VirtualVolume, "v", {"nodes": [{"node": "n2", "epoch": 4}]}, manager="n2")
    found = await kube.apply_status(VirtualVolume, "v", {"nodes": [{"node": "n1", "epoch": 2}]}, manager="n1")
    assert {r.node: (r.epoch, r.message) for r in found.status.nodes} == {"n1": (2, ""), "n2": (4, "")}
    found = await kube.apply_status(VirtualVolume, "v", {}, manager="n1")
    assert [report.node for report in found.status.nodes] == ["n2"]
    assert (found.status.phase, found.status.message) == ("Ready", "m")


async def test_an_applier_takes_a_field_over(kube: Kube) -> None:
    await kube.create(volume())
    await kube.apply_status(VirtualVolume, "v", {"message": "one's", "copies": "1/1"}, manager="one")
    await kube.apply_status(VirtualVolume, "v", {"message": "another's"}, manager="another")
    found = await kube.apply_status(VirtualVolume, "v", {}, manager="one")
    assert (found.status.message, found.status.copies) == ("another's", "")


async def test_a_patch_takes_a_field_over(kube: Kube) -> None:
    await kube.create(volume())
    await kube.apply_status(VirtualVolume, "v", {"message": "applied"}, manager="master")
    await kube.merge(VirtualVolume, "v", {"status": {"message": "patched"}}, status=True)
    found = await kube.apply_status(VirtualVolume, "v", {}, manager="master")
    assert found.status.message == "patched"


async def test_status_and_spec_do_not_touch_each_other(kube: Kube) -> None:
    created = await kube.create(volume())
    both = {"spec": {"size": "2Gi"}, "status": {"message": "m"}}
    by_status = await kube.merge(VirtualVolume, "v", both, status=True)
    assert (by_status.spec.size, by_status.status.message, by_status.metadata.generation) == ("1Gi", "m", 1)
    by_spec = await kube.merge(VirtualVolume, "v", {**both, "status": {"message": "n"}})
    assert (by_spec.spec.size, by_spec.status.message, by_spec.metadata.generation) == ("2Gi", "m", 2)
    stale = {"metadata": {"resourceVersion": created.metadata.resource_version}, "spec": {"size": "3Gi"}}
    with pytest.raises(Conflict, match="has been modified"):
        await kube.merge(VirtualVolume, "v", stale)


async def test_finalizers_hold_a_deletion(kube: Kube) -> None:
    await kube.create(volume())
    await kube.merge(VirtualVolume, "v", {"metadata": {"finalizers": ["f"]}})
    await kube.delete(VirtualVolume, "v")
    assert (await kube.get(VirtualVolume, "v")).metadata.deletion_timestamp
    await kube.merge(VirtualVolume, "v", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await kube.get(VirtualVolume, "v")
    await kube.delete(VirtualVolume, "v")


async def test_raw_serves_core_kinds(kube: Kube) -> None:
    nodes = "/api/v1/nodes"
    for name in ("raw1", "raw2"):
        await kube.raw("POST", nodes, {"metadata": {"name": name, "labels": {"zone": name}}})
    patch = {"metadata": {"labels": {"a": "b"}}}
    await kube.raw("PATCH", f"{nodes}/raw1", patch, content_type="application/merge-patch+json")
    found = await kube.raw("GET", f"{nodes}?labelSelector=zone%3Draw1")
    assert [item["metadata"]["labels"] for item in found["items"]] == [{"zone": "raw1", "a": "b"}]
    with pytest.raises(Conflict):
        await kube.raw("POST", nodes, {"metadata": {"name": "raw1"}})
    for name in ("raw1", "raw2"):
        await kube.raw("DELETE", f"{nodes}/{name}")
    with pytest.raises(NotFound):
        await kube.raw("GET", f"{nodes}/raw1")


async def test_two_managers_share_the_conditions_by_type(kube: Kube) -> None:
    await kube.create(StorageNode(metadata=ObjectMeta(name="n1")))

    def says(kind: str, status: str) -> dict[str, Any]:
        condition = {"type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {"conditions": [condition]}

    await kube.apply_status(StorageNode, "n1", {**says("Ready", "True"), "kernel": "6.1"}, manager="millpond-node-n1")
    await kube.apply_status(StorageNode, "n1", {**says("NodeFailed", "False"), "phase": "Ready"}, manager="master")
    found = await kube.apply_status(StorageNode, "n1", says("Ready", "False"), manager="millpond-node-n1")
    assert {c.type: c.status for c in found.status.conditions} == {"Ready": "False", "NodeFailed": "False"}
    assert (found.status.phase, found.status.kernel) == ("Ready", "")


async def test_what_is_applied_does_not_touch_the_record(kube: Kube) -> None:
    await kube.create(volume())
    await kube.patch(VirtualVolume, "v", mapping(1, 1, a="InSync", b="InSync"), status=True)
    await kube.apply_status(VirtualVolume, "v", {"phase": "Ready"}, manager="master")
    stale = [
        expects("/status/mapping/recordSeq", 1),
        expects("/status/mapping/legs/1/id", "b"),
        {"op": "replace", "path": "/status/mapping/legs/1/state", "value": "Stale"},
        {"op": "replace", "path": "/status/mapping/recordSeq", "value": 2},
    ]
    await kube.patch(VirtualVolume, "v", stale, status=True)
    found = await kube.apply_status(VirtualVolume, "v", {"phase": "Degraded"}, manager="master")
    assert [(leg.id, leg.state) for leg in found.status.mapping.legs] == [("a", "InSync"), ("b", "Stale")]


async def test_a_lists_elements_within_ones_own_entry_come_and_go(kube: Kube) -> None:
    await kube.create(volume())

    def entry(*legs: str) -> dict[str, Any]:
        return {"nodes": [{"node": "n1", "legs": [{"id": leg, "prepared": True} for leg in legs]}]}

    await kube.apply_status(VirtualVolume, "v", entry("a", "b"), manager="n1")
    found = await kube.apply_status(VirtualVolume, "v", entry("b"), manager="n1")
    assert [leg.id for leg in found.status.nodes[0].legs] == ["b"]


async def test_a_name_that_is_none_reaches_nobody(kube: Kube) -> None:
    for name in ("", "..", "a/b", "a\0b", "v" * 5000, "V"):
        with pytest.raises((Invalid, NotFound)):
            await kube.get(VirtualVolume, name)


async def test_events_and_leases(kube: Kube) -> None:
    created = await kube.create(volume())
    for _ in range(3):
        await kube.event(created, reason="Tested", message="said three times, written once")
    await kube.renew_lease("contract", "one", 30)
    await kube.renew_lease("contract", "one", 30)
    with pytest.raises(Conflict, match="held by one"):
        await kube.renew_lease("contract", "two", 30)
