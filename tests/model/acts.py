"""What each step of a plan does to a node's kernel, its disks' labels, or the record.

``Failed`` is what a real one would answer: the record is another, the device is busy, the path leads nowhere.
"""

from __future__ import annotations

from typing import Any

import look
import msgspec
from kernel import dropped, leads, reached, whole
from record import UUID, Api, device
from state import (
    ABSENT,
    ACTIVE,
    DELTA,
    DOWN,
    FAILING,
    FROZEN,
    FULL,
    HOLDING,
    IN,
    LEGS,
    NODES,
    NONE,
    NOTHING,
    OUT,
    RUNNING,
    SUSPENDED,
    UP,
    WALLED,
    Export,
    Interned,
    Node,
    Size,
    State,
    on_leg,
    on_node,
    put,
)

from millpond_core import names
from millpond_core.errors import Conflict
from millpond_core.layout import gate_holds
from millpond_core.nodeplan import record, steps
from millpond_core.nodeplan.steps import Step
from millpond_core.nodeplan.view import Memory


class Failed(Exception):
    """The step could not be done; the rest of its part of the plan is not tried."""


class Acts:
    """One method a step."""

    def __init__(self, size: Size, objects: Interned, api: Api) -> None:
        self.size, self.objects, self.api = size, objects, api
        self._slots: dict[int, int] = {}

    def slots(self, node: Node) -> int:
        """Places in the array of a node."""
        if node.memory not in self._slots:
            memory: Memory = self.objects[node.memory] or Memory()
            self._slots[node.memory] = max((leg.slot for leg in memory.legs.values()), default=-1) + 1
        return self._slots[node.memory]

    def do(self, state: State, n: int, step: Any) -> State:
        """The state after a step. Raises Failed."""
        act = _ACTS[type(step)]
        return act(self, state, n, step)

    def _remember(self, state: State, n: int, step: steps.Remember) -> State:
        return on_node(state, n, memory=self.objects(step.apply(self.objects[state.nodes[n].memory])))

    def _record(self, state: State, n: int, step: steps.Record) -> State:
        node = state.nodes[n]
        if not node.reaches:
            raise Failed("the API server does not answer")
        try:
            operations = record.patch(self.objects[node.seen], step)
        except Conflict as error:
            raise Failed("it is another by now") from error
        volume = self.api.patch(state.volume, operations)
        if not volume:
            raise Failed("refused")
        return on_node(state._replace(volume=volume), n, seen=volume)

    # legs that lie here

    def _put_leg(self, state: State, n: int, step: steps.PutLeg) -> State:
        leg = _leg_on(step.device)
        if not state.disks[leg].present:
            raise Failed("the disk is gone")
        disk = state.disks[leg]._replace(label=self.objects(step.entry))
        return state._replace(disks=put(state.disks, leg, disk))

    def _drop_leg(self, state: State, n: int, step: steps.DropLeg) -> State:
        leg = _leg_on(step.device)
        return state._replace(disks=put(state.disks, leg, state.disks[leg]._replace(label=0)))

    def _zero(self, state: State, n: int, step: steps.Zero) -> State:
        assert not step.start_bytes, "volumes do not grow here"
        for name in step.devices:
            leg = _leg_on(name)
            data = state.data[leg]._replace(content=0, durable=0, bit=False)
            entry = self.objects[state.disks[leg].label]
            noted = msgspec.structs.replace(entry, zeroed=True, prepared_bytes=step.prepared_bytes)
            disk = state.disks[leg]._replace(label=self.objects(noted))
            state = state._replace(data=put(state.data, leg, data), disks=put(state.disks, leg, disk))
            if leg in state.given_away:
                state = state._replace(wrong=f"leg {LEGS[leg]} is zeroed, which is another volume's by now")
        return state

    def _export(self, state: State, n: int, step: steps.Export) -> State:
        leg, epoch = _parsed(step.nqn)
        host = next(other for other in range(len(NODES)) if look.host_nqn(other) == step.host_nqn)
        made = Export(epoch, state.disks[leg].life, host)
        there = state.nodes[n].exports
        return on_node(state, n, exports=put(there, leg, (*there[leg], made)))

    def _unexport(self, state: State, n: int, step: steps.Unexport) -> State:
        leg, _ = _parsed(step.nqn)
        there = state.nodes[n].exports
        left = tuple(one for one in there[leg] if look.nqn(self.size, leg, one[:2]) != step.nqn)
        return on_node(state, n, exports=put(there, leg, left))

    # device-mapper

    def _create(self, state: State, n: int, step: steps.CreateDm) -> State:
        role, leg = _role(step.name)
        if role == "front":
            return on_node(state, n, front=ACTIVE)
        if role == "wall":
            return on_node(state, n, wall=UP)
        if role == "leg":
            return on_node(state, n, mapped=put(state.nodes[n].mapped, leg, state.disks[leg].life))
        if role == "path":
            return on_leg(state, n, leg, target=look.target_of(step.table))
        return on_leg(state, n, leg, gate=HOLDING if gate_holds(step.table) else FAILING, up=True)

    def _swap(self, state: State, n: int, step: steps.SwapDm) -> State:
        return on_leg(state, n, _role(step.name)[1], target=look.target_of(step.table))

    def _remove(self, state: State, n: int, step: steps.RemoveDm) -> State:
        role, leg = _role(step.name)
        node = state.nodes[n]
        if role == "front":
            if node.open or state.flights[n] is not None:
                raise Failed("busy")
            return on_node(state, n, front=ABSENT, severing=False)
        if role == "wall":
            if node.front == WALLED:
                raise Failed("busy")
            return on_node(state, n, wall=NONE)
        stack = node.legs[leg]
        if role == "leg":
            life = node.mapped[leg]
            if stack.target == (0, life) or any(export.life == life for export in node.exports[leg]):
                raise Failed("busy")
            return on_node(state, n, mapped=put(node.mapped, leg, -1))
        if role == "gate":
            if stack.member != OUT:
                raise Failed("busy")
            return on_leg(state, n, leg, gate=NONE, up=False)
        if stack.gate:
            raise Failed("busy")
        return on_leg(state, n, leg, target=None)

    def _suspend(self, state: State, n: int, step: steps.Suspend) -> State:
        if state.flights[n] is not None:
            raise Failed("not drained in time")
        return on_node(state, n, front=SUSPENDED)

    def _sever(self, state: State, n: int, step: steps.Sever) -> State:
        return on_node(state, n, severing=True)

    def _kill(self, state: State, n: int, step: steps.KillPods) -> State:
        flight = state.flights[n]
        if flight is None:
            return state
        return state._replace(flights=put(state.flights, n, flight._replace(owned=False)))

    def _gate(self, state: State, n: int, step: Any) -> State:
        role, leg = _role(step.name)
        if role == "wall":
            return on_node(state, n, wall=DOWN)
        match step:
            case steps.GateHold():
                return on_leg(state, n, leg, gate=HOLDING)
            case steps.GateFail():
                return on_leg(state, n, leg, gate=FAILING)
            case steps.GateReinstate():
                return on_leg(state, n, leg, up=True)
        return on_leg(state, n, leg, up=False)

    def _flush(self, state: State, n: int, step: steps.Flush) -> State:
        leg = _role(step.name)[1]
        if not leads(self.size, state, n, leg):
            raise Failed("the path leads nowhere")
        data = state.data[leg]
        return state._replace(data=put(state.data, leg, data._replace(durable=data.content)))

    # NVMe/TCP

    def _connect(self, state: State, n: int, step: steps.Connect) -> State:
        leg, _ = _parsed(step.nqn)
        peer = state.nodes[self.size.places[leg]]
        for export in peer.exports[leg] if state.link and peer.up else ():
            if export.host == n and look.nqn(self.size, leg, export[:2]) == step.nqn:
                return on_leg(state, n, leg, connected=export[:2])
        raise Failed("refused")

    def _disconnect(self, state: State, n: int, step: steps.Disconnect) -> State:
        return on_leg(state, n, _parsed(step.nqn)[0], connected=None)

    # the array

    def _assemble(self, state: State, n: int, step: steps.Assemble) -> State:
        legs = [_numbered(number) for _, number, _ in step.members]
        if not all(leads(self.size, state, n, leg) for leg in legs):
            raise Failed("its legs do not answer")
        told = any(state.data[_role(name)[1]].bit for name in step.dirty_from)
        for leg in legs:
            state = on_leg(state, n, leg, member=IN)
        state = on_node(state, n, array=RUNNING)
        return self._remember(state._replace(dirty=put(state.dirty, n, told)), n, step.after)

    def _add(self, state: State, n: int, step: steps.Add) -> State:
        leg = _numbered(step.major_minor)
        if not reached(self.size, state, n, leg):
            raise Failed("it does not answer")
        dirty = state.dirty[n] or (bool(step.dirty_from) and state.data[leg].bit)
        state = on_leg(state, n, leg, member=DELTA if step.delta else FULL)
        data = state.data[leg]._replace(bit=dirty)
        return state._replace(dirty=put(state.dirty, n, dirty), data=put(state.data, leg, data))

    def _md_fail(self, state: State, n: int, step: steps.MdFail) -> State:
        leg = _numbered(step.major_minor)
        if [other for other, s in enumerate(state.nodes[n].legs) if s.member == IN] == [leg]:
            raise Failed("it is the last one")
        return dropped(state, n, leg)

    def _answer(self, state: State, n: int, step: steps.AcknowledgeFailure) -> State:
        return on_leg(state, n, _numbered(step.major_minor), member=OUT)

    def _stop(self, state: State, n: int, step: steps.Stop) -> State:
        node = state.nodes[n]
        if state.flights[n] is not None:
            raise Failed("it is written to")
        if whole(node, self.slots(node)) and all(
            reached(self.size, state, n, leg) for leg, stack in enumerate(node.legs) if stack.member == IN
        ):
            for leg, stack in enumerate(node.legs):
                if stack.member == IN:
                    content = state.data[leg].content
                    data = state.data[leg]._replace(durable=content, bit=False)
                    state = state._replace(data=put(state.data, leg, data))
        for leg in range(len(node.legs)):
            state = on_leg(state, n, leg, member=OUT)
        return on_node(state._replace(dirty=put(state.dirty, n, False)), n, array=NOTHING)

    def _array(self, state: State, n: int, step: Any) -> State:
        array = {steps.Freeze: FROZEN, steps.Unfreeze: RUNNING}.get(type(step), state.nodes[n].array)
        return on_node(state, n, array=array)

    def _resume(self, state: State, n: int, step: steps.Resume) -> State:
        return on_node(state, n, front=ACTIVE)


_ACTS: dict[type[Step], Any] = {
    steps.Remember: Acts._remember,
    steps.Record: Acts._record,
    steps.PutLeg: Acts._put_leg,
    steps.DropLeg: Acts._drop_leg,
    steps.Zero: Acts._zero,
    steps.Export: Acts._export,
    steps.Unexport: Acts._unexport,
    steps.CreateDm: Acts._create,
    steps.SwapDm: Acts._swap,
    steps.RemoveDm: Acts._remove,
    steps.Suspend: Acts._suspend,
    steps.Resume: Acts._resume,
    steps.Sever: Acts._sever,
    steps.KillPods: Acts._kill,
    steps.GateHold: Acts._gate,
    steps.GateFail: Acts._gate,
    steps.GateReinstate: Acts._gate,
    steps.GateFailPath: Acts._gate,
    steps.Flush: Acts._flush,
    steps.Connect: Acts._connect,
    steps.Disconnect: Acts._disconnect,
    steps.Assemble: Acts._assemble,
    steps.Add: Acts._add,
    steps.MdFail: Acts._md_fail,
    steps.AcknowledgeFailure: Acts._answer,
    steps.Acknowledge: Acts._array,
    steps.Freeze: Acts._array,
    steps.Unfreeze: Acts._array,
    steps.SetSpeed: Acts._array,
    steps.Stop: Acts._stop,
}


def _leg_on(name: str) -> int:
    return next(leg for leg in range(len(LEGS)) if device(leg) == name)


def _role(name: str) -> tuple[str, int]:
    """What a dm name stands for, and of which leg."""
    if name == names.front(UUID):
        return "front", -1
    if name == names.wall(UUID):
        return "wall", -1
    for leg, known in enumerate(LEGS):
        for role, spelled in (("leg", names.leg), ("path", names.path), ("gate", names.gate)):
            if name == spelled(UUID, known):
                return role, leg
    raise AssertionError(f"{name} is none of ours")


def _parsed(nqn: str) -> tuple[int, int]:
    parsed = names.parse_nqn(nqn)
    assert parsed is not None
    return LEGS.index(parsed[1]), parsed[2]


def _numbered(major_minor: str) -> int:
    return next(leg for leg in range(len(LEGS)) if look.gate_number(leg) == major_minor)


def told(step: Step) -> str:
    """For a history: what the step is about."""
    match step:
        case steps.Record():
            return f" {step.leg} {step.old} → {step.new}"
        case steps.Add() | steps.MdFail() | steps.AcknowledgeFailure():
            kind = " by a delta" if isinstance(step, steps.Add) and step.delta else ""
            return f" {LEGS[_numbered(step.major_minor)]}{kind}"
        case steps.Assemble():
            return f" from {', '.join(LEGS[_numbered(number)] for _, number, _ in step.members)}"
        case steps.Stop() | steps.KillPods():
            return ""
    role, leg = _role(step.name)  # type: ignore[attr-defined]
    return f" {LEGS[leg]}" if leg >= 0 else f" {role}"
