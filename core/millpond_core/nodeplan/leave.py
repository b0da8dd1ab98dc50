"""Leaving the attach node: cleanly when the volume is no longer wanted, fenced when its epoch has moved on."""

from __future__ import annotations

from typing import Any

from millpond_core import names
from millpond_core.nodeplan.attach import Attaching
from millpond_core.nodeplan.stack import faulty
from millpond_core.nodeplan.steps import (
    Acknowledge,
    AcknowledgeFailure,
    Disconnect,
    Flush,
    Freeze,
    GateFail,
    GateFailPath,
    Remember,
    RemoveDm,
    Resume,
    Stop,
)


def detach(plan: Attaching) -> None:
    """Front, array, flush, gates, paths, connections: then every InSync leg is equal, and that is remembered."""
    if plan.memory.epoch != plan.epoch:
        _never_here(plan)
        return
    if plan.memory.clean_epoch != plan.epoch:
        # Legs that are due are given up here too: the others must be all that there is to stop.
        if plan.give_up(back=False) or plan.demote() or plan.leave() or plan.connect_back():
            return
        if _front(plan) or _array(plan) or _flush(plan):
            return
    _take_down(plan)
    if not plan.steps and not plan.stack.empty:
        plan.waits.append("something of the volume still stands here")


def _never_here(plan: Attaching) -> None:
    """Nothing was made under this epoch, as far as this boot remembers."""
    if plan.memory.clean_epoch == plan.epoch:
        return
    if not plan.stack.empty:
        fence(plan)
        return
    ended = {"clean_epoch": plan.epoch, "ended_epoch": plan.epoch}
    plan.steps.append(Remember(changes=ended, why="detached before anything was attached"))


def _front(plan: Attaching) -> bool:
    front = plan.stack.front
    if front is None:
        return False
    if front.suspended:
        plan.steps.append(Resume(name=front.name))
    elif front.open_count:
        plan.waits.append(f"the front is open {front.open_count} times: the volume is still in use here")
        return True
    else:
        plan.steps += [
            Remember(changes={"leaving": True}),
            RemoveDm(name=front.name, why="the front is gone: nobody can write any more"),
        ]
    return True


def _array(plan: Attaching) -> bool:
    array = plan.stack.array
    if array is None:
        return False
    if not plan.memory.leaving:
        plan.steps.append(Remember(changes={"leaving": True}))
    # A gate that holds would keep the bitmap's last write, and the array's stop, for ever (kernel-facts 17).
    away = [leg.id for leg in plan.insync() if not plan.up(leg.id)]
    if away:
        plan.waits.append(f"the array cannot stop while leg {', '.join(away)} is away")
        return True
    if array.sync_action not in ("idle", "frozen"):
        plan.steps.append(Freeze(name=array.name))
    plan.steps.append(Stop(name=array.name, why="the array stops"))
    return True


def _flush(plan: Attaching) -> bool:
    """What no leg may forget is flushed before anyone says that they are equal."""
    if plan.memory.assembled:
        away = [leg.id for leg in plan.insync() if not plan.up(leg.id)]
        if away:
            plan.waits.append(f"leg {', '.join(away)} cannot be flushed: it is away")
            return True
        plan.steps += [Flush(name=plan.path_name(leg.id)) for leg in plan.insync()]
    ended = {"clean_epoch": plan.epoch, "ended_epoch": plan.epoch}
    plan.steps.append(Remember(changes=ended, why=f"epoch {plan.epoch} ended cleanly, legs are equal"))
    return True


def _take_down(plan: Attaching) -> None:
    """Gates, paths, connections; then nothing of the epoch is left."""
    for leg in sorted(plan.stack.gates):
        plan.steps.append(RemoveDm(name=plan.gate_name(leg)))
    for leg in sorted(plan.stack.paths):
        plan.steps.append(RemoveDm(name=plan.path_name(leg)))
    for nqn in sorted(plan.stack.controllers):
        plan.steps.append(Disconnect(nqn=nqn))
    _forget(plan)


def _forget(plan: Attaching, **more: Any) -> None:
    if plan.memory.epoch:
        changes = {"epoch": 0, "assembled": False, "leaving": False, "broken": False, "dirty": (), "legs": {}, **more}
        plan.steps.append(Remember(changes=changes))


def fence(plan: Attaching) -> None:
    """The epoch has moved on: nothing is opened and nothing is answered while anyone could take it for a success.

    Reads hold too, so every path is failed. Only when nobody has the front open any more do the gates let errors
    pass, md is answered and the stack goes (design 4.2).
    """
    stack = plan.stack
    front = stack.front
    if front is not None and front.open_count:
        _fail_paths(plan, f"fenced: epoch {plan.epoch} is elsewhere, leg {{leg}} is not to be touched from here")
        plan.waits.append(
            f"fenced: the volume is under epoch {plan.epoch} elsewhere; its pods here must end, "
            f"{front.open_count} still have it open"
        )
        return
    if front is not None:
        if front.suspended:
            plan.steps.append(Resume(name=front.name))
        plan.steps.append(RemoveDm(name=front.name, why="fenced: nobody has the front open any more"))
        return
    _open(plan)
    _pull_down(plan)


def broken(plan: Attaching) -> None:
    """Nothing of this epoch can go on: whatever is asked fails, and when nobody has it open any more, it goes.

    No leg in sync can be reached in the life that it had. Its path is failed all the same, as a disk that failed
    without leaving answers again under its old number. Open: what a gate holds is let go while pods have the front
    open, and md may call a held flush done then (docs/safety.md, residue).
    """
    front = plan.stack.front
    _fail_paths(plan, "leg {leg} is in a new life: nothing of this epoch is written to it")
    if front is not None and front.suspended:
        plan.steps.append(Resume(name=front.name))
    _open(plan)
    if plan.steps:
        return
    if front is not None and front.open_count:
        plan.waits.append(
            "every leg in sync has lost its disk's power, what was not flushed may be lost: reads and writes fail; "
            f"end the pods that use the volume, {front.open_count} still have it open, and it is attached anew"
        )
        return
    if front is not None:
        plan.steps.append(RemoveDm(name=front.name, why="nobody has the front open any more"))
        return
    _pull_down(plan)


def _fail_paths(plan: Attaching, why: str) -> None:
    """Nothing reaches any leg from here any more; ``why`` may name the ``{leg}``."""
    for leg, path in sorted(plan.stack.paths.items()):
        status = plan.kernel.gates.get(plan.gate_name(leg))
        if status is not None and status.path_up:
            name = plan.gate_name(leg)
            plan.steps.append(GateFailPath(name=name, major_minor=path.major_minor, why=why.format(leg=leg)))


def _open(plan: Attaching) -> None:
    """Let errors pass and answer md, for what they do and for whatever else it waits to be told."""
    stack = plan.stack
    plan.steps += [GateFail(name=plan.gate_name(leg)) for leg in sorted(stack.gates) if plan.holding(leg)]
    if stack.array is not None:
        for leg in sorted(stack.gates):
            if faulty(stack.member(leg)):
                number = stack.gates[leg].major_minor
                plan.steps.append(AcknowledgeFailure(name=stack.array.name, major_minor=number))
        if stack.array.array_state == "write-pending" and not any(faulty(m) for m in stack.array.members):
            plan.steps.append(Acknowledge(name=stack.array.name))


def _pull_down(plan: Attaching) -> None:
    """The rest of a stack that did not end cleanly."""
    stack = plan.stack
    if stack.array is not None:
        plan.steps.append(Stop(name=stack.array.name, why="the array stops, not cleanly"))
        return
    for leg in sorted(stack.gates):
        plan.steps.append(RemoveDm(name=names.gate(plan.uuid, leg)))
    for leg in sorted(stack.paths):
        plan.steps.append(RemoveDm(name=names.path(plan.uuid, leg)))
    plan.steps += [Disconnect(nqn=nqn) for nqn in sorted(stack.controllers)]
    ended = {"ended_epoch": max(plan.memory.epoch, plan.memory.ended_epoch)}
    _forget(plan, **ended)
