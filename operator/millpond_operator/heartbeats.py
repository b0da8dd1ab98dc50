"""Watches the nodes' Leases on a clock of our own, and asks for their kubelets when one stands still."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from millpond_core import names
from millpond_core.errors import MillpondError
from millpond_core.master.node import Heartbeat, Kubelet, failed, judge
from millpond_core.model.meta import Wire
from millpond_core.ports import Clock, Kube
from millpond_operator.master import Master

log = logging.getLogger(__name__)

EVERY_SECONDS = 3.0

DEFAULT_DURATION = 20.0
"""For a node that has no Lease yet, in seconds."""

SUSPECT_SECONDS = 5.0
"""After so much silence of its state manager (two renewals) a node's kubelet is watched as well."""

KUBELETS = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
"""A kubelet renews its own four times in the time for which it is good (``nodeLeaseDurationSeconds``, 40 s)."""


class _Meta(Wire, frozen=True, kw_only=True):
    name: str = ""
    resource_version: str = ""


class _Spec(Wire, frozen=True, kw_only=True):
    """What counts of a Lease (coordination.k8s.io/v1)."""

    renew_time: str | None = None
    lease_duration_seconds: int | None = None


class _Lease(Wire, frozen=True, kw_only=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()


class _Leases(Wire, frozen=True, kw_only=True):
    """A list of them."""

    metadata: _Meta = _Meta()
    items: tuple[_Lease, ...] = ()

    def by_name(self) -> dict[str, _Spec]:
        return {lease.metadata.name: lease.spec for lease in self.items}


class Restored(Exception):
    """The database is older than it was."""


class _Seen(NamedTuple):
    renewed: str
    """renewTime as it stood: compared, never reckoned with, since it is another machine's clock."""
    silent: float
    """Seconds for which we looked and it stood still."""
    duration: float
    moved: bool
    """Whether it was ever seen to be renewed."""


class Heartbeats:
    """Judges the nodes again and again, also while another replica leads: its verdict is not acted on then."""

    def __init__(self, kube: Kube, clock: Clock, master: Master, namespace: str) -> None:
        self._kube = kube
        self._clock = clock
        self._master = master
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._seen: dict[str, _Seen] = {}
        self._kubelets: dict[str, _Seen] = {}
        self._looked_at: float | None = None
        self._version = ""

    async def run(self) -> None:
        """Look every few seconds, for ever. While the API server is silent nobody else is blamed for silence.

        Raises Restored: watches that wait for a version to come would say nothing until it has come.
        """
        while True:
            try:
                await self.look()
            except MillpondError as error:
                self._looked_at = None
                log.warning("cannot read the nodes' Leases: %s", error)
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """One look at all Leases, and a verdict."""
        answer = await self._kube.read(self._leases, _Leases)
        self._stays(answer.metadata.resource_version)
        leases = answer.by_name()
        now = self._clock.boottime()
        # Time in which we did not see (an outage, a machine that slept) is nobody's silence.
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 3 * EVERY_SECONDS)
        self._looked_at = now
        nodes = self._master.world.nodes
        self._seen = {n: _beat(self._seen.get(n), leases.get(names.node_manager(n)), passed) for n in nodes}
        heartbeats = {name: Heartbeat(seen.silent, seen.duration, seen.moved) for name, seen in self._seen.items()}
        there = any(map(failed, nodes.values()))
        suspect = there or any(beat.silent_seconds > SUSPECT_SECONDS for beat in heartbeats.values())
        leases = (await self._kube.read(KUBELETS, _Leases)).by_name() if suspect else {}
        self._kubelets = {name: _beat(self._kubelets.get(name), lease, passed) for name, lease in leases.items()}
        silent = there or any(beat.silent_seconds > beat.duration_seconds for beat in heartbeats.values())
        kubelets = await self._witnesses() if silent else {}
        self._master.judge(judge(self._master.world, heartbeats, kubelets, self._clock.now()))

    def _stays(self, version: str) -> None:
        """Raises Restored when the database is older than it was at the last look. Versions of one kind are ordered
        (KEP-5504).
        """
        known, self._version = self._version, version
        if known.isdecimal() and version.isdecimal() and int(version) < int(known):
            raise Restored(
                f"the database is older than it was (version {version} after {known}): it was restored from a backup, "
                "or made anew; what is known of it is worth nothing, this operator ends and begins again"
            )

    async def _witnesses(self) -> dict[str, Kubelet]:
        """Each Kubernetes Node's kubelet."""
        answer = await self._kube.raw("GET", "/api/v1/nodes")
        found = {}
        for node in answer.get("items", ()):
            said = [c for c in node.get("status", {}).get("conditions", ()) if c.get("type") == "Ready"]
            if said:
                name = node["metadata"]["name"]
                found[name] = Kubelet(said[0].get("status") == "True", _renews(self._kubelets.get(name)))
        return found


def _renews(seen: _Seen | None) -> bool | None:
    """Whether a kubelet does; one without a Lease is judged by its Node alone."""
    if seen is None:
        return True
    if seen.silent > seen.duration / 2:
        return False
    return True if seen.moved else None


def _beat(known: _Seen | None, lease: _Spec | None, passed: float) -> _Seen:
    """What is known of a Lease (None: there is none) after one more look, ``passed`` seconds after the one before."""
    renewed = (lease.renew_time or "") if lease else ""
    duration = float((lease and lease.lease_duration_seconds) or DEFAULT_DURATION)
    if known is None or known.renewed != renewed:
        return _Seen(renewed, 0.0, duration, moved=known is not None)
    return _Seen(renewed, known.silent + passed, duration, known.moved)
