"""A process that is many nodes: state managers on kernels in memory, and the heartbeats of nodes that are objects only.

    python -m bench.nodes PLAN.json

Says ``ready`` once all have begun; then each line that it reads, ``pull n1 d2`` or ``plug n1 d2``, is done and answered
with the time at which it was (Unix time). It ends when its input does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from bench import fleet

from millpond_adapters import stacks
from millpond_adapters.clock import SystemClock
from millpond_adapters.kube import Access, ApiKube, load
from millpond_adapters.kube.access import constant_token, tls
from millpond_core import names
from millpond_core.errors import MillpondError
from millpond_core.testing.world import Disk, World
from millpond_node.host import Config, Ports
from millpond_node.manager import StateManager

CHUNKS = 1000
"""Copied by a rebuild in one tick: it is not what is measured."""
TICK_SECONDS = 0.2


class Plan(msgspec.Struct, frozen=True):
    """What one such process is."""

    kubeconfig: str
    server: str
    authority: str
    namespace: str
    run_dir: str
    groups: list[list[str]]
    """Names of nodes, by world."""
    tokens: dict[str, str]
    """Of each node's state manager."""
    beats: list[str]
    """Nodes whose Lease is all there is of them."""
    beat_seconds: float
    beat_good_seconds: int


class Nodes:
    """``async with Nodes(plan)``."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._worlds: dict[str, World] = {}
        self._managers: list[StateManager] = []
        self._clients = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Nodes:
        for group in self._plan.groups:
            world = World(now=time.time())
            for node in group:
                for slot in fleet.SLOTS:
                    world.machine(node).add_disk(slot, Disk(fleet.serial(node, slot), fleet.DISK_BYTES))
                self._worlds[node] = world
        for node in self._worlds:
            await self._start(node)
        self._tasks.append(asyncio.create_task(self._tick()))
        if self._plan.beats:
            self._tasks.append(asyncio.create_task(self._beat()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(manager.stop(on_purpose=False) for manager in self._managers))
        await self._clients.aclose()

    def do(self, line: str) -> str:
        """One instruction; when it was carried out."""
        what, node, slot = line.split()
        machine = self._worlds[node].machine(node)
        at = time.time()
        {"pull": machine.pull, "plug": machine.plug}[what](slot)
        return f"{at:.6f}"

    async def _start(self, node: str) -> None:
        world, plan = self._worlds[node], self._plan
        machine = world.machine(node)
        access = Access(plan.server, lambda: tls(authority=plan.authority), constant_token(plan.tokens[node]))
        kube = await self._clients.enter_async_context(
            ApiKube(access, component=names.node_manager(node), namespace=plan.namespace)
        )
        # The rest as in the state manager's own process.
        config = Config(
            node=node,
            address=machine.address,
            run_dir=Path(plan.run_dir) / node,
            boot_id=lambda: machine.boot_id,
        )
        ports = {**world.ports(node)._asdict(), "clock": SystemClock(), "kube": kube}
        manager = StateManager(Ports(**ports), config)
        self._managers.append(manager)
        await manager.start()

    async def _tick(self) -> None:
        """Time goes by; where nothing is copied that is all that happens."""
        worlds = list({id(world): world for world in self._worlds.values()}.values())
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for world in worlds:
                now = time.time()
                arrays = [array for machine in world.machines.values() for array in machine.arrays.values()]
                if any(array.copying() for array in arrays):
                    world.tick(now - world.time, CHUNKS)
                world.time = now

    async def _beat(self) -> None:
        """Spread over the interval, as nodes are that were not started at once."""
        plan = self._plan
        access = load(plan.kubeconfig)
        kube = await self._clients.enter_async_context(ApiKube(access, component="bench", namespace=plan.namespace))
        pause = plan.beat_seconds / len(plan.beats)
        due = time.monotonic()
        while True:
            for node in plan.beats:
                try:
                    await kube.renew_lease(names.node_manager(node), node, plan.beat_good_seconds)
                except MillpondError as error:
                    logging.warning("%s: %s", node, error)
                due += pause
                await asyncio.sleep(max(due - time.monotonic(), 0.0))


async def run(plan: Plan) -> None:
    """Until standard input ends."""
    stacks.tell_on_signal()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Nodes(plan) as nodes:
        print("ready", flush=True)
        while line := await reader.readline():
            print(nodes.do(line.decode()), flush=True)


def main() -> None:
    """``sys.argv[1]`` is the file of the plan."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)))


if __name__ == "__main__":
    main()
