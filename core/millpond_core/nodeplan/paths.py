"""The way to each leg: connection, path, gate; taken up again in the same life of the leg, and in no other."""

from __future__ import annotations

from millpond_core import layout, names
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan import losing
from millpond_core.nodeplan.attaching import Attaching
from millpond_core.nodeplan.stack import Source, faulty
from millpond_core.nodeplan.steps import (
    Connect,
    CreateDm,
    GateFailPath,
    GateReinstate,
    Remember,
    RemoveDm,
    SwapDm,
)


def connect(plan: Attaching) -> bool:
    """Every leg's path and gate; a path that came back in the same life is taken up again."""
    for leg in plan.wanted():
        found = plan.sources[leg.id]
        if leg.id not in plan.stack.paths or leg.id not in plan.stack.gates:
            _build(plan, leg, found)
        elif plan.begins_anew(leg):
            if plan.stack.member(leg.id) is None:
                losing.dismantle(plan, leg.id)
            elif plan.memory.assembled:
                plan.steps += losing.out_of_array(plan, leg.id)
            continue
        elif plan.same_life(leg.id):
            _take_up_one(plan, leg, found)
        if leg.id in plan.down:
            _let_go(plan, leg, found)
    return bool(plan.steps)


def _build(plan: Attaching, leg: Leg, found: Source) -> None:
    if leg.id in plan.stack.gates and leg.id not in plan.stack.paths:
        plan.steps.append(RemoveDm(name=plan.gate_name(leg.id)))
    if found.state == "Connectable":
        losing.disconnect(plan, leg.id, keep=found.nqn)
        _connect_one(plan, leg, found)
    elif found.state == "Ready":
        if not plan.same_life(leg.id):
            # A path of another life may be left of an interrupted dismantling: its table is made right below.
            known = plan.memory.legs.get(leg.id)
            slot = known.slot if known else _free_slot(plan, leg.id)
            plan.slots[leg.id] = slot
            plan.steps.append(Remember(legs={leg.id: {"slot": slot, "incarnation": found.incarnation}}))
        path = plan.stack.paths.get(leg.id)
        table = layout.path_table(found.major_minor, plan.bytes)
        if path is None:
            plan.steps.append(CreateDm(name=plan.path_name(leg.id), table=table))
        elif not layout.same_table(path.table, table):
            plan.steps.append(SwapDm(name=plan.path_name(leg.id), table=table))
        else:
            holding = leg.state == "InSync"
            mode = "holds" if holding else "lets errors pass"
            plan.steps.append(
                CreateDm(
                    name=plan.gate_name(leg.id),
                    table=layout.gate_table(path.major_minor, plan.bytes, holding=holding),
                    why=f"leg {leg.id} on {leg.node} is reachable; its gate {mode}",
                )
            )
    else:
        plan.waits.append(f"leg {leg.id}: {found.why}")


def _connect_one(plan: Attaching, leg: Leg, found: Source) -> None:
    if found.nqn in plan.around.connecting:
        plan.waits.append(f"leg {leg.id}: connecting to {leg.node}")
        return
    plan.steps.append(
        Connect(
            nqn=found.nqn,
            address=found.address,
            host_nqn=plan.around.host_nqn,
            host_id=plan.around.host_id,
            namespace_uuid=names.namespace_uuid(plan.uuid, leg.id, plan.epoch, found.incarnation),
            why=f"connecting leg {leg.id} on {leg.node}",
        )
    )


def _free_slot(plan: Attaching, leg: str) -> int:
    """The first place that no leg of the volume has, or may come back to."""
    kept = {other.id for other in plan.kept()} - {leg}
    standing = {m.slot for m in plan.stack.array.members} if plan.stack.array else set()
    taken = {slot for other, slot in plan.slots.items() if other in kept} | standing
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)


def _take_up_one(plan: Attaching, leg: Leg, found: Source) -> None:
    """The same life, so the same bytes: swap what the path leads to if that has another number, and go on."""
    path, status = plan.stack.paths[leg.id], plan.kernel.gates.get(plan.gate_name(leg.id))
    if found.state == "Connectable":
        _connect_one(plan, leg, found)
    if found.state != "Ready" or status is None:
        return
    if not plan.path_fits(leg.id):
        # Then another look: numbers are used again, and held writes go wherever the path leads once it is taken up.
        plan.steps.append(SwapDm(name=plan.path_name(leg.id), table=layout.path_table(found.major_minor, plan.bytes)))
    elif status.path_up and not plan.gate_fits(leg.id):
        plan.steps.append(larger_gate(plan, leg.id, plan.bytes))  # the volume has grown before it was assembled
    elif not status.path_up and not faulty(plan.stack.member(leg.id)):
        plan.steps.append(
            GateReinstate(
                name=plan.gate_name(leg.id),
                major_minor=path.major_minor,
                why=f"leg {leg.id} is back in the same life: held reads and writes go on",
            )
        )


def larger_gate(plan: Attaching, leg: str, size: int) -> SwapDm:
    """The step that gives a gate, whose path is up, the size for a volume of ``size`` bytes."""
    path = plan.stack.paths[leg]
    table = layout.gate_table(path.major_minor, size, holding=plan.holding(leg))
    return SwapDm(name=plan.gate_name(leg), table=table)


def _let_go(plan: Attaching, leg: Leg, found: Source) -> None:
    """A path whose device is gone for good leads nowhere, so that what lay under it can be taken away."""
    path = plan.stack.paths.get(leg.id)
    if path is None or path.table.split()[2:3] == ["error"]:
        return
    gone = found.state == "Lost" or (bool(found.incarnation) and not plan.same_life(leg.id))
    if not gone or leg.node != plan.around.node:
        return
    # First: a path that leads nowhere has no cache, so it calls a flush done (tests/kernel, test_sever.py).
    fail(plan, leg.id)
    why = f"leg {leg.id}: {found.why or 'lost'}"
    plan.steps.append(SwapDm(name=path.name, table=layout.error_table(plan.bytes), why=why))


def fail(plan: Attaching, leg: str, why: str = "") -> None:
    """Have the leg's gate take its path for down, if there is one that it takes for up."""
    path, status = plan.stack.paths.get(leg), plan.kernel.gates.get(plan.gate_name(leg))
    if path is not None and status is not None and status.path_up:
        plan.steps.append(GateFailPath(name=plan.gate_name(leg), major_minor=path.major_minor, why=why))


def take_up(plan: Attaching) -> bool:
    """Only what stands already is taken up again."""
    for leg in plan.wanted():
        if leg.id in plan.stack.paths and leg.id in plan.stack.gates:
            if plan.same_life(leg.id):
                _take_up_one(plan, leg, plan.sources[leg.id])
            if leg.id in plan.down:
                _let_go(plan, leg, plan.sources[leg.id])
    return bool(plan.steps)
