"""Leaving the attach node: cleanly when the volume is no longer wanted, fenced when its epoch has moved on."""

from __future__ import annotations

from typing import Any

from millpond_core import layout, names
from millpond_core.nodeplan import losing, paths
from millpond_core.nodeplan.attach import answer
from millpond_core.nodeplan.attaching import Attaching
from millpond_core.nodeplan.stack import faulty
from millpond_core.nodeplan.steps import (
    Acknowledge,
    AcknowledgeFailure,
    CreateDm,
    Disconnect,
    Flush,
    Freeze,
    GateFail,
    GateFailPath,
    GateHold,
    KillPods,
    Remember,
    RemoveDm,
    Resume,
    Sever,
    Step,
    Stop,
)
from millpond_core.nodeplan.view import begun
from millpond_core.observed import DmDevice

_SEVER_SECONDS = 2.0
"""What comes out of a front by itself does so within this."""


def detach(plan: Attaching) -> None:
    """Front, array, flush, gates, paths, connections: then every InSync leg is equal, and that is remembered."""
    if plan.memory.epoch != plan.epoch:
        _never_here(plan)
        return
    if plan.memory.clean_epoch != plan.epoch:
        # Legs that are due are given up here too: the others must be all that there is to stop.
        if losing.give_up(plan, back=False) or losing.demote(plan) or losing.drop(plan) or paths.take_up(plan):
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
        # Whoever has it open still writes, and may end only once that is done.
        answer(plan)
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
        plan.steps.append(Remember(changes={**begun(0, {}), **more}))


def fence(plan: Attaching) -> None:
    """The epoch has moved on: nothing is written from here any more, and nobody may take an answer for a success."""
    _end(
        plan,
        path=f"fenced: epoch {plan.epoch} is elsewhere, leg {{leg}} is not to be touched from here",
        said=f"fenced: the volume is under epoch {plan.epoch} elsewhere",
    )


def broken(plan: Attaching) -> None:
    """No leg in sync can be reached in the life that it had, or a loss could not be recorded: this epoch is at its end.

    Every path is failed all the same, as a disk that failed without leaving answers again under its old number.
    """
    _end(
        plan,
        path="nothing more of this epoch is written to leg {leg}",
        said=plan.memory.broken_why or "every leg in sync has lost its disk's power, what was not flushed may be lost",
    )


def _end(plan: Attaching, *, path: str, said: str) -> None:
    """Take down what cannot go on, in an order in which no pod hears of a write or a flush that was not made.

    Paths first, reads hold too; then the front; only then are the gates opened, md is answered and the stack goes
    (design 4.2). ``path`` says why a ``{leg}`` is not touched any more, ``said`` what has happened.
    """
    for leg in sorted(plan.stack.paths):
        paths.fail(plan, leg, path.format(leg=leg))
    front = plan.stack.front
    if front is not None and not front.open_count:
        if front.suspended:
            plan.steps.append(Resume(name=front.name))
        plan.steps.append(RemoveDm(name=front.name, why="nobody has the front open any more"))
        return
    wall = plan.stack.wall
    if front is not None and not (wall and layout.lies_on(front.table, wall.major_minor)):
        _sever(plan, front)
        return
    plan.steps += _opening(plan)
    if front is not None:
        plan.waits.append(
            f"{said}: reads and writes fail here; end the pods that use the volume, "
            f"{front.open_count} still have it open"
        )
    elif not plan.steps:
        _pull_down(plan)


def _sever(plan: Attaching, front: DmDevice) -> None:
    """Put a wall under the front; whoever waits for something inside is killed before it is answered.

    md tells of no error of a flush, and calls a write done that one leg had before it lost its cache (tests/kernel,
    ``test_sever.py``): a process with SIGKILL pending never hears of it, and what is asked after the front began to be
    put on the wall never gets in.
    """
    since = plan.around.severing_since
    if since is None:
        _build_wall(plan, front)
        return
    waited = plan.around.now - since
    if waited < _SEVER_SECONDS:
        plan.wake = _SEVER_SECONDS - waited
    elif opening := _opening(plan):
        why = "processes that wait for the volume are killed: none is to take an answer for a success"
        plan.steps += [KillPods(major_minor=front.major_minor, why=why), *opening]
    plan.waits.append("what was asked of the volume before it was lost here is being ended")


def _build_wall(plan: Attaching, front: DmDevice) -> None:
    wall, array, size = plan.stack.wall, plan.stack.array, plan.bytes
    if array is None:
        plan.waits.append("the array under the front is not to be seen: nothing is opened")
        return
    if wall is None:
        table = layout.wall_table(array.major_minor, size)
        plan.steps.append(CreateDm(name=names.wall(plan.uuid), table=table))
    elif plan.kernel.gates[wall.name].path_up:
        plan.steps.append(GateFailPath(name=wall.name, major_minor=array.major_minor))
    else:
        # An earlier try may have left gates open: what is asked before new requests wait is to be held, not answered.
        gates = sorted(plan.stack.gates)
        plan.steps += [GateHold(name=plan.gate_name(leg)) for leg in gates if not plan.holding(leg)]
        why = "reads and writes fail from now on, those that wait are ended"
        plan.steps.append(Sever(name=front.name, table=layout.front_table(wall.major_minor, size), why=why))


def _opening(plan: Attaching) -> list[Step]:
    """Let errors pass and answer md, for what they do and for whatever else it waits to be told."""
    stack = plan.stack
    steps: list[Step] = [GateFail(name=plan.gate_name(leg)) for leg in sorted(stack.gates) if plan.holding(leg)]
    if stack.array is not None:
        for leg in sorted(stack.gates):
            if faulty(stack.member(leg)):
                number = stack.gates[leg].major_minor
                steps.append(AcknowledgeFailure(name=stack.array.name, major_minor=number))
        if stack.array.array_state == "write-pending" and not any(faulty(m) for m in stack.array.members):
            steps.append(Acknowledge(name=stack.array.name))
    return steps


def _pull_down(plan: Attaching) -> None:
    """The rest of a stack that did not end cleanly."""
    stack = plan.stack
    if stack.wall is not None:
        plan.steps.append(RemoveDm(name=stack.wall.name))
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
