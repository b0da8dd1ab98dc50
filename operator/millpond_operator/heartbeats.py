"""Watches the nodes' Leases on a clock of our own, and asks the kubelets' Nodes when one stands still."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from millpond_core import names
from millpond_core.errors import MillpondError
from millpond_core.master.node import Heartbeat, failed, judge
from millpond_core.ports import Clock, Kube
from millpond_operator.master import Master

log = logging.getLogger(__name__)

EVERY_SECONDS = 3.0

DEFAULT_DURATION = 20.0
"""For a node that has no Lease yet, in seconds."""


class _Seen(NamedTuple):
    renewed: str
    """renewTime as it stood: compared, never reckoned with, since it is another machine's clock."""
    silent: float
    """Seconds for which we looked and it stood still."""
    duration: float
    moved: bool
    """Whether it was ever seen to be renewed."""


class Heartbeats:
    """Judges the nodes again and again."""

    def __init__(self, kube: Kube, clock: Clock, master: Master, namespace: str) -> None:
        self._kube = kube
        self._clock = clock
        self._master = master
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None

    async def run(self) -> None:
        """Look every few seconds, for ever. While the API server is silent nobody else is blamed for silence."""
        while True:
            try:
                await self.look()
            except MillpondError as error:
                self._looked_at = None
                log.warning("cannot read the nodes' Leases: %s", error)
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """One look at all Leases, and a verdict."""
        answer = await self._kube.raw("GET", self._leases)
        now = self._clock.boottime()
        # Time in which we did not see (an outage, a machine that slept) is nobody's silence.
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 3 * EVERY_SECONDS)
        self._looked_at = now
        leases = {lease["metadata"]["name"]: lease.get("spec", {}) for lease in answer.get("items", ())}
        heartbeats = {}
        for node in self._master.world.nodes:
            seen = self._beat(node, leases.get(names.node_manager(node)), passed)
            self._seen[node] = seen
            heartbeats[node] = Heartbeat(seen.silent, seen.duration, seen.moved)
        silent = any(beat.silent_seconds > beat.duration_seconds for beat in heartbeats.values())
        kubelets = await self._kubelets() if silent or any(map(failed, self._master.world.nodes.values())) else {}
        self._master.judge(judge(self._master.world, heartbeats, kubelets, self._clock.now()))

    def _beat(self, node: str, lease: dict[str, object] | None, passed: float) -> _Seen:
        known = self._seen.get(node)
        renewed = str(lease.get("renewTime", "")) if lease else ""
        duration = float(str(lease.get("leaseDurationSeconds") or DEFAULT_DURATION)) if lease else DEFAULT_DURATION
        if known is None or known.renewed != renewed:
            return _Seen(renewed, 0.0, duration, moved=known is not None)
        return _Seen(renewed, known.silent + passed, duration, known.moved)

    async def _kubelets(self) -> dict[str, bool]:
        """Each Kubernetes Node's Ready condition; Unknown is not Ready."""
        answer = await self._kube.raw("GET", "/api/v1/nodes")
        ready = {}
        for node in answer.get("items", ()):
            said = [c for c in node.get("status", {}).get("conditions", ()) if c.get("type") == "Ready"]
            if said:
                ready[node["metadata"]["name"]] = said[0].get("status") == "True"
        return ready
