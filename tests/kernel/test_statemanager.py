"""State managers on a real kernel: three of them share this machine, each sees its own disk, legs and exports.

The API server is in memory, the master is the test's own hand (``tests/node/by_hand``); all below is real: labels
on NVMe disks that are pulled from their ports, device-mapper, md, nvmet, NVMe/TCP over the loopback.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from by_hand import ByHand
from rig import leftovers

from lab import qmp
from millpond_adapters.block import BlockDevices
from millpond_adapters.clock import SystemClock
from millpond_adapters.dm import DeviceMapper
from millpond_adapters.label import LabelArea
from millpond_adapters.md import MdRaid
from millpond_adapters.nvme_host import NvmeTcpHost
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_adapters.pods import PodProcesses
from millpond_adapters.run import run
from millpond_core import names
from millpond_core.errors import CommandFailed
from millpond_core.model import ObjectMeta, StorageDevice
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import Leg, OnFailure
from millpond_core.testing.kube import MemoryKube
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager

pytestmark = pytest.mark.timeout(300)
DISKS = {"n1": 1, "n2": 2, "n3": 3}
BLOCK = 65536
HOST_NODE = "n1"
"""Where volumes are attached: its view has the stack, the others' have their leg and its export alone."""


class View:
    """A port as one of the nodes sees it. ``mine`` says which names belong to the node; lists are cut to those."""

    def __init__(self, port: Any, mine: Callable[[str], bool]) -> None:
        self._port, self._mine = port, mine

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        if name not in ("list", "gates", "disks"):
            return real

        async def listed() -> dict[str, Any]:
            return {key: value for key, value in (await real()).items() if self._mine(key)}

        return listed


class Disks(BlockDevices):
    """One node's only disk."""

    def __init__(self, serial: str) -> None:
        super().__init__()
        self._serial = serial

    async def disks(self) -> dict[str, Any]:
        return {name: disk for name, disk in (await super().disks()).items() if disk.serial == self._serial}


class Machine(ByHand):
    """Three nodes on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kube = MemoryKube(SystemClock())
        self.nodes = tuple(DISKS)
        self.managers: dict[str, StateManager] = {}
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.legs: dict[str, str] = {}
        """Leg → node."""

    def boot_id(self, node: str) -> str:
        return self.boot

    async def until(self, what: Callable[[], object], *, seconds: int = 60, why: str = "") -> None:
        deadline = time.monotonic() + max(seconds, 90)
        while not what():
            if time.monotonic() > deadline:
                raise AssertionError(why or await self.tell())
            await asyncio.sleep(0.2)

    async def tell(self) -> str:
        lines = [
            f"{key.plural}/{key.name}: {msgspec.json.encode(document.get('status', {})).decode()}"
            for key, document in self.kube._store._objects.items()
        ]
        for argv in (("dmsetup", "table"), ("dmsetup", "status"), ("cat", "/proc/mdstat")):
            lines.append((await run(*argv)).decode())
        return "\n".join(lines)

    def _sees(self, node: str) -> Callable[[str], bool]:
        """dm devices: legs are their node's, everything else the host node's."""

        def mine(name: str) -> bool:
            _, found, leg = name.rpartition("-leg-")
            return self.legs.get(leg) == node if found else node == HOST_NODE

        return mine

    async def start(self, node: str) -> None:
        host = node == HOST_NODE

        def exported(nqn: str) -> bool:
            parsed = names.parse_nqn(nqn)
            return parsed is not None and self.legs.get(parsed[1]) == node

        ports = Ports(
            dm=View(DeviceMapper(), self._sees(node)),  # type: ignore[arg-type]
            md=View(MdRaid(), lambda name: host),  # type: ignore[arg-type]
            nvme=View(NvmeTcpHost(), lambda nqn: host),  # type: ignore[arg-type]
            nvmet=View(NvmeTcpTarget(), exported),  # type: ignore[arg-type]
            block=Disks(f"guest-disk{DISKS[node]}"),
            labels=LabelArea(),
            pods=PodProcesses(),
            clock=SystemClock(),
            kube=self.kube,
        )
        config = Config(
            node=node, address="127.0.0.1", run_dir=self.folder / node, boot_id=lambda: self.boot, poll_seconds=1.0
        )
        self.managers[node] = StateManager(ports, config)
        await self.managers[node].start()

    async def stop(self, node: str) -> None:
        await self.managers.pop(node).stop(on_purpose=False)

    async def claim(self) -> None:
        for node, number in DISKS.items():
            spec = StorageDeviceSpec(node_name=node, identity=Identity(serial=f"guest-disk{number}"))
            await self.kube.create(StorageDevice(metadata=ObjectMeta(name=f"{node}-nvme1"), spec=spec))
        await self.until(
            lambda: all(self.sdev(f"{node}-nvme1").status.observation.state == "Claimed" for node in DISKS)
        )

    def pull(self, node: str) -> None:
        with qmp.own() as monitor:
            monitor.command("device_del", {"id": f"disk{DISKS[node]}"})

    async def plug(self, node: str) -> None:
        disk = f"disk{DISKS[node]}"
        device = {
            "driver": "nvme",
            "id": disk,
            "bus": f"port-{disk}",
            "drive": f"{disk}-data",
            "serial": f"guest-{disk}",
        }
        deadline = time.monotonic() + 20
        while True:
            try:
                with qmp.own() as monitor:
                    monitor.command("device_add", device)
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    # --- what a pod does ---

    async def write(self, name: str, block: int, value: int) -> float:
        """One durable write; the seconds that it took."""
        began = time.monotonic()
        front = f"/dev/mapper/{names.front(self.vvol(name).spec.uuid)}"
        argv = ("dd", f"of={front}", f"bs={BLOCK}", f"seek={block}", "count=1", "oflag=direct,dsync", "conv=notrunc")
        await run(*argv, "status=none", stdin=bytes([value]) * BLOCK, seconds=45)
        return time.monotonic() - began

    async def read(self, name: str, block: int) -> int:
        front = f"/dev/mapper/{names.front(self.vvol(name).spec.uuid)}"
        argv = ("dd", f"if={front}", f"bs={BLOCK}", f"skip={block}", "count=1", "iflag=direct", "status=none")
        content = await run(*argv, seconds=45)
        assert content == content[:1] * BLOCK
        return content[0]

    async def content(self, name: str, leg: str) -> bytes:
        """A leg's data, past its bitmap."""
        device = f"/dev/mapper/{names.leg(self.vvol(name).spec.uuid, leg)}"
        return await run("dd", f"if={device}", "bs=1M", "skip=1", "iflag=direct", "status=none", seconds=60)

    async def equal(self, name: str, *legs: str) -> None:
        contents = [await self.content(name, leg) for leg in legs]
        size = self.vvol(name).status.size_bytes
        assert all(content[:size] == contents[0][:size] for content in contents)


@asynccontextmanager
async def three_nodes(folder: Path) -> AsyncIterator[Machine]:
    machine = Machine(folder)
    await machine.kube.raw("POST", "/api/v1/namespaces", {"metadata": {"name": "kube-system"}})
    for node in DISKS:
        await wipe(node)
        await machine.start(node)
    try:
        await machine.claim()
        yield machine
    finally:
        for node in list(machine.managers):
            await machine.stop(node)
        await tear_down()
        present = {disk.serial for disk in (await BlockDevices().disks()).values()}
        for node, number in DISKS.items():
            if f"guest-disk{number}" not in present:
                await machine.plug(node)
        await asyncio.sleep(1)
        for node in DISKS:
            await wipe(node)
        assert not await leftovers()


async def wipe(node: str) -> None:
    for disk in (await BlockDevices().disks()).values():
        if disk.serial == f"guest-disk{DISKS[node]}":
            await LabelArea().clear(f"/dev/{disk.name}")


async def tear_down() -> None:
    """Whatever stands, by force: a test may have failed anywhere."""
    dm, md, host, target = DeviceMapper(), MdRaid(), NvmeTcpHost(), NvmeTcpTarget()
    devices = await dm.list()
    for name, device in devices.items():
        if device.suspended:
            await dm.resume(name)
        if "-gate-" in name:
            await dm.gate_fail(name)
    for array in (await md.list()).values():
        for member in array.members:
            if "faulty" in member.flags:
                await md.acknowledge_failure(array.name, member.major_minor)
        await md.acknowledge(array.name)
    fronts = [name for name in devices if len(name) == len(names.DM_PREFIX) + 36]
    for name in fronts:
        await dm.remove(name)
    for array_name in await md.list():
        await md.stop(array_name)
    for part in ("-gate-", "-path-"):
        for name in devices:
            if part in name:
                await dm.remove(name)
    for nqn in await host.list():
        await host.disconnect(nqn)
    for nqn in await target.list():
        await target.unexport(nqn)
    for name in await dm.list():
        with suppress(CommandFailed):
            await dm.remove(name)


async def prepare(machine: Machine, name: str = "v", **fields: Any) -> None:
    """A volume of this test, mirrored on n1 and n2, attached and written to."""
    machine.legs = {"a": "n1", "b": "n2", "c": "n3"}
    await machine.volume(name, "n1", "n2", size_mib=32, **fields)
    await machine.attach(name, HOST_NODE)
    for block in range(0, 500, 50):
        await machine.write(name, block, block % 250 + 1)


def volume_name() -> str:
    """Names are the volumes' identity here: one for each test."""
    return f"v-{uuid.uuid4().hex[:6]}"


async def test_the_main_job(tmp_path: Path) -> None:
    name = volume_name()
    async with three_nodes(tmp_path) as machine:
        await prepare(machine, name)
        machine.pull("n2")
        pulled = time.monotonic()
        gap = await machine.write(name, 7, 77)
        assert machine.states(name)["b"] == "Stale", "recorded before the write was let go"
        assert gap < 45
        await machine.until(lambda: machine.sdev("n2-nvme1").status.observation.state == "Failed")
        print(f"write gap {gap:.1f} s, device Failed seen after {time.monotonic() - pulled:.1f} s at most")
        spare = machine.new_leg("c", "n3", 32)
        await machine.change(name, spares=[spare])
        await machine.until(lambda: machine.exported(name, "c"))
        await machine.ring("q", name, nodes=("n1",))
        await machine.until(lambda: (a := machine.answer("n1", "q")) is not None and a.phase == "Quiesced")

        def without(leg: Leg) -> Leg:
            return msgspec.structs.replace(leg, state="Failed", releasing=True) if leg.id == "b" else leg

        await machine.change(name, spares=[])
        await machine.commit(name, without, spare)
        await machine.until(lambda: machine.report(name, "n1").generation == 2)
        await machine.silence("n1")
        await machine.write(name, 8, 88)
        await machine.until(lambda: machine.in_sync(name) == ["a", "c"])
        await machine.equal(name, "a", "c")
        machine.pull("n1")
        await machine.write(name, 9, 99)
        assert machine.in_sync(name) == ["c"]
        assert [await machine.read(name, block) for block in (0, 50, 7, 8, 9)] == [1, 51, 77, 88, 99]
        await machine.detach(name)
        await machine.attach(name, HOST_NODE)
        assert [await machine.read(name, block) for block in (0, 50, 7, 8, 9)] == [1, 51, 77, 88, 99]
        await machine.detach(name)


@pytest.mark.parametrize("lost", ["n1", "n2"], ids=["the local disk", "the remote disk"])
async def test_a_disk_that_comes_back_catches_up(tmp_path: Path, lost: str) -> None:
    name, gone = volume_name(), "a" if lost == "n1" else "b"
    async with three_nodes(tmp_path) as machine:
        await prepare(machine, name)
        machine.pull(lost)
        await machine.write(name, 7, 77)
        await machine.until(lambda: machine.sdev(f"{lost}-nvme1").status.observation.state == "Failed")
        await machine.write(name, 300, 30)
        await machine.plug(lost)
        await machine.until(lambda: machine.sdev(f"{lost}-nvme1").status.observation.state == "Claimed")
        await machine.rejoin(name, gone)
        await machine.until(lambda: machine.in_sync(name) == ["a", "b"])
        await machine.write(name, 301, 31)
        await machine.equal(name, "a", "b")
        await machine.detach(name)
        await machine.equal(name, "a", "b")


async def test_a_restart_adopts_what_runs(tmp_path: Path) -> None:
    name = volume_name()
    async with three_nodes(tmp_path) as machine:
        await prepare(machine, name)
        before = await DeviceMapper().list(), await MdRaid().list()
        for node in DISKS:
            await machine.stop(node)
        await machine.write(name, 1, 11)
        for node in DISKS:
            await machine.start(node)
        await machine.until(lambda: all(m.devices.ready for m in machine.managers.values()))
        await asyncio.sleep(3)
        dm, md = await DeviceMapper().list(), await MdRaid().list()
        assert {n: (d.major_minor, d.table) for n, d in dm.items()} == {
            n: (d.major_minor, d.table) for n, d in before[0].items()
        }
        assert {n: a.members for n, a in md.items()} == {n: a.members for n, a in before[1].items()}
        assert machine.states(name) == {"a": "InSync", "b": "InSync"}
        await machine.write(name, 2, 22)
        await machine.equal(name, "a", "b")
        await machine.detach(name)


async def test_a_hold_drains_and_ends(tmp_path: Path) -> None:
    name = volume_name()
    async with three_nodes(tmp_path) as machine:
        await prepare(machine, name, on_failure=OnFailure(hold_seconds=5))
        await machine.ring("q", name, nodes=("n1",), hold_io=True, deadline=6)
        await machine.until(lambda: (a := machine.answer("n1", "q")) is not None and a.phase == "Quiesced")
        seconds = await machine.write(name, 1, 11)
        assert 1 < seconds < 15, "held until the deadline"
        await machine.until(lambda: machine.answer("n1", "q").phase == "Expired")
        # Whoever resumed the front, state manager or watchdog, forgets the hold afterwards.
        await machine.until(lambda: not list((tmp_path / "n1" / "holds").iterdir()))
        await machine.detach(name)
