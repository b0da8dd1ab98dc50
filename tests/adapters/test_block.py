"""Disks as sysfs, procfs and tools describe them."""

from __future__ import annotations

from pathlib import Path

import pytest

from millpond_adapters.block import BlockDevices, parse_uevent, parse_wipefs
from millpond_adapters.label import LabelArea
from millpond_core.errors import IOFailed
from millpond_core.observed import Label

# What wipefs of util-linux 2.38 printed for an ext4 on a GPT disk.
WIPEFS = """{
   "signatures": [
      {"device":"sdb", "offset":"0x438", "type":"ext4", "uuid":"4c1f", "label":null},
      {"device":"sdb", "offset":"0x200", "type":"gpt", "uuid":null, "label":null},
      {"device":"sdb", "offset":"0x3ffffe00", "type":"gpt", "uuid":null, "label":null},
      {"device":"sdb", "offset":"0x1fe", "type":"PMBR", "uuid":null, "label":null}
   ]
}"""


def test_signatures_are_named_once() -> None:
    assert parse_wipefs(WIPEFS) == ["ext4", "gpt", "PMBR"]
    assert parse_wipefs("") == []


async def test_our_own_label_is_no_signature_but_anybody_elses_mbr_is(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 * 1024 * 1024))
    await LabelArea().write(str(disk), Label(cluster="c", device_uuid="d", device_name="n", sequence=1))
    assert await BlockDevices().signatures(str(disk)) == []
    with disk.open("r+b") as file:
        file.write(bytes(100))
    assert await BlockDevices().signatures(str(disk)) == ["PMBR"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"remove@/devices/x\0ACTION=remove\0SUBSYSTEM=block\0DEVNAME=nvme0n1\0SEQNUM=9\0", ("remove", "nvme0n1")),
        (
            b"change@/devices/x\0ACTION=change\0SUBSYSTEM=block\0DEVNAME=dm-7\0DM_ACTION=PATH_FAILED\0DM_NAME=mine\0",
            ("change", "mine"),
        ),
        (b"change@/devices/x\0ACTION=change\0SUBSYSTEM=block\0DEVNAME=dm-7\0DM_COOKIE=0\0", ("change", "dm-7")),
        (b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0INTERFACE=eth0\0", None),
        (b"libudev\0\xfe\xed\xca\xfe", None),
    ],
)
def test_only_block_events_count(message: bytes, expected: tuple[str, str] | None) -> None:
    assert parse_uevent(message) == expected


def make(root: Path, name: str, number: str, sectors: int = 2048, **files: str) -> Path:
    folder = root / "sys/block" / name
    for place, text in {"dev": number, "size": str(sectors), "diskseq": "7", **files}.items():
        path = folder / place.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path, "nvme0n1", "259:0", wwid="nvme.1b36", device__serial="n1-disk1 ", device__model="QEMU NVMe Ctrl")
    make(tmp_path, "vda", "254:0")
    make(tmp_path, "dm-0", "253:0", dm__name="millpond-x")
    make(tmp_path, "sr0", "11:0")
    make(tmp_path, "nvme1n1", "259:3", device__subsysnqn="nqn.2026-11.io.millpond:v:a:e1:x")
    make(tmp_path, "nvme2n1", "259:4", device__nvme2__transport="tcp")
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/mountinfo").write_text("26 1 254:0 / / rw,noatime - ext4 /dev/vda rw\n")
    (tmp_path / "proc/swaps").write_text("Filename Type Size\n")
    links = tmp_path / "dev/disk/by-id"
    links.mkdir(parents=True)
    (links / "nvme-QEMU_n1-disk1").symlink_to("../../nvme0n1")
    return tmp_path


async def test_whole_disks_only_and_none_of_ours(root: Path) -> None:
    assert set(await BlockDevices(root).disks()) == {"nvme0n1", "vda"}


async def test_a_disk_is_described(root: Path) -> None:
    disk = (await BlockDevices(root).disks())["nvme0n1"]
    assert (disk.serial, disk.wwn, disk.model) == ("n1-disk1", "nvme.1b36", "QEMU NVMe Ctrl")
    assert (disk.size_bytes, disk.diskseq, disk.major_minor) == (2048 * 512, 7, "259:0")
    assert disk.path == "/dev/disk/by-id/nvme-QEMU_n1-disk1"
    assert disk.holders == ()


async def test_a_mounted_disk_says_where(root: Path) -> None:
    assert (await BlockDevices(root).disks())["vda"].holders == ("mounted on /",)


async def test_what_holds_a_disk_or_its_partition_is_named_but_not_our_own_legs(root: Path) -> None:
    folder = make(root, "sdb", "8:16", sdb1__partition="1", sdb1__dev="8:17", sdb1__holders__md0="x")
    (folder / "holders").mkdir()
    (folder / "holders/dm-0").write_text("")
    (root / "proc/swaps").write_text("Filename Type Size\n/dev/sdb1 partition 1\n")
    assert (await BlockDevices(root).disks())["sdb"].holders == ("sdb1 used as swap", "sdb1 held by md0")


async def test_an_unreadable_device_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(IOFailed, match="cannot look for signatures"):
        await BlockDevices().signatures(str(tmp_path / "gone"))


async def test_erased_signatures_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1024 * 1024))
    with path.open("r+b") as file:
        file.seek(1080)
        file.write(b"\x53\xef")
    assert await BlockDevices().signatures(str(path)) != []
    await BlockDevices().erase(str(path))
    assert await BlockDevices().signatures(str(path)) == []
