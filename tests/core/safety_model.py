"""The safety rules of the data path, written once more as a model small enough to explore whole.

One volume with two legs and a spare, one block of data, a few writes. A block's content is the number of the last write
that reached it. What the kernel does is modelled as it was measured, the unkind parts included: a write that was in
flight when md saw an error is acknowledged before anyone was asked. What the state manager does is modelled as single
steps between any two of which everything else may happen: a path lost or back, a crash, a restart. "Acknowledged" means
written and flushed, as a database does it: a disk that loses power may forget what was not flushed.

``rules`` switches each rule off, one at a time: the exploration must then find a lost write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

RULES = frozenset(
    {
        "gate holds while recorded InSync",
        "record before the gate fails",
        "last InSync leg stays",
        "promote only when md is in sync",
        "promote with the gate holding",
        "after a crash one leg is the source",
        "only InSync legs are assembled",
        "a returning leg is rebuilt",
        "reinstate only the same incarnation",
    }
)

LEGS = 2
WRITES = 2


class Leg(NamedTuple):
    """One leg: the record, the disk, and what the attach node's kernel makes of it."""

    record: str = "InSync"  # InSync, Stale, Rebuilding
    content: int = 0
    cached: int = 0  # the newest write that only the disk's volatile cache has; 0: none
    path: bool = True
    same_life: bool = True  # the incarnation is the one that was connected
    holding: bool = True
    member: str = "in"  # what md says: in, rebuilding, faulty, out


class State(NamedTuple):
    legs: tuple[Leg, ...]
    attached: bool = True
    acknowledged: int = 0
    started: int = 0
    flight: frozenset[int] | None = None  # legs that the write in flight (or its flush) still waits for
    flushing: bool = False


def initial() -> State:
    return State(legs=(Leg(),) * LEGS)


def change(state: State, index: int, **fields: Any) -> State:
    legs = list(state.legs)
    legs[index] = legs[index]._replace(**fields)
    return state._replace(legs=tuple(legs))


def successors(state: State, rules: frozenset[str]) -> Iterator[tuple[str, State]]:
    """Every state that one event leads to, with the event's name."""
    if state.attached:
        yield from _io(state)
        yield from _kernel(state)
        for index in range(LEGS):
            yield from _manager(state, index, rules)
        yield "crash of the attach node", _crash(state)
    else:
        yield from _attach(state, rules)
    for index, leg in enumerate(state.legs):
        if leg.path:
            # A pulled disk or a leg node without power: what only the cache had is gone.
            lost = change(state, index, path=False, same_life=False, content=min(leg.content, _durable(leg)), cached=0)
            yield f"disk {index} is pulled", lost
            yield f"link to {index} is cut", change(state, index, path=False)
        else:
            yield f"path {index} can be had again", change(state, index, path=True)
        if leg.cached:
            yield f"disk {index} writes its cache", change(state, index, cached=0)


def _durable(leg: Leg) -> int:
    return leg.cached - 1 if leg.cached else leg.content


def _members(state: State) -> list[int]:
    return [i for i, leg in enumerate(state.legs) if leg.member in ("in", "rebuilding")]


def _io(state: State) -> Iterator[tuple[str, State]]:
    """A write starts, reaches a leg, is acknowledged."""
    faulty = any(leg.member == "faulty" for leg in state.legs)
    if state.flight is None and state.started < WRITES and not faulty and _members(state):
        yield "write starts", state._replace(started=state.started + 1, flight=frozenset(_members(state)))
    if state.flight is None:
        return
    for index in state.flight:
        leg = state.legs[index]
        if not (leg.path and leg.same_life) or leg.member == "faulty":
            continue
        waiting = state.flight - {index}
        if state.flushing:
            yield f"flush reaches {index}", change(state, index, cached=0)._replace(flight=waiting)
        else:
            arrived = change(state, index, content=state.started, cached=leg.cached or state.started)
            yield f"write reaches {index}", arrived._replace(flight=waiting)
    if not state.flight and not state.flushing:
        yield "flush starts", state._replace(flight=frozenset(_members(state)), flushing=True)
    elif not state.flight:
        # md acknowledges what was in flight although a leg has just failed and nobody has recorded it.
        wrote = any(leg.content == state.started and leg.member == "in" for leg in state.legs)
        done = state._replace(flight=None, flushing=False)
        yield ("write acknowledged", done._replace(acknowledged=state.started)) if wrote else ("write fails", done)


def _kernel(state: State) -> Iterator[tuple[str, State]]:
    """A gate that does not hold lets an error through: md drops the leg. A rebuild copies."""
    for index, leg in enumerate(state.legs):
        if not leg.path and not leg.holding and leg.member in ("in", "rebuilding"):
            failed = change(state, index, member="faulty")
            if failed.flight is not None:
                failed = failed._replace(flight=failed.flight - {index})
            yield f"md drops {index}", failed
        sources = [other for other in state.legs if other.member == "in" and other.path]
        if leg.member == "rebuilding" and leg.path and sources and state.flight is None:
            copied = change(state, index, content=sources[0].content, cached=0)
            yield f"md rebuilt {index}", change(copied, index, member="in")


def _manager(state: State, index: int, rules: frozenset[str]) -> Iterator[tuple[str, State]]:
    """The state manager's single steps for one leg."""
    leg = state.legs[index]
    others = [other for i, other in enumerate(state.legs) if i != index and other.record == "InSync"]
    may_lose = bool(others) or "last InSync leg stays" not in rules
    if leg.record == "InSync":
        if not leg.path and may_lose:
            yield f"record {index} Stale", change(state, index, record="Stale")
        if leg.holding and not leg.path and may_lose and "record before the gate fails" not in rules:
            yield f"gate {index} fails unrecorded", change(state, index, holding=False)
        if "gate holds while recorded InSync" not in rules and leg.holding:
            yield f"gate {index} is left failing", change(state, index, holding=False)
    elif (leg.holding and leg.member != "in") or (leg.record == "Stale" and leg.holding):
        yield f"gate {index} fails", change(state, index, holding=False)
    if leg.path and not leg.same_life and leg.record == "InSync":
        if "reinstate only the same incarnation" not in rules:
            yield f"path {index} reinstated in a new life", change(state, index, same_life=True)
        elif may_lose:
            yield f"record {index} Stale (new life)", change(state, index, record="Stale")
    if leg.record == "Stale" and not leg.holding and leg.member in ("in", "rebuilding"):
        faulty = change(state, index, member="faulty")
        if faulty.flight is not None:
            faulty = faulty._replace(flight=faulty.flight - {index})
        yield f"mark {index} faulty", faulty
    if leg.member == "faulty" and leg.record != "InSync":
        yield f"acknowledge {index} to md", change(state, index, member="out")
    if leg.record == "Stale" and leg.member == "out" and leg.path:
        # A new connection: what is there now is what will be rebuilt.
        yield f"record {index} Rebuilding", change(state, index, record="Rebuilding", same_life=True)
    if leg.record == "Rebuilding" and leg.member == "out" and leg.path and state.flight is None:
        member = "rebuilding" if "a returning leg is rebuilt" in rules else "in"
        yield f"add {index}", change(state, index, member=member, holding=False)
    yield from _promote(state, index, rules)


def _promote(state: State, index: int, rules: frozenset[str]) -> Iterator[tuple[str, State]]:
    leg = state.legs[index]
    if leg.record != "Rebuilding" or not leg.same_life:
        return
    ready = leg.member == "in" or ("promote only when md is in sync" not in rules and leg.member == "rebuilding")
    if not ready:
        return
    if leg.path and not leg.holding:
        if "promote with the gate holding" in rules:
            yield f"gate {index} holds for the promotion", change(state, index, holding=True)
        else:
            yield f"promote {index} with its gate failing", change(state, index, record="InSync")
    elif leg.holding:
        yield f"promote {index}", change(state, index, record="InSync")


def _crash(state: State) -> State:
    """The kernel forgets; the write in flight reached whom it reached; disks keep what they have."""
    legs = tuple(leg._replace(member="out", holding=True) for leg in state.legs)
    return state._replace(legs=legs, attached=False, flight=None, flushing=False)


def _attach(state: State, rules: frozenset[str]) -> Iterator[tuple[str, State]]:
    """A new epoch: the record says who may be read, and after a crash only one of those."""
    in_sync = [i for i, leg in enumerate(state.legs) if leg.record == "InSync"]
    candidates = in_sync if "only InSync legs are assembled" in rules else list(range(LEGS))
    one_source = "after a crash one leg is the source" in rules
    for source in candidates:
        if not state.legs[source].path:
            continue
        legs = list(state.legs)
        for index in range(LEGS):
            leg = legs[index]
            joins = index == source or (not one_source and index in in_sync and leg.path)
            if joins:
                legs[index] = leg._replace(record="InSync", member="in", holding=True, same_life=True)
            elif leg.record == "InSync":
                legs[index] = leg._replace(record="Stale", holding=False)
            else:
                legs[index] = leg._replace(holding=False)
        yield f"attach from {source}", state._replace(legs=tuple(legs), attached=True)


def broken(state: State) -> str | None:
    """What must never be true, in words; None when all is well."""
    readable = [leg for leg in state.legs if leg.member == "in" and leg.path and leg.same_life]
    if state.attached and any(leg.content < state.acknowledged for leg in readable):
        return "a leg that reads are served from lacks an acknowledged write"
    if state.attached and state.flight is None and len({leg.content for leg in readable}) > 1:
        return "two legs that are read as equals differ"
    source = [leg for leg in state.legs if leg.record == "InSync"]
    if not source:
        return "no leg is recorded InSync: nothing could be attached again"
    if any(leg.content < state.acknowledged and leg.same_life for leg in source):
        return "a leg recorded InSync lacks an acknowledged write: after a crash it could be the source"
    return None


def explore(rules: frozenset[str], limit: int = 2_000_000) -> tuple[int, list[str] | None]:
    """(states seen, the shortest way to a broken one or None). Breadth first."""
    start = initial()
    seen: dict[State, tuple[State, str] | None] = {start: None}
    layer = [start]
    while layer:
        following: list[State] = []
        for state in layer:
            for event, after in successors(state, rules):
                if after in seen:
                    continue
                seen[after] = (state, event)
                if (why := broken(after)) is not None:
                    return len(seen), [*_way(seen, after), why]
                following.append(after)
        layer = following
        assert len(seen) <= limit, "the model has grown beyond what can be explored"
    return len(seen), None


def _way(seen: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way: list[str] = []
    while (came := seen[state]) is not None:
        state, event = came
        way.append(event)
    return way[::-1]
