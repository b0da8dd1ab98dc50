"""What the owner of a claim is told of the volume under it: one condition of the claim, there while it is not well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from millpond_core import names
from millpond_core.master import volumes as v
from millpond_core.master.steps import Conditions
from millpond_core.model import VirtualVolume
from millpond_core.model.meta import Condition
from millpond_core.model.virtualvolume import VolumePhase

UNHEALTHY = "millpond.io/Unhealthy"

_BAD = (("Ready", "False"), ("Holding", "True"), ("Degraded", "True"), ("LegsEqual", "False"), ("DiskWarns", "True"))
"""Conditions of a volume that its user is to know of, the worst first."""


def unhealthy(phase: VolumePhase, conditions: Iterable[Condition]) -> Conditions:
    """The claim's conditions for a volume in ``phase`` that has ``conditions``; empty: it is well, or not yet or no
    longer in use. How far a rebuild is is left out: a claim is not written to at every look.
    """
    if phase not in ("Ready", "Degraded", "Faulted"):
        return ()
    there = {condition.type: condition for condition in conditions}
    bad = [there[type_] for type_, status in _BAD if type_ in there and there[type_].status == status]
    if not bad:
        return ()
    said = ""
    for condition in (there["Ready"], *bad):  # Ready tells all that is under way, whatever its status
        if condition.message and condition.message not in said:
            said += f"{'; ' if said else ''}{condition.message}"
    return (
        {
            "type": UNHEALTHY,
            "status": "True",
            "reason": bad[0].reason,
            "message": v.without_how_far(said),
            "lastTransitionTime": bad[0].last_transition_time,
        },
    )


def of(volume: VirtualVolume) -> Conditions:
    """What the claim of a volume should say now."""
    return unhealthy(volume.status.phase, volume.status.conditions)


def claim(volume: VirtualVolume) -> tuple[str, str]:
    """(namespace, name) of the claim that a volume was made for; empty: for none."""
    namespace, _, name = volume.metadata.annotations.get(names.ANNOTATION_CLAIM, "").partition("/")
    return namespace, name


def patch(document: Mapping[str, Any], wanted: Conditions) -> dict[str, Any] | None:
    """JSON merge patch of a claim's status that leaves conditions of others as they are, and is refused when the claim
    has changed; None: it says so already.
    """
    there = document.get("status", {}).get("conditions", [])
    after = [*(one for one in there if one["type"] != UNHEALTHY), *wanted]
    if after == there:
        return None
    version = document["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version}, "status": {"conditions": after}}
