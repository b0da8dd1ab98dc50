"""State managers that do what the protocol says, without a kernel: their reports are all that the master sees.

``Nodes.act`` lets each node look at the objects once and report what follows. Faults are fields: a device pulled, a
node that is silent, one that never becomes still.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.instants import stamp
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.storagedevice import DiskWarning, Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import (
    DesiredAttachment,
    Layout,
    Leg,
    OnFailure,
    Placement,
    VirtualVolumeSpec,
)
from millpond_core.ports import Kube
from millpond_core.units import UNIT_BYTES

START = 1_800_000_000.0
UUID = "4f1c0000-0000-4000-8000-0000000000{:02d}"


class FakeClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    def boottime(self) -> float:
        return self.time - START + 100.0

    def pass_(self, seconds: float) -> None:
        self.time += seconds


def device_uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


@dataclass
class Disk:
    """A disk as its node sees it."""

    units: int
    state: str = "Claimed"
    since: float = START
    attach_count: int = 1
    warnings: tuple[DiskWarning, ...] = ()


@dataclass
class Node:
    name: str
    boot: int = 1
    silent: bool = False
    restless: bool = False
    """Never becomes still."""
    slow_rebuild: bool = False
    """Rebuilding legs stay so."""
    pods_run_on: bool = False
    """What was taken from it stays open: its pods do not end."""
    mute: bool = False
    """Heard of, but confirms nothing."""
    records: bool = True
    """Whether it records what is lost (its record reaches the API server)."""
    confirmed: dict[str, int] = field(default_factory=dict)
    stood: dict[str, int] = field(default_factory=dict)
    """Volume → epoch of the assembly that stands here."""
    clean: dict[str, int] = field(default_factory=dict)
    paths: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    @property
    def boot_id(self) -> str:
        return f"boot-{self.name}-{self.boot}"


class Nodes:
    """The cluster around the master."""

    def __init__(self, kube: Kube, clock: FakeClock) -> None:
        self.kube: Kube = kube
        self.clock = clock
        self.nodes: dict[str, Node] = {}
        self.disks: dict[str, Disk] = {}
        self.reachable: set[str] = set()
        """Silent nodes whose data path runs on."""

    # --- what people do ---

    async def add_node(self, name: str, labels: dict[str, str] | None = None) -> None:
        self.nodes[name] = Node(name)
        await self.kube.create(StorageNode(metadata=ObjectMeta(name=name, labels=labels or {})))
        await self.act()

    async def add_device(self, name: str, node: str, units: int = 256, pool: str = "default") -> None:
        self.disks[name] = Disk(units)
        await self.kube.create(
            StorageDevice(
                metadata=ObjectMeta(name=name),
                spec=StorageDeviceSpec(node_name=node, identity=Identity(serial=name), pool=pool),
            )
        )
        await self.act()

    async def add_volume(
        self, name: str, number: int = 1, *, size: str = "400Mi", copies: int = 2, grace: int = 60, **placement: Any
    ) -> None:
        await self.kube.create(
            VirtualVolume(
                metadata=ObjectMeta(name=name),
                spec=VirtualVolumeSpec(
                    uuid=UUID.format(number),
                    size=size,
                    layout=Layout(copies=copies),
                    placement=Placement(**placement),
                    on_failure=OnFailure(grace_period_seconds=grace),
                    attachment=DesiredAttachment(),
                ),
            )
        )

    async def want(self, volume: str, node: str) -> None:
        await self.kube.merge(VirtualVolume, volume, {"spec": {"attachment": {"node": node}}})

    def pull(self, disk: str, state: str = "Failed") -> None:
        self.disks[disk].state, self.disks[disk].since = state, self.clock.now()

    def plug(self, disk: str) -> None:
        self.pull(disk, "Claimed")
        self.disks[disk].attach_count += 1

    def reboot(self, node: str) -> None:
        self.nodes[node].boot += 1
        self.nodes[node].stood.clear()

    # --- what nodes do ---

    async def act(self) -> None:
        """Each node looks and reports once."""
        for node in self.nodes.values():
            if not node.silent:
                await self._beat(node)
        for node in self.nodes.values():
            if node.silent:
                continue
            for device in await self.kube.list(StorageDevice):
                if device.spec.node_name == node.name and device.metadata.name in self.disks:
                    await self._observe(node, device)
            for volume in await self.kube.list(VirtualVolume, labels=names.node_label(node.name)):
                await self._record(node, volume.metadata.name)
                if not node.mute:
                    await self._report(node, volume.metadata.name)
            await self._answer(node)

    async def _beat(self, node: Node) -> None:
        manager = names.node_manager(node.name)
        await self.kube.renew_lease(manager, node.name, 20)

    async def _observe(self, node: Node, device: StorageDevice) -> None:
        name = device.metadata.name
        disk = self.disks[name]
        there = disk.state == "Claimed"
        observation = {
            "state": disk.state,
            "deviceUuid": device_uuid(name),
            "attachCount": disk.attach_count,
            "capacityBytes": disk.units * UNIT_BYTES,
            "since": stamp(disk.since),
            "warnings": [*disk.warnings],
            "message": "" if there else "unplugged",
        }
        manager = names.node_manager(node.name)
        await self.kube.apply_status(StorageDevice, name, {"observation": observation}, manager=manager)

    def _alive(self, leg: Leg) -> bool:
        cut = self.nodes[leg.node].silent and leg.node not in self.reachable
        return not cut and all(self.disks[extent.device].state == "Claimed" for extent in leg.extents)

    async def _record(self, node: Node, name: str) -> None:
        """The attach node's part of the record: Stale what is lost, InSync what is rebuilt."""
        volume = await self.kube.get(VirtualVolume, name)
        at = volume.status.attachment
        if at.node != node.name or not node.records or node.stood.get(name) != at.epoch:
            return
        for index, leg in enumerate(volume.status.mapping.legs):
            new = ""
            if leg.releasing or leg.state == "Failed":
                continue
            others = [
                o for o in volume.status.mapping.legs if o.id != leg.id and o.state == "InSync" and self._alive(o)
            ]
            if leg.state == "InSync" and not self._alive(leg) and others:
                new = "Stale"
            halted = await self._instructed(node, volume)
            if leg.state == "Rebuilding" and self._alive(leg) and not node.slow_rebuild and others and not halted:
                new = "InSync"
            if new:
                path, seq = f"/status/mapping/legs/{index}", volume.status.mapping.record_seq
                await self.kube.patch(
                    VirtualVolume,
                    name,
                    [
                        {"op": "test", "path": "/status/attachment/epoch", "value": at.epoch},
                        {"op": "test", "path": "/status/mapping/recordSeq", "value": seq},
                        {"op": "test", "path": f"{path}/id", "value": leg.id},
                        {"op": "test", "path": f"{path}/state", "value": leg.state},
                        {"op": "replace", "path": f"{path}/state", "value": new},
                        {"op": "replace", "path": "/status/mapping/recordSeq", "value": seq + 1},
                    ],
                    status=True,
                )
                volume = await self.kube.get(VirtualVolume, name)

    async def _report(self, node: Node, name: str) -> None:
        volume = await self.kube.get(VirtualVolume, name)
        mapping, at = volume.status.mapping, volume.status.attachment
        legs = []
        known = {leg.id for leg in mapping.legs}
        spares = [spare for spare in volume.status.spares if spare.id not in known]
        for leg in (*mapping.legs, *spares):
            if leg.node != node.name:
                continue
            life = f"{node.boot}-{'-'.join(str(self.disks[e.device].attach_count) for e in leg.extents)}"
            there = self._alive(leg)
            nqn = ""
            if at.node not in ("", node.name) and there and not leg.releasing and leg.state != "Failed":
                nqn = names.subsystem_nqn(volume.spec.uuid, leg.id, at.epoch, life)
            legs.append(
                {
                    "id": leg.id,
                    "prepared": there and not leg.releasing,
                    "nqn": nqn,
                    "incarnation": life,
                    "released": leg.releasing and there,
                }
            )
        report: dict[str, Any] = {
            "node": node.name,
            "bootId": node.boot_id,
            "epoch": at.epoch,
            "front": "None",
            "legs": legs,
            "recordSeq": mapping.record_seq,
        }
        if at.node == node.name and volume.spec.attachment.node == node.name:
            if node.stood.get(name) == at.epoch or self._may_assemble(node, volume):
                node.stood[name] = at.epoch
                report |= {"device": "/dev/mapper/x", **self._stands(node, volume)}
                report["paths"] = [
                    self._path(node, name, leg)
                    for leg in mapping.legs
                    if leg.state in ("InSync", "Rebuilding") and not leg.releasing
                ]
        elif name in node.stood and node.pods_run_on and node.stood[name] < at.epoch:
            report["front"] = "Fenced"
        elif name in node.stood:
            node.clean[name] = node.stood.pop(name)
            self._left(node, name)
        report["cleanEpoch"] = node.clean.get(name, 0)
        await self.kube.apply_status(VirtualVolume, name, {"nodes": [report]}, manager=names.node_manager(node.name))

    def _stands(self, node: Node, volume: VirtualVolume) -> dict[str, Any]:
        """What the attach node says of a volume that stands there."""
        return {"front": "Active", "generation": volume.status.mapping.generation}

    def _left(self, node: Node, volume: str) -> None:
        """A volume is detached in good order."""

    def _path(self, node: Node, volume: str, leg: Leg) -> dict[str, str]:
        state = "Up" if self._alive(leg) else "Down"
        known, since = node.paths.get((volume, leg.id), ("", 0.0))
        if known != state:
            since = self.clock.now()
            node.paths[volume, leg.id] = (state, since)
        return {"id": leg.id, "path": state, "since": stamp(since)}

    def _may_assemble(self, node: Node, volume: VirtualVolume) -> bool:
        at = volume.status.attachment
        return at.boot_id in ("", node.boot_id)

    async def _instructed(self, node: Node, volume: VirtualVolume) -> bool:
        there = await self.kube.get(StorageNode, node.name)
        for name in filter(None, there.metadata.annotations.get(names.ANNOTATION_QUIESCE, "").split(",")):
            try:
                q = await self.kube.get(Quiescence, name)
            except NotFound:
                continue
            if volume.metadata.name in q.status.volumes and q.status.phase != "Reconfigured":
                return True
        return False

    async def _answer(self, node: Node) -> None:
        there = await self.kube.get(StorageNode, node.name)
        answers = []
        for name in filter(None, there.metadata.annotations.get(names.ANNOTATION_QUIESCE, "").split(",")):
            try:
                q = await self.kube.get(Quiescence, name)
            except NotFound:
                continue
            if node.name not in q.status.participants:
                continue
            old = next((a for a in there.status.quiescences if a.uid == q.metadata.uid), None)
            phase = "Draining" if old is None or node.restless else "Quiesced"
            if q.status.phase == "Reconfigured":
                phase = "Applied"
            now = stamp(self.clock.now())
            left = q.spec.deadline_seconds * 1000 if q.spec.hold_io else 0
            answer = {
                "uid": q.metadata.uid,
                "name": name,
                "phase": phase,
                "acknowledgedAt": (old.acknowledged_at if old else "") or ("" if phase == "Draining" else now),
                "holdRemainingMs": left,
                "heldMs": 7 if q.spec.hold_io else 0,
            }
            answers.append(answer)
        status = {"bootId": node.boot_id, "addresses": ["10.0.0.1"], "quiescences": answers}
        await self.kube.apply_status(StorageNode, node.name, status, manager=names.node_manager(node.name))
