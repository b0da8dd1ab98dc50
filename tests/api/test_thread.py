"""The main job in simulation: the operator's process and three state managers on kernels in memory, around a real API
server. Two devices are lost one after the other, processes are killed, and what was acknowledged is read back.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from test_operator import start, stop

from lab.controlplane import ControlPlane
from millpond_adapters.kube import ApiKube, load
from millpond_core import layout
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, VirtualVolume
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import (
    Layout,
    Leg,
    OnFailure,
    Placement,
    VirtualVolumeSpec,
)
from millpond_core.testing.world import Disk, World
from millpond_core.units import MIB
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager

NODES = ("n1", "n2", "n3")
SLOTS = ("nvme1", "nvme2")
GRACE = 4


class Simulation:
    """Nodes in memory, in real time; a pod that writes to v1."""

    def __init__(self, plane: ControlPlane, folder: Path, kube: ApiKube) -> None:
        self.plane, self.folder, self.kube = plane, folder, kube
        self.world = World(now=time.time())
        self.managers: dict[str, StateManager] = {}
        self._clients = AsyncExitStack()
        self._ticking: asyncio.Task[None] | None = None
        self.writing = ""
        """The node on which the pod runs; empty: it does not."""
        self.acknowledged: dict[int, int] = {}
        self.longest_gap = 0.0
        self._last = 0.0
        self._writes: list[tuple[int, int, Any]] = []
        self._count = 0
        self._uuid = str(uuid.uuid4())

    async def __aenter__(self) -> Simulation:
        for node in NODES:
            for slot in SLOTS:
                self.world.machine(node).add_disk(slot, Disk(f"{node}{slot}".upper(), 256 * MIB))
            await self.start(node)
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticking:
            self._ticking.cancel()
        for manager in self.managers.values():
            await manager.stop(on_purpose=False)
        await self._clients.aclose()

    async def start(self, node: str) -> None:
        """A state manager with a connection of its own."""
        machine = self.world.machine(node)
        access = load(str(self.plane.kubeconfig))
        kube = await self._clients.enter_async_context(
            ApiKube(access, component=f"millpond-node-{node}", namespace="default")
        )
        config = Config(
            node=node,
            address=machine.address,
            run_dir=self.folder / node / machine.boot_id,
            boot_id=lambda: machine.boot_id,
            poll_seconds=0.2,
            heartbeat_seconds=2.0,
            lease_seconds=10,
            progress_seconds=1.0,
        )
        manager = self.managers[node] = StateManager(Ports(**self.world.ports(node)._asdict(), kube=kube), config)
        await manager.start()

    async def restart(self, node: str) -> None:
        await self.managers.pop(node).stop(on_purpose=False)
        await self.start(node)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.world.tick(max(time.time() - self.world.time, 0.01), chunks=2)
            self._write()

    def _write(self) -> None:
        if not self.writing or self.world.front(self.writing, self._uuid) is None:
            return
        for block, value, write in list(self._writes):
            if write.state == "acknowledged":
                self.acknowledged[block] = max(self.acknowledged.get(block, 0), value)
                self.longest_gap = max(self.longest_gap, time.monotonic() - (self._last or time.monotonic()))
                self._last = time.monotonic()
                self._writes.remove((block, value, write))
        for _ in range(4):
            self._count += 1
            block = self._count % 256
            self._writes.append((block, self._count, self.world.write(self.writing, self._uuid, block, self._count)))

    # --- objects ---

    async def adopt(self) -> None:
        for node in NODES:
            for slot in SLOTS:
                spec = StorageDeviceSpec(node_name=node, identity=Identity(serial=f"{node}{slot}".upper()))
                await self.kube.create(StorageDevice(metadata=ObjectMeta(name=f"{node}-{slot}"), spec=spec))

    async def claim(self) -> None:
        spec = VirtualVolumeSpec(
            uuid=self._uuid,
            size="16Mi",
            layout=Layout(copies=2),
            placement=Placement(preferred_node="n1"),
            on_failure=OnFailure(grace_period_seconds=GRACE, hold_seconds=5),
        )
        await self.kube.create(VirtualVolume(metadata=ObjectMeta(name="v1"), spec=spec))
        await self.until(lambda v: v.status.phase == "Ready")

    async def attach(self, node: str = "n1") -> None:
        await self.kube.merge(VirtualVolume, "v1", {"spec": {"attachment": {"node": node}}})
        await self.until(
            lambda v: any(
                n.node == node and n.front == "Active" and n.epoch == v.status.attachment.epoch for n in v.status.nodes
            )
        )
        self.writing = node

    async def until(self, said: Callable[[VirtualVolume], bool], seconds: float = 60) -> VirtualVolume:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            volume = await self.kube.get(VirtualVolume, "v1")
            if said(volume):
                return volume
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {volume.status}")

    async def replaced(self, generation: int) -> VirtualVolume:
        return await self.until(
            lambda v: v.status.phase == "Ready" and v.status.mapping.generation >= generation, seconds=90
        )

    async def over(self) -> list[Quiescence]:
        """All quiescences, once every one is over."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            found = await self.kube.list(Quiescence)
            if all(q.status.phase in ("Released", "Aborted") for q in found):
                return found
            await asyncio.sleep(0.1)
        raise AssertionError([(q.metadata.name, q.status.phase, q.status.message) for q in found])

    def pull(self, leg: Leg) -> None:
        self.world.machine(leg.node).pull(leg.extents[0].device.partition("-")[2])

    async def verify(self) -> None:
        """Nothing acknowledged is lost, and the legs in sync are equal."""
        node, self.writing = self.writing, ""
        await asyncio.sleep(1.0)
        assert len(self.acknowledged) > 100
        for block, value in self.acknowledged.items():
            read = self.world.read(node, self._uuid, block)
            assert read is not None, f"block {block} cannot be read"
            assert read >= value, f"block {block}: {read} instead of {value}"
        volume = await self.kube.get(VirtualVolume, "v1")
        legs = [leg for leg in volume.status.mapping.legs if leg.state == "InSync" and not leg.releasing]
        assert len(legs) == 2
        first, second = (self._data(leg) for leg in legs)
        assert first == second, "legs in sync differ"

    def _data(self, leg: Leg) -> dict[int, int]:
        places = [
            (
                extent.device.partition("-")[2],
                layout.LABEL_SECTORS + extent.start * layout.UNIT_SECTORS,
                extent.length * layout.UNIT_SECTORS,
            )
            for extent in leg.extents
        ]
        return self.world.leg(leg.node, places)


class Master:
    """The operator's process; it may be killed and started again."""

    def __init__(self, plane: ControlPlane, log: Path) -> None:
        self._plane, self.log = plane, log
        self.process = start(plane, log)

    def kill(self) -> None:
        stop(self.process, signal.SIGKILL)

    def restart(self) -> None:
        self.process = start(self._plane, self.log)

    def end(self) -> None:
        if self.process.poll() is None:
            stop(self.process)


@pytest.fixture
def master(plane: ControlPlane, kube: ApiKube, tmp_path: Path) -> Iterator[Master]:
    made = Master(plane, tmp_path / "operator.log")
    try:
        yield made
    finally:
        made.end()
        print(made.log.read_text()[-12000:])


@pytest.fixture
async def simulation(plane: ControlPlane, kube: ApiKube, master: Master, tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(plane, tmp_path, kube) as made:
        await made.adopt()
        await made.claim()
        await made.attach()
        yield made


@pytest.mark.timeout(240)
async def test_the_main_job(simulation: Simulation, kubectl: Callable[..., str]) -> None:
    volume = await simulation.kube.get(VirtualVolume, "v1")
    originals = sorted(volume.status.mapping.legs, key=lambda leg: leg.node == "n1")
    for number, leg in enumerate(originals):
        await asyncio.sleep(2)
        simulation.pull(leg)
        degraded = await simulation.until(lambda v: v.status.phase == "Degraded", seconds=20)
        print(degraded.status.message)
        print(kubectl("get", "sdev,vvol,qui,snode"))
        volume = await simulation.replaced(number + 2)
    live = {leg.id for leg in volume.status.mapping.legs if not leg.releasing}
    assert live == {"c", "d"}, "none of the original legs is left"
    quiescences = await simulation.over()
    assert {q.status.phase for q in quiescences} == {"Released"}
    for q in quiescences:
        print(q.metadata.name, q.spec.reason, q.status.acks, [(e.phase, e.at[17:23]) for e in q.status.timeline])
    print(kubectl("get", "sdev,vvol,qui,snode"))
    kubectl("wait", "--for=condition=Ready", "--timeout=10s", "vvol/v1", "snode/n1", "sdev/n3-nvme1")
    kubectl("wait", "--for=condition=Complete", "--timeout=10s", "qui", "--all")
    print(f"acknowledged {len(simulation.acknowledged)}, longest gap {simulation.longest_gap:.1f} s")
    await simulation.verify()


@pytest.mark.timeout(300)
async def test_every_process_is_killed_on_the_way(simulation: Simulation, master: Master) -> None:
    volume = await simulation.kube.get(VirtualVolume, "v1")
    lost = next(leg for leg in volume.status.mapping.legs if leg.node != "n1")
    simulation.pull(lost)
    for number in range(6):
        await asyncio.sleep(2.0)
        match number % 3:
            case 0:
                master.kill()
                master.restart()
            case 1:
                await simulation.restart("n1")
            case _:
                await simulation.restart("n3" if lost.node == "n2" else "n2")
    await simulation.replaced(2)
    await simulation.over()
    await simulation.verify()


@pytest.mark.timeout(240)
async def test_a_disk_that_returns_in_time_catches_up(simulation: Simulation) -> None:
    await simulation.kube.merge(VirtualVolume, "v1", {"spec": {"onFailure": {"gracePeriodSeconds": 60}}})
    volume = await simulation.kube.get(VirtualVolume, "v1")
    lost = next(leg for leg in volume.status.mapping.legs if leg.node != "n1")
    simulation.pull(lost)
    await simulation.until(lambda v: v.status.phase == "Degraded", seconds=20)
    await asyncio.sleep(3)
    simulation.world.machine(lost.node).plug(lost.extents[0].device.partition("-")[2])
    volume = await simulation.replaced(2)
    assert {leg.id for leg in volume.status.mapping.legs} == {"a", "b"}
    [q] = await simulation.over()
    assert q.spec.reason == "Reconfigure"
    await simulation.verify()


class Plugin:
    """``kubectl millpond`` as a process."""

    def __init__(self, plane: ControlPlane) -> None:
        self._argv = [sys.executable, "-m", "millpond_cli.main", "--kubeconfig", str(plane.kubeconfig)]

    async def begin(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*self._argv, *arguments, stdout=pipe, stderr=pipe)

    async def end(self, process: asyncio.subprocess.Process) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        try:
            async with asyncio.timeout(60):
                output, complaint = await process.communicate()
        except TimeoutError:
            process.kill()
            raise
        assert process.returncode is not None
        return process.returncode, output.decode(), complaint.decode()

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        return await self.end(await self.begin(*arguments))


@pytest.mark.timeout(240)
async def test_a_person_has_it_go_still_and_lets_it_go(
    simulation: Simulation, plane: ControlPlane, tmp_path: Path
) -> None:
    plugin, begun, go = Plugin(plane), tmp_path / "begun", tmp_path / "go"

    async def written(beyond: int) -> int:
        async with asyncio.timeout(30):
            while (newest := max(simulation.acknowledged.values(), default=0)) <= beyond:
                await asyncio.sleep(0.1)
        return newest

    async def until_it_runs() -> None:
        async with asyncio.timeout(30):
            while not begun.exists():
                await asyncio.sleep(0.1)

    waits = f'echo "$MILLPOND_QUIESCENCE" >{begun}; while [ ! -e {go} ]; do sleep 0.1; done; exit 7'
    held = ("quiesce", "--volume", "v1", "--hold", "--for", "60")
    copy = await plugin.begin(*held, "--name", "copy", "-o", "json", "--", "sh", "-c", waits)
    await until_it_runs()
    await asyncio.sleep(0.5)
    newest = await written(0)
    await asyncio.sleep(1.5)
    assert await written(0) == newest, "nothing is acknowledged while it is held"
    go.touch()
    status, output, told = await plugin.end(copy)
    assert (status, begun.read_text()) == (7, "copy\n")
    shown = json.loads(output)["status"]
    assert (shown["phase"], shown["acknowledgements"][0]["held"]) == ("Released", ["v1"])
    assert "Quiesced: " in told
    newest = await written(newest)

    status, output, _ = await plugin.run("explain", "qui/copy")
    assert status == 0
    assert re.search(r"^  n1: still at [0-9:.]{12} by its own clock, holds v1 for 60 s at most$", output, re.MULTILINE)
    print(output)
    for phase in ("Instructed", "Quiesced", "Released"):  # Draining may be over before the master looks
        assert re.search(rf"^ +\+\d+\.\d{{3}} s +{phase} ", output, re.MULTILINE), phase

    status, _, told = await plugin.run("quiesce", "--volume", "v1", "--hold", "--for", "8", "--", "sleep", "12")
    assert (status, "may not be of one moment" in told) == (4, True)
    newest = await written(newest)
    status, output, _ = await plugin.run("quiesce", "--volume", "v7", "--hold")
    assert (status, "there is no volume v7" in output) == (3, True)

    begun.unlink()
    go.unlink()
    stopped = await plugin.begin(*held, "--name", "stopped", "--", "sh", "-c", waits)
    await until_it_runs()
    stopped.send_signal(signal.SIGTERM)
    status, _, told = await plugin.end(stopped)
    assert (status, "releasing stopped" in told) == (143, True)
    newest = await written(newest)

    status, _, told = await plugin.run(*held, "--name", "kept")
    assert (status, "millpond release kept" in told) == (0, True)
    status, output, _ = await plugin.run("release", "kept")
    assert status == 0
    newest = await written(newest)
    assert {q.metadata.name: q.status.phase for q in await simulation.kube.list(Quiescence)}["kept"] == "Released"
    await simulation.verify()
