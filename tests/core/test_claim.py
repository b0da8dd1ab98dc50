"""Labels, disks and names as pure functions: who a disk is, what lies on it, what is called how."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond_core import names
from millpond_core.errors import Invalid
from millpond_core.model import ObjectMeta, StorageDevice
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.nodeplan import claim, label
from millpond_core.nodeplan.claim import DiskSeen
from millpond_core.observed import BlockDisk, Label, LabelLeg
from millpond_core.units import MIB

UUID = "7d3c4b52-53b6-5d0c-9a35-2d1c8d8f7a10"
SIZE = 16 * MIB


# --- labels ---

EMPTY = Label(cluster="c", device_uuid="d", device_name="n1-nvme1", sequence=1)


def entry(leg: str, start: int, length: int) -> LabelLeg:
    return LabelLeg(volume=UUID, volume_name="v", leg=leg, size_bytes=SIZE, extents=((0, start, length),))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30), st.integers(1, 8)), max_size=12))
def test_extents_on_a_label_never_overlap(changes: list[tuple[str, int, int]]) -> None:
    content, taken = EMPTY, {}
    for leg, start, length in changes:
        mine = set(range(start, start + length))
        free = all(not mine & units for other, units in taken.items() if other != leg)
        try:
            content = label.put(content, entry(leg, start, length))
        except Invalid:
            assert not free
        else:
            assert free
            taken[leg] = mine
    assert {e.leg for e in content.legs} == set(taken)
    assert content.sequence == EMPTY.sequence + content.sequence - 1


def test_each_change_of_a_label_has_a_higher_sequence() -> None:
    one = label.put(EMPTY, entry("a", 0, 4))
    two = label.drop(one, UUID, "a")
    three = label.appeared(two, boot_id="b", diskseq=7)
    assert [x.sequence for x in (EMPTY, one, two, three)] == [1, 2, 3, 4]
    assert (two.legs, three.attach_count, three.boot_id, three.diskseq) == ((), 1, "b", 7)


# --- disks ---


def disk(serial: str = "S1", wwn: str = "w", size: int = 1 << 30) -> BlockDisk:
    return BlockDisk(
        name="nvme0n1",
        path="/dev/disk/by-id/x",
        major_minor="259:0",
        serial=serial,
        wwn=wwn,
        model="M",
        size_bytes=size,
    )


def test_a_fingerprint_is_of_one_disk_with_one_content() -> None:
    marks = {
        claim.fingerprint(disk(), ["ext4"]),
        claim.fingerprint(disk(), ["xfs"]),
        claim.fingerprint(disk(), ["ext4", "gpt"]),
        claim.fingerprint(disk(serial="S2"), ["ext4"]),
        claim.fingerprint(disk(wwn="other"), ["ext4"]),
        claim.fingerprint(disk(size=1 << 31), ["ext4"]),
    }
    assert len(marks) == 6
    assert claim.fingerprint(disk(), ["gpt", "ext4"]) == claim.fingerprint(disk(), ["ext4", "gpt"])
    assert claim.fingerprint(disk(serial="", wwn=""), ["ext4"]) == "", "a disk without identity is never erased"


@pytest.mark.parametrize(
    ("identity", "hit"),
    [
        (Identity(path="/dev/disk/by-id/x"), True),
        (Identity(path="/dev/disk/by-id/y"), False),
        (Identity(serial="S1"), True),
        (Identity(serial="S"), False),
        (Identity(wwn="w"), True),
        (Identity(device_uuid="d"), True),
        (Identity(device_uuid="e"), False),
    ],
)
def test_what_an_identity_means(identity: Identity, hit: bool) -> None:
    assert bool(claim.match(identity, [DiskSeen(disk=disk(), label=EMPTY)])) is hit


# --- names ---


@given(st.uuids(), st.from_regex(r"\A[a-z]{1,4}\Z"), st.integers(0, 1 << 40), st.from_regex(r"\A[0-9a-f]{12}\Z"))
def test_an_nqn_says_what_it_was_made_of(volume: object, leg: str, epoch: int, life: str) -> None:
    assert names.parse_nqn(names.subsystem_nqn(str(volume), leg, epoch, life)) == (str(volume), leg, epoch, life)


@pytest.mark.parametrize(
    "nqn",
    ["", names.NQN_PREFIX, names.host_nqn("cluster", "u"), "nqn.2014-08.org:v:a:e1:x", f"{names.NQN_PREFIX}v:a:x1:l"],
)
def test_other_nqns_are_nobodys(nqn: str) -> None:
    assert names.parse_nqn(nqn) is None


# --- another cluster's label ---


@pytest.mark.parametrize(("told", "state"), [("", "Refused"), ("other", "Refused"), ("c", "Claimed")])
def test_the_label_of_another_cluster_is_taken_over_only_as_people_name_it(told: str, state: str) -> None:
    """After etcd was lost the cluster has another uid; a disk that two clusters can see must not change hands."""
    found = DiskSeen(disk=disk(), label=EMPTY)
    device = StorageDevice(
        metadata=ObjectMeta(name="n1-nvme1", annotations={names.ANNOTATION_FROM_CLUSTER: told} if told else {}),
        spec=StorageDeviceSpec(node_name="n1", identity=Identity(device_uuid="d")),
    )
    decided = claim.decide(device, [found], cluster="new", boot_id="b")
    assert decided.state == state
    assert decided.action == ("Adopt" if state == "Claimed" else "None")


@given(st.integers(0, 20_000))
def test_a_legs_number_is_told_by_its_id(number: int) -> None:
    assert names.leg_number(names.leg_id(number)) == number


@pytest.mark.parametrize("make", [names.leg, names.path, names.gate])
def test_a_dm_name_says_what_it_was_made_of(make: Callable[[str, str], str]) -> None:
    assert names.parse_dm(make(UUID, "ba")) == (UUID, make.__name__, "ba")
    assert names.parse_dm(names.front(UUID)) == (UUID, "front", "")
    assert names.parse_dm(names.wall(UUID)) == (UUID, "wall", "")
    assert names.parse_dm("millpond-something") is None
