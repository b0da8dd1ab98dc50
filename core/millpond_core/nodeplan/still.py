"""What a quiescence asks of a node, and when the node may say that it is still.

    Draining   seen; long operations halt, reads and writes drain where they are to be held
    Quiesced   all of it is still: acknowledged
    Applied    a new generation that came meanwhile is in force here
    Released   over: everything goes on            (the doorbell is silent, or the Quiescence is over)
    Expired    over: its time was up first

Whatever happens to the master, the deadline ends it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from millpond_core.instants import stamp
from millpond_core.model import Quiescence
from millpond_core.model.storagenode import NodeQuiescence, NodeQuiescencePhase

OVER: frozenset[NodeQuiescencePhase] = frozenset({"Released", "Expired", "Refused"})

OWN_SECONDS = 30.0
"""Bound of a hold that no quiescence asks for: an array is enlarged, which takes a moment."""

KEPT = 16
"""Answers to quiescences that are over which are still shown."""


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One quiescence as this node takes part in it; kept under /run."""

    uid: str
    name: str
    hold_io: bool
    deadline: float
    """CLOCK_BOOTTIME at which everything goes on by itself."""
    boot_id: str
    volumes: tuple[str, ...]
    """Names; frozen by the master."""
    before: dict[str, int] = {}
    """Volume → generation in force when it was seen."""
    answer: NodeQuiescence

    @property
    def over(self) -> bool:
        return self.answer.phase in OVER


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one volume that is attached here stands."""

    settled: bool
    """Nothing is left to do: what was due is recorded, what the record wants is in force."""
    frozen: bool
    suspended: bool
    generation: int
    checkpoint: str = ""
    """A rebuild that is halted: ``volume/leg@sectors``; empty: none."""
    message: str = ""


def instructed(
    quiescence: Quiescence, *, boot_id: str, now: float, wall: float, generations: Mapping[str, int]
) -> Instruction:
    """A quiescence that was seen just now."""
    return Instruction(
        uid=quiescence.metadata.uid,
        name=quiescence.metadata.name,
        hold_io=quiescence.spec.hold_io,
        deadline=now + quiescence.spec.deadline_seconds,
        boot_id=boot_id,
        volumes=tuple(quiescence.status.volumes),
        before={name: generations.get(name, 0) for name in quiescence.status.volumes},
        answer=NodeQuiescence(
            uid=quiescence.metadata.uid,
            name=quiescence.metadata.name,
            phase="Draining",
            instructed_at=stamp(wall),
            message="halting long operations",
        ),
    )


def wants(instructions: Iterable[Instruction], volume: str, now: float) -> tuple[bool, bool]:
    """(long operations halted, reads and writes held) for a volume."""
    there = [i for i in instructions if not i.over and volume in i.volumes and now < i.deadline]
    return bool(there), any(i.hold_io for i in there)


def hold_deadline(instructions: Iterable[Instruction], volume: str, now: float) -> float:
    """When the hold of a volume's reads and writes ends: at the earliest deadline of those that want it, or soon where
    it is the node's own.
    """
    wanted = (i.deadline for i in instructions if not i.over and i.hold_io and volume in i.volumes and now < i.deadline)
    return min(wanted, default=now + OWN_SECONDS)


def judged(
    instruction: Instruction, standings: Mapping[str, Standing | None], *, released: bool, now: float, wall: float
) -> Instruction:
    """The instruction, a step on. ``standings`` has each of its volumes that is attached here; None: not looked at."""
    answer = instruction.answer
    if instruction.over:
        return instruction
    if released or now >= instruction.deadline:
        phase: NodeQuiescencePhase = "Released" if released else "Expired"
        said = "over, everything goes on" if released else "its time was up, everything goes on"
        return _answered(instruction, phase=phase, message=said)
    moving = [
        f"{name}: {s.message if s else 'not looked at yet'}"
        for name, s in standings.items()
        if not _still(instruction, s)
    ]
    if answer.phase == "Draining":
        if moving:
            return _answered(instruction, message="; ".join(moving))
        held = sorted(standings) if instruction.hold_io else []
        return _answered(
            instruction,
            phase="Quiesced",
            acknowledged_at=stamp(wall),
            hold_remaining_ms=int((instruction.deadline - now) * 1000) if held else 0,
            held_volumes=held,
            halted_operations=sorted(s.checkpoint for s in standings.values() if s and s.checkpoint),
            message="still",
        )
    risen = {n for n, s in standings.items() if s and s.generation > instruction.before.get(n, 0)}
    if answer.phase == "Quiesced" and risen and not moving:
        generations = ", ".join(f"{n} {s.generation}" for n in sorted(risen) if (s := standings[n]))
        return _answered(
            instruction, phase="Applied", applied_at=stamp(wall), message=f"generation in force: {generations}"
        )
    return instruction


def _still(instruction: Instruction, standing: Standing | None) -> bool:
    if standing is None or not standing.settled or not standing.frozen:
        return False
    return standing.suspended or not instruction.hold_io


def _answered(instruction: Instruction, **changes: object) -> Instruction:
    return msgspec.structs.replace(instruction, answer=msgspec.structs.replace(instruction.answer, **changes))
