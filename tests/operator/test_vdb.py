"""The objects are lost, the disks are not: what ``kubectl millpond vdb import`` makes of them, on the whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from test_whole import Whole

from millpond_cli import database
from millpond_core import names
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import Attachment, VirtualVolumeStatus
from millpond_core.testing.store import Key
from millpond_core.vdb.rebuild import Choices, Plan
from millpond_core.vdb.seen import NodeSeen
from millpond_node import labels

DEVICES = ("nvme1", "nvme2")


class Lost(Whole):
    """The whole, with disasters that befall the API server."""

    def keys(self, *plurals: str) -> list[Key]:
        return [key for key in self.kube._store._objects if key.plural in plurals]

    def lose(self, *plurals: str) -> None:
        """Objects vanish, finalizers or not."""
        for key in self.keys(*plurals):
            self.kube._store._remove(key, self.kube._store.get(key))

    async def seen(self) -> list[NodeSeen]:
        """What ``millpond-labels`` tells on each node."""
        found = []
        for node in self.nodes:
            p = self.world.ports(node)
            found.append(await labels.look(node, block=p.block, labels=p.labels, dm=p.dm, nvmet=p.nvmet))
        return found

    async def plan(self, **choices: Any) -> Plan:
        return await database.planned(self.kube, await self.seen(), Choices(**choices))

    async def import_(self, **choices: Any) -> None:
        plan = await self.plan(**choices)
        assert plan.refused == ()
        assert await database.carried_out(self.kube, plan, print) == 0

    async def differences(self) -> list[str]:
        return [finding.sentence() for finding in await database.compared(self.kube, await self.seen())]

    async def agrees(self) -> None:
        await self.pass_time(5)
        assert await self.differences() == []

    async def stop_writing(self, node: str = "n1") -> None:
        self.checks.clear()
        await self.pass_time(3)
        self.note()


@pytest.fixture
async def lost(tmp_path: Path) -> AsyncIterator[Lost]:
    """Three nodes, two disks each, all claimed; the master leads."""
    async with Lost(tmp_path, "n1", "n2", "n3") as cluster:
        await cluster.begin_master()
        for node in cluster.nodes:
            for slot in DEVICES:
                await cluster.disk(node, slot)
        yield cluster
        await cluster.end_master()


@pytest.mark.parametrize(("copies", "stripes"), [(2, 1), (3, 2)])
async def test_every_object_is_lost_and_no_block_with_them(lost: Lost, copies: int, stripes: int) -> None:
    await lost.claim(copies=copies, stripes=stripes)
    await lost.use()
    lost.checks.append(lost.scribble)
    await lost.pass_time(20)
    await lost.stop_writing()
    await lost.agrees()
    before = lost.vvol("v1")

    lost.lose("virtualvolumes", "storagedevices", "storagenodes", "quiescences")
    await lost.pass_time(10)
    assert len(await lost.differences()) > len(lost.nodes), "devices, the volume, and what stands"
    await lost.import_()

    after = lost.vvol("v1")
    assert after.status.mapping == before.status.mapping
    assert after.status.next_leg == before.status.next_leg
    assert after.spec.layout == before.spec.layout
    assert after.status.attachment == Attachment(node="", epoch=1, clean=False)
    await lost.use("n3")
    assert lost.vvol("v1").status.attachment.epoch == 2
    await lost.until(lambda: len(lost.in_sync("v1")) == copies, seconds=300)
    lost.verify("n3")
    await lost.agrees()
    assert (await lost.plan()).parts == (), "a second import has nothing to do"


async def test_a_new_cluster_takes_over_the_disks_of_one_that_is_no_more(lost: Lost) -> None:
    await lost.claim()
    await lost.use()
    lost.checks.append(lost.scribble)
    await lost.pass_time(10)
    await lost.stop_writing()
    await lost.end_master()
    for node in lost.nodes:
        await lost.power_off(node)
    lost.lose("virtualvolumes", "storagedevices", "storagenodes", "quiescences", "leases")
    [namespace] = lost.keys("namespaces")
    old = lost.kube._store._objects[namespace]["metadata"].pop("uid")
    lost.kube._store._objects[namespace]["metadata"]["uid"] = "a-new-cluster"
    for node in lost.nodes:
        await lost.power_on(node)
    await lost.begin_master()
    await lost.until(lambda: len(lost.keys("storagenodes")) == 3)

    refused = (await lost.plan()).refused
    assert len(refused) == 6, "each disk"
    assert all(f"--from-cluster {old}" in finding.todo for finding in refused)
    await lost.import_(from_clusters=frozenset({old}))
    await lost.use("n2")
    await lost.until(lambda: len(lost.in_sync("v1")) == 2, seconds=300)
    lost.verify("n2")
    for node in lost.nodes:
        for slot in DEVICES:
            assert lost.machine(node).slots[slot].labels[-1].cluster == "a-new-cluster"
    await lost.agrees()


async def test_a_volume_that_pods_use_is_not_taken_from_under_them(lost: Lost) -> None:
    await lost.claim()
    await lost.use()
    lost.lose("virtualvolumes")
    lost.machine("n1").dm[names.front("4f1c0000-0000-4000-8000-000000000000")].openers = 1
    plan = await lost.plan()
    assert plan.parts == ()
    [finding] = plan.refused
    assert finding.what == "it is in use on n1 (1 times), and would be taken from under its pods"
    lost.machine("n1").dm[names.front("4f1c0000-0000-4000-8000-000000000000")].openers = 0
    await lost.import_()


async def test_a_record_from_an_old_backup_does_not_come_into_force(lost: Lost) -> None:
    """Backup; a leg is replaced; the backup is restored. The volume stands until the labels are imported."""
    await lost.claim(grace=5)
    await lost.use()
    [key] = lost.keys("virtualvolumes")
    backup = json.dumps(lost.kube._store.get(key))
    lost.checks.append(lost.scribble)
    leg = next(leg for leg in lost.vvol("v1").status.mapping.legs if leg.node != "n1")
    lost.machine(leg.node).pull(leg.extents[0].device.partition("-")[2])
    await lost.until(lambda: lost.vvol("v1").status.phase == "Ready" and lost.vvol("v1").status.mapping.generation > 1)
    await lost.stop_writing()
    await lost.want("v1", "")
    await lost.until(lambda: lost.vvol("v1").status.attachment.node == "")
    newer = lost.vvol("v1").status.mapping

    lost.lose("virtualvolumes")
    old = json.loads(backup)
    old["status"]["attachment"].update(node="", clean=True)
    old["spec"]["attachment"] = {"node": "n1"}
    old["status"].pop("nodes")
    lost.kube._store.create(key, old)
    await lost.pass_time(20)
    assert lost.world.front("n1", lost.vvol("v1").spec.uuid) is None, "nothing is assembled from the old record"
    assert any("was the database restored from a backup?" in told for told in await lost.differences())

    await lost.want("v1", "")
    await lost.import_()
    there = {leg.id: leg.state for leg in lost.vvol("v1").status.mapping.legs if not leg.releasing}
    assert there == {"a": "InSync", "c": "Rebuilding"}, "what joins a record holds nothing yet"
    assert lost.vvol("v1").status.mapping.generation >= newer.generation
    await lost.use("n1")
    await lost.until(lambda: len(lost.in_sync("v1")) == 2, seconds=300)
    lost.verify("n1")


@pytest.mark.parametrize("clean", [True, False])
async def test_a_leg_that_lacks_writes_does_not_come_up_alone_by_an_old_record(lost: Lost, clean: bool) -> None:
    """Backup with both legs in sync; n2 loses power, what follows is on leg a alone; the backup is restored, n2 boots.

    By that record b is as good as a, and b's label does not know better. Only a's does.
    """
    await lost.claim(grace=600)
    await lost.use()
    [key] = lost.keys("virtualvolumes")
    backup = json.dumps(lost.kube._store.get(key))
    assert {leg.id: leg.node for leg in lost.vvol("v1").status.mapping.legs} == {"a": "n1", "b": "n2"}
    await lost.power_off("n2")
    lost.checks.append(lost.scribble)
    await lost.until(lambda: lost.states("v1")["b"] == "Stale", seconds=200)
    await lost.pass_time(5)
    await lost.stop_writing()
    await lost.want("v1", "")
    await lost.until(lambda: lost.vvol("v1").status.attachment.node == "")
    await lost.pass_time(3)

    lost.lose("virtualvolumes")
    await lost.pass_time(3)
    old = json.loads(backup)
    old["status"]["attachment"].update(node="", clean=clean)
    old["spec"]["attachment"] = {"node": "n3"}
    lost.kube._store.create(key, old)
    await lost.power_on("n2")
    await lost.pass_time(120)
    assert lost.report("v1", "n3").front == "None", "it stands still"
    assert "label of n1-nvme1 is newer than the record" in lost.vvol("v1").status.message

    await lost.want("v1", "")
    await lost.import_()
    assert lost.states("v1") == {"a": "InSync", "b": "Stale"}, "as the newest label has it"
    await lost.use("n3")
    await lost.until(lambda: len(lost.in_sync("v1")) == 2, seconds=300)
    lost.verify("n3")


async def test_a_volume_restored_without_its_status_waits_for_the_import(lost: Lost) -> None:
    """``kubectl get -o yaml``, delete, ``kubectl apply``: a new uid, no status, the same spec.uuid; no annotation."""
    await lost.claim()
    await lost.use()
    lost.scribble()
    await lost.pass_time(3)
    lost.note()
    await lost.want("v1", "")
    await lost.until(lambda: lost.vvol("v1").status.attachment.node == "")
    spec, mapping = lost.vvol("v1").spec, lost.vvol("v1").status.mapping
    lost.lose("virtualvolumes")
    await lost.pass_time(5)
    await lost.kube.create(VirtualVolume(metadata=ObjectMeta(name="v1"), spec=spec))
    await lost.until(lambda: lost.vvol("v1").status.phase == "Faulted")
    assert lost.vvol("v1").status.mapping == VirtualVolumeStatus().mapping, "never allocated blank"
    assert "vdb import" in lost.vvol("v1").status.message
    await lost.import_()
    assert lost.vvol("v1").status.mapping == mapping
    await lost.until(lambda: lost.vvol("v1").status.phase == "Ready")
    await lost.use("n2")
    lost.verify("n2")
