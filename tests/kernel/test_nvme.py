"""NVMe/TCP on the loopback: exported, connected, cut, found by identity, and taken back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rig import VOLUME_BYTES, Volume, dm, gate_status, until

from millpond_adapters import sysfs
from millpond_adapters.nvme_host import NvmeTcpHost
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import Busy, Conflict, Unavailable
from millpond_core.ports import NvmeHost, Nvmet

OTHER = "6a0c3c0e-0000-4000-8000-000000000000"
HOST = names.host_nqn("cluster", "node-1")
HOST_ID = names.host_id("cluster", "node-1")
ADDRESS, PORT = "127.0.0.1", names.NVME_PORT


class Wire:
    """Exports of a volume's legs from this machine to itself."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.target = NvmeTcpTarget()
        self.host = NvmeTcpHost()
        self._contracts: tuple[Nvmet, NvmeHost] = (self.target, self.host)

    def nqn(self, leg: str, epoch: int = 1) -> str:
        return names.subsystem_nqn(self.volume.uuid, leg, epoch, "0123456789ab")

    def namespace(self, leg: str, epoch: int = 1) -> str:
        return names.namespace_uuid(self.volume.uuid, leg, epoch, "0123456789ab")

    async def export(self, leg: str, epoch: int = 1, *, host: str = HOST, device: str = "") -> None:
        await self.target.export(
            self.nqn(leg, epoch),
            device or f"/dev/mapper/{self.volume.leg_name(leg)}",
            namespace_uuid=self.namespace(leg, epoch),
            serial=names.serial(self.volume.uuid, leg),
            host_nqn=host,
            address=ADDRESS,
            port=PORT,
        )

    async def mirrored(self) -> None:
        """Leg a here, leg b behind the wire, both in the array."""
        await self.volume.legs("a")
        await self.volume.bare_legs("b")
        await self.export("b")
        await self.volume.connect("b", to=await self.connect("b"))
        await self.volume.assemble("ab")

    async def connect(self, leg: str, epoch: int = 1) -> str:
        """major:minor of the leg's namespace on the host side."""
        controller = await self.host.connect(
            self.nqn(leg, epoch),
            f"{ADDRESS}:{PORT}",
            host_nqn=HOST,
            host_id=HOST_ID,
            namespace_uuid=self.namespace(leg, epoch),
        )
        (found,) = [one for one in controller.namespaces if one.uuid == self.namespace(leg, epoch)]
        return found.major_minor

    async def until_live(self, leg: str, *, live: bool = True) -> None:
        """Until the host's connection is, or is not any more."""

        async def come() -> bool:
            return ((await self.host.states())[self.nqn(leg)] == "live") is live

        await until(come, f"the controller is {'live' if live else 'not live any more'}", seconds=20)

    async def close(self) -> None:
        for nqn in await self.host.list():
            await self.host.disconnect(nqn)
        for nqn in await self.target.list():
            await self.target.unexport(nqn)


@pytest.fixture
async def wire(volume: Volume) -> AsyncIterator[Wire]:
    wire = Wire(volume)
    try:
        yield wire
        await volume.compare()
        volume.compare_at_end = False
    finally:
        await volume.close(keep_legs=True)
        await wire.close()
    assert not await wire.host.list()
    assert not await wire.target.list()


async def test_a_leg_is_exported_connected_and_taken_back(wire: Wire) -> None:
    await wire.volume.bare_legs("a")
    await wire.export("a")
    await wire.export("a")
    export = (await wire.target.list())[wire.nqn("a")]
    assert (export.enabled, export.linked, export.allowed_hosts) == (True, True, (HOST,))
    assert export.namespace_uuid == wire.namespace("a")
    number = await wire.connect("a")
    assert await wire.connect("a") == number
    controller = (await wire.host.list())[wire.nqn("a")]
    assert (controller.state, controller.address, controller.host_nqn) == ("live", f"{ADDRESS}:{PORT}", HOST)
    assert await wire.host.list(wire.volume.uuid) == {wire.nqn("a"): controller}
    assert await wire.target.list(wire.volume.uuid) == {wire.nqn("a"): export}
    assert not {**await wire.host.list(OTHER), **await wire.target.list(OTHER)}
    assert await wire.host.states() == {wire.nqn("a"): "live"}
    block = Path(f"/sys/dev/block/{number}").resolve()
    assert sysfs.read(block / "uuid") == wire.namespace("a")
    assert int(sysfs.read(block / "size")) == layout.leg_sectors(VOLUME_BYTES)
    await wire.host.disconnect(wire.nqn("a"))
    await wire.host.disconnect(wire.nqn("a"))
    assert not await wire.host.list()
    await wire.target.unexport(wire.nqn("a"))
    await wire.target.unexport(wire.nqn("a"))
    assert not await wire.target.list()
    assert sysfs.entries(Path("/sys/kernel/config/nvmet/hosts")) == []
    assert sysfs.entries(Path("/sys/kernel/config/nvmet/ports")) == []


async def test_what_is_exported_otherwise_is_refused(wire: Wire) -> None:
    await wire.volume.bare_legs("ab")
    await wire.export("a")
    with pytest.raises(Conflict, match="already"):
        await wire.export("a", device=f"/dev/mapper/{wire.volume.leg_name('b')}")
    with pytest.raises(Conflict, match="already"):
        await wire.export("a", host=names.host_nqn("cluster", "node-2"))
    await wire.export("b")
    assert len(sysfs.entries(Path("/sys/kernel/config/nvmet/ports"))) == 1


async def test_a_half_made_export_is_completed(wire: Wire) -> None:
    """As a state manager finds it that was killed in between."""
    await wire.volume.bare_legs("a")
    root = Path("/sys/kernel/config/nvmet")
    await run("mkdir", str(root / "ports/1"), str(root / "subsystems" / wire.nqn("a")))
    await run("mkdir", str(root / "subsystems" / wire.nqn("a") / "namespaces/1"))
    await wire.export("a")
    assert await wire.connect("a")


async def test_nobody_is_let_in_who_is_not_named(wire: Wire) -> None:
    await wire.volume.bare_legs("a")
    with pytest.raises(Unavailable, match="cannot be reached"):
        await wire.connect("a")
    await wire.export("a", host=names.host_nqn("cluster", "node-2"))
    with pytest.raises(Unavailable, match="refuses"):
        await wire.connect("a")
    assert not await wire.host.list()


async def test_a_namespace_with_another_identity_is_not_taken(wire: Wire) -> None:
    await wire.volume.bare_legs("a")
    await wire.export("a")
    with pytest.raises(Unavailable, match="did not appear"):
        await wire.host.connect(
            wire.nqn("a"), f"{ADDRESS}:{PORT}", host_nqn=HOST, host_id=HOST_ID, namespace_uuid=str(uuid.uuid4())
        )


async def test_a_namespace_whose_identity_has_changed_is_found(wire: Wire) -> None:
    """The kernel drops it, and takes the new one only when it is told to look again."""
    await wire.volume.bare_legs("a")
    await wire.export("a")
    await wire.connect("a")
    nqn, identity = wire.nqn("a"), wire.namespace("a", 2)
    root = Path("/sys/kernel/config/nvmet")
    subsystem, link = root / "subsystems" / nqn, root / "ports/1/subsystems" / nqn
    namespace = subsystem / "namespaces/1"
    await run("rm", str(link))
    await wire.until_live("a", live=False)
    await sysfs.write_all(
        [
            (namespace / "enable", "0"),
            (namespace / "device_uuid", identity),
            (namespace / "device_nguid", identity),
            (namespace / "enable", "1"),
        ]
    )
    await run("ln", "-s", str(subsystem), str(link))
    await wire.until_live("a")
    found = await wire.host.connect(nqn, f"{ADDRESS}:{PORT}", host_nqn=HOST, host_id=HOST_ID, namespace_uuid=identity)
    assert [one.uuid for one in found.namespaces] == [identity]


async def test_taking_back_cuts_a_connected_host_and_ends_its_writes(wire: Wire) -> None:
    """The fence: after unexport returns nothing of that host reaches the leg any more."""
    volume = wire.volume
    await volume.bare_legs("a")
    await wire.export("a")
    await volume.connect("a", to=await wire.connect("a"))
    await volume.assemble("a")
    await volume.write(0, 4)
    writer = volume.start_write(50, 20)
    begun = time.monotonic()
    await wire.target.unexport(wire.nqn("a"))
    assert time.monotonic() - begun < 8
    image = await volume.data("a")
    await volume.held("a")
    await asyncio.sleep(0.5)
    assert await volume.data("a") == image
    assert not writer.done()
    # the next epoch of the same leg: another subsystem, another number, the same path and gate
    await wire.export("a", epoch=2)
    await volume.swap_path("a", await wire.connect("a", epoch=2))
    await volume.reinstate("a")
    await asyncio.wait_for(writer, 10)


async def test_a_suspended_leg_is_not_taken_back_but_refused(wire: Wire) -> None:
    """Disabling its namespace would sleep in D with a lock that every connect needs."""
    await wire.volume.bare_legs("a")
    await wire.export("a")
    name = wire.volume.leg_name("a")
    await dm.suspend(name)
    with pytest.raises(Busy, match="suspended"):
        await wire.target.unexport(wire.nqn("a"))
    await dm.resume(name)
    await wire.target.unexport(wire.nqn("a"))


async def test_a_broken_leg_behind_the_wire_is_held_and_reinstated(wire: Wire) -> None:
    """The disk under a remote leg fails: the host sees an error at once, the gate holds it."""
    volume = wire.volume
    await wire.mirrored()
    await volume.write(0, 4)
    await volume.break_leg("b")
    begun = time.monotonic()
    writer = volume.start_write(40)
    await volume.held("b")
    assert time.monotonic() - begun < 3
    await volume.heal("b")
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 5)


async def test_the_table_under_an_export_is_swapped_while_it_is_written_to(wire: Wire) -> None:
    volume = wire.volume
    await wire.mirrored()
    for block in range(0, 48, 8):
        writer = volume.start_write(block, 8)
        await volume.heal("b")  # loads its table anew
        await asyncio.wait_for(writer, 20)
    status = await gate_status(names.gate(volume.uuid, "b"))
    assert status.path_up
    assert await wire.connect("b"), "the connection has lived through it"


async def test_a_lost_remote_leg_is_dropped_and_comes_back_by_a_delta(wire: Wire) -> None:
    volume = wire.volume
    await wire.mirrored()
    await volume.write(0, 4)
    await wire.target.unexport(wire.nqn("b"))
    writer = volume.start_write(40)
    await volume.held("b")
    await volume.drop("b")
    await asyncio.wait_for(writer, 10)
    await wire.export("b", epoch=2)
    await volume.swap_path("b", await wire.connect("b", epoch=2))
    await volume.reinstate("b")
    await volume.gate_hold("b")
    await volume.add("b", delta=True)
    await volume.in_sync("b")


async def test_a_namespace_that_is_back_under_another_number_is_taken_up(wire: Wire) -> None:
    """The NVMe device below goes while the gate holds; array and gate never see that another one came."""
    volume = wire.volume
    await wire.mirrored()
    before = await wire.connect("b")
    writer = volume.start_write(40, 8)
    await wire.target.unexport(wire.nqn("b"))
    await wire.host.disconnect(wire.nqn("b"))
    await volume.held("b")
    assert not Path(f"/sys/dev/block/{before}").exists()
    await wire.export("b")
    after = await wire.connect("b")
    assert after != before, "the path holds the old number"
    await volume.swap_path("b", after)
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 10)
    devices = await dm.list()
    path, gate = devices[names.path(volume.uuid, "b")], devices[names.gate(volume.uuid, "b")]
    assert (path.major_minor, gate.major_minor) == (volume.path_number("b"), volume.gate_number("b"))
    assert layout.lies_on(path.table, after)
    assert (await volume.look()).degraded == 0


async def test_a_silent_network_is_noticed_and_the_connection_comes_back(wire: Wire) -> None:
    """Packets are dropped: the keep-alive notices, the gate holds, and the same connection goes on afterwards."""
    volume = wire.volume
    await volume.legs("a")
    await volume.bare_legs("b")
    await wire.export("b")
    number = await wire.connect("b")
    await volume.connect("b", to=number)
    await volume.assemble("ab")
    await volume.write(0, 4)
    await _network(up=False)
    try:
        begun = time.monotonic()
        writer = volume.start_write(40)
        await wire.until_live("b", live=False)
        await volume.held("b", seconds=20)
        seconds = time.monotonic() - begun
        print(f"a silent network is held after {seconds:.1f} s")
        assert seconds < 16
    finally:
        await _network(up=True)

    await wire.until_live("b")
    assert await wire.connect("b") == number
    await volume.reinstate("b")
    await asyncio.wait_for(writer, 10)


async def _network(*, up: bool) -> None:
    """Drop every packet to or from the port, as a cut cable does."""
    if up:
        await run("nft", "delete", "table", "inet", "millpond_test")
        return
    hook = "type filter hook input priority 0"
    rules = f"{hook}\ntcp dport {PORT} drop\ntcp sport {PORT} drop"
    await run("nft", f"table inet millpond_test {{\nchain in {{\n{rules}\n}}\n}}\n")
