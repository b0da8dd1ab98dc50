"""udev, blkid and LVM stay away from Millpond's devices: they would hang on a held one, or find a filesystem twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rig import Volume, dm, gate_status

from millpond_adapters import sysfs, udev
from millpond_adapters.run import run
from millpond_core import names


async def test_a_filesystem_on_a_volume_is_not_found_on_its_legs(volume: Volume) -> None:
    assert await udev.install()
    await volume.legs("a")
    await volume.assemble("a")
    await volume.make_front()
    await run("mke2fs", "-q", "-F", "-t", "ext4", f"/dev/mapper/{volume.front}", seconds=60)
    shown = (await run("blkid", "-p", "-o", "value", "-s", "UUID", f"/dev/mapper/{volume.front}")).decode().strip()
    assert shown
    for name in (volume.leg_name("a"), names.gate(volume.uuid, "a"), volume.front):
        number = (await dm.get(name)).major_minor
        await run("udevadm", "trigger", "--action=change", f"/sys/dev/block/{number}")
    await run("udevadm", "settle", "--timeout=10", seconds=15)
    assert shown not in sysfs.entries(Path("/dev/disk/by-uuid"))
    volume.compare_at_end = False


async def test_no_scanner_waits_in_a_held_gate(volume: Volume) -> None:
    await volume.legs("ab")
    await volume.assemble("ab")
    await volume.write(0)
    await volume.break_leg("b")
    writer = volume.start_write(40)
    await volume.held("b")
    before = (await gate_status(names.gate(volume.uuid, "b"))).queued
    number = volume.gate_number("b")
    await run("udevadm", "trigger", "--action=change", f"/sys/dev/block/{number}")
    await run("udevadm", "settle", "--timeout=5", seconds=10)
    await asyncio.sleep(0.5)
    assert (await gate_status(names.gate(volume.uuid, "b"))).queued == before
    await volume.heal("b")
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 5)
