"""The life of a volume, as a table.

Pending      no mapping yet: waiting for room, or refused
Preparing    mapped; its leg nodes are zeroing and mapping the legs
Ready        every copy asked for is in sync and within reach
Degraded     usable with fewer copies than asked for
Faulted      no copy within reach, or allocated but without its mapping
Deleting     legs are being given back

Rules: a volume is never allocated twice (nothing leads back to Pending); once usable it never goes back to Preparing,
whatever its nodes report; nothing leads out of Deleting.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from millpond_core.model.virtualvolume import VolumePhase

VolumeEvent = Literal["none", "allocated", "whole", "short", "unreachable", "mapping lost", "deleted"]

TABLE: dict[tuple[VolumePhase, VolumeEvent], VolumePhase] = {
    ("Pending", "allocated"): "Preparing",
    ("Pending", "mapping lost"): "Faulted",
    ("Pending", "deleted"): "Deleting",
    ("Preparing", "whole"): "Ready",
    ("Preparing", "short"): "Degraded",
    ("Preparing", "mapping lost"): "Faulted",
    ("Preparing", "deleted"): "Deleting",
    ("Ready", "short"): "Degraded",
    ("Ready", "unreachable"): "Faulted",
    ("Ready", "mapping lost"): "Faulted",
    ("Ready", "deleted"): "Deleting",
    ("Degraded", "whole"): "Ready",
    ("Degraded", "unreachable"): "Faulted",
    ("Degraded", "mapping lost"): "Faulted",
    ("Degraded", "deleted"): "Deleting",
    ("Faulted", "whole"): "Ready",
    ("Faulted", "short"): "Degraded",
    ("Faulted", "deleted"): "Deleting",
}

USABLE: frozenset[VolumePhase] = frozenset({"Ready", "Degraded"})


class VolumeFacts(NamedTuple):
    """What an event is told from."""

    deleting: bool
    mapped: bool
    mapping_lost: bool
    legs: int
    """Legs of the mapping, those being released aside."""
    prepared: int
    """Of those: prepared by their leg nodes, or lost (nothing is waited for there)."""
    in_sync: int
    """Recorded InSync, prepared, and not lost."""
    copies: int
    """Asked for."""


def event(phase: VolumePhase, facts: VolumeFacts) -> VolumeEvent:
    """What has happened to a volume in ``phase``."""
    if facts.deleting:
        return "deleted"
    if facts.mapping_lost:
        return "mapping lost"
    if not facts.mapped:
        return "none"
    if phase == "Pending":
        return "allocated"
    if phase == "Preparing" and (facts.prepared < facts.legs or facts.in_sync == 0):
        return "none"
    if facts.in_sync == 0:
        return "unreachable"
    return "whole" if facts.in_sync >= facts.copies else "short"


def step(phase: VolumePhase, facts: VolumeFacts) -> VolumePhase:
    """The phase that follows; the same when the table has nothing."""
    return TABLE.get((phase, event(phase, facts)), phase)
