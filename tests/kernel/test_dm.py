"""device-mapper: the contract of its port, where the rest of the tier does not show it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rig import VOLUME_BYTES, Volume, dm, gate_status

from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import Busy, Conflict, Invalid, MillpondError, NotFound
from millpond_core.model.virtualvolume import Extent
from millpond_core.ports import Dm

_contract: Dm = dm
OTHER = "6a0c3c0e-0000-4000-8000-000000000000"
TIMEOUT = Path("/sys/module/dm_multipath/parameters/queue_if_no_path_timeout_secs")


async def test_a_device_is_created_once(volume: Volume) -> None:
    await volume.legs("a")
    name = volume.leg_name("a")
    first = await dm.get(name)
    assert first.table == f"0 {8 * 8192} linear 1:0 8192"
    assert not first.suspended
    assert await dm.create(name, names.dm_uuid(name), first.table) == first
    assert (await dm.list())[name].uuid == names.dm_uuid(name)
    assert name in await dm.list(volume.uuid)
    assert not await dm.list(OTHER)
    with pytest.raises(Conflict, match="exists already"):
        await dm.create(name, names.dm_uuid(name), f"0 {8 * 8192} error")


async def test_a_gate_is_the_same_in_either_mode(volume: Volume) -> None:
    await volume.legs("a")
    gate, path = names.gate(volume.uuid, "a"), volume.path_number("a")
    for holding in (True, False):
        await (dm.gate_hold if holding else dm.gate_fail)(gate)
        status = await gate_status(gate)
        assert (status.holding, status.path_up, status.queued) == (holding, True, 0)
        wanted = layout.gate_table(path, VOLUME_BYTES, holding=not holding)
        await dm.create(gate, names.dm_uuid(gate), wanted)
        assert (await gate_status(gate)).holding == holding
    await dm.gate_fail_path(gate, path)
    await dm.gate_fail_path(gate, path)
    assert not (await gate_status(gate)).path_up
    await dm.gate_reinstate(gate, path)
    assert (await gate_status(gate)).path_up


async def test_a_refused_table_leaves_the_device_as_it_was(volume: Volume) -> None:
    await volume.legs("a")
    name = volume.leg_name("a")
    before = await dm.get(name)
    with pytest.raises(MillpondError):
        await dm.swap(name, "0 100 linear 250:250 0")
    with pytest.raises(MillpondError):
        await dm.swap(name, f"0 {8 * 8192} linear 1:0 8193000")
    assert await dm.get(name) == before


async def test_what_is_open_is_not_removed_and_what_is_gone_is_no_error(volume: Volume) -> None:
    await volume.legs("a")
    with pytest.raises(Busy, match="opened 1 times"):
        await dm.remove(volume.leg_name("a"))
    await dm.remove("millpond-nothing")
    with pytest.raises(NotFound):
        await dm.suspend("millpond-nothing")
    with pytest.raises(NotFound):
        await dm.get("millpond-nothing")
    with pytest.raises(Invalid):
        await dm.remove("vg0-root")


async def test_foreign_devices_are_not_seen(volume: Volume) -> None:
    await run("dmsetup", "create", "someone-else", "--table", "0 2048 zero")
    try:
        assert "someone-else" not in await dm.list()
    finally:
        await run("dmsetup", "remove", "--retry", "someone-else")  # udev looks at what is not ours


async def test_a_node_of_a_former_device_is_not_taken_for_ours(volume: Volume) -> None:
    name = volume.leg_name("a")
    os.mknod(f"/dev/mapper/{name}", 0o60600, os.makedev(1, 3))
    await volume.legs("a")
    found = Path(f"/dev/mapper/{name}").stat().st_rdev
    assert f"{os.major(found)}:{os.minor(found)}" == (await dm.get(name)).major_minor


async def test_a_kernel_that_opens_gates_by_itself_is_refused(volume: Volume) -> None:
    TIMEOUT.write_text("30")
    try:
        with pytest.raises(Invalid, match="queue_if_no_path_timeout_secs"):
            await volume.legs("a")
    finally:
        TIMEOUT.write_text("0")


async def test_a_striped_leg_holds_its_bytes_where_the_layout_says(volume: Volume) -> None:
    name = volume.leg_name("s")
    extents = [Extent(device=f"ram{n}", device_uuid=str(n), start=n, length=2) for n in (0, 1)]
    table = layout.leg_table(extents, {"0": "1:0", "1": "1:1"}, stripes=2, stripe_bytes=65536)
    await dm.create(name, names.dm_uuid(name), table)
    try:
        assert (await dm.get(name)).table == table
        assert layout.table_sectors(table) == 4 * layout.UNIT_SECTORS
        data = os.urandom(65536)
        await run("dd", f"of=/dev/mapper/{name}", "bs=64k", "seek=1", "oflag=direct", "iflag=fullblock", stdin=data)
        start = (layout.LABEL_SECTORS + layout.UNIT_SECTORS) * 512 // 65536
        found = await run("dd", "if=/dev/ram1", "bs=64k", f"skip={start}", "count=1", "iflag=direct")
        assert found == data
    finally:
        await dm.remove(name)
