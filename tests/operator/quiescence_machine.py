"""Stories of quiescences: people ask, release and delete, disks fail, nodes lose power or their state manager or the
API server, masters die after any write or decide from an old view, time passes. ``still_cluster`` says what must hold.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from harness import MasterKube, remote
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from still_cluster import DISKS, NODES, VOLUMES, Cluster

from millpond_core.master import quiescence
from millpond_core.model import ObjectMeta, Quiescence, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_operator.master import Master

END_ROUNDS = 120
MOST = 6
"""Quiescences that people make in one story."""

SCOPES = st.one_of(
    st.lists(st.sampled_from(VOLUMES), min_size=1, max_size=2, unique=True).map(lambda names: Scope(volumes=names)),
    st.sampled_from(DISKS).map(lambda disk: Scope(devices=[disk])),
    st.sampled_from(NODES).map(lambda node: Scope(nodes=[node])),
    st.just(Scope(cluster=True)),
)
NODE, DISK, KIND = (
    st.sampled_from(NODES),
    st.sampled_from(DISKS),
    st.sampled_from([Quiescence, StorageNode, VirtualVolume]),
)


@functools.cache
def whole() -> Cluster:
    """The cluster with which every story begins."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        made = Cluster(Path(folder))
        runner.run(made.begin())
        return made


class Quiescences(RuleBasedStateMachine):
    """One story."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.made = 0
        self.cluster = whole().copy(Path(self.folder.name))
        self.rival: Master | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize(disk=st.none() | DISK, scope=st.none() | SCOPES, hold=st.booleans(), rounds=st.integers(0, 12))
    def begin(self, disk: str | None, scope: Scope | None, hold: bool, rounds: int) -> None:
        """Most stories begin in the midst of something."""
        if disk:
            self.pull(disk)
        if scope:
            self.asks(scope, hold, 30)
        self.everyone_acts(rounds, 1.0)

    # --- people ---

    @precondition(lambda self: self.made < MOST)
    @rule(scope=SCOPES, hold=st.booleans(), deadline=st.sampled_from([2, 10, 30, 60]))
    def asks(self, scope: Scope, hold: bool, deadline: int) -> None:
        self.made += 1
        meta = ObjectMeta(name=f"by-hand-{self.made}")
        spec = QuiescenceSpec(scope=scope, hold_io=hold, deadline_seconds=deadline)
        self.run(self.cluster.kube.create(Quiescence(metadata=meta, spec=spec)))

    @rule(which=st.integers(0, 9), delete=st.booleans(), own=st.booleans())
    def ends(self, which: int, delete: bool, own: bool) -> None:
        """Released or deleted."""
        there = [q for q in self.cluster.all(Quiescence) if own or not quiescence.own(q)]
        if not there:
            return
        q = there[which % len(there)]
        self.cluster.given_up |= quiescence.own(q)
        kube, name = self.cluster.kube, q.metadata.name
        self.run(kube.delete(Quiescence, name) if delete else kube.merge(Quiescence, name, {"spec": {"release": True}}))

    # --- faults ---

    @rule(disk=DISK)
    def pull(self, disk: str) -> None:
        """A disk fails, or comes back."""
        disks = self.cluster.nodes
        disks.pull(disk) if disks.disks[disk].state == "Claimed" else disks.plug(disk)

    @rule(node=NODE, power=st.booleans())
    def stops(self, node: str, power: bool) -> None:
        """The state manager, or all of the node."""
        self.cluster.stop(node, power=power)

    @rule(node=NODE)
    def starts(self, node: str) -> None:
        if self.cluster.nodes.nodes[node].silent:
            self.cluster.back(node)

    @rule(node=NODE)
    def restarts(self, node: str) -> None:
        if not self.cluster.nodes.nodes[node].silent:
            self.cluster.nodes.real[node].start()

    @rule(node=NODE, away=st.booleans())
    def api_server_away(self, node: str, away: bool) -> None:
        self.cluster.nodes.real[node].away = away

    @rule(node=NODE, restless=st.booleans())
    def never_drains(self, node: str, restless: bool) -> None:
        self.cluster.nodes.nodes[node].restless = restless

    # --- what stories ask ---

    def held(self, volume: str) -> bool:
        return any(real.stacks[volume].suspended for real in self.cluster.nodes.real.values() if volume in real.stacks)

    def disk(self, volume: str) -> str:
        """Of the leg that is not where the volume is attached."""
        there = self.run(self.cluster.volume(volume))
        return remote(there, there.status.attachment.node).extents[0].device

    def phases(self, phase: str) -> list[str]:
        return [q.metadata.name for q in self.cluster.all(Quiescence) if q.status.phase == phase]

    # --- who acts ---

    @rule(node=NODE)
    def looks(self, node: str) -> None:
        self.run(self.cluster.look(node))

    @rule(fresh=st.booleans())
    def master_steps(self, fresh: bool) -> None:
        self.run(self.cluster.step(fresh=fresh))

    @rule(writes=st.integers(0, 6))
    def master_dies(self, writes: int) -> None:
        """After so many writes."""
        MasterKube.budget = writes
        self.run(self.cluster.turn())
        MasterKube.budget = None
        self.cluster._renew()

    @rule()
    def another_master(self) -> None:
        self.rival = self.run(self.cluster.rival())

    @precondition(lambda self: self.rival is not None)
    @rule(kind=KIND)
    def another_master_decides(self, kind: Any) -> None:
        self.run(self.cluster.rival_looks(self.rival, kind=kind))

    @rule(rounds=st.integers(1, 8), seconds=st.sampled_from([0.0, 1.0, 4.0]))
    def everyone_acts(self, rounds: int, seconds: float) -> None:
        for _ in range(rounds):
            self.run(self.cluster.round(seconds))
            self.holds()

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 12.0, 31.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.pass_(seconds)

    # --- what must hold ---

    @invariant()
    def holds(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.close()

    def close(self) -> None:
        self.runner.close()
        self.folder.cleanup()

    def end(self) -> None:
        """Nobody disturbs any more: what people have not released ends at its deadline, and all is as it should be."""
        self.run(self.cluster.heal())
        error: AssertionError | None = None
        for _ in range(END_ROUNDS):
            self.run(self.cluster.round())
            self.cluster.check()
            try:
                self.run(self.cluster.check_end())
                return
            except AssertionError as found:
                error = found
        assert error is not None
        raise error
