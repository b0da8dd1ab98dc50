"""The search: breadth first from a volume that has just been attached, over everything that may happen next."""

from __future__ import annotations

import gc
import time
from typing import NamedTuple

from rules import broken, stuck
from state import State
from world import Model


class Found(NamedTuple):
    """What an exploration came to."""

    states: int
    depth: int
    seconds: float
    way: list[str] | None
    """The shortest way to what must never be, and what that is; None: there is none."""
    events: frozenset[str] = frozenset()
    """Every event that happened."""
    whole: bool = True
    """Everything within the bounds was seen."""

    def __str__(self) -> str:
        how = "" if self.whole else ", stopped before the end"
        return f"{self.states} states, depth {self.depth}, {self.seconds:.1f} s{how}"


def explore(model: Model, limit: int = 3_000_000, seconds: float = 3600.0) -> Found:
    """Everything that can be reached, or the shortest way to what must never be."""
    gc.disable()  # states are tuples without cycles, and looking for some among a million takes a tenth of the time
    try:
        return _explore(model, limit, seconds)
    finally:
        gc.enable()


def _explore(model: Model, limit: int, seconds: float) -> Found:
    began = time.process_time()
    start = model.initial()
    assert broken(model, start) is None
    seen: dict[State, int] = {start: 0}
    came: list[tuple[int, str]] = [(0, "")]
    layer, depth = [start], 0
    happened: dict[str, str] = {}
    while layer:
        depth += 1
        following: list[State] = []
        for state in layer:
            number = seen[state]
            next_ = list(model.successors(state))
            if state.time_up and (why := stuck(state, next_)) is not None:
                return Found(
                    len(seen),
                    depth,
                    time.process_time() - began,
                    [*_way(came, number), why],
                    frozenset(happened),
                )
            for event, after in next_:
                if after in seen:
                    continue
                seen[after] = len(came)
                came.append((number, happened.setdefault(event, event)))
                why = broken(model, after)
                if why is not None:
                    way = [*_way(came, len(came) - 1), why]
                    return Found(len(seen), depth, time.process_time() - began, way, frozenset(happened))
                following.append(after)
        layer = following
        if len(seen) > limit or time.process_time() - began > seconds:
            return Found(len(seen), depth, time.process_time() - began, None, frozenset(happened), whole=False)
    return Found(len(seen), depth - 1, time.process_time() - began, None, frozenset(happened))


def _way(came: list[tuple[int, str]], number: int) -> list[str]:
    way: list[str] = []
    while number:
        number, event = came[number]
        way.append(event)
    return way[::-1]
