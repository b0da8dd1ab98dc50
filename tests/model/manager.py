"""A state manager: it looks, asks ``nodeplan.node.plan`` what to do, and does it step by step.

Between a look and each step that others can notice, anything may happen; steps that only its own node notices
(``QUIET``) follow in one go. What a step does is told in ``acts``; which steps there are, and in what order, is
``core``'s: ``node.plan`` with all that it stands on (``attach``, ``leave``, ``legs``), ``record.patch`` for the record,
``still`` for quiescences. Killed, a state manager looks anew; without the API server it goes by the copy it saw last.
"""

from __future__ import annotations

from typing import Any

import look
import msgspec
from acts import Acts, Failed, told
from kernel import settle
from record import NAME, Api
from state import (
    ABSENT,
    FROZEN,
    NODES,
    NOTHING,
    SUSPENDED,
    Disk,
    Interned,
    Node,
    Size,
    State,
    on_node,
    put,
)

from millpond_core import quiesce
from millpond_core.model import VirtualVolume
from millpond_core.nodeplan import node as nodeplan
from millpond_core.nodeplan import steps, still
from millpond_core.nodeplan.steps import Plan, Step
from millpond_core.nodeplan.view import Memory

WALL = 2000.0
"""The only time of day."""

BEFORE, AFTER = 0.0, 100.0
"""CLOCK_BOOTTIME before and after the deadline of an instruction."""

QUIET = (
    steps.Remember,
    steps.PutLeg,
    steps.DropLeg,
    steps.Zero,
    steps.Export,
    steps.Unexport,
    steps.CreateDm,
    steps.SwapDm,
    steps.RemoveDm,
    steps.Connect,
    steps.Disconnect,
    steps.GateFailPath,
    steps.Acknowledge,
    steps.Freeze,
    steps.Unfreeze,
    steps.Resume,
    steps.SetSpeed,
)

ROUNDS = 40

Pending = tuple[tuple[Step, ...], ...]


class Manager(Acts):
    """The state managers of all nodes."""

    def __init__(self, size: Size, objects: Interned, api: Api) -> None:
        super().__init__(size, objects, api)
        self._plans: dict[Any, Plan] = {}
        self._turns: dict[Any, tuple[int, tuple[Node, ...], tuple[Disk, ...]]] = {}
        self.empty = objects(Memory())

    # --- looking ---

    def turn(self, state: State, n: int, *, late: bool) -> State:
        """A look, and all that follows of it until others could notice; the same state when there is nothing.

        What is on the legs does not matter to it, so each turn is worked out once for all of that (unless it zeroes).
        """
        waiting = state.flights[n].waiting if state.flights[n] else None
        key = (n, late, state[:3], state.link, state.quiescence, state.time_up, waiting)
        known = self._turns.get(key)
        if known is None:
            after = _unread(self._turn(state, n, late=late), n)
            if after.data != state.data:
                return after
            known = self._turns[key] = after[:3]
        volume, nodes, disks = known
        return state._replace(volume=volume, nodes=nodes, disks=disks)

    def _turn(self, state: State, n: int, *, late: bool) -> State:
        node = state.nodes[n]
        if node.reaches:
            node = node._replace(seen=state.volume, failed=False)
        if not node.seen:
            return state
        node = node._replace(memory=node.memory or self.empty)
        state = state._replace(nodes=put(state.nodes, n, self._heard(state, node, n)))
        for _ in range(ROUNDS):
            plan = self.plan(state, n, late=late)
            before = state
            if plan.parts:
                state, failed = self._quietly(state, n, plan.parts)
                state = settle(self.size, state)
                if state.nodes[n].pending:
                    return state
                assert failed or state != before, f"{NODES[n]} plans what changes nothing: {plan.steps}"
            if state == before:
                state = self._said(state, n, plan)
                if state.nodes[n] == before.nodes[n]:
                    return state
        raise AssertionError(f"{NODES[n]} does not come to rest: {plan.steps}")

    def plan(self, state: State, n: int, *, late: bool) -> Plan:
        """What ``core`` plans now."""
        node = state.nodes[n]
        halted, hold = self._wants(state, node)
        peers = tuple(peer.up for peer in state.nodes)
        disks = tuple(
            (disk.present, disk.life, disk.label) if place == n else disk.present
            for place, disk in zip(self.size.places, state.disks, strict=True)
        )
        flight = state.flights[n] and (state.flights[n].waiting if hold else True)
        key = (n, late, halted, hold, node._replace(failed=False, instruction=0), peers, state.link, disks, flight)
        plan = self._plans.get(key)
        if plan is None:
            volume: VirtualVolume = self.objects[node.seen]
            around = look.around(self.size, state, n, volume, late=late, halted=halted, hold=hold)
            made = nodeplan.plan(
                volume, look.kernel(self.size, self.objects, state, n), around, self.objects[node.memory]
            )
            parts = tuple(tuple(msgspec.structs.replace(step, why="") for step in part) for part in made.parts)
            plan = self._plans[key] = msgspec.structs.replace(made, parts=parts)
        return plan

    def _said(self, state: State, n: int, plan: Plan) -> State:
        """Nothing is left to do: report, and perhaps acknowledge."""
        node = state.nodes[n]
        if not node.reaches:
            return state
        assert plan.report is not None
        volume = self.api.report(state.volume, plan.report)
        node = node._replace(seen=volume)
        return state._replace(volume=volume, nodes=put(state.nodes, n, self._judged(state, n, node, plan)))

    # --- quiescences ---

    def _heard(self, state: State, node: Node, n: int) -> Node:
        """The doorbell rings: a quiescence under way, with this node as a participant."""
        quiescence, known = self.objects[state.quiescence], self.objects[node.instruction]
        if quiescence is None or not node.reaches or (known is not None and known.uid == quiescence.metadata.uid):
            return node
        if quiescence.status.phase not in quiesce.RUNNING or NODES[n] not in quiescence.status.participants:
            return node
        memory: Memory = self.objects[node.memory]
        made = still.instructed(
            quiescence,
            boot_id=look.boot_id(n, node.boot),
            now=BEFORE,
            wall=WALL,
            generations={NAME: memory.generation},
        )
        return node._replace(instruction=self._kept(made))

    def _wants(self, state: State, node: Node) -> tuple[bool, bool]:
        known = self.objects[node.instruction]
        now = AFTER if state.time_up else BEFORE
        return still.wants([known] if known else [], NAME, now)

    def _judged(self, state: State, n: int, node: Node, plan: Plan) -> Node:
        known, quiescence = self.objects[node.instruction], self.objects[state.quiescence]
        volume: VirtualVolume = self.objects[node.seen]
        if known is None or known.over:
            return node
        standing = still.Standing(
            settled=not plan.steps,
            frozen=node.array in (NOTHING, FROZEN),
            suspended=node.front in (ABSENT, SUSPENDED),
            generation=self.objects[node.memory].generation,
        )
        here = {NAME: standing} if volume.status.attachment.node == NODES[n] else {}
        released = known.uid != quiescence.metadata.uid or quiescence.status.phase in quiesce.OVER
        now = AFTER if state.time_up and not released else BEFORE
        return node._replace(instruction=self._kept(still.judged(known, here, released=released, now=now, wall=WALL)))

    def _kept(self, known: still.Instruction) -> int:
        answer = msgspec.structs.replace(known.answer, message="")
        return self.objects(msgspec.structs.replace(known, answer=answer))

    # --- doing ---

    def advance(self, state: State, n: int) -> tuple[str, State]:
        """The next step of the plan that is being carried out, and the quiet ones after it."""
        parts: Pending = self.objects[state.nodes[n].pending]
        step, rest = parts[0][0], (parts[0][1:], *parts[1:])
        what = f"{NODES[n]}: {type(step).__name__}{told(step)}"
        try:
            state = self.do(state, n, step)
        except Failed as error:
            rest, what = parts[1:], f"{what} fails ({error})"
        state, _ = self._quietly(state, n, rest)
        return what, _unread(settle(self.size, state), n)

    def _quietly(self, state: State, n: int, parts: Pending) -> tuple[State, bool]:
        """Do what comes first as long as only the node itself notices; note the rest. Whether something failed, too."""
        left, failed = list(parts), False
        while left:
            if not left[0]:
                left.pop(0)
            elif isinstance(left[0][0], QUIET):
                try:
                    state = self.do(state, n, left[0][0])
                    left[0] = left[0][1:]
                except Failed:
                    failed = True
                    left.pop(0)
            else:
                break
        pending = self.objects(tuple(left)) if left else 0
        return state._replace(nodes=put(state.nodes, n, state.nodes[n]._replace(pending=pending))), failed


def _unread(state: State, n: int) -> State:
    """Who reaches the API server and has nothing under way will read before it does anything: no copy is kept."""
    node = state.nodes[n]
    if not node.seen or node.pending or not node.reaches:
        return state
    return on_node(state, n, seen=0)
