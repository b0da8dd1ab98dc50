"""The steps that plans are made of: each is one call of a port, or one write of what must survive a kill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from millpond_core.model.virtualvolume import LegState, NodeReport
from millpond_core.nodeplan.view import LegMemory, Memory
from millpond_core.observed import LabelLeg


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. ``why`` is for the log, in a person's words; empty: too small to mention."""

    why: str = ""


class Remember(Step, frozen=True, kw_only=True):
    """Write changes of the volume's memory before whatever relies on them."""

    changes: Mapping[str, Any] = {}
    """Fields of Memory."""
    legs: Mapping[str, Mapping[str, Any]] = {}
    """Leg → fields of LegMemory."""
    built: Mapping[str, str] = {}
    """Leg → incarnation; empty: forgotten."""

    def apply(self, memory: Memory) -> Memory:
        """The memory with the changes."""
        changed = msgspec.structs.replace(memory, **self.changes)
        legs = dict(changed.legs)
        for leg, fields in self.legs.items():
            known = legs.get(leg)
            legs[leg] = msgspec.structs.replace(known, **fields) if known else LegMemory(**fields)
        built = {leg: life for leg, life in {**changed.built, **self.built}.items() if life}
        return msgspec.structs.replace(changed, legs=legs, built=built)


class Record(Step, frozen=True, kw_only=True):
    """Change a leg's state in the record: a JSON Patch that tests epoch, generation, recordSeq, id and old state."""

    leg: str
    old: LegState
    new: LegState


# --- legs on this node ---


class PutLeg(Step, frozen=True, kw_only=True):
    """Write a leg's entry into a device's label."""

    device: str
    entry: LabelLeg


class DropLeg(Step, frozen=True, kw_only=True):
    """Remove a leg's entry from a device's label: its extents may be used again afterwards."""

    device: str
    volume: str
    leg: str


class Zero(Step, frozen=True, kw_only=True):
    """Zero a leg from ``start_bytes`` to its end, in the background; then note so in the labels of ``devices``."""

    volume: str
    leg: str
    name: str
    """dm name."""
    start_bytes: int = 0
    devices: tuple[str, ...]
    prepared_bytes: int
    """Usable bytes of a volume for which it is ready then."""


class Export(Step, frozen=True, kw_only=True):
    nqn: str
    name: str
    """dm name of the leg."""
    namespace_uuid: str
    serial: str
    host_nqn: str
    address: str
    port: int


class Resize(Step, frozen=True, kw_only=True):
    """Tell hosts that what is exported has grown."""

    nqn: str


class Unexport(Step, frozen=True, kw_only=True):
    nqn: str


# --- device-mapper ---


class CreateDm(Step, frozen=True, kw_only=True):
    name: str
    table: str


class SwapDm(Step, frozen=True, kw_only=True):
    name: str
    table: str


class RemoveDm(Step, frozen=True, kw_only=True):
    name: str


class Suspend(Step, frozen=True, kw_only=True):
    """Drain and suspend the front. The hold's deadline is written before."""

    name: str


class Resume(Step, frozen=True, kw_only=True):
    """Resume the front and forget its hold."""

    name: str


class Sever(Step, frozen=True, kw_only=True):
    """Give the front a ``table`` that fails, beside. New requests wait; what is inside comes out first."""

    name: str
    table: str


SEVERING = "sever"
"""Key of the work beside that replaces the front."""


class KillPods(Step, frozen=True, kw_only=True):
    """SIGKILL to every process of every pod that the front has been given to."""

    major_minor: str


class GateHold(Step, frozen=True, kw_only=True):
    name: str


class GateFail(Step, frozen=True, kw_only=True):
    name: str


class GateReinstate(Step, frozen=True, kw_only=True):
    name: str
    major_minor: str


class GateFailPath(Step, frozen=True, kw_only=True):
    name: str
    major_minor: str


class Flush(Step, frozen=True, kw_only=True):
    """Flush a dm device: what lies below forgets nothing afterwards."""

    name: str


# --- NVMe/TCP ---


class Connect(Step, frozen=True, kw_only=True):
    nqn: str
    address: str
    host_nqn: str
    host_id: str
    namespace_uuid: str


class Disconnect(Step, frozen=True, kw_only=True):
    nqn: str


# --- the array ---


class Assemble(Step, frozen=True, kw_only=True):
    """Read the dirty chunks of ``dirty_from``, remember them, assemble, remember ``after``."""

    name: str
    raid_disks: int
    component_sectors: int
    members: tuple[tuple[int, str, bool], ...]
    dirty_from: tuple[str, ...]
    """dm names of paths whose bitmaps are read; empty: no leg will ever be taken back by a delta."""
    after: Remember


class Add(Step, frozen=True, kw_only=True):
    name: str
    slot: int
    major_minor: str
    delta: bool
    write_mostly: bool
    dirty_from: str = ""
    """dm name of the leg's own path: what its bitmap calls dirty may be lost with its disk's cache."""


class MdFail(Step, frozen=True, kw_only=True):
    name: str
    major_minor: str


class AcknowledgeFailure(Step, frozen=True, kw_only=True):
    name: str
    major_minor: str


class Acknowledge(Step, frozen=True, kw_only=True):
    name: str


class Freeze(Step, frozen=True, kw_only=True):
    name: str


class Unfreeze(Step, frozen=True, kw_only=True):
    name: str


class SetSpeed(Step, frozen=True, kw_only=True):
    name: str
    max_kib: int
    background: bool = False


class Check(Step, frozen=True, kw_only=True):
    """Compare the members between two sectors."""

    name: str
    first: int
    last: int


class EndCheck(Step, frozen=True, kw_only=True):
    name: str


class Grow(Step, frozen=True, kw_only=True):
    """Use more of each member while the front is suspended, which is noted as a hold before."""

    name: str
    component_sectors: int
    front: str
    """dm name; empty: there is none yet."""


class Stop(Step, frozen=True, kw_only=True):
    """Stop the array with every answerer silent (kernel-facts 17)."""

    name: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now."""

    parts: tuple[tuple[Step, ...], ...] = ()
    """Independent runs of steps: one that fails does not keep the others from being done."""
    waits: tuple[str, ...] = ()
    """What is waited for and why, one sentence each."""
    down: Mapping[str, int] = {}
    """Legs whose path is down at this look → how near they are (``Attaching.nearness``)."""
    wake: float | None = None
    """Seconds until time alone changes the plan."""
    report: NodeReport | None = None
    """What to say of the volume at this look; without points in time."""

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for part in self.parts for step in part)
