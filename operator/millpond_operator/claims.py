"""Which claims there are, asked for when a quiescence selects some by their labels; and what a claim is told of its
volume when that is not well, or well again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from millpond_core.errors import Invalid, NotFound
from millpond_core.master import health
from millpond_core.master.steps import Conditions, Find
from millpond_core.master.world import Found
from millpond_core.model import VirtualVolume
from millpond_core.model.quiescence import ClaimScope
from millpond_core.ports import Kube, Reference

PAGE = 500
MERGE_PATCH = "application/merge-patch+json"


async def find(kube: Kube, step: Find, now: float) -> Found:
    """What is there now. Labels that the API server does not take are told, other errors raised."""
    try:
        claims = [await _labelled(kube, each) if each.match_labels else frozenset[str]() for each in step.claims]
    except Invalid as error:
        return Found(at=now, error=f"its labels cannot be asked for: {error}")
    return Found(claims, now)


async def _labelled(kube: Kube, claims: ClaimScope) -> frozenset[str]:
    labels = quote(",".join(f"{key}={value}" for key, value in sorted(claims.match_labels.items())), safe="")
    path = f"/api/v1/namespaces/{claims.namespace}/persistentvolumeclaims?labelSelector={labels}&limit={PAGE}"
    found: set[str] = set()
    more = ""
    while True:
        answer = await kube.raw("GET", path + more)
        found |= {f"{claims.namespace}/{item['metadata']['name']}" for item in answer.get("items", ())}
        if not (token := answer.get("metadata", {}).get("continue")):
            return frozenset(found)
        more = f"&continue={quote(token, safe='')}"


async def bound(kube: Kube, volume: VirtualVolume) -> Mapping[str, Any] | None:
    """The claim that a volume was made for; None: there is none, or the one of that name has another volume."""
    namespace, name = health.claim(volume)
    if not name:
        return None
    try:
        claim: Mapping[str, Any] = await kube.raw("GET", _path(namespace, name))
    except NotFound:
        return None
    # The provisioner gives PersistentVolume and VirtualVolume one name.
    return claim if claim["spec"].get("volumeName") == volume.metadata.name else None


async def tell(kube: Kube, claim: Mapping[str, Any], conditions: Conditions) -> None:
    """Have its status say ``conditions``, if it does not. Conflict: somebody else has just written to it."""
    patch = health.patch(claim, conditions)
    if patch is not None:
        path = _path(claim["metadata"]["namespace"], claim["metadata"]["name"])
        await kube.raw("PATCH", f"{path}/status", patch, content_type=MERGE_PATCH)


def reference(claim: Mapping[str, Any]) -> Reference:
    """What Events about a claim name."""
    meta = claim["metadata"]
    return Reference("v1", "PersistentVolumeClaim", meta["namespace"], meta["name"], meta["uid"])


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/persistentvolumeclaims/{quote(name, safe='')}"
