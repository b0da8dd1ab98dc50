"""Leases: a heartbeat, and the election of a master. Safety never rests on them, economy does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from millpond_adapters.kube.transport import Transport
from millpond_core.errors import Conflict, NotFound


@dataclass(frozen=True)
class _Seen:
    version: str
    at: float
    """When this version was first seen here, monotonic: other machines' clocks are not trusted."""


class Leases:
    """Renews Leases of one namespace by compare-and-swap on resourceVersion."""

    def __init__(self, transport: Transport, namespace: str) -> None:
        self._transport = transport
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._held: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, _Seen] = {}

    async def renew(self, name: str, holder: str, seconds: int) -> None:
        """See ``ports.Kube.renew_lease``. Another's Lease is taken only after it was seen to stand still that long."""
        mine = self._held.pop(name, None)
        if mine is None or mine["spec"].get("holderIdentity") != holder:
            mine = await self._read(name, holder, seconds)
        if mine is None:
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
            self._held[name] = await self._write("POST", "", {**lease, "spec": _spec(None, holder, seconds)})
            return
        wanted = {**mine, "spec": _spec(mine["spec"], holder, seconds)}
        self._held[name] = await self._write("PUT", f"/{name}", wanted)

    async def _read(self, name: str, holder: str, seconds: int) -> dict[str, Any] | None:
        """The Lease as it may be overwritten; None when there is none. Conflict while another holds it."""
        try:
            body = await self._transport.request("GET", f"{self._collection}/{name}", repeatable=True, seconds=seconds)
        except NotFound:
            return None
        lease: dict[str, Any] = msgspec.json.decode(body)
        spec, version = lease.setdefault("spec", {}), lease["metadata"]["resourceVersion"]
        other = spec.get("holderIdentity") or ""
        if other in ("", holder):
            return lease
        now = time.monotonic()
        seen = self._seen.get(name)
        if seen is None or seen.version != version:
            seen = self._seen[name] = _Seen(version, now)
        left = seen.at + float(spec.get("leaseDurationSeconds") or seconds) - now
        if left > 0:
            raise Conflict(f"lease {name} is held by {other}; free in {left:.0f} s unless it is renewed")
        return lease

    async def _write(self, method: str, path: str, lease: dict[str, Any]) -> dict[str, Any]:
        # No longer than a Lease lasts: a renewal that arrives late must not count.
        seconds = float(lease["spec"]["leaseDurationSeconds"])
        body = msgspec.json.encode(lease)
        answer = await self._transport.request(method, self._collection + path, body=body, seconds=seconds)
        written: dict[str, Any] = msgspec.json.decode(answer)
        return written


def _spec(before: dict[str, Any] | None, holder: str, seconds: int) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    previous = before or {}
    took = previous.get("holderIdentity") != holder
    return {
        **previous,
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "renewTime": now,
        "acquireTime": now if took else previous.get("acquireTime", now),
        "leaseTransitions": previous.get("leaseTransitions", 0) + (1 if took and before is not None else 0),
    }
