"""Anything may happen, in any order, to a mirrored volume that is written to: nothing acknowledged is ever lost.

Hypothesis makes up stories of disks pulled and put back, links cut, power lost, state managers killed between any two
steps and an API server that is out. After each step of any kernel the invariants are checked; in the end everything is
healed, all legs come back in sync, and they are equal byte by byte.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import hypothesis
import pytest
from automaster import AutoMaster
from hypothesis import strategies as st
from invariants import watch
from node_cluster import Cluster
from simulated_time import SimulatedLoop

from millpond_core.model.virtualvolume import OnFailure

NODES = ("n1", "n2", "n3")
LEG_NODES = ("n1", "n2")

Event = tuple[str, str, int]


def events() -> st.SearchStrategy[list[Event]]:
    node, leg_node = st.sampled_from(NODES), st.sampled_from(LEG_NODES)
    small = st.integers(0, 12)
    event = st.one_of(
        st.tuples(st.just("write"), st.just(""), small),
        st.tuples(st.just("write unflushed"), st.just(""), small),
        st.tuples(st.just("flush"), st.just(""), st.just(0)),
        st.tuples(st.just("time"), st.just(""), st.integers(1, 12)),
        st.tuples(st.sampled_from(["pull", "plug"]), leg_node, st.just(0)),
        st.tuples(st.sampled_from(["cut", "restore", "kill", "start", "power off", "power on"]), node, st.just(0)),
        st.tuples(st.just("die soon"), node, st.integers(0, 20)),
        st.tuples(st.sampled_from(["outage", "answer"]), st.just(""), st.just(0)),
        st.tuples(st.sampled_from(["detach", "attach"]), node, st.just(0)),
    )
    return st.lists(event, min_size=4, max_size=25)


class Story:
    """One sequence of events on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.master = AutoMaster(cluster, "v")
        self.value = 100
        self._outage = None

    async def begin(self) -> None:
        for node in LEG_NODES:
            await self.cluster.disk(node, "nvme1")
        await self.cluster.volume("v", *LEG_NODES, on_failure=OnFailure(hold_seconds=6))
        await self.cluster.attach("v", "n1")
        watch(self.cluster, "v")

    async def happen(self, event: Event) -> None:
        what, node, number = event
        cluster, machine = self.cluster, self.cluster.machine(node or "n1")
        match what:
            case "write" | "write unflushed" | "flush":
                at = cluster.vvol("v").status.attachment.node
                if at and cluster.world.front(at, cluster.vvol("v").spec.uuid) is not None:
                    self.value += 1
                    if what == "flush":
                        cluster.flush(at, "v")
                    else:
                        cluster.write(at, "v", number * 256 + number, self.value, fua=what == "write")
            case "time":
                await self.time(number)
            case "pull":
                if machine.on and "nvme1" in machine.appearances:
                    machine.pull("nvme1")
            case "plug":
                if machine.on and "nvme1" not in machine.appearances:
                    machine.plug("nvme1")
            case "cut":
                cluster.world.cut(node)
            case "restore":
                cluster.world.restore(node)
            case "kill":
                if node in cluster.managers:
                    await cluster.kill(node)
            case "start":
                if node not in cluster.managers and machine.on:
                    await cluster.start(node)
            case "die soon":
                if node in cluster.managers:
                    cluster.lives[node].die_before = len(cluster.lives[node].calls) + number
                    cluster.revive(node)
            case "power off":
                if machine.on:
                    if node in cluster.managers:
                        await cluster.power_off(node)
                    else:
                        machine.power_off()
            case "power on":
                if not machine.on:
                    await cluster.power_on(node)
            case "outage":
                cluster.kube._out = True
            case "answer":
                cluster.kube._out = False
                cluster.kube.relist()
            case "detach" | "attach":
                if not cluster.kube._out:
                    await cluster.want("v", node if what == "attach" and self.free(node) else "")
        await self.time(1)

    def free(self, node: str) -> bool:
        volume = self.cluster.vvol("v")
        return {volume.spec.attachment.node, volume.status.attachment.node} <= {"", node}

    async def time(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.master.act()
            await self.cluster.pass_time(1)

    def whole(self) -> bool:
        """Attached, both legs reachable and in sync, nothing held."""
        cluster, at = self.cluster, self.cluster.vvol("v").status.attachment
        said = cluster.report("v", at.node)
        writing = any(array.writes for m in cluster.world.machines.values() for array in m.arrays.values())
        return (
            cluster.in_sync("v") == ["a", "b"]
            and (said.front, said.epoch, said.message) == ("Active", at.epoch, "")
            and [(path.gate, path.path) for path in said.paths] == [("Holding", "Up")] * 2
            and not writing
        )

    async def end(self) -> None:
        """Heal everything; the volume must come back whole, on its own."""
        cluster = self.cluster
        await self.happen(("answer", "", 0))
        for node in NODES:
            await self.happen(("restore", node, 0))
            await self.happen(("power on", node, 0))
            await self.happen(("start", node, 0))
            if node in LEG_NODES:
                await self.happen(("plug", node, 0))
        calm = 0
        for _ in range(200):
            if not cluster.vvol("v").spec.attachment.node and not cluster.vvol("v").status.attachment.node:
                await cluster.want("v", "n1")
            calm = calm + 1 if self.whole() else 0
            if calm >= 8:
                break
            await self.time(1)
        else:
            raise AssertionError(f"it did not become whole again: {cluster.tell()}")
        assert cluster.data("v", "a") == cluster.data("v", "b"), "legs in sync differ"


async def tell(story: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(3600), Cluster(Path(folder), *NODES) as cluster:
            told = Story(cluster)
            await told.begin()
            for event in story:
                await told.happen(event)
            await told.end()


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    # Shrinking would take hours; --hypothesis-seed tells the same story again.
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
    print_blob=True,
)
@hypothesis.given(events())
@pytest.mark.timeout(3600)
def test_whatever_happens_nothing_acknowledged_is_lost(story: list[Event]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(tell(story))
