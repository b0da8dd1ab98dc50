"""``kubectl millpond adopt``: which disks are shown, how one is named, what is refused, and how it is followed."""

from __future__ import annotations

import asyncio

import pytest

from millpond_cli import adopt
from millpond_cli.adopt import Found
from millpond_core.errors import Invalid, NotFound
from millpond_core.model import ObjectMeta, StorageDevice, StorageNode
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.storagenode import Disk, StorageNodeStatus
from millpond_core.testing.kube import MemoryKube

BY_ID = "/dev/disk/by-id"
EMPTY = Found("n1", Disk(path=f"{BY_ID}/nvme-A_S1", serial="S1", wwn="eui.1", size="1Ti", state="Empty"))
EXT4 = Found(
    "n1",
    Disk(path=f"{BY_ID}/nvme-A_S2", serial="S2", size="1Ti", state="Foreign", contents=["ext4"], fingerprint="f00d"),
)
SWAP = Found("n2", Disk(path=f"{BY_ID}/ata-B", size="10Gi", state="Foreign", contents=["swap"]))
ROOT = Found("n2", Disk(path=f"{BY_ID}/nvme-A_S3", serial="S3", size="1Ti", state="InUse", contents=["mounted on /"]))
TWIN = Found("n3", Disk(path=f"{BY_ID}/usb-1", serial="0001", wwn="eui.7", size="1Ti", state="Empty"))
OTHER_TWIN = Found("n3", Disk(path=f"{BY_ID}/usb-2", serial="0001", size="1Ti", state="Empty"))
THERE = [EMPTY, EXT4, SWAP, ROOT, TWIN, OTHER_TWIN]


def test_disks_are_shown_node_by_node_with_what_is_on_them() -> None:
    nodes = [
        StorageNode(metadata=ObjectMeta(name=name), status=StorageNodeStatus(unclaimed_disks=[one.disk]))
        for name, one in (("n2", ROOT), ("n1", EXT4))
    ]
    assert [one.line() for one in adopt.found(nodes)] == [
        "n1/S2  1Ti  /dev/disk/by-id/nvme-A_S2  Foreign (ext4)",
        "n2/S3  1Ti  /dev/disk/by-id/nvme-A_S3  InUse (mounted on /)",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        pytest.param("n1/S1", EMPTY, id="serial"),
        pytest.param("n1/eui.1", EMPTY, id="wwn"),
        pytest.param("n1/nvme-A_S1", EMPTY, id="end-of-path"),
        pytest.param("n1//dev/disk/by-id/nvme-A_S1", EMPTY, id="path"),
        pytest.param("n3/usb-2", OTHER_TWIN, id="one-of-two-with-a-serial-in-common"),
    ],
)
def test_a_disk_has_several_names(name: str, meant: Found) -> None:
    assert adopt.chosen(THERE, [name], every=False) == [meant]


def test_a_name_that_none_or_several_have_is_refused() -> None:
    with pytest.raises(NotFound, match=r"no disk is called n2/S1 .*\n.*\n  n1/S2  1Ti"):
        adopt.chosen(THERE, ["n2/S1"], every=False)
    with pytest.raises(Invalid, match=r"2 disks are called n3/0001: say .*usb-1 or .*usb-2"):
        adopt.chosen(THERE, ["n3/0001"], every=False)


def test_all_means_all_that_are_empty() -> None:
    assert adopt.chosen(THERE, [], every=True) == [EMPTY, TWIN, OTHER_TWIN]


@pytest.mark.parametrize(
    ("one", "erase", "said"),
    [
        pytest.param(EMPTY, False, [], id="empty"),
        pytest.param(ROOT, True, ["n2/S3 is in use: mounted on /"], id="in-use-whatever-was-said"),
        pytest.param(EXT4, False, ["n1/S2 holds ext4: with --erase that is erased"], id="foreign"),
        pytest.param(EXT4, True, [], id="to-be-erased"),
        pytest.param(
            SWAP,
            True,
            ["n2/ata-B holds swap and has neither serial number nor WWN to be sure of it: erase it by hand"],
            id="not-to-be-told-from-others",
        ),
    ],
)
def test_what_is_refused(one: Found, erase: bool, said: list[str]) -> None:
    assert [*adopt.refusals([one], erase=erase)] == said


@pytest.mark.parametrize(
    ("one", "name", "identity"),
    [
        pytest.param(EMPTY, "n1-s1", Identity(serial="S1"), id="serial"),
        pytest.param(TWIN, "n3-eui-7", Identity(wwn="eui.7"), id="wwn-where-serials-are-equal"),
        pytest.param(OTHER_TWIN, "n3-usb-2", Identity(path=f"{BY_ID}/usb-2"), id="path-where-nothing-else-tells"),
    ],
)
def test_a_disk_is_named_by_the_surest_thing_that_tells_it_from_others(
    one: Found, name: str, identity: Identity
) -> None:
    made = adopt.device(one, THERE, pool="fast", erase=False)
    assert (made.metadata.name, made.spec.identity, made.spec.pool) == (name, identity, "fast")


def test_only_what_was_looked_at_is_erased() -> None:
    assert adopt.device(EXT4, THERE, pool="default", erase=True).spec.erase_signature == "f00d"
    assert adopt.device(EXT4, THERE, pool="default", erase=False).spec.erase_signature == ""
    assert adopt.device(EMPTY, THERE, pool="default", erase=True).spec.erase_signature == ""


async def seen(kube: MemoryKube, name: str, phase: str, state: str, message: str = "") -> None:
    await kube.apply_status(StorageDevice, name, {"phase": phase, "message": message}, manager="master")
    await kube.apply_status(StorageDevice, name, {"observation": {"state": state}}, manager="node")


async def followed(*, second: tuple[str, str, str], patience: float = 10) -> tuple[int, list[str]]:
    """Exit status and what was told of two disks, of which the first is taken in."""
    kube, told = MemoryKube(), list[str]()
    made = [adopt.device(one, THERE, pool="default", erase=False) for one in (EMPTY, EXT4)]

    async def act() -> None:
        while len(await kube.list(StorageDevice)) < 2:
            await asyncio.sleep(0.01)
        await seen(kube, "n1-s1", "Online", "Claimed")
        await seen(kube, "n1-s2", *second)

    acting = asyncio.create_task(act())
    async with asyncio.timeout(20):
        _, status = await adopt.hand_over(kube, made, patience, told.append)
    await acting
    return status, told


async def test_it_returns_when_every_disk_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "LOOK_SECONDS", 0.05)
    status, told = await followed(second=("Online", "Claimed", ""))
    assert status == adopt.DONE
    assert told[-2:] == ["n1-s1: Online", "n1-s2: Online"]


async def test_it_returns_when_the_others_are_refused_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "LOOK_SECONDS", 0.05)
    status, told = await followed(second=("Pending", "Refused", "it holds ext4"))
    assert status == adopt.REFUSED
    assert told[-1] == "n1-s2: Pending: it holds ext4"


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "LOOK_SECONDS", 0.05)
    status, _ = await followed(second=("Pending", "Absent", "there is no such disk on this node yet"), patience=0.5)
    assert status == adopt.TIME_UP


async def test_another_disks_name_is_not_taken_for_it() -> None:
    kube = MemoryKube()
    spec = StorageDeviceSpec(node_name="n1", identity=Identity(wwn="eui.9"))
    await kube.create(StorageDevice(metadata=ObjectMeta(name="n1-s1"), spec=spec))
    made = adopt.device(EMPTY, THERE, pool="default", erase=False)
    with pytest.raises(Invalid, match="n1-s1 is there already, for another disk"):
        await adopt.hand_over(kube, [made], 10, lambda _: None)


async def test_one_that_is_there_already_is_followed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "LOOK_SECONDS", 0.05)
    kube, told = MemoryKube(), list[str]()
    made = adopt.device(EMPTY, THERE, pool="default", erase=False)
    spec = StorageDeviceSpec(node_name="n1", identity=Identity(serial="S1"))
    await kube.create(StorageDevice(metadata=ObjectMeta(name="n1-s1"), spec=spec))
    await seen(kube, "n1-s1", "Online", "Claimed")
    async with asyncio.timeout(20):
        _, status = await adopt.hand_over(kube, [made], 10, told.append)
    assert (status, told[0]) == (adopt.DONE, "n1-s1 is there already")
