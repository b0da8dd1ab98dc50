"""What a planner may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from millpond_core.model.meta import Wire
from millpond_core.model.quiescence import ClaimScope


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event to be written once the step is done."""

    reason: str
    message: str
    warning: bool = False
    claim: bool = False
    """Whether it is said at the claim of the volume, too: its owner may see nothing of ours."""


@dataclass(frozen=True, slots=True)
class Patch:
    """JSON Patch whose ``test`` operations say what it was decided from."""

    kind: type[Wire]
    name: str
    operations: Sequence[Mapping[str, Any]]
    status: bool = True


@dataclass(frozen=True, slots=True)
class Merge:
    """JSON merge patch of the object itself; with a resourceVersion in it, only if nothing has changed."""

    kind: type[Wire]
    name: str
    patch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of the master's whole part of a status."""

    kind: type[Wire]
    name: str
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object; one that is there already is what was wanted."""

    obj: Wire


@dataclass(frozen=True, slots=True)
class Delete:
    kind: type[Wire]
    name: str


@dataclass(frozen=True, slots=True)
class Find:
    """Ask which claims have the labels that a quiescence names: no cache of ours has claims. Into ``world.found``."""

    uid: str
    """Of the Quiescence."""
    claims: tuple[ClaimScope, ...]


Conditions = tuple[Mapping[str, str], ...]
"""Conditions of a PersistentVolumeClaim in wire form."""

Step = Patch | Merge | Apply | Create | Delete | Find


@dataclass(frozen=True, slots=True)
class Act:
    """Take this step, then ask again."""

    step: Step
    why: str
    notices: tuple[Notice, ...] = ()
    claim: Conditions | None = None
    """What the volume's claim is to say from now on (``master.health``); None: what it says already."""
    words: bool = False
    """It changes words alone, which nobody acts on and the next moment may replace."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes, or until ``until`` (seconds since the epoch)."""

    reason: str = ""
    """One CamelCase word."""
    message: str = ""
    """One sentence: what is waited for, and what next."""
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be done as it is."""

    category: Literal["Invalid", "NoRoom", "MappingLost", "RecordOld"]
    message: str
    until: float | None = None


Decision = Act | Wait | Refuse


def resting(*decisions: Wait | Refuse | None) -> Wait | Refuse:
    """One answer for several reasons to wait: the first that has a message, woken by the earliest."""
    there = [decision for decision in decisions if decision is not None]
    said = next((d for d in there if d.message), Wait())
    times = [d.until for d in there if d.until is not None]
    until = min(times, default=None)
    if isinstance(said, Refuse):
        return Refuse(said.category, said.message, until)
    return Wait(said.reason, said.message, until)
