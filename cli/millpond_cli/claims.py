"""A claim's volume, and the pods that have it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from millpond_cli import report
from millpond_core.errors import MillpondError, NotFound
from millpond_core.model import VirtualVolume
from millpond_core.ports import Kube


async def find(kube: Kube, name: str) -> VirtualVolume:
    """A volume by its own name or its claim's, as namespace/name. Raises NotFound."""
    if "/" not in name:
        return await kube.get(VirtualVolume, name)
    for volume in await kube.list(VirtualVolume):
        if report.claim(volume) == name:
            return volume
    raise NotFound(f"no volume serves claim {name}: `kubectl millpond tree` lists them")


async def pods(kube: Kube, claims: Iterable[str]) -> dict[str, list[str]]:
    """By claim the pods that have it, both as namespace/name; none of a namespace where one may not ask."""
    found: dict[str, list[str]] = defaultdict(list)
    for namespace in sorted({claim.partition("/")[0] for claim in claims if claim}):
        try:
            there = await kube.raw("GET", f"/api/v1/namespaces/{namespace}/pods")
        except MillpondError:
            continue
        for pod in there.get("items", ()):
            for claim in _claims(pod):
                found[f"{namespace}/{claim}"].append(f"{namespace}/{pod['metadata']['name']}")
    return found


def _claims(pod: dict[str, Any]) -> Iterator[str]:
    for volume in pod.get("spec", {}).get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield claim["claimName"]
        elif "ephemeral" in volume:
            yield f"{pod['metadata']['name']}-{volume['name']}"
