"""Real NVMe disks, pulled and put back through QEMU's monitor: seen, named, refused, labelled."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig import VOLUME_BYTES, dm, gate_status, until

from lab import qmp
from millpond_adapters import sysfs
from millpond_adapters.block import BlockDevices
from millpond_adapters.label import SLOTS, LabelArea
from millpond_adapters.nvme_host import NvmeTcpHost
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import Busy, Conflict, Invalid, MillpondError
from millpond_core.model.virtualvolume import Extent
from millpond_core.observed import BlockDisk, Label, LabelLeg
from millpond_core.ports import Block, Labels
from millpond_core.units import MIB

block = BlockDevices()
labels = LabelArea()
_contracts: tuple[Block, Labels] = (block, labels)

DISK = "disk4"
SERIAL = "guest-disk4"


async def find(serial: str = SERIAL) -> BlockDisk | None:
    return next((disk for disk in (await block.disks()).values() if disk.serial == serial), None)


@pytest.fixture
async def disk() -> AsyncIterator[BlockDisk]:
    """The last of the guest's disks, with nothing on it."""
    found = await find()
    assert found is not None
    assert found.holders == ()
    await labels.clear(f"/dev/{found.name}")
    yield found
    back = await find()
    if back is not None:
        await labels.clear(f"/dev/{back.name}")


@contextmanager
def pulled() -> Iterator[None]:
    """The disk is out of its port meanwhile."""
    with qmp.own() as monitor:
        monitor.command("device_del", {"id": DISK})
    try:
        yield
    finally:
        with qmp.own() as monitor:
            device = {"driver": "nvme", "id": DISK, "bus": f"port-{DISK}", "drive": f"{DISK}-data", "serial": SERIAL}
            deadline = time.monotonic() + 20
            while True:
                try:
                    monitor.command("device_add", device)
                    break
                except Exception:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)


async def test_a_disk_tells_that_it_is_about_to_fail(disk: BlockDisk) -> None:
    def warn(bits: int) -> None:
        with qmp.own() as monitor:
            qmp.warn(monitor, DISK, bits)

    assert await block.warnings(disk.path) == ()
    warn(0b01101)
    try:
        assert await block.warnings(disk.path) == ("SpareLow", "Unreliable", "ReadOnly")
    finally:
        warn(0)
    assert await block.warnings(disk.path) == ()
    assert await block.warnings("/dev/ram0") == ()


async def test_whole_disks_are_found_and_nothing_else() -> None:
    found = await block.disks()
    assert {f"guest-disk{n}" for n in range(1, 5)} <= {disk.serial for disk in found.values()}
    assert not any(name.startswith(("dm-", "ram", "loop", "md")) for name in found)
    disk = await find()
    assert disk is not None
    assert disk.size_bytes == 1024 * MIB
    assert disk.model == "QEMU NVMe Ctrl"
    assert disk.wwn.startswith(("nvme.", "eui."))
    assert disk.major_minor == sysfs.number_of(Path(f"/dev/{disk.name}"))
    assert os.path.realpath(disk.path) == f"/dev/{disk.name}"
    assert SERIAL in disk.path
    root = next(d for d in found.values() if "mounted on /" in d.holders)
    assert root.name == "vda"


async def test_a_disk_in_use_says_by_whom(disk: BlockDisk) -> None:
    node = f"/dev/{disk.name}"
    await run("dmsetup", "create", "someone", "--table", f"0 2048 linear {disk.major_minor} 8192")
    try:
        assert (await block.disks())[disk.name].holders == ("held by someone",)
    finally:
        await run("dmsetup", "remove", "--retry", "someone")  # udev looks at what is not ours
    holder = os.open(node, os.O_RDONLY | os.O_EXCL)
    try:
        assert (await block.disks())[disk.name].holders == ("opened exclusively by a process",)
        with pytest.raises(Busy, match="in use"):
            await block.erase(node)
    finally:
        os.close(holder)
    assert (await block.disks())[disk.name].holders == ()


async def test_what_lies_on_a_disk_is_named_and_erased_only_when_told(disk: BlockDisk) -> None:
    node = f"/dev/{disk.name}"
    assert await block.signatures(node) == []
    await run("mke2fs", "-q", "-F", "-t", "ext4", node, "65536", seconds=60)
    assert await block.signatures(node) == ["ext4"]
    await block.erase(node)
    assert await block.signatures(node) == []


async def test_a_disk_that_is_pulled_is_seen_to_vanish_and_to_return(disk: BlockDisk) -> None:
    seen: list[tuple[float, str, str]] = []
    stop = block.watch(lambda action, name: seen.append((time.monotonic(), action, name)))
    try:
        begun = time.monotonic()
        with pulled():

            async def gone() -> bool:
                return any(action == "remove" and name == disk.name for _, action, name in seen)

            await until(gone, "the disk vanishes", seconds=5)
            (at, *_) = next(each for each in seen if each[1:] == ("remove", disk.name))
            print(f"a pulled disk is seen after {at - begun:.2f} s")
            assert at - begun < 2
            assert await find() is None
            assert not await block.alive(f"/dev/{disk.name}")

        async def back() -> bool:
            return await find() is not None

        await until(back, "the disk returns", seconds=10)
        returned = await find()
        assert returned is not None
        assert returned.diskseq != disk.diskseq
        assert await block.alive(f"/dev/{returned.name}")
    finally:
        stop()


async def test_without_events_a_comparison_finds_what_came_and_went(
    disk: BlockDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millpond_adapters.block._uevents", lambda: None)
    seen: list[tuple[str, str]] = []
    stop = block.watch(lambda action, name: seen.append((action, name)))
    await run("dmsetup", "create", "someone", "--table", "0 2048 zero")
    await asyncio.sleep(0.7)
    await run("dmsetup", "remove", "--retry", "someone")
    await asyncio.sleep(0.7)
    stop()
    assert [action for action, name in seen if name.startswith("dm-")] == ["add", "remove"]
    assert disk.name


async def test_a_pulled_disk_under_an_export_is_held_and_its_stack_can_be_taken_down(disk: BlockDisk) -> None:
    """What happens on both nodes: the host's gate holds, the leg node takes the export back without hanging."""
    volume = "5f0f6f0e-0000-4000-8000-000000000001"
    leg, path, gate = names.leg(volume, "a"), names.path(volume, "a"), names.gate(volume, "a")
    nqn, space = names.subsystem_nqn(volume, "a", 1, "0" * 12), names.namespace_uuid(volume, "a", 1, "0" * 12)
    target, host = NvmeTcpTarget(), NvmeTcpHost()
    where = Extent(device="disk", device_uuid="d", start=3, length=layout.leg_sectors(VOLUME_BYTES) // 8192)
    await dm.create(leg, names.dm_uuid(leg), layout.leg_table([where], {"d": disk.major_minor}))
    try:
        await target.export(
            nqn,
            f"/dev/mapper/{leg}",
            namespace_uuid=space,
            serial=names.serial(volume, "a"),
            host_nqn=names.host_nqn("cluster", "n"),
            address="127.0.0.1",
            port=names.NVME_PORT,
        )
        controller = await host.connect(
            nqn,
            f"127.0.0.1:{names.NVME_PORT}",
            host_nqn=names.host_nqn("cluster", "n"),
            host_id=names.host_id("cluster", "n"),
            namespace_uuid=space,
        )
        number = controller.namespaces[0].major_minor
        made = await dm.create(path, names.dm_uuid(path), layout.path_table(number, VOLUME_BYTES))
        await dm.create(gate, names.dm_uuid(gate), layout.gate_table(made.major_minor, VOLUME_BYTES, holding=True))
        events: list[str] = []
        stop = block.watch(lambda action, name: events.append(name))
        with pulled():
            await until(_is_gone, "the disk vanishes", seconds=5)
            begun = time.monotonic()
            argv = ("dd", "if=/dev/zero", f"of=/dev/mapper/{gate}", "bs=4k", "count=1", "oflag=direct")
            writer = asyncio.create_task(run(*argv, seconds=30))

            async def holds() -> bool:
                assert not writer.done(), f"the gate let an error pass: {writer}"
                return (await gate_status(gate)).queued > 0

            await until(holds, "the gate holds the write", seconds=10)
            print(f"a pulled disk is held by the gate after {time.monotonic() - begun:.2f} s")
            assert gate in events, "the gate's lost path made no uevent"
            assert not writer.done()
            begun = time.monotonic()
            await target.unexport(nqn)
            await dm.remove(leg)
            print(f"its leg is taken down after {time.monotonic() - begun:.2f} s")
            assert time.monotonic() - begun < 8
            await dm.gate_fail(gate)
            with pytest.raises(MillpondError):
                await asyncio.wait_for(writer, 10)
        stop()
    finally:
        for name in (gate, path):
            await dm.remove(name)
        await host.disconnect(nqn)
        await target.unexport(nqn)
        await dm.remove(leg)
    await until(_is_back, "the disk returns", seconds=10)


async def _is_back() -> bool:
    return await find() is not None


async def test_a_label_survives_what_it_must(disk: BlockDisk) -> None:
    node = f"/dev/{disk.name}"
    assert await labels.read(node) is None
    first = Label(cluster="c", device_uuid="d-1", device_name="n1-disk4", sequence=1, boot_id="b")
    await labels.write(node, first)
    assert await labels.read(node) == first
    assert await block.signatures(node) == []
    assert (await run("blkid", "-p", "-o", "value", "-s", "PTTYPE", node)).strip() == b"PMBR"
    leg = LabelLeg(volume="v", volume_name="pvc-1", leg="a", size_bytes=VOLUME_BYTES, extents=((0, 3, 8),))
    second = Label(cluster="c", device_uuid="d-1", device_name="n1-disk4", sequence=2, legs=(leg,))
    await labels.write(node, second)
    assert await labels.read(node) == second
    with pytest.raises(Conflict, match="sequence 2"):
        await labels.write(node, first)
    # the newest slot torn in the middle of its payload: the one before counts
    await run("dd", "if=/dev/urandom", f"of={node}", "bs=512", f"seek={(SLOTS[1] + 4096) // 512}", "count=1")
    assert await labels.read(node) == first
    await run("dd", "if=/dev/urandom", f"of={node}", "bs=512", f"seek={(SLOTS[0] + 4096) // 512}", "count=1")
    with pytest.raises(Invalid, match="cannot be read"):
        await labels.read(node)
    await labels.clear(node)
    assert await labels.read(node) is None


async def test_a_label_is_on_the_disk_when_the_write_returns(disk: BlockDisk) -> None:
    node = f"/dev/{disk.name}"
    await labels.write(node, Label(cluster="c", device_uuid="d-2", device_name="n", sequence=1))
    with pulled():
        await until(_is_gone, "the disk vanishes", seconds=5)
    await until(_is_back, "the disk returns", seconds=10)
    back = await find()
    assert back is not None
    found = await labels.read(f"/dev/{back.name}")
    assert found is not None
    assert (found.device_uuid, found.sequence) == ("d-2", 1)


async def _is_gone() -> bool:
    return await find() is None


async def test_partitioners_take_no_labelled_disk(disk: BlockDisk) -> None:
    node = f"/dev/{disk.name}"
    await labels.write(node, Label(cluster="c", device_uuid="d-3", device_name="n", sequence=1))
    await run("blockdev", "--rereadpt", node)
    assert not [entry for entry in sysfs.entries(Path(f"/sys/block/{disk.name}")) if entry.startswith(disk.name)]
    with pytest.raises(MillpondError, match=r"(?i)partition table|pmbr"):
        await run("mkfs.xfs", node, seconds=30)
    assert await labels.read(node) is not None


async def test_zeroing_covers_a_device_to_its_end(disk: BlockDisk) -> None:
    leg = names.leg("5f0f6f0e-0000-4000-8000-000000000002", "a")
    extent = Extent(device="disk", device_uuid="d", start=0, length=2)
    await dm.create(leg, names.dm_uuid(leg), layout.leg_table([extent], {"d": disk.major_minor}))
    try:
        argv = ("dd", "if=/dev/urandom", f"of=/dev/{disk.name}", "bs=1M", "seek=3", "count=10", "oflag=direct")
        await run(*argv, seconds=30)
        await block.zero(f"/dev/mapper/{leg}")
        content = await run("dd", f"if=/dev/{disk.name}", "bs=1M", "skip=3", "count=10", "iflag=direct")
        assert content[MIB : 9 * MIB] == bytes(8 * MIB)
        assert content[:MIB] != bytes(MIB), "zeroing went beyond the leg, into the label area"
        assert content[9 * MIB :] != bytes(MIB), "zeroing went beyond the leg"
    finally:
        await dm.remove(leg)
