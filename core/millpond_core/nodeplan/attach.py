"""The stack on the attach node, built and kept: array, front, legs taken back.

The way to each leg is ``paths``', losing one ``losing``'s, the end ``leave``'s. Of the rules of ``docs/safety.md``
these are kept here:

* A gate holds if and only if its leg is recorded InSync. The one exception is a leg that md has just completed: its
  gate holds a moment before the record says so, and a second look lies between.
* The array is assembled from InSync legs alone; others are added, by a delta only where it is provably right.
"""

from __future__ import annotations

from millpond_core import layout, names
from millpond_core.instants import span
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan import growing, losing, paths, scrubbing
from millpond_core.nodeplan.attaching import NOTHING, Attaching
from millpond_core.nodeplan.stack import faulty, in_sync
from millpond_core.nodeplan.steps import (
    Acknowledge,
    Add,
    Assemble,
    CreateDm,
    Flush,
    Freeze,
    GateFail,
    GateHold,
    Record,
    Remember,
    Resume,
    SetSpeed,
    Stop,
    Suspend,
    Unfreeze,
)
from millpond_core.nodeplan.view import LegMemory, begun, leg_report, node_report
from millpond_core.units import KIB

STOPPED_SECONDS = 60.0
"""Before a copy that stopped is begun again; twice as long each further time."""

STOPPED_MOST_SECONDS = 3600.0


def begin(plan: Attaching) -> bool:
    """Remember whose stack this is before its first device stands."""
    if plan.memory.epoch != plan.epoch:
        slots = {leg.id: LegMemory(slot=slot) for slot, leg in enumerate(sorted(plan.kept(), key=_by_id))}
        plan.steps.append(Remember(changes=begun(plan.epoch, slots), why=f"attaching under epoch {plan.epoch}"))
    return bool(plan.steps)


def assemble(plan: Attaching) -> bool:
    """The array from the legs in sync, once each of them is there."""
    if plan.stack.array is not None:
        if not plan.memory.assembled:
            # Killed while assembling: nobody has used it yet, its dirty chunks are remembered.
            plan.steps.append(Stop(name=plan.array_name, why="the array is half made: made again"))
        return bool(plan.steps)
    if plan.memory.assembled:
        plan.waits.append("the array is gone although nobody stopped it: detach the volume and attach it again")
        return True
    if not plan.confirmed:
        plan.waits.append(f"epoch {plan.epoch} is not confirmed here yet")
        return True
    missing = [leg.id for leg in plan.insync() if not (plan.up(leg.id) and plan.holding(leg.id))]
    if missing or not plan.insync():
        plan.waits.append(f"waiting for leg {', '.join(missing) or 'in sync: there is none'}")
        return True
    returning = [leg for leg in plan.kept() if leg.state != "InSync"]
    synced = {leg.id: {"synced": True} for leg in plan.insync()}
    plan.steps.append(
        Assemble(
            name=plan.array_name,
            raid_disks=max(slot for leg, slot in plan.slots.items() if leg in plan.legs) + 1,
            component_sectors=layout.component_sectors(plan.bytes),
            members=tuple(
                (plan.slots[leg.id], plan.stack.gates[leg.id].major_minor, leg.node != plan.around.node)
                for leg in plan.insync()
            ),
            dirty_from=tuple(plan.path_name(leg.id) for leg in plan.insync()) if returning else (),
            after=Remember(changes={"assembled": True, "dirty": ()}, legs=synced),
            why=f"assembling from leg {', '.join(sorted(leg.id for leg in plan.insync()))}",
        )
    )
    return True


def take_back(plan: Attaching) -> bool:
    """Rebuilding legs are added; those that md has completed are promoted."""
    array = plan.stack.array
    assert array is not None
    for leg in sorted(plan.wanted(), key=_by_id):
        member = plan.stack.member(leg.id)
        known = plan.memory.legs.get(leg.id)
        if leg.state == "InSync":
            if not plan.holding(leg.id) and leg.id in plan.stack.gates:
                plan.steps.append(GateHold(name=plan.gate_name(leg.id)))
            if in_sync(member) and known is not None and not known.synced:
                plan.steps.append(Remember(legs={leg.id: {"synced": True, "stopped": 0}}))
        elif in_sync(member):
            _promote(plan, leg)
        else:
            if plan.holding(leg.id):
                plan.steps.append(GateFail(name=plan.gate_name(leg.id), why=f"leg {leg.id} is not complete"))
            if plan.up(leg.id) and (member is None or member.slot is None):
                _add(plan, leg)
    return bool(plan.steps)


def _add(plan: Attaching, leg: Leg) -> None:
    if not any(plan.good(other) for other in plan.insync()):
        plan.waits.append(f"leg {leg.id} waits for a leg in sync to copy from")
        return
    if _stopped(plan, leg):
        return
    delta = _delta(plan, leg)
    plan.steps += [
        Remember(legs={leg.id: {"synced": False, "copied": True, "delta": delta, "copying": False}}),
        Add(
            name=plan.array_name,
            slot=plan.slots[leg.id],
            major_minor=plan.stack.gates[leg.id].major_minor,
            delta=delta,
            write_mostly=leg.node != plan.around.node,
            dirty_from=plan.path_name(leg.id) if delta else "",
            why=f"leg {leg.id} on {leg.node} is rebuilt, {'what it missed' if delta else 'from the start'}",
        ),
        Remember(legs={leg.id: {"copying": True}}),
    ]


def _stopped(plan: Attaching, leg: Leg) -> bool:
    """Whether a leg waits after a copy that md gave up.

    md ends a rebuild, and takes the leg's slot away, at the first place that it can read from no leg
    (tests/kernel/test_medium.py). Begun again at once it would come no further, and wear out a disk.
    """
    known = plan.memory.legs.get(leg.id, NOTHING)
    sources = " and ".join(f"leg {source.id} on {source.node}" for source in plan.insync())
    if plan.stack.member(leg.id) is not None and known.copying:
        stopped = known.stopped + 1
        changes = {"copying": False, "stopped": stopped, "again": plan.around.now + _pause(stopped)}
        why = f"the copy to leg {leg.id} stopped: {sources} cannot be read to the end"
        plan.steps.append(Remember(legs={leg.id: changes}, why=why))
        return True
    left = known.again - plan.around.now
    if left <= 0:
        return False
    plan.wake = min(plan.wake or left, left)
    plan.waits.append(
        f"leg {leg.id}: its copy stopped, {known.stopped} times so far, as {sources} cannot be read in one place; "
        f"begun again after {span(_pause(known.stopped))}"
    )
    return True


def _pause(stopped: int) -> float:
    """Seconds before a copy that stopped so often is begun again."""
    return min(STOPPED_SECONDS * 2.0 ** (stopped - 1), STOPPED_MOST_SECONDS)


def _delta(plan: Attaching, leg: Leg) -> bool:
    """Whether the bitmaps are known to tell all that the leg lacks.

    It left this very array in sync and its place stayed empty; or it was recorded InSync in the epoch under which
    the volume was last assembled, and this array was told that epoch's dirty chunks. In doubt: no.
    """
    known = plan.memory.legs.get(leg.id)
    if known is None:
        return False
    report = leg_report(plan.volume, leg)
    last = plan.volume.status.attachment.previous or plan.epoch - 1
    before = report is not None and report.synced_epoch > 0 and report.synced_epoch == last
    return known.synced or (before and not known.copied)


def _promote(plan: Attaching, leg: Leg) -> None:
    """md is done: hold, look again (in the next plan), flush, record, answer."""
    if not plan.up(leg.id):
        plan.waits.append(f"leg {leg.id} is complete but not reachable")
        return
    if not plan.holding(leg.id):
        plan.steps.append(GateHold(name=plan.gate_name(leg.id), why=f"leg {leg.id} is complete: its gate holds"))
        return
    plan.steps += [
        Flush(name=plan.path_name(leg.id)),
        Record(leg=leg.id, old=leg.state, new="InSync", why=f"leg {leg.id} on {leg.node} is in sync"),
        Acknowledge(name=plan.array_name),
    ]


def answer(plan: Attaching) -> None:
    """Let writes go on that wait for the array to become active, if no failure has to be recorded first."""
    array = plan.stack.array
    if array is not None and array.array_state == "write-pending" and not any(faulty(m) for m in array.members):
        plan.steps.append(Acknowledge(name=array.name))


def front(plan: Attaching) -> bool:
    """What the pod uses, and what a quiescence wants of it."""
    array, front = plan.stack.array, plan.stack.front
    assert array is not None
    answer(plan)
    if front is None:
        plan.steps.append(
            CreateDm(
                name=names.front(plan.uuid),
                table=layout.front_table(array.major_minor, plan.bytes),
                why=f"{plan.volume.metadata.name} is ready at {names.dm_path(names.front(plan.uuid))}",
            )
        )
    _limit(plan, array.name)
    frozen = array.sync_action == "frozen"
    if plan.around.halted and not frozen:
        if all(plan.up(leg.id) for leg in plan.insync()):
            plan.steps.append(Freeze(name=array.name, why="long operations halt"))
        else:
            plan.waits.append("long operations cannot halt while a leg holds")  # kernel-facts 20
    elif not plan.around.halted and frozen:
        plan.steps.append(Unfreeze(name=array.name, why="long operations go on"))
    if front is not None and plan.around.hold and not front.suspended:
        if plan.queued():
            plan.waits.append("reads and writes cannot drain while a leg holds them")
        else:
            plan.steps.append(Suspend(name=front.name, why="reads and writes are held"))
    elif front is not None and front.suspended and not plan.around.hold:
        plan.steps.append(Resume(name=front.name, why="reads and writes go on"))
    return bool(plan.steps)


def _limit(plan: Attaching, array: str) -> None:
    """How fast is copied, or compared where nothing is to be copied."""
    spec, memory = plan.volume.spec, plan.memory
    background = scrubbing.under_way(plan) and all(leg.state == "InSync" for leg in plan.wanted())
    # The volume's own limit holds without a master, too.
    shares = [one.max_rate // KIB for one in plan.volume.status.operations if one.target]
    limits = [spec.scrub.max_rate] if background else [spec.rebuild.max_rate, *shares]
    rate = min((limit for limit in limits if limit), default=0)
    if (rate, background) != (memory.max_rate, memory.background):
        plan.steps += [
            SetSpeed(name=array, max_kib=rate, background=background),
            Remember(changes={"max_rate": rate, "background": background}),
        ]


def _by_id(leg: Leg) -> tuple[int, str]:
    """In the order of allocation."""
    return len(leg.id), leg.id


def maintain(plan: Attaching) -> None:
    """The volume is wanted here: the first rung with something to do ends the plan.

    Giving a leg up comes first: reads and writes wait for it.
    """
    own = node_report(plan.volume, plan.around.node)
    ended = max(plan.memory.ended_epoch, own.ended_epoch if own else 0)
    if plan.epoch <= ended:
        plan.waits.append(f"epoch {plan.epoch} has ended here: a new one is needed")
        return
    if begin(plan) or losing.give_up(plan, back=True):
        return
    rungs = (
        losing.demote,
        losing.drop,
        paths.connect,
        assemble,
        take_back,
        growing.enlarge,
        front,
        scrubbing.compare,
    )
    for rung in rungs:
        if rung(plan):
            return
