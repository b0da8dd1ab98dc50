"""What must hold at every moment, whatever happens (design, section 4)."""

from __future__ import annotations

from collections.abc import Callable

from node_cluster import Cluster

from millpond_core import names
from millpond_core.testing.world import Write


class Watch:
    """Checks a volume after every change of any kernel and at every tick. Remembers what was acknowledged."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.uuid = cluster.vvol(name).spec.uuid
        self.writes: list[tuple[int, Write]] = []
        self.flushes: list[tuple[Write, list[Write]]] = []
        """Each with the writes that were acknowledged before it was asked for."""

    def check(self) -> None:
        try:
            self.gates()
            self.last()
            self.acknowledged()
        except AssertionError as error:
            # Whoever catches it (a worker that tries again, say), the test must know.
            self.cluster.violations.append(str(error))
            raise

    def last(self) -> None:
        """One leg in sync stays on record, whatever happens."""
        assert self.cluster.in_sync(self.name), "no leg is in sync on record any more"

    def gates(self) -> None:
        """A gate fails only when its leg is not InSync on record: the record comes first."""
        states = self.cluster.states(self.name)
        volume = self.cluster.vvol(self.name)
        for node, machine in self.cluster.world.machines.items():
            memory = self.cluster.memory(node, self.uuid)
            at = volume.status.attachment
            if node != at.node or memory.epoch != at.epoch or memory.broken:
                continue  # fenced, or nothing of it can go on: errors acknowledge nothing
            for leg, state in states.items():
                gate = machine.dm.get(names.gate(self.uuid, leg))
                if gate is None or state != "InSync":
                    continue
                assert gate.holding, f"the gate of leg {leg} fails although it is InSync on record"

    def acknowledged(self) -> None:
        """What was acknowledged of each block and flushed, or something later, is on every leg in sync."""
        flushed = {id(w) for flush, before in self.flushes if flush.state == "acknowledged" for w in before}
        legs = {leg: self.cluster.data(self.name, leg) for leg in self.cluster.in_sync(self.name)}
        for block in {write.sector // 8 for _, write in self.writes}:
            mine = [(at, w) for at, w in self.writes if w.sector // 8 == block]
            done = [at for at, w in mine if (w.state == "acknowledged" and w.fua) or id(w) in flushed]
            if not done:
                continue
            allowed = {w.value for at, w in mine if at >= max(done)}
            for leg, data in legs.items():
                assert data.get(block, 0) in allowed, (
                    f"block {block} of leg {leg} is {data.get(block, 0)}, acknowledged was {sorted(allowed)}"
                )


def watch(cluster: Cluster, name: str) -> Watch:
    """Check ``name`` from now on."""
    found = Watch(cluster, name)
    real: Callable[..., Write] = cluster.write

    def write(node: str, volume: str, block: int, value: int, *, fua: bool = True) -> Write:
        made = real(node, volume, block, value, fua=fua)
        if volume == name:
            found.writes.append((len(found.writes), made))
        return made

    real_flush: Callable[..., Write] = cluster.flush

    def flush(node: str, volume: str) -> Write:
        before = [w for _, w in found.writes if w.state == "acknowledged"]
        made = real_flush(node, volume)
        if volume == name:
            found.flushes.append((made, before))
        return made

    cluster.write = write  # type: ignore[method-assign]
    cluster.flush = flush  # type: ignore[method-assign]
    cluster.checks.append(found.check)

    async def hook(machine: object, call: str) -> None:
        found.check()

    cluster.world.hooks.append(hook)
    return found
