"""Which volumes a quiescence is for, and why some of what people ask for is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from millpond_core import names
from millpond_core.master.steps import Find
from millpond_core.master.world import Found, World
from millpond_core.model import Quiescence, VirtualVolume
from millpond_core.model.quiescence import ClaimScope

FOUND_SECONDS = 5.0
"""For so long what was found among the claims is good enough to decide from."""

MOST = 1024
"""Volumes that one quiescence may be for: what its status has room for."""

NOTHING = Found()


def to_find(world: World, q: Quiescence, now: float) -> Find | None:
    """What must be asked before the scope is known; None: nothing."""
    asked = tuple(q.spec.scope.claims)
    found = world.found.get(q.metadata.uid, NOTHING)
    if not any(claims.match_labels for claims in asked) or now - found.at < FOUND_SECONDS:
        return None
    return Find(q.metadata.uid, asked)


def volumes(world: World, q: Quiescence) -> list[str]:
    """Names of the volumes in its scope, as far as they are known."""
    wanted = q.spec.scope
    if wanted.cluster:
        return sorted(world.volumes)
    found = {name for name in wanted.volumes if name in world.volumes}
    for device in wanted.devices:
        if there := world.devices.get(device):
            found |= world.volumes_on(there.status.observation.device_uuid)
    for node in wanted.nodes:
        found |= {name for name in world.volumes_at(node) if world.volumes[name].status.attachment.node == node}
    labelled = world.found.get(q.metadata.uid, NOTHING).claims or [frozenset()] * len(wanted.claims)
    for claims, those in zip(wanted.claims, labelled, strict=True):
        found |= {name for name, volume in world.volumes.items() if _serves(volume, claims, those)}
    return sorted(found)


def refusal(world: World, q: Quiescence) -> str:
    """Why it cannot begin as it is; empty: it can."""
    wanted = q.spec.scope
    found = world.found.get(q.metadata.uid, NOTHING)
    if found.error:
        return found.error
    unknown = [
        *_unknown("volume", wanted.volumes, world.volumes),
        *_unknown("device", wanted.devices, world.devices),
        *_unknown("node", wanted.nodes, world.nodes),
    ]
    if unknown:
        return f"there is no {', no '.join(unknown)}"
    there = volumes(world, q)
    claims = {_claim(world.volumes[name]) for name in there}
    missing = [each for one in wanted.claims for name in one.names if (each := f"{one.namespace}/{name}") not in claims]
    if missing and not any(one.match_labels for one in wanted.claims):
        return f"no volume of ours serves claim {', '.join(missing)}"
    if not there:
        return "no volume is in its scope"
    if len(there) > MOST:
        return f"{len(there)} volumes are in its scope, at most {MOST} can be: make several"
    if q.spec.hold_io and (held := [name for name in there if _namespace(world.volumes[name]) in world.protected]):
        return (
            f"it would hold reads and writes of {', '.join(_title(world.volumes[name]) for name in held[:5])}"
            f"{f' and {len(held) - 5} more' if len(held) > 5 else ''}, which what ends a hold may depend on: "
            "leave that out, or do without holdIo"
        )
    return ""


def _serves(volume: VirtualVolume, claims: ClaimScope, labelled: frozenset[str]) -> bool:
    claim = _claim(volume)
    namespace, _, name = claim.partition("/")
    named = namespace == claims.namespace and (not claims.names or name in claims.names)
    return bool(claim) and named and (not claims.match_labels or claim in labelled)


def _claim(volume: VirtualVolume) -> str:
    """``namespace/name``; empty: it serves none."""
    return volume.metadata.annotations.get(names.ANNOTATION_CLAIM, "")


def _namespace(volume: VirtualVolume) -> str:
    return _claim(volume).partition("/")[0]


def _title(volume: VirtualVolume) -> str:
    return _claim(volume) or volume.metadata.name


def _unknown(kind: str, wanted: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    there = set(known)
    return (f"{kind} {name}" for name in wanted if name not in there)
