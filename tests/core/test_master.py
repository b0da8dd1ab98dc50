"""The master's planners, one decision at a time: from objects and a time to the one next step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from millpond_core import names
from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import changes, deleting, node, planner, volume, volume_status
from millpond_core.master.node import Heartbeat
from millpond_core.master.steps import Act, Apply, Create, Merge, Patch, Refuse, Wait, resting
from millpond_core.master.world import Health, Object, World
from millpond_core.model import Condition, ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, QuiescenceStatus, Scope, TimelineEntry
from millpond_core.model.storagedevice import DeviceObservation, StorageDeviceSpec, StorageDeviceStatus
from millpond_core.model.storagenode import Maintenance, StorageNodeSpec, StorageNodeStatus
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
    PathReport,
    Scrub,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.testing.patches import json_patch
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


@pytest.mark.parametrize(
    ("there", "now", "wait"),
    [
        pytest.param(world(mapped()), NOW, Wait(), id="nothing-to-do"),
        pytest.param(
            world(mapped(), lost("n2", since=NOW - 10)),
            NOW,
            Wait(until=NOW + 50),
            id="a-lost-device-may-return-until-the-grace-period-ends",
        ),
        pytest.param(
            world(mapped(mapping=STALE), n2=Health("StateManagerDown", NOW - 500)),
            NOW,
            Wait(until=NOW + volume.LISTEN_SECONDS),
            id="a-silent-state-manager-is-nothing-to-rebuild-for",
        ),
        pytest.param(
            world(mapped(mapping=STALE, conditions=degraded(NOW - 5)), n2=Health(heard=NOW - 6)),
            NOW,
            Wait(until=NOW + volume.LISTEN_SECONDS),
            id="what-a-node-said-before-its-leg-was-lost-is-not-its-return",
        ),
        pytest.param(
            world(mapped(mapping=legs(leg("a", "n1", "Rebuilding"), leg("b", "n2"))), lost("n2", since=NOW - 999)),
            NOW,
            Wait(),
            id="the-last-copy-is-never-given-up",
        ),
        pytest.param(
            world(
                mapped(
                    mapping=legs(leg("a", "n1", "Rebuilding"), leg("b", "n2")),
                    spares=[SPARE],
                    nodes=[report("n1", "a", front="Active"), report("n2"), report("n3", "c")],
                ),
                lost("n2", since=NOW - 999),
            ),
            NOW,
            Wait(),
            id="not-even-for-a-spare-that-is-ready",
        ),
    ],
)
def test_what_is_waited_for(there: World, now: float, wait: Wait) -> None:
    assert decided(there, now) == wait


def test_a_lost_leg_gets_a_spare_when_the_grace_period_is_over() -> None:
    there = world(mapped(mapping=STALE), lost("n2", since=NOW - 61))
    labelled = decided(there)
    assert isinstance(labelled, Act)
    assert isinstance(labelled.step, Merge), "the node finds the volume by its label before there is a spare"
    there.put(mapped(mapping=STALE, spares=[]))
    volume_ = there.volumes["v1"]
    labels = {**volume_.metadata.labels, **labelled.step.patch["metadata"]["labels"]}
    there.put(msgspec.structs.replace(volume_, metadata=msgspec.structs.replace(volume_.metadata, labels=labels)))
    after = patched(there)
    [spare] = after.status.spares
    assert (spare.id, spare.state, spare.complete) == ("c", "Rebuilding", False)
    assert spare.node == "n3", "a copy lies on n1 already, and n2 has just lost one"
    assert after.status.next_leg == 3
    assert after.status.mapping == STALE, "nothing changes but through a quiescence"


@pytest.mark.parametrize(
    ("status", "health", "reason"),
    [
        pytest.param({}, {}, "DeviceFailed", id="its-device-failed"),
        pytest.param({"claimed": True}, {"n2": FAILED_NODE}, "NodeFailed", id="its-node-failed"),
    ],
)
def test_a_prepared_spare_calls_for_a_quiescence(
    status: dict[str, Any], health: dict[str, Health], reason: str
) -> None:
    spared = mapped(
        mapping=STALE,
        spares=[SPARE],
        next_leg=3,
        nodes=[
            report("n1", "a", front="Active", paths=[PathReport(id="a", path="Up")]),
            report("n2"),
            report("n3", "c"),
        ],
    )
    there = world(spared, *([] if status.get("claimed") else [lost("n2", since=NOW - 99)]), **health)
    decision = decided(there, NOW + 60)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Create)
    made = decision.step.obj
    assert isinstance(made, Quiescence)
    assert made.spec.reason == reason
    assert made.spec.scope.volumes == ["v1"]
    assert made.metadata.labels[names.LABEL_MADE_BY] == names.MASTER
    assert decided(world(spared, *there.devices.values(), made, **health), NOW + 60) == Wait(
        "Quiescing", f"quiescence {made.metadata.name} is under way"
    )


def test_nothing_is_changed_while_the_attach_node_reaches_no_leg_in_sync() -> None:
    """What is retired is given back soon after: there must be a leg that the volume is living on."""
    attached = [
        report("n1", "a", front="Active", paths=[PathReport(id="a", path="Down")]),
        report("n2"),
        report("n3", "c"),
    ]
    spared = mapped(mapping=STALE, spares=[SPARE], next_leg=3, nodes=attached)
    assert changes.ready(world(spared, lost("n2", since=NOW - 99)), spared, NOW + 60) is None


def test_the_commit_names_all_that_it_was_decided_from() -> None:
    before = mapped(mapping=STALE, spares=[SPARE], next_leg=3)
    change = changes.Change("DeviceFailed", retire=("b",), adopt=("c",))
    operations = changes.operations(before, change)
    document = msgspec.to_builtins(before)
    after = msgspec.convert(json_patch(document, operations), VirtualVolume).status
    assert (after.mapping.generation, after.mapping.record_seq) == (2, 4)
    assert [(one.id, one.state, one.releasing) for one in after.mapping.legs] == [
        ("a", "InSync", False),
        ("b", "Failed", True),
        ("c", "Rebuilding", False),
    ]
    assert after.spares == []
    tested = {operation["path"] for operation in operations if operation["op"] == "test"}
    assert tested == {
        "/status/mapping/generation",
        "/status/mapping/recordSeq",
        "/status/attachment/epoch",
        "/status/attachment/node",
        "/status/mapping/legs/1/id",
        "/status/mapping/legs/1/state",
        "/status/nextLeg",
        "/status/spares/0/id",
        "/status/spares/0/releasing",
    }


@pytest.mark.parametrize(
    ("volume_", "health", "after"),
    [
        pytest.param(
            mapped(wanted="n3", attachment=Attachment(epoch=4), nodes=[report("n1", "a"), report("n2", "b")]),
            {},
            {"node": "n3", "epoch": 5, "states": ["InSync", "InSync"]},
            id="attached-after-a-clean-end",
        ),
        pytest.param(
            mapped(
                attachment=Attachment(epoch=4, clean=False),
                nodes=[report("n1", "a", record_seq=1), report("n2", "b", record_seq=1)],
            ),
            {},
            {"node": "n1", "epoch": 5, "states": ["InSync", "Rebuilding"]},
            id="after-an-unclean-end-the-local-leg-is-the-source",
        ),
        pytest.param(
            mapped(
                attachment=Attachment(epoch=4, clean=False),
                nodes=[report("n1", "a", record_seq=1), report("n2", "b", record_seq=2)],
            ),
            {},
            {"node": "n1", "epoch": 5, "states": ["Rebuilding", "InSync"]},
            id="or-the-one-that-knows-the-latest-record",
        ),
        pytest.param(
            mapped(wanted="n3", attachment=Attachment(epoch=4, clean=False)),
            {"n1": FAILED_NODE},
            {"node": "n3", "epoch": 5, "states": ["Rebuilding", "InSync"]},
            id="never-one-on-a-node-that-has-failed",
        ),
        pytest.param(
            mapped(attachment=Attachment(node="n1", epoch=4, clean=False, boot_id="the boot before")),
            {},
            {"node": "n1", "epoch": 5, "previous": 4, "states": ["InSync", "Rebuilding"]},
            id="a-node-that-rebooted-attaches-anew",
        ),
        pytest.param(
            mapped(
                attachment=Attachment(epoch=4, previous=4),
                nodes=[report("n1", "a", epoch=9), report("n2", "b", epoch=4)],
            ),
            {},
            {"node": "n1", "epoch": 10, "previous": 0, "states": ["InSync", "InSync"]},
            id="an-epoch-that-anyone-has-noted-is-not-used-again",
        ),
        pytest.param(
            mapped(wanted="", nodes=[report("n1", "a", clean_epoch=1), report("n2", "b")]),
            {},
            {"node": "", "epoch": 1, "clean": True},
            id="detached-when-the-node-says-so",
        ),
        pytest.param(
            mapped(wanted=""),
            {"n1": FAILED_NODE},
            {"node": "", "epoch": 2, "clean": False, "previous": 1},
            id="taken-from-a-failed-node-by-a-higher-epoch",
        ),
        pytest.param(
            mapped(wanted="n3", attachment=Attachment(epoch=2, clean=False, previous=1)),
            {"n1": FAILED_NODE},
            {"node": "n3", "epoch": 3, "previous": 1, "states": ["Rebuilding", "InSync"]},
            id="the-epoch-that-fenced-it-had-no-writer",
        ),
        pytest.param(
            mapped(
                wanted="n3",
                attachment=Attachment(epoch=4, clean=False),
                nodes=[report("n1", "a", record_seq=2), report("n2", "b", record_seq=1)],
            ),
            {"n1": Health("StateManagerDown")},
            {"node": "n3", "epoch": 5, "states": ["Rebuilding", "InSync"]},
            id="nor-one-whose-node-cannot-confirm",
        ),
        pytest.param(
            mapped(wanted="", attachment=Attachment(node="n1", epoch=1, clean=False, boot_id="the boot before")),
            {},
            {"node": "", "epoch": 1, "clean": False},
            id="detached-from-a-node-that-rebooted",
        ),
    ],
)
def test_attachments(volume_: VirtualVolume, health: dict[str, Health], after: dict[str, Any]) -> None:
    status = patched(world(volume_, **health)).status
    assert (status.attachment.node, status.attachment.epoch) == (after["node"], after["epoch"])
    assert status.attachment.clean == after.get("clean", False)
    assert status.attachment.previous == after.get("previous", status.attachment.previous)
    if "states" in after:
        assert [one.state for one in status.mapping.legs] == after["states"]
    assert status.mapping.generation == 1


@pytest.mark.parametrize(
    ("there", "reason", "said"),
    [
        pytest.param(world(mapped(wanted="")), "Detaching", "waits for n1 to take the volume down", id="detaching"),
        pytest.param(
            world(mapped(wanted="n3", attachment=Attachment(epoch=1)), n3=Health("Failed", NOW)),
            "AttachNodeSilent",
            "cannot be attached to n3",
            id="a-failed-node-attaches-nothing",
        ),
        pytest.param(
            world(mapped(wanted="n3", attachment=Attachment(epoch=1)), StorageNode(metadata=meta("n3"))),
            "AttachNodeSilent",
            "n3: it has not reported its boot yet",
            id="an-attachment-belongs-to-a-boot",
        ),
        pytest.param(
            world(mapped(attachment=Attachment(epoch=1)), quiescence("q", "Quiesced", own=False)),
            "Quiescing",
            "when quiescence q is over",
            id="attaching-waits-for-a-quiescence",
        ),
        pytest.param(
            world(mapped(attachment=Attachment(epoch=1)), lost("n1", since=NOW), lost("n2", since=NOW)),
            "",
            "",
            id="a-volume-out-of-reach-is-not-usable",
        ),
    ],
)
def test_attachments_that_wait(there: World, reason: str, said: str) -> None:
    decision = decided(there)
    assert isinstance(decision, Wait)
    assert decision.reason == reason
    assert said in decision.message


@pytest.mark.parametrize(
    ("volume_", "category", "said"),
    [
        pytest.param(
            VirtualVolume(metadata=meta("v1"), spec=VirtualVolumeSpec(uuid=VID, size="lots")),
            "Invalid",
            "'lots' is no size",
            id="impossible-size",
        ),
        pytest.param(
            VirtualVolume(metadata=meta("v1"), spec=VirtualVolumeSpec(uuid=VID, size="5Gi", layout=Layout(copies=2))),
            "NoRoom",
            "needs 5Gi on each of 2 more node(s), 0 found: n1-d1 (n1): 1Gi free, 4Gi short",
            id="no-room-and-how-much-is-missing-where",
        ),
        pytest.param(
            VirtualVolume(
                metadata=meta("v1", annotations={names.ANNOTATION_ALLOCATED: VID}),
                spec=VirtualVolumeSpec(uuid=VID, size="1Gi"),
            ),
            "MappingLost",
            "not allocated again",
            id="allocated-but-without-a-mapping",
        ),
    ],
)
def test_refusals(volume_: VirtualVolume, category: str, said: str) -> None:
    decision = decided(world(volume_))
    assert isinstance(decision, Refuse)
    assert decision.category == category
    assert said in decision.message


STRIPED = msgspec.structs.replace(
    leg("a", "n1", "Failed", releasing=True),
    extents=[Extent(device=f"n1-d{n}", device_uuid=f"u-n1-d{n}", start=0, length=5) for n in (1, 2)],
)
GIVEN_UP = {"deletion_timestamp": "2027-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("said", "dead", "given_back"),
    [
        pytest.param({"released": True}, None, True, id="by-its-nodes-word"),
        pytest.param(
            {"unmapped": True, "kept_on": ["n1-d1"]}, device("n1-d1", "n1", "Failed"), False, id="not-given-up"
        ),
        pytest.param(
            {"unmapped": True, "kept_on": ["n1-d1"]}, (GIVEN_UP, "Failed"), True, id="the-dead-one-is-deleted"
        ),
        pytest.param({"unmapped": True, "kept_on": ["n1-d1"]}, (GIVEN_UP, "Claimed"), False, id="deleted-but-alive"),
        pytest.param({"unmapped": True, "kept_on": ["n1-d2"]}, (GIVEN_UP, "Failed"), False, id="the-live-one-has-it"),
        pytest.param({"kept_on": ["n1-d1"]}, (GIVEN_UP, "Failed"), False, id="its-mapping-stands"),
        pytest.param({"unmapped": True, "kept_on": ["n1-d1"]}, "gone", True, id="the-dead-one-is-gone-for-good"),
        pytest.param({"unmapped": True, "kept_on": ["n1-d1"]}, "mute", False, id="one-of-its-name-that-may-be-it"),
        pytest.param({"unmapped": True, "kept_on": ["n1-d1"]}, "other", True, id="another-disk-has-its-name"),
    ],
)
def test_a_striped_leg_is_given_back_though_a_device_is_dead(said: dict[str, Any], dead: Any, given_back: bool) -> None:
    told = NodeReport(node="n1", epoch=1, legs=[LegReport(id="a", **said)])
    volume_ = mapped(mapping=legs(STRIPED), nodes=[told], wanted="", attachment=Attachment(epoch=1))
    there = world(volume_)
    first = there.devices["n1-d1"]
    match dead:
        case (fields, state):
            changed = device("n1-d1", "n1", state)
            there.put(msgspec.structs.replace(changed, metadata=meta("n1-d1", **fields)))
        case "gone":
            there.remove(first)
        case "mute":
            there.put(msgspec.structs.replace(first, status=StorageDeviceStatus()))
        case "other":
            seen = msgspec.structs.replace(first.status.observation, device_uuid="u-new")
            there.put(msgspec.structs.replace(first, status=msgspec.structs.replace(first.status, observation=seen)))
        case StorageDevice():
            there.put(dead)
    assert deleting.given_back(there, volume_, STRIPED) is given_back


def copied(name: str, created: int, *, of: VirtualVolume | None = None, **metadata: Any) -> VirtualVolume:
    """As YAML that someone took from a volume and applied under another name."""
    of = of or VirtualVolume(spec=VirtualVolumeSpec(uuid=VID, size="16Mi"))
    return msgspec.structs.replace(
        of,
        metadata=meta(name, creation_timestamp=seconds_stamp(NOW + created), finalizers=[names.FINALIZER], **metadata),
    )


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        pytest.param(copied("v1", 0), copied("v2", 5), "v2", id="the-younger"),
        pytest.param(copied("v1", 5), copied("v2", 0), "v1", id="whatever-its-name"),
        pytest.param(copied("v1", 0), copied("v2", 0), "v2", id="of-the-same-second-by-name"),
        pytest.param(copied("v1", 0), copied("v2", 5, of=mapped()), "v1", id="never-the-one-with-the-data"),
    ],
)
def test_two_volumes_are_never_one_on_disk(first: VirtualVolume, second: VirtualVolume, refused: str) -> None:
    there = world(first, second)
    told = {each.metadata.name: volume.decide(there, each, NOW) for each in (first, second)}
    decision, kept = told.pop(refused), next(iter(told))
    assert isinstance(decision, Refuse)
    assert decision.category == "Invalid"
    assert f"spec.uuid {VID} is volume {kept}'s already" in decision.message
    assert not isinstance(told[kept], Refuse)
    there.remove(there.volumes[kept])
    assert not isinstance(volume.decide(there, there.volumes[refused], NOW), Refuse), "it is alone now"


def test_a_copy_goes_without_touching_what_is_the_others_on_disk() -> None:
    gone = {"deletion_timestamp": "2027-01-01T00:00:00Z"}
    original, new = mapped(), copied("v2", 5, **gone)
    decision = volume.decide(world(original, new), new, NOW)
    assert isinstance(decision, Act)
    assert decision.why == "deleted: it has no mapping"
    detached = mapped(wanted="", attachment=Attachment(epoch=1), phase="Deleting")
    both = copied("v2", 5, of=detached, **gone)
    waits = volume.decide(world(original, both), both, NOW)
    assert isinstance(waits, Wait)
    assert "has the spec.uuid of volume v1" in waits.message
    assert isinstance(volume.decide(world(both), both, NOW), Act), "its own legs may go when nobody else has them"


def test_a_leg_without_extents_has_no_neighbours() -> None:
    bare = msgspec.structs.replace(leg("b", "n2", "Stale"), extents=[])
    reached = [report("n1", "a", front="Active", paths=[PathReport(id="a", path="Up")]), report("n2", "b")]
    one = mapped(mapping=legs(leg("a", "n1"), bare), conditions=degraded(NOW - 5), nodes=reached)
    assert isinstance(decided(world(one, n2=Health(heard=NOW))), Act)


def test_a_label_that_knows_a_volume_tells_that_it_was_allocated() -> None:
    orphan = StorageNode(metadata=meta("n3"), status=StorageNodeStatus(orphaned_legs=[f"{VID}/a on n3-d1"]))
    new = VirtualVolume(metadata=meta("v1"), spec=VirtualVolumeSpec(uuid=VID, size="16Mi"))
    decision = decided(world(new, orphan))
    assert isinstance(decision, Refuse)
    assert decision.category == "MappingLost"


def test_a_volume_without_identity_gets_one_once() -> None:
    new = VirtualVolume(metadata=meta("v1"), spec=VirtualVolumeSpec(size="16Mi"))
    first, second = decided(world(new)), decided(world(new))
    assert isinstance(first, Act)
    assert isinstance(first.step, Merge)
    assert first == second


@pytest.mark.parametrize(
    ("heartbeats", "kubelets", "objects", "state"),
    [
        pytest.param({}, {}, [], "Ready", id="heard-of"),
        pytest.param({"n2": 21.0}, {}, [], "StateManagerDown", id="silence-alone-is-no-death"),
        pytest.param({"n2": 21.0}, {"n2": True}, [], "StateManagerDown", id="its-kubelet-is-there"),
        pytest.param({"n2": 21.0}, {"n2": False}, [], "Failed", id="its-kubelet-is-silent-too"),
        pytest.param({"n2": 21.0, "n3": 21.0}, {"n2": False}, [], "StateManagerDown", id="too-many-at-once"),
        pytest.param(
            {"n2": 21.0},
            {},
            [mapped(nodes=[report("n1", "a", front="Active", paths=[PathReport(id="b", path="Down")])])],
            "Failed",
            id="no-attach-node-reaches-its-legs",
        ),
        pytest.param({"n2": 21.0}, {}, [mapped(mapping=STALE)], "Failed", id="the-attach-node-has-given-its-leg-up"),
        pytest.param(
            {"n2": 21.0},
            {},
            [mapped(mapping=STALE), lost("n2", since=NOW)],
            "StateManagerDown",
            id="a-leg-given-up-for-its-disk-says-nothing-of-its-node",
        ),
        pytest.param(
            {"n2": 21.0},
            {},
            [mapped(nodes=[report("n1", "a", front="Active", paths=[PathReport(id="b", path="Up")])])],
            "StateManagerDown",
            id="its-legs-are-reached",
        ),
        pytest.param(
            {"n2": 21.0},
            {"n2": False},
            [StorageNode(metadata=meta("n2"), status=StorageNodeStatus(restarting_until=stamp(NOW + 9)))],
            "Ready",
            id="it-said-that-it-restarts",
        ),
        pytest.param(
            {"n2": 21.0},
            {"n2": False},
            [StorageNode(metadata=meta("n2"), spec=StorageNodeSpec(maintenance=Maintenance(mode="Planned")))],
            "Ready",
            id="planned-work",
        ),
    ],
)
def test_what_silence_means(
    heartbeats: dict[str, float], kubelets: dict[str, bool], objects: list[Object], state: str
) -> None:
    beats = {one: Heartbeat(heartbeats.get(one, 1.0), 20.0) for one in NODES}
    verdict = node.judge(world(*objects), beats, kubelets, NOW)
    assert verdict["n2"].state == state
    assert verdict["n1"].state == "Ready"


UP = [report("n1", "a", front="Active", paths=[PathReport(id="b", path="Up")]), report("n2", "b")]
DOWN = [report("n1", "a", front="Active", paths=[PathReport(id="b", path="Down")]), report("n2", "b")]


@pytest.mark.parametrize(
    ("silent", "kubelets", "nodes", "state", "reason", "said"),
    [
        pytest.param(["n2"], {"n2": False}, DOWN, "Failed", "NodeGone", "it is gone", id="gone"),
        pytest.param(["n2"], {"n2": False}, None, "Failed", "NodeGone", "not Ready: it is gone", id="gone-and-unused"),
        pytest.param(["n2"], {"n2": False}, UP, "Failed", "CutOffFromApiServer", "it runs", id="api-server"),
        pytest.param(
            ["n2"], {"n2": True}, DOWN, "Failed", "CutOffFromStorageNetwork", "its kubelet is Ready, but", id="storage"
        ),
        pytest.param(
            ["n2"],
            {"n2": True},
            UP,
            "StateManagerDown",
            "StateManagerDown",
            "only without its state manager",
            id="only-it",
        ),
        pytest.param(
            ["n2", "n3"], {"n2": False, "n3": False}, DOWN, "StateManagerDown", "ManySilent", "2 of 3 nodes", id="many"
        ),
    ],
)
def test_each_case_is_named(
    silent: list[str], kubelets: dict[str, bool], nodes: list[NodeReport] | None, state: str, reason: str, said: str
) -> None:
    there = world(mapped(nodes=nodes)) if nodes else world()
    beats = {one: Heartbeat(21.0 if one in silent else 1.0, 20.0) for one in NODES}
    there.health = node.judge(there, beats, kubelets, NOW)
    verdict = there.health["n2"]
    assert (verdict.state, verdict.reason) == (state, reason)
    assert said in verdict.message
    decision = planner.decide(there, there.nodes["n2"], NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    told = {one["type"]: (one["status"], one["reason"]) for one in decision.step.status["conditions"]}
    assert told["NodeFailed"] == ("True" if state == "Failed" else "False", reason)
    assert [(one.reason, one.warning) for one in decision.notices] == [(reason, True)]


def test_a_node_that_reports_is_called_cut_off_when_its_legs_stay_out_of_reach() -> None:
    there = world(mapped(nodes=DOWN))
    beats = dict.fromkeys(NODES, Heartbeat(1.0, 20.0))
    seen = []
    for seconds in (0, 6, 12):
        there.health = node.judge(there, beats, {}, NOW + seconds)
        seen.append((there.health["n2"].state, there.health["n2"].reason))
    assert seen == [("Ready", ""), ("Ready", ""), ("Ready", "CutOffFromStorageNetwork")]
    there.put(mapped(nodes=UP))
    assert node.judge(there, beats, {}, NOW + 15)["n2"].reason == ""


def test_for_a_new_master_a_verdict_stands_until_the_node_is_heard_of() -> None:
    condition = Condition(type="NodeFailed", status="True", reason="NodeGone", last_transition_time=seconds_stamp(NOW))
    there = world(StorageNode(metadata=meta("n2"), status=StorageNodeStatus(phase="Failed", conditions=[condition])))
    beats = dict.fromkeys(NODES, Heartbeat(0.0, 20.0, moved=False))
    verdicts = node.judge(there, beats, {"n2": False}, NOW + 3)
    assert [verdicts[one].state for one in NODES] == ["Ready", "Failed", "Ready"]
    assert verdicts["n2"].heard < NOW, "a Lease that only stands there is no sign of life"
    assert node.judge(there, {**beats, "n2": Heartbeat(0.0, 20.0)}, {"n2": False}, NOW + 3)["n2"].state == "Ready"


def test_a_node_that_failed_stays_failed_until_it_is_heard_of() -> None:
    since = NOW - 500
    condition = Condition(type="NodeFailed", status="True", reason="Failed", last_transition_time=seconds_stamp(since))
    failed = StorageNode(metadata=meta("n2"), status=StorageNodeStatus(conditions=[condition]))
    beats = {one: Heartbeat(999.0 if one == "n2" else 1.0, 20.0) for one in NODES}
    verdict = node.judge(world(failed), beats, {}, NOW)["n2"]
    assert (verdict.state, verdict.since) == ("Failed", since)
    assert node.judge(world(failed), {**beats, "n2": Heartbeat(0.0, 20.0)}, {}, NOW)["n2"].state == "Ready"


def test_doorbells_ring_for_what_is_under_way_and_for_nothing_else() -> None:
    there = world(
        quiescence("q1", "Draining"),
        quiescence("q2", "Quiesced"),
        quiescence("q3", "Released"),
        quiescence("q4", "Pending"),
        quiescence("q5", "Instructed", participants=["n2"]),
    )
    assert node.doorbell(there, "n1") == "q1,q2"
    assert node.doorbell(there, "n3") == ""
    decision = planner.decide(there, there.nodes["n1"], NOW)
    assert isinstance(decision, Act)
    assert decision.step == Merge(StorageNode, "n1", {"metadata": {"annotations": {names.ANNOTATION_QUIESCE: "q1,q2"}}})


def test_quiescences_that_fail_are_tried_again_later_and_later() -> None:
    there = world(mapped())
    there.put(quiescence("q1", "Aborted", at=NOW - 100))
    there.put(quiescence("q2", "Aborted", at=NOW))
    change = changes.Change("DeviceFailed", retire=("b",), adopt=("c",))
    assert changes.pause(there, there.volumes["v1"], change) == NOW + 10
    there.put(quiescence("q3", "Released", at=NOW + 1))
    assert changes.pause(there, there.volumes["v1"], change) == NOW + 1


@pytest.mark.parametrize(
    ("device_", "health", "phase", "said"),
    [
        pytest.param(device("n1-d1", "n1"), {}, "Online", "", id="in-use"),
        pytest.param(device("n1-d1", "n1", "Unknown"), {}, "Pending", "waits for n1", id="nobody-has-looked-yet"),
        pytest.param(device("n1-d1", "n1", "Failed", since=NOW), {}, "Failed", "since 08:00:00", id="failed"),
        pytest.param(device("n1-d1", "n1", "Absent"), {}, "Offline", "Absent", id="not-there-after-a-boot"),
        pytest.param(device("n1-d1", "n1"), {"n1": FAILED_NODE}, "Offline", "node n1 is Failed", id="with-its-node"),
        pytest.param(
            device("n1-d1", "n1"),
            {"n1": Health("StateManagerDown")},
            "Online",
            "StateManagerDown",
            id="what-a-silent-node-said-last-stands",
        ),
        pytest.param(device("n1-d1", "n1", desired_state="Drained"), {}, "Draining", "0/1 legs", id="draining"),
        pytest.param(device("n1-d2", "n1", desired_state="Retired"), {}, "Retired", "", id="retired"),
    ],
)
def test_devices(device_: StorageDevice, health: dict[str, Health], phase: str, said: str) -> None:
    there = world(mapped(), device_, **health)
    decision = planner.decide(there, device_, NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Apply)
    assert decision.step.status["phase"] == phase
    assert said in decision.step.status["message"]
    if phase == "Online" and not health:
        assert decision.step.status["legs"] == 1
        assert decision.step.status["allocatedBytes"] == 5 * UNIT_BYTES
        assert decision.step.status["freeBytes"] == 251 * UNIT_BYTES


@pytest.mark.parametrize(
    ("volume_", "objects", "said"),
    [
        pytest.param(
            mapped(mapping=STALE, phase="Degraded"),
            [lost("n2", since=NOW - 10)],
            "leg b lost at 07:59:50: n2-d1 on n2 failed; waits for it until 08:00:50, then takes a spare",
            id="within-the-grace-period",
        ),
        pytest.param(
            mapped(mapping=STALE, phase="Degraded", spares=[SPARE]),
            [lost("n2", since=NOW - 70)],
            "leg b lost at 07:58:50: n2-d1 on n2 failed; spare c on n3 takes its place",
            id="its-spare-is-prepared",
        ),
        pytest.param(
            mapped(mapping=legs(leg("a", "n1"), leg("c", "n3", "Rebuilding")), phase="Degraded"),
            [],
            "leg c on n3 is about to be rebuilt",
            id="about-to-be-rebuilt",
        ),
    ],
)
def test_one_sentence_says_what_why_and_until_when(volume_: VirtualVolume, objects: list[Object], said: str) -> None:
    there = world(volume_, *objects)
    fields = volume_status.status(there, volume_, Wait(), NOW)
    assert fields["phase"] == "Degraded"
    assert fields["copies"] == "1/2"
    assert fields["message"] == said


def test_a_schedule_that_nothing_acts_upon_is_called_so() -> None:
    volume_ = mapped()
    asked = msgspec.structs.replace(volume_, spec=msgspec.structs.replace(volume_.spec, scrub=Scrub(schedule="@daily")))
    fields = volume_status.status(world(asked), asked, Wait(), NOW)
    said = {each.type: each for each in fields["conditions"]}
    assert said["Ready"].status == "True"
    assert said["ScrubScheduled"].status == "False"
    assert fields["message"] == said["ScrubScheduled"].message
    assert "spec.scrub.schedule is not acted upon yet" in fields["message"]
    without = volume_status.status(world(volume_), volume_, Wait(), NOW)
    assert "ScrubScheduled" not in {each.type for each in without["conditions"]}


def test_a_status_that_says_it_all_is_not_written_again() -> None:
    there = world(mapped())
    first = planner.decide(there, there.volumes["v1"], NOW)
    assert isinstance(first, Act)
    assert isinstance(first.step, Apply)
    document = msgspec.to_builtins(there.volumes["v1"])
    document["status"] |= first.step.status
    there.put(msgspec.convert(document, VirtualVolume))
    assert planner.decide(there, there.volumes["v1"], NOW + 100) == Wait()


def test_a_world_ignores_what_is_older_and_what_is_gone() -> None:
    there = World()
    new = msgspec.structs.replace(mapped(), metadata=msgspec.structs.replace(meta("v1"), resource_version="9"))
    assert there.put(new)
    assert not there.put(mapped()), "resource version 7 is older"
    assert there.used("u-n1-d1") == [(0, 5)]
    assert there.remove(new)
    assert there.used("u-n1-d1") == []
    assert not there.put(new), "a late event does not bring it back"
    assert there.put(msgspec.structs.replace(new, metadata=msgspec.structs.replace(new.metadata, uid="another")))


@pytest.mark.parametrize("versions", [("7", "9"), ("10", "11"), ("x", "y")], ids=["numbers", "no-text", "opaque"])
def test_a_late_event_of_a_deleted_namesake_displaces_nothing(versions: tuple[str, str]) -> None:
    old, new = (
        msgspec.structs.replace(
            mapped(),
            metadata=meta("v1", creation_timestamp=seconds_stamp(NOW + at)),
        )
        for at in (0, 60)
    )
    old, new = (
        msgspec.structs.replace(
            each, metadata=msgspec.structs.replace(each.metadata, uid=version, resource_version=version)
        )
        for each, version in zip((old, new), versions, strict=True)
    )
    there = World([old])
    assert there.put(new), "its successor"
    assert not there.put(old)
    assert there.volumes["v1"] == new


def test_several_waits_make_one() -> None:
    assert resting(None, Wait(until=5), Wait("A", "a", 9), Wait("B", "b", 7)) == Wait("A", "a", 5)
    assert resting(Wait(until=5), Refuse("NoRoom", "none", 9)) == Refuse("NoRoom", "none", 5)


def test_a_decision_is_fast() -> None:
    there = world(mapped())
    for number in range(2000):
        one = mapped()
        there.put(msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, name=f"v{number}")))
    began = time.perf_counter()
    for _ in range(200):
        planner.decide(there, there.volumes["v1"], NOW)
    assert (time.perf_counter() - began) / 200 < 0.05
