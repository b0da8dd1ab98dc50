"""The master's plan of a volume, one decision at a time: from objects and a time to the one next step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from master_world import (
    FAILED_NODE,
    NOW,
    SPARE,
    STALE,
    VID,
    decided,
    degraded,
    device,
    leg,
    legs,
    lost,
    mapped,
    meta,
    patched,
    quiescence,
    report,
    world,
)

from millpond_core import names
from millpond_core.instants import seconds_stamp, stamp
from millpond_core.master import changes, deleting, planner, volume
from millpond_core.master.steps import Act, Create, Merge, Patch, Refuse, Wait
from millpond_core.master.world import Health, RebuildLimits, World
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import Acknowledgement
from millpond_core.model.storagedevice import StorageDeviceStatus
from millpond_core.model.storagenode import NodeQuiescence, StorageNodeStatus
from millpond_core.model.virtualvolume import (
    Attachment,
    Extent,
    Layout,
    LegReport,
    NodeReport,
    PathReport,
    VirtualVolumeSpec,
)
from millpond_core.patches import json_patch


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


def replacing(name: str = "v1", **fields: Any) -> VirtualVolume:
    """Attached to n1, its leg on n2 lost, a spare on n3 ready."""
    nodes = [
        report("n1", "a", front="Active", paths=[PathReport(id="a", path="Up")]),
        report("n2"),
        report("n3", "c"),
    ]
    made = mapped(**{"mapping": STALE, "spares": [SPARE], "next_leg": 3, "nodes": nodes, **fields})
    return msgspec.structs.replace(
        made,
        metadata=msgspec.structs.replace(made.metadata, name=name, uid=f"uid-{name}"),
        spec=made.spec if name == "v1" else msgspec.structs.replace(made.spec, uuid=VID.replace("4f1c", "4f1d")),
    )


GIVEN_UP = report("n1", "a", front="Active", paths=[PathReport(id="b", path="Up", member="Stopped")])


def rebuilding(name: str, at: str, attached: str, **fields: Any) -> VirtualVolume:
    """Another volume, of which a leg is being rebuilt."""
    mapping = legs(leg("a", attached), leg("b", at, "Rebuilding"))
    return replacing(name, spares=[], mapping=mapping, attachment=Attachment(node=attached, epoch=1), **fields)


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
    spared = replacing()
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


@pytest.mark.parametrize(
    ("others", "limits", "said"),
    [
        ([rebuilding("v2", "n3", "n2")], RebuildLimits(per_node=1), "1 rebuilds run at n3, as many as may at a node"),
        ([rebuilding("v2", "n2", "n1")], RebuildLimits(per_node=1), "1 rebuilds run at n1, as many as may at a node"),
        ([rebuilding("v2", "n2", "n4")], RebuildLimits(per_node=1), ""),
        ([rebuilding("v2", "n2", "n4")], RebuildLimits(per_cluster=1), "1 rebuilds run, as many as may in the cluster"),
        ([rebuilding("v2", "n3", "n1")], RebuildLimits(per_node=2, per_cluster=2), ""),
        ([rebuilding("v2", "n3", "n1")], RebuildLimits(), ""),
        ([rebuilding("v2", "n3", "n1", nodes=[GIVEN_UP])], RebuildLimits(per_cluster=1), ""),
    ],
    ids=["written-there", "copied-from-there", "elsewhere", "everywhere", "room-for-two", "no-limit", "given-up"],
)
def test_a_rebuild_waits_for_its_turn(others: list[VirtualVolume], limits: RebuildLimits, said: str) -> None:
    base = world(replacing(), lost("n2", since=NOW - 99), *others)
    there = World(base.all(), limits)
    decision = decided(there, NOW + 60)
    if not said:
        assert isinstance(decision, Act)
        assert isinstance(decision.step, Create)
        return
    assert isinstance(decision, Wait)
    assert (decision.reason, decision.until) == ("RebuildsLimited", NOW + 60 + volume.RETRY_SECONDS)
    assert decision.message == f"leg c on n3 waits for its turn to be rebuilt: {said}"
    for other in others:  # they are done
        there.put(msgspec.structs.replace(other, status=msgspec.structs.replace(other.status, mapping=legs())))
    assert isinstance(decided(there, NOW + 60), Act)


def test_who_has_fewest_copies_is_rebuilt_first() -> None:
    """Of the volumes on one failed disk, where not all may be rebuilt at once."""
    two_left = legs(leg("a", "n1"), leg("b", "n2", "Stale"), leg("d", "n3", disk="d2"))
    better, worse = replacing("v1", mapping=two_left, copies_wanted=3), replacing("v2")
    still = quiescence("q", "Quiesced", at=NOW + 59, volumes=["v1", "v2"])
    there = World(world(better, worse, lost("n2", since=NOW - 99), still).all(), RebuildLimits(per_cluster=1))
    assert changes.ready(there, better, NOW + 60) is not None
    decision = planner.decide(there, still, NOW + 60)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Patch)
    assert decision.step.name == "v2"


@pytest.mark.parametrize(
    ("phase", "health", "committed"),
    [
        ("Quiesced", Health(), True),
        ("Applied", Health(), True),
        ("Expired", Health(), False),
        ("Released", Health(), False),
        ("Draining", Health(), False),
        ("Draining", FAILED_NODE, True),
    ],
)
def test_nothing_is_committed_once_a_participant_has_gone_on(phase: Any, health: Health, committed: bool) -> None:
    """It had said that it is still; what it says now counts too, unless it says nothing any more."""
    word = Acknowledgement(node="n4", at=stamp(NOW))
    still = quiescence("q", "Quiesced", at=NOW + 59, participants=["n4"], acknowledgements=[word])
    there = world(replacing("v1"), lost("n2", since=NOW - 99), still, n4=health)
    answer = NodeQuiescence(uid=still.metadata.uid, name="q", phase=phase, message="its time was up")
    there.put(StorageNode(metadata=meta("n4"), status=StorageNodeStatus(quiescences=[answer])))
    decision = planner.decide(there, still, NOW + 60)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Patch)
    assert decision.step.kind is (VirtualVolume if committed else Quiescence)
    assert committed or f"not still any more: n4 ({phase}: its time was up)" in decision.why


def test_a_leg_that_never_stays_is_replaced() -> None:
    """Its disk answers when it is asked who it is, and errors when it is written to."""
    stale = mapped(mapping=STALE, conditions=degraded(NOW - 5))
    takings = [quiescence(f"q{n}", "Released", at=NOW - 60 * n, reason="Reconfigure") for n in range(changes.RETAKEN)]
    some = world(stale, *takings[1:])
    assert [one.id for one, _ in changes.outlook(some, stale, NOW).lost] == []
    aborted = [quiescence(f"q{n}", "Aborted", at=NOW - 60 * n, reason="Reconfigure") for n in range(9)]
    assert [one.id for one, _ in changes.outlook(world(stale, *aborted), stale, NOW).lost] == [], "never taken back"
    often = world(stale, *takings)
    assert [one.id for one, _ in changes.outlook(often, stale, NOW).lost] == ["b"]
    decision = decided(often)
    assert isinstance(decision, Act)
    assert names.node_label("n3") in decision.step.patch["metadata"]["labels"], "a spare is to be made there"  # type: ignore[union-attr]
    assert [one.id for one, _ in changes.outlook(often, stale, NOW + changes.STORM_SECONDS).lost] == []
    away = [device(f"n3-d{n}", "n3", desired_state="Drained") for n in (1, 2)]
    near = patched(world(stale, *takings, *away))
    assert near.status.spares[0].extents[0].device == "n2-d2", "never where it was just lost"
    decision = decided(world(stale, *takings, *away, device("n2-d2", "n2", desired_state="Drained")))
    assert isinstance(decision, Wait)
    assert "n2-d1 (n2): the leg to be replaced was lost there, or is to leave it" in decision.message


def test_one_volume_has_no_more_turns_than_are_left() -> None:
    """Of two spares that are ready one is taken, and one lost leg stays for which there is no turn yet."""
    spares = [SPARE, msgspec.structs.replace(leg("d", "n4", "Rebuilding"), complete=False)]
    gone = legs(leg("a", "n1"), leg("b", "n2", "Stale"), leg("e", "n2", "Stale", disk="d2"))
    nodes = [*replacing().status.nodes, report("n4", "d")]
    volume_ = replacing(mapping=gone, spares=spares, nodes=nodes, copies_wanted=3)
    there = world(
        volume_,
        StorageNode(metadata=meta("n4")),
        lost("n2", since=NOW - 99),
        device("n2-d2", "n2", "Failed", since=NOW - 99),
    )
    change = changes.ready(World(there.all(), RebuildLimits(per_node=1)), volume_, NOW + 60)
    assert change is not None
    assert (len(change.adopt), len(change.retire)) == (1, 1)
    change = changes.ready(there, volume_, NOW + 60)
    assert change is not None
    assert (len(change.adopt), len(change.retire)) == (2, 2)


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
            world(
                mapped(wanted="n3", attachment=Attachment(epoch=1)),
                StorageNode(metadata=meta("n3"), status=StorageNodeStatus(boot_id="b", shutting_down=True)),
            ),
            "AttachNodeSilent",
            "n3: it is shutting down",
            id="a-node-that-shuts-down-attaches-nothing",
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
