"""What must never be true."""

from __future__ import annotations

import kernel
from kernel import Event
from state import ABSENT, ACTIVE, IN, LEGS, NODES, SUSPENDED, WALLED, Node, Size, State
from world import Model

from millpond_core.model import VirtualVolume


def broken(model: Model, state: State) -> str | None:
    """What must never be true, in words; None when all is well."""
    if state.wrong:
        return state.wrong
    volume: VirtualVolume = model.objects[state.volume]
    mapping, at = volume.status.mapping, volume.status.attachment
    if mapping.generation:
        sources = [LEGS.index(leg.id) for leg in mapping.legs if leg.state == "InSync" and not leg.releasing]
        if not sources:
            return "no leg is recorded InSync: there is nothing to attach from"
        for leg in sources:
            if state.data[leg].durable < state.acknowledged:
                return (
                    f"leg {LEGS[leg]} is recorded InSync but lacks acknowledged write {state.acknowledged}: it "
                    "could be the source"
                )
    elif not any(
        data.durable >= state.acknowledged for leg, data in enumerate(state.data) if leg not in state.given_away
    ):
        return f"the record is lost, and so is acknowledged write {state.acknowledged}: no leg has it"
    for n, node in enumerate(state.nodes):
        if not node.up or node.front in (ABSENT, WALLED) or at.node != NODES[n]:
            continue
        if model.objects[node.memory].epoch != at.epoch:
            continue
        wrong = _read(model.size, state, n, node)
        if wrong:
            return wrong
    return None


def stuck(state: State, next_: list[Event]) -> str | None:
    """A hold whose deadline has passed ends by a single step, whatever else is broken."""
    for n, node in enumerate(state.nodes):
        ends = any(after.nodes[n].front == ACTIVE for _, after in next_)
        if node.front == SUSPENDED and state.time_up and not ends:
            return f"{NODES[n]} holds reads and writes past the deadline, and nothing ends that"
    return None


def _read(size: Size, state: State, n: int, node: Node) -> str:
    readable = [
        leg for leg, stack in enumerate(node.legs) if stack.member == IN and kernel.reached(size, state, n, leg)
    ]
    for leg in readable:
        if state.data[leg].content < state.acknowledged:
            return f"{NODES[n]} reads from leg {LEGS[leg]}, which lacks acknowledged write {state.acknowledged}"
    if state.flights[n] is None and len({state.data[leg].content for leg in readable}) > 1:
        return f"{NODES[n]} reads from {', '.join(LEGS[leg] for leg in readable)} as equals, and they differ"
    return ""
