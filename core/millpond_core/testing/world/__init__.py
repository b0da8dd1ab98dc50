"""The kernels of several nodes in one process: disks, device-mapper, gates, md, NVMe/TCP between them, and time.

Everything is synchronous below the ports and goes on at once (``pump``) or as time goes by (``tick``). Faults are
calls: ``machine.pull``, ``machine.plug``, ``machine.power_off``, ``machine.boot``, ``world.cut``, ``disk.failing``.
What a pod does is ``world.write`` and ``world.read``; whether legs are equal is ``world.leg``.

    world = World()
    n1 = world.machine("n1")
    n1.add_disk("nvme1", Disk("S1", 64 * GIB))
    ports = world.ports("n1")            # dm, md, nvme, nvmet, block, labels, clock
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from millpond_core import names
from millpond_core.layout import BITMAP_SECTORS
from millpond_core.ports import Block, Clock, Dm, Labels, Md, NvmeHost, Nvmet, Pods
from millpond_core.testing.world.array import BLOCK_SECTORS, MdArray, Write
from millpond_core.testing.world.disks import Disk
from millpond_core.testing.world.machine import DmMapped, Machine
from millpond_core.testing.world.ports import (
    MemoryBlock,
    MemoryClock,
    MemoryDm,
    MemoryLabels,
    MemoryMd,
    MemoryNvmeHost,
    MemoryNvmet,
    MemoryPods,
)

__all__ = ["BLOCK_SECTORS", "Disk", "Machine", "NodePorts", "World", "Write"]

Hook = Callable[[Machine, str], Awaitable[None]]


class NodePorts(NamedTuple):
    """The kernel's ports of one node."""

    dm: Dm
    md: Md
    nvme: NvmeHost
    nvmet: Nvmet
    block: Block
    labels: Labels
    pods: Pods
    clock: Clock


class World:
    """All nodes. ``hooks`` are awaited before each call that changes anything: to kill, to check, to fail."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.time = now
        self.machines: dict[str, Machine] = {}
        self.hooks: list[Hook] = []
        self.steps: list[str] = []
        self.md_watchers: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._shown: dict[tuple[str, str], tuple[str, str, int]] = {}
        self._cut: set[str] = set()
        self._count = 0
        self._pumping = False

    # --- nodes ---

    def machine(self, node: str) -> Machine:
        """The node's machine, made when it is first asked for."""
        if node not in self.machines:
            self.machines[node] = Machine(self, node, f"10.0.0.{len(self.machines) + 1}")
        return self.machines[node]

    def ports(self, node: str) -> NodePorts:
        machine = self.machine(node)
        return NodePorts(
            dm=MemoryDm(self, machine),
            md=MemoryMd(self, machine),
            nvme=MemoryNvmeHost(self, machine),
            nvmet=MemoryNvmet(self, machine),
            block=MemoryBlock(self, machine),
            labels=MemoryLabels(self, machine),
            pods=MemoryPods(self, machine),
            clock=MemoryClock(self),
        )

    def count(self) -> int:
        """A number that was not given before."""
        self._count += 1
        return self._count

    # --- the storage network ---

    def cut(self, node: str) -> None:
        """The node's link is down."""
        self._cut.add(node)
        self.pump()

    def restore(self, node: str) -> None:
        self._cut.discard(node)
        self.pump()

    def linked(self, one: Machine, other: Machine) -> bool:
        return one is other or not {one.node, other.node} & self._cut

    def at(self, address: str) -> Machine | None:
        """The machine behind ``ip:port``."""
        host = address.rsplit(":", 1)[0]
        return next((m for m in self.machines.values() if m.address == host), None)

    # --- time ---

    async def step(self, machine: Machine, call: str) -> None:
        """Before each call that changes a kernel."""
        for hook in list(self.hooks):
            await hook(machine, call)
        self.steps.append(f"{machine.node}: {call}")

    def tick(self, seconds: float = 1.0, chunks: int = 1) -> None:
        """Time goes by: rebuilds copy ``chunks`` chunks, lazy bits are cleared."""
        self.time += seconds
        for array in self._arrays():
            array.tick(chunks)
        self.pump()

    def pump(self) -> None:
        """Let every request that waits try again."""
        if self._pumping:
            return
        self._pumping = True
        try:
            for machine in self.machines.values():
                for dm in machine.dm.values():
                    dm.queued = 0
            for machine in list(self.machines.values()):
                shut = {number for dm in machine.dm.values() if dm.suspended or dm.draining for number in dm.below()}
                for array in list(machine.arrays.values()):
                    if array.major_minor in shut:
                        self._pump_started(array)
                    else:
                        array.pump()
        finally:
            self._pumping = False
        self._call_watchers()

    def _arrays(self) -> list[MdArray]:
        return [array for machine in self.machines.values() for array in machine.arrays.values()]

    def _pump_started(self, array: MdArray) -> None:
        waiting = [write for write in array.writes if write.state == "waiting"]
        array.writes = [write for write in array.writes if write.state != "waiting"]
        array.pump()
        array.writes += waiting

    def _call_watchers(self) -> None:
        for (node, name), watchers in self.md_watchers.items():
            array = self.machines[node].arrays.get(name)
            seen = array.observed() if array else None
            shown = (seen.array_state, seen.sync_action, seen.degraded) if seen else ("clear", "idle", 0)
            if self._shown.get((node, name)) != shown:
                self._shown[node, name] = shown
                for changed in list(watchers):
                    changed()

    # --- what pods do ---

    def front(self, node: str, volume: str) -> DmMapped | None:
        """The volume's front on a node (``volume`` is spec.uuid)."""
        return self.machine(node).dm.get(names.front(volume))

    def write(self, node: str, volume: str, block: int, value: int, *, fua: bool = True) -> Write:
        """A pod writes one block (4 KiB) and flushes; look at ``state`` for what became of it."""
        return self._ask(node, volume, Write(block * BLOCK_SECTORS, value, fua=fua))

    def flush(self, node: str, volume: str) -> Write:
        """A pod asks for what it has written to be on stable storage."""
        return self._ask(node, volume, Write(0, 0, flush=True))

    def _ask(self, node: str, volume: str, write: Write) -> Write:
        machine = self.machine(node)
        dm = self.front(node, volume)
        assert dm is not None, f"there is no front of {volume} on {node}"
        array = next((a for a in machine.arrays.values() if a.major_minor in dm.below()), None)
        if array is None:
            write.state = "failed"  # the front was severed
        else:
            array.submit(write)
            self.pump()
        return write

    def read(self, node: str, volume: str, block: int) -> int | None:
        """A pod reads one block; None: it waits."""
        machine = self.machine(node)
        dm = self.front(node, volume)
        assert dm is not None, f"there is no front of {volume} on {node}"
        array = next((a for a in machine.arrays.values() if a.major_minor in dm.below()), None)
        return None if dm.suspended or array is None else array.read(block * BLOCK_SECTORS)

    def leg(self, node: str, places: list[tuple[str, int, int]]) -> dict[int, int]:
        """block → value of a leg's data, from (slot, first sector, sectors) on a node's disks; pulled ones too."""
        machine, found, start = self.machine(node), {}, 0
        for slot, first, sectors in places:
            disk = machine.slots[slot]
            for sector in disk.sectors(first, first + sectors):
                at = start + sector - first - BITMAP_SECTORS
                value = disk.read(sector)
                if at >= 0 and value:
                    found[at // BLOCK_SECTORS] = value
            start += sectors
        return found
