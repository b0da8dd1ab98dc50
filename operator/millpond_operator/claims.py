"""Which claims there are: asked for when a quiescence selects some by their labels."""

from __future__ import annotations

from urllib.parse import quote

from millpond_core.errors import Invalid
from millpond_core.master.steps import Find
from millpond_core.master.world import Found
from millpond_core.model.quiescence import ClaimScope
from millpond_core.ports import Kube

PAGE = 500


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
