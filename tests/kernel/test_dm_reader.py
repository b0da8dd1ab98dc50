"""What the ioctls say of every device is what dmsetup says."""

from __future__ import annotations

from pathlib import Path

from rig import Volume, dm

from millpond_adapters.dm import _INFO, parse_devices
from millpond_adapters.dm_reader import Reader
from millpond_adapters.run import run
from millpond_core import layout, names


async def test_the_reader_and_dmsetup_agree(volume: Volume) -> None:
    await volume.legs("ab")
    await dm.suspend(names.path(volume.uuid, "b"))
    read = await Reader(Path("/dev/mapper/control")).read(names.DM_PREFIX, with_status="multipath")
    told = parse_devices((await run("dmsetup", *_INFO)).decode(), (await run("dmsetup", "table")).decode())
    assert told.keys() == read.keys()
    for name, seen in read.items():
        device = told[name]
        assert (seen.uuid, seen.major_minor, seen.open_count, seen.suspended) == (
            device.uuid,
            device.major_minor,
            device.open_count,
            device.suspended,
        )
        assert layout.same_table(seen.lines, device.table)
    status = (await run("dmsetup", "status", "--target", "multipath", "--noflush")).decode()
    gates = {name: rest.split() for name, _, rest in (line.partition(": ") for line in status.splitlines())}
    assert sorted(gates) == [names.gate(volume.uuid, leg) for leg in "ab"]
    assert {name: seen.status.split() for name, seen in read.items() if seen.status} == gates
    await dm.resume(names.path(volume.uuid, "b"))
