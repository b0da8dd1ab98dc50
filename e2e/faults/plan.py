"""Draws cases from a seed: the only place where chance decides. The same seed and count give the same cases.

A seed's cases never change, so that what was measured with it can be measured again: kinds and phases that are added
take part from a later seed on (``since``), and those there are stay as they are, in their order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from faults.kinds import KINDS, Kind, Role
from faults.phases import PHASES, Phase

T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One fault, where and when it strikes, and how long it stays."""

    number: int
    kind: Kind
    phase: Phase
    role: Role
    seconds: float

    def may_end_pods(self, struck: str, home: str) -> bool:
        """Whether a pod on the node ``home`` may end or meet errors: it is struck, or no good copy may be left."""
        return self.phase.ends_pods or (self.kind.ends_pods and struck == home)

    def words(self) -> tuple[str, str, str, str]:
        """Its names, as :func:`one` and ``--case`` take them."""
        return self.kind.name, self.phase.name, self.role, f"{self.seconds:g}"

    def __str__(self) -> str:
        where = "" if self.role == "plane" else f" ({self.role} node)"
        return f"{self.number}. {self.kind.name}{where} for {self.seconds:g} s while {self.phase.name}"


def cases(seed: int, count: int) -> list[Case]:
    """``count`` cases: every kind before any comes again, in an order of the seed's, and so for phases."""
    chance = random.Random(f"{seed} how")
    kinds = _rounds([k for k in KINDS if k.since <= max(seed, 1)], count, random.Random(f"{seed} kinds"))
    phases = _rounds([p for p in PHASES if p.since <= max(seed, 1)], count, random.Random(f"{seed} phases"))
    return [
        Case(number, kind, phase, chance.choice(kind.roles), chance.choice(kind.seconds))
        for number, (kind, phase) in enumerate(zip(kinds, phases, strict=True), start=1)
    ]


def one(kind: str, phase: str, role: str, seconds: float) -> Case:
    """The case with these names; KeyError names what there is when there is none."""
    known = {each.name: each for each in KINDS}
    when = {each.name: each for each in PHASES}
    if kind not in known or phase not in when:
        raise KeyError(f"kinds: {', '.join(known)}; phases: {', '.join(when)}")
    chosen = known[kind]
    if role not in chosen.roles:
        raise KeyError(f"{kind} strikes {', '.join(chosen.roles)}, not {role!r}")
    return Case(1, chosen, when[phase], next(each for each in chosen.roles if each == role), seconds)


def _rounds(choices: Sequence[T], count: int, chance: random.Random) -> list[T]:
    drawn: list[T] = []
    while len(drawn) < count:
        drawn += chance.sample(choices, len(choices))
    return drawn[:count]
