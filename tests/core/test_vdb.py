"""The database in two places: what labels say, written by the real plans of leg nodes, becomes the record again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from master_world import VID, device, meta

from millpond_core import names
from millpond_core.master.steps import Create, Merge, Patch
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import (
    Attachment,
    Extent,
    Growth,
    Layout,
    Leg,
    LegGrowth,
    Mapping,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.nodeplan import label, legs
from millpond_core.nodeplan import steps as s
from millpond_core.nodeplan.view import Around, DeviceSeen, Kernel, Memory
from millpond_core.observed import DmDevice, Label, LabelLeg
from millpond_core.patches import json_patch
from millpond_core.vdb import check as checks
from millpond_core.vdb.rebuild import Choices, Plan, plan
from millpond_core.vdb.seen import DiskRead, Finding, NodeSeen

DISKS = {f"{node}-{disk}": node for node in ("n1", "n2", "n3") for disk in ("d1", "d2")}
OBJECTS = [device(name, node) for name, node in DISKS.items()]


def leg(id_: str, node: str, *places: tuple[str, int, int], **fields: Any) -> Leg:
    """``places``: (disk, first unit, units)."""
    extents = [Extent(device=f"{node}-{d}", device_uuid=f"u-{node}-{d}", start=n, length=m) for d, n, m in places]
    return Leg(id=id_, node=node, **{"state": "InSync", "complete": True, **fields}, extents=extents)


def volume(*there: Leg, stripes: int = 1, numbers: tuple[int, int, int] = (4, 2, 7), **status: Any) -> VirtualVolume:
    """``numbers``: epoch, generation, recordSeq. It is attached to n1."""
    epoch, generation, record_seq = numbers
    copies = sum(1 for one in there if not one.releasing)
    return VirtualVolume(
        metadata=meta("v1", labels={}, finalizers=[names.FINALIZER]),
        spec=VirtualVolumeSpec(uuid=VID, size="16Mi", layout=Layout(copies=copies, stripes=stripes)),
        status=VirtualVolumeStatus(
            **{
                "size_bytes": 16 << 20,
                "next_leg": 5,
                "mapping": Mapping(generation=generation, record_seq=record_seq, size_bytes=16 << 20, legs=list(there)),
                "attachment": Attachment(node="n1" if epoch else "", epoch=epoch, clean=not epoch),
                **status,
            }
        ),
    )


class Disks:
    """The labels of all disks."""

    def __init__(self) -> None:
        self.labels = {
            name: Label(cluster="here", device_uuid=f"u-{name}", device_name=name, sequence=1) for name in DISKS
        }
        self.before: dict[str, Label] = dict(self.labels)
        self.gone: set[str] = set()
        self.open: dict[str, int] = {}

    def know(self, record: VirtualVolume, *nodes: str) -> None:
        """The leg nodes (those given; all) allocate its legs, do what the record wants, and so write their labels."""
        new = [msgspec.structs.replace(one, releasing=False) for one in record.status.mapping.legs]
        status = VirtualVolumeStatus(size_bytes=16 << 20, mapping=Mapping(generation=1, record_seq=1, legs=new))
        self._follow(msgspec.structs.replace(record, status=status), *nodes)
        self._follow(record, *nodes)

    def _follow(self, record: VirtualVolume, *nodes: str) -> None:
        for node in nodes or ("n1", "n2", "n3"):
            kernel, memory = Kernel(boot_id="b"), Memory(generation=record.status.mapping.generation)
            for _ in range(6):
                kernel = msgspec.structs.replace(kernel, devices=self._seen(node))
                for step in legs.plan(record, kernel, Around(node=node, address="ip"), memory).steps:
                    match step:
                        case s.PutLeg(device=name, entry=entry):
                            self.put(name, entry)
                        case s.Zero(volume=vid, leg=id_, devices=names_, prepared_bytes=size):
                            for name in names_:
                                self.labels[name] = label.ready(self.labels[name], vid, id_, size)
                        case s.DropLeg(device=name, volume=vid, leg=id_):
                            self.labels[name] = label.drop(self.labels[name], vid, id_)
                        case s.Remember(built=built):
                            memory = msgspec.structs.replace(memory, built={**memory.built, **(built or {})})
                        case s.CreateDm(name=name, table=table):
                            dm = DmDevice(name=name, uuid=names.dm_uuid(name), major_minor="253:1", table=table)
                            kernel = msgspec.structs.replace(kernel, dm={**kernel.dm, name: dm})

    def put(self, name: str, entry: LabelLeg) -> None:
        self.before[name] = self.labels[name]
        self.labels[name] = label.put(self.labels[name], entry)

    def tear(self, name: str) -> None:
        """The newest slot is damaged: the other one counts."""
        self.labels[name] = self.before[name]

    def change(self, name: str, **fields: Any) -> None:
        """Of the one leg on a disk."""
        [entry] = self.labels[name].legs
        self.labels[name] = msgspec.structs.replace(self.labels[name], legs=(msgspec.structs.replace(entry, **fields),))

    def _seen(self, node: str) -> dict[str, DeviceSeen]:
        return {
            name: DeviceSeen(
                name=name, device_uuid=f"u-{name}", present=True, major_minor="8:0", label=self.labels[name]
            )
            for name, at in DISKS.items()
            if at == node
        }

    def seen(self) -> list[NodeSeen]:
        return [
            NodeSeen(
                node=node,
                disks=tuple(
                    DiskRead(path=f"/dev/{name}", label=self.labels[name])
                    for name, at in DISKS.items()
                    if at == node and name not in self.gone
                ),
                dm={names.front(VID): self.open[node]} if node in self.open else {},
            )
            for node in ("n1", "n2", "n3")
        ]

    def plan(self, *volumes: VirtualVolume, devices: Any = OBJECTS, **choices: Any) -> Plan:
        made = Choices(**{key: frozenset(value) for key, value in choices.items()})
        return plan(self.seen(), devices, volumes, cluster="here", choices=made, claims={"v1": "shop/db-0"})

    def check(self, *volumes: VirtualVolume, devices: Any = OBJECTS) -> list[Finding]:
        nodes = [StorageNode(metadata=meta(node)) for node in ("n1", "n2", "n3")]
        return checks.check(self.seen(), nodes, devices, volumes, cluster="here")


@pytest.fixture
def disks() -> Disks:
    return Disks()


def done(made: Plan, before: VirtualVolume | None = None) -> VirtualVolume:
    """The one volume of a plan, as the API server has it then."""
    [part] = [part for part in made.parts if part.about.startswith("vvol/")]
    first, patch = part.steps
    assert isinstance(patch, Patch)
    if isinstance(first, Create):
        assert isinstance(first.obj, VirtualVolume)
        assert first.obj.status == VirtualVolumeStatus(), "the API server ignores it there"
        assert first.obj.metadata.annotations[names.ANNOTATION_ALLOCATED] == first.obj.spec.uuid, "never blank"
        before = first.obj
    else:
        assert isinstance(first, Merge)
        assert first.patch["metadata"]["annotations"][names.ANNOTATION_ALLOCATED] == VID
    assert before is not None
    document = msgspec.to_builtins(before)
    document.setdefault("status", {})
    return msgspec.convert(json_patch(document, patch.operations), VirtualVolume)


def refusal(made: Plan) -> str:
    assert [part for part in made.parts if part.about.startswith("vvol/")] == []
    [finding] = [finding for finding in made.refused if finding.about.startswith("vvol/")]
    return finding.sentence()


# --- what comes back ---

ONE = (leg("a", "n1", ("d1", 3, 5)), leg("b", "n2", ("d1", 0, 5)))
LAYOUTS = {
    "one extent a leg": volume(*ONE),
    "several extents, out of order": volume(
        leg("a", "n1", ("d2", 9, 2), ("d1", 4, 1), ("d2", 2, 2)), leg("b", "n2", ("d1", 0, 5))
    ),
    "stripes, two rows": volume(leg("d", "n3", ("d2", 1, 2), ("d1", 1, 2), ("d1", 8, 1), ("d2", 7, 1)), stripes=2),
    "three legs, one of them stale": volume(*ONE, leg("c", "n3", ("d1", 0, 5), state="Stale", complete=False)),
    "one that is copied": volume(ONE[0], leg("c", "n3", ("d1", 0, 5), state="Rebuilding", complete=False)),
    "one that is given back": volume(*ONE, leg("c", "n3", ("d1", 0, 5), state="Stale", releasing=True, complete=False)),
    "never attached": volume(*ONE, numbers=(0, 1, 1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_record_is_what_it_was(disks: Disks, name: str) -> None:
    record = LAYOUTS[name]
    given_up = [one.id for one in record.status.mapping.legs if one.releasing]
    whole = msgspec.structs.replace  # a leg that is given back was labelled while it was a part of the volume
    kept = [whole(one, releasing=False) for one in record.status.mapping.legs]
    older = volume(*kept, numbers=(4, 1, 6)) if given_up else record
    disks.know(older)
    disks.know(record, *(("n1", "n2") if given_up else ()))
    after = done(disks.plan())
    assert after.status.mapping == record.status.mapping
    assert after.status.next_leg == record.status.next_leg
    assert after.status.size_bytes == record.status.size_bytes
    assert after.spec == msgspec.structs.replace(record.spec)
    epoch = record.status.attachment.epoch
    assert after.status.attachment == Attachment(node="", epoch=epoch, clean=epoch == 0)
    assert after.metadata.name == "v1"
    assert after.metadata.annotations[names.ANNOTATION_CLAIM] == "shop/db-0"
    assert set(after.metadata.labels) == {names.node_label(one.node) for one in record.status.mapping.legs}


def test_devices_are_made_by_the_identity_in_their_label(disks: Disks) -> None:
    disks.know(volume(*ONE))
    made = disks.plan(devices=[]).parts
    steps = [step.obj for part in made for step in part.steps if isinstance(step, Create)]
    devices = {obj.metadata.name: obj.spec for obj in steps if isinstance(obj, StorageDevice)}
    assert {name: (spec.node_name, spec.identity.device_uuid) for name, spec in devices.items()} == {
        name: (node, f"u-{name}") for name, node in DISKS.items()
    }
    assert isinstance(steps[-1], VirtualVolume), "volumes after their devices"


def test_a_device_that_has_another_name_by_now_keeps_it(disks: Disks) -> None:
    disks.know(volume(*ONE))
    renamed = msgspec.structs.replace(OBJECTS[0], metadata=meta("fast-1"))
    after = done(disks.plan(devices=[renamed, *OBJECTS[1:]]))
    assert after.status.mapping.legs[0].extents[0].device == "fast-1"


def test_a_leg_whose_label_is_older_is_copied_anew(disks: Disks) -> None:
    disks.know(volume(*ONE, numbers=(3, 2, 6)))
    disks.know(volume(*ONE), "n1")
    mapping = done(disks.plan()).status.mapping
    assert [(one.id, one.state, one.complete) for one in mapping.legs] == [
        ("a", "InSync", True),
        ("b", "Rebuilding", False),
    ]
    assert mapping.record_seq == 8, "what differs from the newest label has a number of its own"


def test_a_torn_label_is_an_older_one(disks: Disks) -> None:
    disks.know(volume(*ONE, numbers=(3, 2, 6)))
    disks.know(volume(*ONE))
    disks.tear("n2-d1")
    assert [one.state for one in done(disks.plan()).status.mapping.legs] == ["InSync", "Rebuilding"]


def test_one_label_of_a_leg_that_is_torn_takes_nothing_from_the_leg(disks: Disks) -> None:
    """Its bytes are the same, whichever of its labels was written first."""
    spread = leg("a", "n1", ("d1", 3, 3), ("d2", 3, 2))
    disks.know(volume(spread, numbers=(3, 2, 6)))
    disks.know(volume(spread))
    disks.tear("n1-d2")
    after = done(disks.plan()).status
    assert (after.mapping, after.attachment.epoch) == (volume(spread).status.mapping, 4)


def test_a_leg_that_was_never_whole_zeroed_is_not_in_sync(disks: Disks) -> None:
    disks.know(volume(*ONE))
    disks.change("n2-d1", zeroed=False)
    assert [one.state for one in done(disks.plan()).status.mapping.legs] == ["InSync", "Rebuilding"]


def larger(record: VirtualVolume, *, committed: bool) -> VirtualVolume:
    """The same volume growing to 32 MiB: four units more for each leg; ``committed``: it has."""
    legs = record.status.mapping.legs
    new = {one.id: Extent(device=f"{one.node}-d1", device_uuid=f"u-{one.node}-d1", start=20, length=4) for one in legs}
    growth = Growth(size_bytes=32 << 20, legs=[LegGrowth(id=id_, extents=[extent]) for id_, extent in new.items()])
    if not committed:
        return msgspec.structs.replace(record, status=msgspec.structs.replace(record.status, growth=growth))
    mapping = msgspec.structs.replace(
        record.status.mapping,
        generation=record.status.mapping.generation + 1,
        record_seq=record.status.mapping.record_seq + 1,
        size_bytes=32 << 20,
        legs=[msgspec.structs.replace(one, extents=[*one.extents, new[one.id]]) for one in legs],
    )
    spec = msgspec.structs.replace(record.spec, size="32Mi")
    status = msgspec.structs.replace(record.status, mapping=mapping, size_bytes=32 << 20)
    return msgspec.structs.replace(record, spec=spec, status=status)


def test_a_volume_that_was_growing_keeps_its_size_and_the_extents(disks: Disks) -> None:
    record = volume(*ONE)
    disks.know(record)
    disks.know(larger(record, committed=False), "n1")
    said = [finding.what for finding in disks.check(larger(record, committed=False))]
    assert all("is not mapped in the kernel" in what for what in said), "what a label has early is no difference"
    after = done(disks.plan())
    assert after.status.mapping.size_bytes == 16 << 20
    assert [sum(extent.length for extent in one.extents) for one in after.status.mapping.legs] == [9, 5]
    assert after.status.growth is None


def test_a_volume_that_has_grown_has_its_new_size(disks: Disks) -> None:
    record = volume(*ONE)
    grown = larger(record, committed=True)
    disks.know(record)
    disks.know(larger(record, committed=False))
    disks.know(grown, "n1")
    assert "set spec.size to 32Mi" in refusal(disks.plan(record))
    before = msgspec.structs.replace(larger(record, committed=False), spec=grown.spec)
    after = done(disks.plan(before), before)
    assert after.status.growth is None
    assert (after.status.mapping.size_bytes, after.status.size_bytes) == (32 << 20, 32 << 20)
    # The label of the second is older: it was ready for more, and lacks what was written since.
    assert [(one.id, one.state) for one in after.status.mapping.legs] == [("a", "InSync"), ("b", "Rebuilding")]


def test_a_leg_without_room_for_the_newest_size_is_not_whole(disks: Disks) -> None:
    record = volume(*ONE)
    disks.know(record)
    disks.know(larger(record, committed=False), "n1")
    disks.know(larger(record, committed=True), "n1")
    assert "leg b on n2 was in sync by the newest label, and is not found, or not whole" in refusal(disks.plan())


def test_a_leg_that_the_newest_record_does_not_have_is_given_back(disks: Disks) -> None:
    """A spare that was never committed, or a leg given up while its node was away."""
    disks.know(volume(*ONE, leg("c", "n3", ("d1", 0, 5)), numbers=(4, 1, 6)))
    disks.know(volume(*ONE), "n1", "n2")
    last = done(disks.plan()).status.mapping.legs[-1]
    assert (last.id, last.state, last.releasing) == ("c", "Stale", True)


def test_a_stale_leg_that_is_not_found_is_left_out_and_said(disks: Disks) -> None:
    disks.know(volume(ONE[0], leg("b", "n2", ("d1", 0, 5), state="Stale")))
    disks.gone.add("n2-d1")
    made = disks.plan()
    after = done(made)
    assert [one.id for one in after.status.mapping.legs] == ["a"]
    assert after.spec.layout.copies == 2, "another copy is made"
    assert "leg b on n2 (Stale) is not found: left out" in made.parts[-1].says


def test_a_volume_restored_with_a_new_uid_and_no_status_is_known_by_its_spec_uuid(disks: Disks) -> None:
    record = volume(*ONE)
    disks.know(record)
    restored = msgspec.structs.replace(
        record,
        metadata=meta("v1-restored"),
        status=VirtualVolumeStatus(),
        spec=msgspec.structs.replace(record.spec, size="16Mi"),
    )
    after = done(disks.plan(restored), restored)
    assert after.metadata.name == "v1-restored"
    assert after.status.mapping == record.status.mapping


def test_what_is_there_and_not_older_stays_as_it_is(disks: Disks) -> None:
    record = volume(*ONE)
    disks.know(record)
    assert disks.plan(record) == Plan()
    later = volume(*ONE, numbers=(5, 3, 9))
    assert disks.plan(later) == Plan(), "labels follow the record, not the other way round"


def test_an_older_record_is_brought_up_by_the_rules_of_the_record(disks: Disks) -> None:
    """What was Stale, or joins, starts as Rebuilding; what was in sync in both stays so."""
    old = volume(ONE[0], leg("b", "n2", ("d1", 0, 5), state="Stale"), numbers=(9, 1, 2))
    disks.know(volume(*ONE, leg("c", "n3", ("d1", 0, 5)), leg("d", "n3", ("d2", 0, 5), state="Stale")))
    after = done(disks.plan(old), old)
    states = {one.id: one.state for one in after.status.mapping.legs}
    assert states == {"a": "InSync", "b": "Rebuilding", "c": "Rebuilding", "d": "Rebuilding"}
    assert after.status.attachment.epoch == 9, "the master raised it on the old record"


# --- what is refused ---


def overlapping(disks: Disks) -> None:
    other = msgspec.structs.replace(disks.labels["n1-d1"].legs[0], volume="other", volume_name="v2", leg="a")
    disks.labels["n1-d1"] = msgspec.structs.replace(disks.labels["n1-d1"], legs=(*disks.labels["n1-d1"].legs, other))
    other = msgspec.structs.replace(disks.labels["n2-d1"].legs[0], volume="other")
    disks.labels["n2-d1"] = msgspec.structs.replace(disks.labels["n2-d1"], legs=(disks.labels["n2-d1"].legs[0],))


def copied(disks: Disks) -> None:
    disks.labels["n3-d1"] = disks.labels["n1-d1"]


REFUSED: dict[str, tuple[Callable[[Disks], Any], str]] = {
    "its labels differ in size": (lambda d: d.change("n2-d1", size_bytes=8 << 20), "do not agree on its shape"),
    "they differ in stripes": (lambda d: d.change("n2-d1", stripes=2), "do not agree on its shape"),
    "two records have the same numbers": (
        lambda d: d.change("n2-d1", peers=d.labels["n2-d1"].legs[0].peers[:1]),
        "two different records have the same numbers (4, 2, 7)",
    ),
    "a leg is on two nodes": (lambda d: d.change("n2-d1", leg="a"), "leg a is on n1 and on n2"),
    "an extent is missing": (
        lambda d: d.change("n1-d1", extent_count=2),
        "leg a on n1 was in sync by the newest label",
    ),
    "a leg in sync is missing": (lambda d: d.gone.add("n1-d1"), "leg a on n1 was in sync by the newest label"),
    "a disk was copied": (copied, "leg a on n1 was in sync by the newest label"),
    "it is in use": (lambda d: d.open.update(n3=2), "it is in use on n3 (2 times)"),
    "an older version wrote the label": (
        lambda d: [d.change(name, peers=(), extent_count=0) for name in ("n1-d1", "n2-d1")],
        "did not note which legs the volume has",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_is_refused(disks: Disks, name: str) -> None:
    disks.know(volume(*ONE))
    break_, why = REFUSED[name]
    break_(disks)
    assert why in refusal(disks.plan())


def test_two_legs_on_the_same_units_are_refused_both(disks: Disks) -> None:
    disks.know(volume(*ONE))
    first = disks.labels["n1-d1"]
    other = msgspec.structs.replace(first.legs[0], volume="4f1c0000-0000-4000-8000-000000000002", volume_name="v2")
    disks.labels["n1-d1"] = msgspec.structs.replace(first, legs=(*first.legs, other))
    made = disks.plan()
    assert made.parts == ()
    assert {finding.about for finding in made.refused} == {"vvol/v1", "vvol/v2"}
    assert all("units 3-7 of n1-d1 belong to leg a of v" in finding.what for finding in made.refused)


def test_units_that_the_record_gives_to_another_volume_are_refused(disks: Disks) -> None:
    disks.know(volume(*ONE))
    other = msgspec.structs.replace(
        volume(leg("a", "n2", ("d1", 4, 5))),
        spec=VirtualVolumeSpec(uuid=VID[:-1] + "2", size="16Mi"),
        metadata=meta("v2"),
    )
    assert "units 4-4 of n2-d1, of its leg b, are leg a of v2 by the record" in refusal(disks.plan(other))


@pytest.mark.parametrize("state", ["Stale", "Rebuilding", "Failed"])
def test_without_a_leg_in_sync_nothing_is_made(disks: Disks, state: str) -> None:
    disks.know(volume(leg("a", "n1", ("d1", 3, 5)), leg("b", "n2", ("d1", 0, 5), state=state)))
    disks.gone.add("n1-d1")
    assert "no leg in sync is found" in refusal(disks.plan(without={"v1"}))


def test_a_missing_leg_is_done_without_when_people_say_that_it_is_no_more(disks: Disks) -> None:
    disks.know(volume(*ONE))
    disks.gone.add("n1-d1")
    assert "--without-missing v1" in refusal(disks.plan())
    after = done(disks.plan(without={"v1"}))
    assert [(one.id, one.state) for one in after.status.mapping.legs] == [("b", "InSync")]
    assert after.spec.layout.copies == 2


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"uuid": VID[:-1] + "9", "size": "16Mi"}, "the VirtualVolume of its name has spec.uuid"),
        ({"uuid": VID, "size": "8Mi"}, "its spec.size is 8Mi, its labels know 16Mi: set spec.size to 16Mi"),
        ({"uuid": VID, "size": "16Mi", "layout": Layout(stripes=2)}, "its spec has 2 stripes of 65536 bytes"),
    ],
)
def test_an_object_that_is_not_its_own_is_refused(disks: Disks, spec: dict[str, Any], why: str) -> None:
    disks.know(volume(*ONE))
    assert why in refusal(disks.plan(VirtualVolume(metadata=meta("v1"), spec=VirtualVolumeSpec(**spec))))


def test_two_objects_of_one_identity_are_refused(disks: Disks) -> None:
    record = volume(*ONE)
    disks.know(record)
    blank = msgspec.structs.replace(record, status=VirtualVolumeStatus())
    copy = msgspec.structs.replace(blank, metadata=meta("v2"))
    assert "v1 and v2 have its spec.uuid" in refusal(disks.plan(blank, copy))


def test_a_record_that_is_in_part_newer_is_refused(disks: Disks) -> None:
    disks.know(volume(*ONE))
    other = volume(*ONE, numbers=(4, 1, 9))
    assert "each in part newer" in refusal(disks.plan(other))


def test_another_record_of_the_same_numbers_is_refused(disks: Disks) -> None:
    disks.know(volume(*ONE))
    other = volume(ONE[0], leg("b", "n2", ("d1", 0, 5), state="Stale"))
    assert "are two of the same numbers (2, 7), and differ" in refusal(disks.plan(other))


def test_labels_of_another_cluster_are_taken_over_only_when_asked(disks: Disks) -> None:
    disks.know(volume(*ONE))
    disks.labels = {name: msgspec.structs.replace(each, cluster="there") for name, each in disks.labels.items()}
    made = disks.plan(devices=[])
    assert made.parts == ()
    assert {finding.about for finding in made.refused} == {f"sdev/{name}" for name in DISKS}
    assert "--from-cluster there" in made.refused[0].todo
    parts = disks.plan(devices=OBJECTS[:1], from_clusters={"there"}).parts
    notes = {names.ANNOTATION_FROM_CLUSTER: "there"}
    merge, create = parts[0].steps[0], parts[1].steps[0]
    assert isinstance(merge, Merge)
    assert merge.patch == {"metadata": {"annotations": notes}}
    assert isinstance(create, Create)
    assert create.obj.metadata.annotations == notes  # type: ignore[attr-defined]
    assert parts[-1].about == "vvol/v1"


def test_a_name_that_another_device_has_is_refused(disks: Disks) -> None:
    taken = [device("n1-d1", "n3"), *OBJECTS[1:]]
    taken[0] = msgspec.structs.replace(taken[0], status=OBJECTS[5].status)
    [finding] = disks.plan(devices=taken).refused
    assert finding.about == "sdev/n1-d1"
    assert "another has its name" in finding.what


# --- what differs ---


def attached_kernel(disks: Disks, record: VirtualVolume) -> list[NodeSeen]:
    """What stands on the nodes of a volume that is attached to n1."""
    found = []
    for node in disks.seen():
        dm = {names.leg(VID, one.id): 1 for one in record.status.mapping.legs if one.node == node.node}
        front = {names.front(VID): 1} if node.node == "n1" else {}
        found.append(msgspec.structs.replace(node, dm={**dm, **front}))
    return found


def differences(disks: Disks, record: VirtualVolume, seen: list[NodeSeen], *volumes: VirtualVolume) -> list[str]:
    nodes = [StorageNode(metadata=meta(node)) for node in ("n1", "n2", "n3")]
    found = checks.check(seen, nodes, OBJECTS, volumes or (record,), cluster="here")
    return [finding.sentence() for finding in found]


def test_where_the_three_agree_nothing_is_said(disks: Disks) -> None:
    record = volume(*ONE)
    disks.know(record)
    assert differences(disks, record, attached_kernel(disks, record)) == []


RECORD = volume(*ONE)
DIFFERENT: dict[str, tuple[Callable[[Disks], Any], VirtualVolume, str]] = {
    "no object": (lambda d: None, msgspec.structs.replace(RECORD, spec=VirtualVolumeSpec()), "there is no such object"),
    "no mapping": (
        lambda d: None,
        msgspec.structs.replace(RECORD, status=VirtualVolumeStatus()),
        "its mapping is lost",
    ),
    "the record is older": (
        lambda d: None,
        volume(*ONE, numbers=(4, 2, 6)),
        "is newer (4, 2, 7) than the record (4, 2, 6): was the database restored from a backup?",
    ),
    "a label lags": (
        lambda d: None,
        volume(*ONE, numbers=(4, 2, 8)),
        "the label of n2-d1 knows leg b as of (4, 2, 7), the record is (4, 2, 8)",
    ),
    "a state": (
        lambda d: d.change("n2-d1", state="Stale"),
        RECORD,
        "leg b is InSync by the record and Stale by the label of n2-d1",
    ),
    "extents": (
        lambda d: d.change("n2-d1", extents=((0, 7, 5),)),
        RECORD,
        "leg b has units 0-4 of n2-d1 by the record, 7-11 by its label",
    ),
    "an orphan": (lambda d: None, volume(ONE[0]), "the label of n2-d1 on n2 has leg b, and the record does not"),
    "no entry": (
        lambda d: d.labels.update({"n2-d1": msgspec.structs.replace(d.labels["n2-d1"], legs=())}),
        RECORD,
        "the label of n2-d1 does not have leg b",
    ),
    "a disk is away": (lambda d: d.gone.add("n2-d1"), RECORD, "no disk of n2 has its label (u-n2-d1)"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_difference_is_named(disks: Disks, name: str) -> None:
    break_, record, why = DIFFERENT[name]
    disks.know(RECORD)
    break_(disks)
    said = differences(disks, record, attached_kernel(disks, RECORD))
    assert any(why in sentence for sentence in said), said


def test_what_stands_in_a_kernel_and_is_not_to_is_named(disks: Disks) -> None:
    disks.know(RECORD)
    one, two, three = attached_kernel(disks, RECORD)
    nqn = names.subsystem_nqn(VID, "b", 3, "life")
    two = msgspec.structs.replace(two, dm={names.front(VID): 1}, exports=(nqn,))
    three = msgspec.structs.replace(three, dm={names.leg(VID[:-1] + "7", "a"): 0}, problems=("its kernel is mute",))
    said = "\n".join(differences(disks, RECORD, [one, two, three]))
    assert "leg b is not mapped in the kernel of n2" in said
    assert "its front stands on n2, and it is attached to n1 by the record" in said
    assert "leg b is exported by n2 under epoch 3, the record's is 4" in said
    assert f"there is no volume with spec.uuid {VID[:-1]}7" in said
    assert "snode/n3: its kernel is mute" in said
    assert "snode/n3: it was not asked" in "\n".join(differences(disks, RECORD, [one, two]))
