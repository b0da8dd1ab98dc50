"""What the tests of the master's planners are about: a volume in two copies, its devices, its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millpond_core import names
from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import volume
from millpond_core.master.steps import Act, Patch, Refuse, Wait
from millpond_core.master.world import Health, Object, World
from millpond_core.model import Condition, ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, QuiescenceStatus, Scope, TimelineEntry
from millpond_core.model.storagedevice import DeviceObservation, StorageDeviceSpec, StorageDeviceStatus
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.model.virtualvolume import (
    Attachment,
    DesiredAttachment,
    Extent,
    Layout,
    Leg,
    LegReport,
    Mapping,
    NodeReport,
    OnFailure,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.patches import json_patch
from millpond_core.units import UNIT_BYTES

NOW = 1_800_000_000.0
VID = "4f1c0000-0000-4000-8000-000000000001"
NODES = ("n1", "n2", "n3")
Change = Callable[[dict[str, Any]], None]


def meta(name: str, **fields: Any) -> ObjectMeta:
    return ObjectMeta(name=name, uid=f"uid-{name}", resource_version="7", generation=1, **fields)


def device(name: str, at: str, state: Any = "Claimed", *, since: float = NOW - 1000, **spec: Any) -> StorageDevice:
    return StorageDevice(
        metadata=meta(name, finalizers=[names.FINALIZER]),
        spec=StorageDeviceSpec(node_name=at, **spec),
        status=StorageDeviceStatus(
            observed_generation=1,
            phase="Online",
            observation=DeviceObservation(
                state=state, device_uuid=f"u-{name}", capacity_bytes=256 * UNIT_BYTES, since=stamp(since)
            ),
        ),
    )


def leg(id_: str, at: str, state: Any = "InSync", *, disk: str = "d1", releasing: bool = False) -> Leg:
    extent = Extent(device=f"{at}-{disk}", device_uuid=f"u-{at}-{disk}", start=0, length=5)
    return Leg(id=id_, node=at, state=state, complete=True, releasing=releasing, extents=[extent])


def report(at: str, *legs: str, epoch: int = 1, front: Any = "None", **fields: Any) -> NodeReport:
    known = [
        LegReport(id=one, prepared=True, incarnation="i1", nqn=names.subsystem_nqn(VID, one, epoch, "i1"))
        for one in legs
    ]
    return NodeReport(node=at, epoch=epoch, front=front, **{"legs": known, "generation": 1, **fields})


def mapped(**status: Any) -> VirtualVolume:
    """A volume with two legs, attached to n1; nothing is to be done for it."""
    wanted = status.pop("wanted", "n1")
    on_failure = OnFailure(grace_period_seconds=60)
    copies = status.pop("copies_wanted", 2)
    fields: dict[str, Any] = {
        "observed_generation": 1,
        "phase": "Ready",
        "size_bytes": 16 * 1024 * 1024,
        "next_leg": 2,
        "mapping": Mapping(generation=1, record_seq=1, legs=[leg("a", "n1"), leg("b", "n2")]),
        "attachment": Attachment(node="n1", epoch=1, clean=False, boot_id="boot-n1"),
        "nodes": [report("n1", "a", front="Active"), report("n2", "b")],
        **status,
    }
    there = {*NODES} if status.get("spares") else {"n1", "n2"}
    labels = {names.node_label(one): "" for one in sorted(there | ({wanted} - {""}))}
    return VirtualVolume(
        metadata=meta("v1", labels=labels, annotations={names.ANNOTATION_ALLOCATED: VID}, finalizers=[names.FINALIZER]),
        spec=VirtualVolumeSpec(
            uuid=VID,
            size="16Mi",
            layout=Layout(copies=copies),
            on_failure=on_failure,
            attachment=DesiredAttachment(node=wanted),
        ),
        status=VirtualVolumeStatus(**fields),
    )


def legs(*there: Leg, generation: int = 1) -> Mapping:
    return Mapping(generation=generation, record_seq=3, legs=list(there))


def degraded(since: float) -> list[Condition]:
    when = seconds_stamp(since)
    return [Condition(type="Degraded", status="True", reason="FewerCopies", last_transition_time=when)]


def world(*objects: Object, **health: Health) -> World:
    """Three nodes with two devices each, and ``objects`` in place of what has their names."""
    base: list[Object] = [
        StorageNode(metadata=meta(one), status=StorageNodeStatus(boot_id=f"boot-{one}", phase="Ready")) for one in NODES
    ]
    base += [device(f"{one}-d{number}", one) for one in NODES for number in (1, 2)]
    made = World([*base, *objects])
    made.health = health
    return made


def quiescence(name: str, phase: Any, *, at: float = NOW, own: bool = True, **fields: Any) -> Quiescence:
    volumes = fields.pop("volumes", ["v1"])
    return Quiescence(
        metadata=meta(
            name,
            labels={names.LABEL_MADE_BY: names.MASTER} if own else {},
            creation_timestamp=seconds_stamp(fields.pop("created", at)),
        ),
        spec=QuiescenceSpec(reason=fields.pop("reason", "DeviceFailed"), scope=Scope(volumes=volumes)),
        status=QuiescenceStatus(
            phase=phase,
            volumes=volumes,
            timeline=[TimelineEntry(phase="Instructed", at=stamp(at)), TimelineEntry(phase=phase, at=stamp(at))],
            **{"participants": ["n1"], **fields},
        ),
    )


def decided(there: World, now: float = NOW) -> Act | Wait | Refuse:
    return volume.decide(there, there.volumes["v1"], now)


def patched(there: World, now: float = NOW) -> VirtualVolume:
    """The volume after its one next step, a patch."""
    decision = decided(there, now)
    assert isinstance(decision, Act), decision
    assert isinstance(decision.step, Patch), decision.step
    before = msgspec.to_builtins(there.volumes["v1"])
    return msgspec.convert(json_patch(before, decision.step.operations), VirtualVolume)


def lost(at: str, *, since: float, state: Any = "Failed") -> StorageDevice:
    return device(f"{at}-d1", at, state, since=since)


STALE = legs(leg("a", "n1"), leg("b", "n2", "Stale"))
SPARE = msgspec.structs.replace(leg("c", "n3", "Rebuilding"), complete=False)
FAILED_NODE = Health("Failed", NOW - 100, "silent", heard=NOW - 200)
