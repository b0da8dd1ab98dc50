"""Master and state managers together, on kernels and an API server in memory: what was acknowledged stays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from node_cluster import Cluster

from millpond_core import names
from millpond_core.errors import MillpondError
from millpond_core.instants import stamp
from millpond_core.master.conditions import find
from millpond_core.master.world import KINDS
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.operation import LongOperation
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.virtualvolume import (
    Layout,
    OnFailure,
    Placement,
    VirtualVolumeSpec,
)
from millpond_operator.failover import Failover
from millpond_operator.heartbeats import Heartbeats
from millpond_operator.master import Master

SIZE = "16Mi"
BLOCKS = 4096


class Whole(Cluster):
    """The cluster, with a master that decides."""

    def __init__(self, folder: Path, *nodes: str) -> None:
        super().__init__(folder, *nodes)
        self.master: Master | None = None
        self._work: list[asyncio.Task[None]] = []
        self.acknowledged: dict[int, int] = {}
        self.pending: list[tuple[int, int, Any]] = []
        self._written = 0

    async def begin_master(self) -> None:
        clock = self.world.ports(self.nodes[0]).clock
        self.master = Master(self.kube, clock)
        hearts = Heartbeats(self.kube, clock, self.master, "millpond-system")
        moving = Failover(self.kube, clock, self.master)
        await self.master.load()
        self._work = [asyncio.create_task(self._lead(self.master, hearts, moving))]
        self._work += [asyncio.create_task(self.master.follow(kind)) for kind in KINDS]

    async def end_master(self) -> None:
        """As with SIGKILL."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def _lead(self, master: Master, hearts: Heartbeats, moving: Failover) -> None:
        looked = 0.0
        while True:
            if self.world.time - looked >= 3:
                with contextlib.suppress(MillpondError):
                    await hearts.look()
                looked = self.world.time
            while (key := master.agenda.pop(self.world.ports(self.nodes[0]).clock.boottime())) is not None:
                await master.look(key)
            await moving.look()
            await asyncio.sleep(0.25)

    async def claim(
        self, name: str = "v1", *, copies: int = 2, stripes: int = 1, grace: int = 20, preferred: str = "n1"
    ) -> None:
        """As the CSI controller makes a volume."""
        number = len(await self.kube.list(VirtualVolume))
        await self.kube.create(
            VirtualVolume(
                metadata=ObjectMeta(name=name),
                spec=VirtualVolumeSpec(
                    uuid=f"4f1c0000-0000-4000-8000-00000000000{number}",
                    size=SIZE,
                    layout=Layout(copies=copies, stripes=stripes),
                    placement=Placement(preferred_node=preferred),
                    on_failure=OnFailure(grace_period_seconds=grace, hold_seconds=5),
                ),
            )
        )
        await self.until(lambda: self.vvol(name).status.phase == "Ready")

    async def use(self, node: str = "n1", name: str = "v1") -> None:
        await self.want(name, node)
        await self.until(
            lambda: self.vvol(name).status.attachment.node == node and self.report(name, node).front == "Active"
        )

    async def pod_on(self, node: str, name: str = "v1") -> None:
        """What Kubernetes knows of a StatefulSet's pod with the volume."""
        owner = {"kind": "StatefulSet", "name": "db", "controller": True}
        meta = {"name": "db-0", "namespace": "shop", "ownerReferences": [owner]}
        data = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
        csi = {"driver": names.DRIVER, "volumeHandle": name}
        for path, body in (
            ("/api/v1/persistentvolumes", {"metadata": {"name": "pv"}, "spec": {"csi": csi}}),
            (
                "/api/v1/namespaces/shop/persistentvolumeclaims",
                {"metadata": {"name": "data"}, "spec": {"volumeName": "pv"}},
            ),
            ("/api/v1/namespaces/shop/pods", {"metadata": meta, "spec": {"nodeName": node, "volumes": [data]}}),
        ):
            await self.kube.raw("POST", path, body)

    async def maintain(self, node: str, intent: str, *, seconds: float = 0) -> None:
        """A person is about to work on a node."""
        until = stamp(self.world.ports(self.nodes[0]).clock.now() + seconds) if seconds else None
        await self.kube.merge(StorageNode, node, {"spec": {"maintenance": {"intent": intent, "until": until}}})

    def may_go(self, node: str) -> str:
        """Why it may be taken away, or may not; empty: nobody said that it is to be."""
        said = find(self.snode(node).status.conditions, "MaintenanceReady")
        return said.reason if said else ""

    def raw(self, plural: str) -> list[str]:
        return [key.name for key in self.kube._store._objects if key.plural == plural]

    def scribble(self, node: str = "n1", name: str = "v1") -> None:
        """A pod writes, and notes what was acknowledged."""
        if self.world.front(node, self.vvol(name).spec.uuid) is None:
            return
        self._written += 1
        block = self._written % 64
        self.pending.append((block, self._written, self.write(node, name, block, self._written)))
        self.note()

    def note(self) -> None:
        for block, value, write in list(self.pending):
            if write.state == "acknowledged":
                self.acknowledged[block] = max(self.acknowledged.get(block, 0), value)
                self.pending.remove((block, value, write))

    def verify(self, node: str = "n1", name: str = "v1") -> None:
        """Nothing acknowledged is lost, and all legs in sync are equal."""
        self.note()
        assert self.acknowledged
        for block, value in self.acknowledged.items():
            read = self.read(node, name, block)
            assert read is not None, f"block {block} cannot be read"
            assert read >= value, f"block {block}: {read} instead of {value}"
        legs = {leg: self.data(name, leg) for leg in self.in_sync(name)}
        first = next(iter(legs.values()))
        assert all(data == first for data in legs.values()), "legs in sync differ"

    def quiescences(self) -> list[Quiescence]:
        keys = [key for key in self.kube._store._objects if key.plural == "quiescences"]
        return [self.get(Quiescence, key.name) for key in keys]


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    """Three nodes, two disks each, all claimed; the master leads."""
    async with Whole(tmp_path, "n1", "n2", "n3") as cluster:
        await cluster.begin_master()
        for node in cluster.nodes:
            for slot in ("nvme1", "nvme2"):
                await cluster.disk(node, slot)
        yield cluster
        await cluster.end_master()


def whole_again(cluster: Whole, generation: int, name: str = "v1") -> bool:
    status = cluster.vvol(name).status
    return status.phase == "Ready" and status.mapping.generation >= generation


async def test_the_main_job_two_original_disks_are_pulled_one_after_the_other(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    originals = list(whole.vvol("v1").status.mapping.legs)
    whole.checks.append(whole.scribble)
    for number, leg in enumerate(sorted(originals, key=lambda leg: leg.node == "n1")):
        await whole.pass_time(3)
        whole.machine(leg.node).pull(leg.extents[0].device.partition("-")[2])
        await whole.until(lambda: whole.vvol("v1").status.phase == "Degraded")
        await whole.until(lambda g=number + 2: whole_again(whole, g), seconds=200)
    await whole.until(lambda: all(q.status.phase == "Released" for q in whole.quiescences()))
    whole.checks.clear()
    await whole.pass_time(2)
    live = [leg for leg in whole.vvol("v1").status.mapping.legs if not leg.releasing]
    assert {leg.id for leg in live} == {"c", "d"}
    assert [q.spec.reason for q in whole.quiescences()] == ["DeviceFailed", "DeviceFailed"]
    whole.verify()


async def test_a_disk_that_comes_back_in_time_is_taken_back(whole: Whole) -> None:
    await whole.claim(grace=60)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    await whole.pass_time(3)
    slot = leg.extents[0].device.partition("-")[2]
    machine = whole.machine(leg.node)
    disk = machine.slots[slot]
    machine.pull(slot)
    await whole.until(lambda: whole.vvol("v1").status.phase == "Degraded")
    await whole.pass_time(5)
    machine.plug(slot)
    await whole.until(lambda: whole_again(whole, 2))
    whole.checks.clear()
    await whole.pass_time(2)
    assert {leg.id for leg in whole.vvol("v1").status.mapping.legs} == {"a", "b"}
    assert disk is machine.slots[slot]
    whole.verify()


async def test_it_moves_and_goes(whole: Whole) -> None:
    await whole.claim()
    await whole.use("n1")
    whole.scribble("n1")
    await whole.pass_time(2)
    await whole.want("v1", "")
    await whole.until(lambda: whole.vvol("v1").status.attachment.node == "")
    assert whole.vvol("v1").status.attachment.clean
    await whole.use("n3")
    whole.verify("n3")
    await whole.want("v1", "")
    await whole.kube.delete(VirtualVolume, "v1")
    await whole.until(lambda: not any(key.plural == "virtualvolumes" for key in whole.kube._store._objects))
    assert all(not dm.startswith(names.DM_PREFIX) for m in whole.world.machines.values() for dm in m.dm)


async def test_a_striped_volume_can_be_deleted_though_one_of_its_disks_is_dead(whole: Whole) -> None:
    await whole.claim(copies=1, stripes=2)
    whole.machine("n1").pull("nvme1")
    await whole.until(lambda: whole.sdev("n1-nvme1").status.observation.state == "Failed")
    await whole.kube.delete(VirtualVolume, "v1")
    await whole.pass_time(5)
    assert "delete its StorageDevice" in whole.vvol("v1").status.message
    await whole.kube.delete(StorageDevice, "n1-nvme1")
    there = whole.kube._store._objects
    await whole.until(lambda: not any(key.name in ("v1", "n1-nvme1") for key in there))
    await whole.until(lambda: whole.sdev("n1-nvme2").status.allocated_bytes == 0)
    assert whole.machine("n1").slots["nvme2"].labels[-1].legs == ()


async def test_an_attach_node_that_loses_power_starts_again_from_one_source(whole: Whole) -> None:
    await whole.claim(grace=600)
    await whole.use()
    whole.checks.append(whole.scribble)
    await whole.pass_time(5)
    whole.checks.clear()
    whole.pending.clear()
    await whole.power_off("n1")
    await whole.pass_time(2)
    await whole.power_on("n1")
    await whole.until(lambda: whole.vvol("v1").status.attachment.epoch == 2)
    await whole.until(lambda: whole.report("v1", "n1").epoch == 2 and whole.report("v1", "n1").front == "Active")
    assert whole.states("v1")["a"] == "InSync", "the local leg is the source"
    await whole.until(lambda: len(whole.in_sync("v1")) == 2, seconds=200)
    whole.verify()


async def test_a_leg_node_that_dies_is_replaced(whole: Whole) -> None:
    await whole.claim(grace=5)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    await whole.pass_time(3)
    await whole.power_off(leg.node)
    await whole.until(lambda: whole.snode(leg.node).status.phase == "Failed", seconds=200)
    await whole.until(lambda: whole_again(whole, 2), seconds=200)
    whole.checks.clear()
    await whole.pass_time(2)
    whole.verify()


@pytest.mark.parametrize("every", [5, 11])
async def test_the_master_is_killed_again_and_again(whole: Whole, every: int) -> None:
    await whole.claim(grace=5)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    whole.machine(leg.node).pull(leg.extents[0].device.partition("-")[2])
    for _ in range(60):
        await whole.pass_time(every)
        await whole.end_master()
        await whole.begin_master()
        if whole_again(whole, 2):
            break
    assert whole_again(whole, 2)
    whole.checks.clear()
    await whole.pass_time(2)
    whole.verify()


async def test_a_persons_quiescence_holds_writes_until_it_is_released(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    spec = QuiescenceSpec(scope=Scope(nodes=["n1"]), hold_io=True, deadline_seconds=120)
    await whole.kube.create(Quiescence(metadata=ObjectMeta(name="pause"), spec=spec))
    await whole.until(lambda: whole.get(Quiescence, "pause").status.phase == "Quiesced")
    held = whole.write("n1", "v1", 1, 1)
    await whole.pass_time(5)
    assert held.state == "waiting"
    await whole.kube.merge(Quiescence, "pause", {"spec": {"release": True}})
    await whole.until(lambda: held.state == "acknowledged")
    await whole.until(lambda: whole.get(Quiescence, "pause").status.phase == "Released")
    assert whole.get(Quiescence, "pause").status.acks == "1/1"


async def test_a_device_is_emptied_while_a_pod_writes(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    fewest: list[int] = []
    told: dict[str, LongOperation] = {}
    whole.checks.append(lambda: fewest.append(len(whole.in_sync("v1"))))
    whole.checks.append(lambda: told.update({one.state: one for one in whole.vvol("v1").status.operations}))
    await whole.kube.merge(StorageDevice, leg.extents[0].device, {"spec": {"desiredState": "Drained"}})
    await whole.until(lambda: whole.sdev(leg.extents[0].device).status.phase == "Drained", seconds=200)
    whole.checks.clear()
    await whole.pass_time(2)
    assert min(fewest) == 2, "never with one copy less"
    assert [(one.kind, one.target, one.replaces) for one in told.values()] == [("Move", "c", leg.id)] * len(told)
    assert {*told} == {"Waiting", "Running"}
    assert whole.vvol("v1").status.operations == []
    assert whole_again(whole, 3)
    whole.verify()


async def test_a_leg_node_is_rebooted_as_planned_for_longer_than_the_grace_period(whole: Whole) -> None:
    await whole.claim(grace=5)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    await whole.maintain(leg.node, "Reboot", seconds=300)
    await whole.until(lambda: whole.may_go(leg.node) == "CopiesElsewhere")
    await whole.power_off(leg.node)
    await whole.until(lambda: whole.snode(leg.node).status.phase == "Failed", seconds=100)
    assert f"leg {leg.id} on {leg.node} is absent as planned until" in whole.vvol("v1").status.message
    written = max(whole.acknowledged.values())
    await whole.pass_time(60)
    assert max(whole.acknowledged.values()) > written + 50, "reads and writes go on"
    await whole.power_on(leg.node)
    await whole.until(lambda: whole.vvol("v1").status.copies == "2/2", seconds=100)
    await whole.kube.merge(StorageNode, leg.node, {"spec": {"maintenance": None}})
    await whole.until(lambda: whole.may_go(leg.node) == "")
    whole.checks.clear()
    await whole.pass_time(2)
    assert whole.vvol("v1").status.next_leg == 2, "no spare was ever made"
    assert [q.spec.reason for q in whole.quiescences()] == ["Reconfigure"], (
        "its leg was taken back, nothing else changed"
    )
    added = [step for step in whole.world.steps if "md add" in step]
    assert added
    assert all(step.endswith("delta") for step in added), added
    whole.verify()


async def test_a_node_that_is_not_back_in_time_is_replaced(whole: Whole) -> None:
    await whole.claim(grace=5)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    await whole.maintain(leg.node, "Reboot", seconds=100)
    await whole.power_off(leg.node)
    await whole.pass_time(95)
    assert whole.vvol("v1").status.spares == []
    await whole.until(lambda: whole_again(whole, 2), seconds=200)
    whole.checks.clear()
    await whole.pass_time(2)
    assert whole.may_go(leg.node) == "Over"
    whole.verify()


async def test_a_node_is_emptied_while_a_pod_writes(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    fewest: list[int] = []
    whole.checks.append(lambda: fewest.append(len(whole.in_sync("v1"))))
    await whole.maintain(leg.node, "Retire")
    await whole.until(lambda: whole.may_go(leg.node) == "LegsHere")
    await whole.until(lambda: whole.may_go(leg.node) == "Empty", seconds=200)
    assert min(fewest) == 2, "never with one copy less"
    for slot in ("nvme1", "nvme2"):
        await whole.kube.delete(StorageDevice, f"{leg.node}-{slot}")
    await whole.pass_time(10)
    assert leg.node in whole.raw("storagenodes"), "it is there, and would only be made anew"
    await whole.power_off(leg.node)
    await whole.until(lambda: leg.node not in whole.raw("storagenodes"), seconds=100)
    whole.checks.clear()
    await whole.pass_time(2)
    whole.verify()


async def test_a_copy_is_added_and_taken_away_while_a_pod_writes(whole: Whole) -> None:
    await whole.claim(copies=1)
    await whole.use()
    whole.checks.append(whole.scribble)
    await whole.kube.merge(VirtualVolume, "v1", {"spec": {"layout": {"copies": 2}}})
    await whole.until(lambda: whole.vvol("v1").status.copies == "2/2", seconds=200)
    await whole.pass_time(3)
    await whole.kube.merge(VirtualVolume, "v1", {"spec": {"layout": {"copies": 1}}})
    await whole.until(lambda: len(whole.vvol("v1").status.mapping.legs) == 1, seconds=200)
    whole.checks.clear()
    await whole.pass_time(2)
    assert whole.vvol("v1").status.copies == "1/1"
    whole.verify()


async def test_a_node_that_was_taken_for_dead_finds_itself_fenced(whole: Whole) -> None:
    """n1 runs on, cut off from the API server; its volume moves to n3; nothing n1 does there is acknowledged."""
    await whole.claim(grace=600)
    await whole.use()
    whole.checks.append(whole.scribble)
    await whole.pass_time(3)
    whole.checks.clear()
    whole.note()
    await whole.kill("n1")
    await whole.kube.raw("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}, "status": _not_ready()})
    await whole.until(lambda: whole.snode("n1").status.phase == "Failed", seconds=100)
    await whole.want("v1", "")
    await whole.until(lambda: whole.vvol("v1").status.attachment.node == "")
    await whole.until(lambda: whole.report("v1", "n2").epoch == 2)
    late = whole.write("n1", "v1", 60, 999)
    await whole.use("n3")
    await whole.pass_time(5)
    assert late.state != "acknowledged"
    assert whole.states("v1")["a"] == "Rebuilding"
    assert whole.read("n3", "v1", 60) != 999
    for block, value in whole.acknowledged.items():
        read = whole.read("n3", "v1", block)
        assert read is not None
        assert read >= value


async def test_a_pod_moves_from_a_dead_node_which_comes_back_by_a_delta(whole: Whole) -> None:
    """Nobody but the master acts: the volume is taken from n1, fenced, and free for n3; then n1 boots again."""
    await whole.claim(grace=600)
    await whole.use()
    await whole.pod_on("n1")
    whole.checks.append(whole.scribble)
    await whole.pass_time(5)
    whole.checks.clear()
    whole.note()
    await whole.power_off("n1")
    whole.pending.clear()
    await whole.kube.raw("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}, "status": _not_ready()})
    await whole.until(lambda: not whole.raw("pods"), seconds=100)
    at = whole.vvol("v1").status.attachment
    assert (at.node, at.epoch, at.clean, at.previous) == ("", 2, False, 1)
    assert whole.report("v1", "n2").epoch == 2, "fenced first"
    await whole.use("n3")
    before = dict(whole.acknowledged)
    whole.checks.append(lambda: whole.scribble("n3"))
    await whole.pass_time(5)
    await whole.power_on("n1")
    await whole.kube.raw("DELETE", "/api/v1/nodes/n1")
    await whole.until(lambda: len(whole.in_sync("v1")) == 2, seconds=200)
    whole.checks.clear()
    await whole.pass_time(2)
    volume = whole.vvol("v1")
    assert [leg.id for leg in volume.status.mapping.legs] == ["a", "b"], "no spare"
    assert volume.status.mapping.generation == 1
    added = [step for step in whole.world.steps if "md add" in step]
    assert added, "its leg was taken back"
    assert all(step.endswith("delta") for step in added), added
    assert before.keys() <= whole.acknowledged.keys()
    whole.verify("n3")


def _not_ready() -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": "Unknown"}]}


async def test_all_nodes_are_switched_off_and_nothing_is_copied_afterwards(whole: Whole) -> None:
    await whole.claim(grace=5)
    await whole.use()
    whole.checks.append(whole.scribble)
    await whole.pass_time(5)
    whole.checks.clear()
    for node in whole.nodes:
        work = {"intent": "Shutdown", "bootId": whole.snode(node).status.boot_id}
        await whole.kube.merge(StorageNode, node, {"spec": {"maintenance": work}})
    await whole.until(lambda: whole.may_go("n1") == "InUse")
    await whole.want("v1", "")
    await whole.until(lambda: all(whole.may_go(node) == "Down" for node in whole.nodes))
    await whole.want("v1", "n1")
    await whole.pass_time(5)
    assert whole.vvol("v1").status.attachment.node == "", "whoever starts too early waits"
    for node in whole.nodes:
        await whole.power_off(node)
    await whole.pass_time(90)
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    first, late = [node for node in whole.nodes if node != leg.node], leg.node
    for node in first:
        await whole.power_on(node)
    await whole.until(lambda: whole.may_go("n1") == "Back")
    await whole.pass_time(30)
    assert whole.vvol("v1").status.attachment.node == "", "not without a leg that only is not switched on yet"
    before = len(whole.world.steps)
    await whole.power_on(late)
    await whole.until(lambda: whole.report("v1", "n1").front == "Active", seconds=100)
    whole.checks.append(whole.scribble)
    await whole.pass_time(5)
    whole.checks.clear()
    await whole.pass_time(2)
    assert whole.vvol("v1").status.copies == "2/2"
    assert whole.vvol("v1").status.next_leg == 2
    assert whole.quiescences() == [], "nothing was changed"
    assert not [step for step in whole.world.steps[before:] if "md add" in step], "nothing was copied"
    whole.verify()
