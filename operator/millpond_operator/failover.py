"""Looks after nodes that have failed or are shut down: reads what is on them, asks ``master.failover`` for the next
step, takes it, asks again.
"""

from __future__ import annotations

import asyncio
import logging

from millpond_core.errors import MillpondError
from millpond_core.master import failover
from millpond_core.master.steps import Notice, Patch
from millpond_core.master.workloads import Workloads
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.ports import Clock, Kube
from millpond_operator.master import Master
from millpond_operator.workloads import KubeWorkloads

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0

STEPS_AT_ONCE = 500
"""After so many steps everything is read anew."""


class Failover:
    """Keeps nothing but when to look again, what was said already, and which Nodes bear our taint."""

    def __init__(self, kube: Kube, clock: Clock, master: Master) -> None:
        self._kube = kube
        self._clock = clock
        self._master = master
        self._workloads = KubeWorkloads(kube)
        self._due: dict[str, tuple[str, float]] = {}
        """What was made of the node at the last look, and when the next one is due."""
        self._said: dict[str, set[str]] = {}
        self._tainted: set[str] | None = None
        """None: a master before us may have left some."""

    async def run(self) -> None:
        """Look again and again, for ever; after the first look nothing is asked of the API server while no node has
        failed.
        """
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Bring each failed node whose time has come as far as it goes now."""
        world = self._master.world
        if self._tainted is None:
            try:
                self._tainted = await self._workloads.tainted()
            except MillpondError as error:
                log.warning("failover: %s", error)
        concerned = failover.concerned(world) | ((self._tainted or set()) & world.nodes.keys())
        for name in {*self._due, *self._said} - concerned:
            self._due.pop(name, None)
            self._said.pop(name, None)
        for name in sorted(concerned):
            state = f"{world.state_of(name).state} {world.intent(name)}"
            before, due = self._due.get(name, ("", 0.0))
            if state == before and self._clock.boottime() < due:
                continue
            try:
                wait = await self._settle(world.nodes[name])
            except MillpondError as error:
                log.warning("failover of %s: %s", name, error)
                wait = failover.AGAIN_SECONDS
            self._due[name] = state, self._clock.boottime() + wait

    async def _settle(self, node: StorageNode) -> float:
        """Seconds until the next look."""
        world, now = self._master.world, self._clock.now()
        there = await self._workloads.read(node.metadata.name)
        for _ in range(STEPS_AT_ONCE):
            decision = failover.decide(world, node, there, now)
            if not isinstance(decision, failover.Move):
                break
            log.info("failover of %s: %s", node.metadata.name, decision.why)
            there = await self._take(decision.step, there)
            self._master.counts[f"failover.{type(decision.step).__name__}"] += 1
            if decision.notice:
                await self._once(node, decision.notice)
            if decision.notice and isinstance(decision.step, failover.DeletePod):
                await self._workloads.tell(decision.step.pod, decision.notice)
        else:
            return failover.AGAIN_SECONDS
        if decision.reason == "KubeletReady" and decision.message:
            await self._once(node, Notice("PodsStay", decision.message, warning=True))
        elif world.state_of(node.metadata.name).state == "Failed" and there.host.avoided:
            await self._tell_left(node, there, now)
        return max((decision.until or now + failover.RESTING_SECONDS) - now, 0.0)

    async def _take(self, step: failover.Step, there: Workloads) -> Workloads:
        """One write; what is there after it, as far as the next step depends on it."""
        match step:
            case Patch(_, name, operations, status):
                self._master.put(await self._kube.patch(VirtualVolume, name, operations, status=status))
            case failover.NotInUse(_, _, after):
                try:
                    await self._workloads.take(step)
                except MillpondError as error:
                    # Kubernetes finds out all the same, within a minute of the VolumeAttachment's end.
                    log.warning("volumes in use: %s", error)
                return there._replace(host=there.host._replace(in_use=after))
            case failover.Taint():
                host = await self._workloads.taint(step)
                if self._tainted is not None:
                    (self._tainted.add if host.tainted else self._tainted.discard)(step.node)
                return there._replace(host=host)
            case failover.DeletePod(gone) | failover.DeleteAttachment(gone):
                await self._workloads.take(step)
                return there.deleted(gone)
        return there

    async def _tell_left(self, node: StorageNode, there: Workloads, now: float) -> None:
        for pod, why in failover.left(self._master.world, node.metadata.name, there):
            said = f"pod {pod.namespace}/{pod.name} stays on {node.metadata.name}, which has failed: {why}"
            notice = Notice("PodLeft", said, warning=True)
            if await self._once(node, notice):
                await self._workloads.tell(pod, notice)

    async def _once(self, node: StorageNode, notice: Notice) -> bool:
        """An Event at the node, unless it was said since the node failed. Whether it was news."""
        said = self._said.setdefault(node.metadata.name, set())
        if notice.message in said:
            return False
        said.add(notice.message)
        await self._kube.event(node, reason=notice.reason, message=notice.message, warning=notice.warning)
        return True
