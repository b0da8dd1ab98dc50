"""A leg is lost, or given up: recorded, out of the array, gone from the node.

In this order: record Stale → its gate fails → md is told → md's wait is answered → gate, path and connection go. The
last good InSync leg is never recorded otherwise and its gate never opened.
"""

from __future__ import annotations

from millpond_core import names
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan.attaching import NOTHING, Attaching
from millpond_core.nodeplan.stack import blocked, faulty, in_sync
from millpond_core.nodeplan.steps import (
    AcknowledgeFailure,
    Disconnect,
    GateFail,
    MdFail,
    Record,
    Remember,
    RemoveDm,
    Step,
)

CUT_OFF_SECONDS = 5.0
"""All connections of a node lost at once are its own network's fault for this long (design 4.8)."""

ATTACH_SECONDS = 60.0
"""For so long an attachment waits at least, from when this node is ready for it, for its node to offer a leg in sync;
once more, for the connection. What this node itself takes is no sign of a leg's loss, and nobody's writes are held yet.
But it does not wait for a node that is known to be gone: somebody's pod waits all the same."""

OWN_SECONDS = 600.0
"""For so long at least an attachment waits while this node is not ready for its legs. A busy node is with time, but not
one with a disk whose label cannot be written."""

UNRECORDED_SECONDS = 60.0
"""With ``onFailure.unrecorded: Fail``: writes fail when the loss of a leg could not be recorded for so long."""

ENDING_SECONDS = 5.0
"""On a node that shuts down nothing waits longer for a leg: a kernel with a write in flight does not switch off."""


def demote(plan: Attaching) -> bool:
    """The first leg that is due is recorded Stale, then leaves: in this order, and never the last good one."""
    if _ends_with_its_node(plan):
        return True
    for leg in sorted(plan.wanted(), key=lambda leg: leg.state != "InSync"):
        why = _due(plan, leg)
        if not why:
            continue
        if leg.state == "InSync" and not may_lose(plan, leg):
            least = plan.volume.spec.on_failure.min_in_sync
            hint = f" (spec.onFailure.minInSync is {least}; 1 lets them go on)" if least > 1 else ""
            plan.waits.append(
                f"leg {leg.id}: {why}; writes wait, too few other legs are in sync to go on without it{hint}"
            )
            continue
        if leg.state == "InSync" and _ends_unrecorded(plan, why):
            return True
        stale = Record(leg=leg.id, old=leg.state, new="Stale", why=f"leg {leg.id} of {leg.node} is lost: {why}")
        leaves: list[Step] = []
        if plan.stack.member(leg.id) is not None:
            leaves = out_of_array(plan, leg.id)
        elif plan.holding(leg.id):
            leaves = [GateFail(name=plan.gate_name(leg.id))]
        # Nobody relies on a leg that is being rebuilt: writes need not wait for its record.
        plan.steps += [stale, *leaves] if leg.state == "InSync" else [*leaves, stale]
        return True
    return False


def _ends_with_its_node(plan: Attaching) -> bool:
    """Nobody will be there to say how it goes on: a hold that would last is ended while somebody is."""
    if not plan.around.ending or not plan.memory.assembled:
        return False
    for leg in plan.insync():
        since = plan.around.now - plan.around.down_since.get(leg.id, plan.around.now)
        if leg.id in plan.down and since >= ENDING_SECONDS:
            said = f"{plan.around.node} is shutting down, and leg {leg.id} was away for {since:.0f} s"
            plan.steps.append(Remember(changes={"broken": True, "broken_why": said}, why=f"{said}: the volume ends"))
            return True
    return False


def _ends_unrecorded(plan: Attaching, why: str) -> bool:
    """Whoever would rather have errors than wait gets them; still nothing is acknowledged that is not recorded."""
    since = plan.around.unrecorded_since
    if plan.volume.spec.on_failure.unrecorded != "Fail" or since is None or not plan.memory.assembled:
        return False
    left = UNRECORDED_SECONDS - (plan.around.now - since)
    if left > 0:
        plan.waits.append(f"its loss cannot be recorded; reads and writes fail in {left:.0f} s if that stays so")
        return False
    said = f"{why}, and for {UNRECORDED_SECONDS:.0f} s that could not be recorded (onFailure.unrecorded is Fail)"
    plan.steps.append(Remember(changes={"broken": True, "broken_why": said}, why=f"{said}: reads and writes fail"))
    return True


def may_lose(plan: Attaching, leg: Leg) -> bool:
    """Enough other legs are good to go on without this one; never the last."""
    good = [other for other in plan.insync() if other.id != leg.id and plan.good(other)]
    return len(good) >= max(1, plan.volume.spec.on_failure.min_in_sync)


def _due(plan: Attaching, leg: Leg) -> str:
    """Why the leg is given up now; empty: it is not."""
    member, found = plan.stack.member(leg.id), plan.sources[leg.id]
    if plan.begins_anew(leg):
        return ""
    if faulty(member):
        return "md saw an error"
    standing = plan.memory.assembled and plan.stack.array is not None
    if standing and member is None and leg.state == "InSync" and leg.id in plan.stack.gates:
        return "it is not in the array"
    if leg.id not in plan.down:
        return ""
    connected = leg.id in plan.stack.gates and bool(plan.memory.legs.get(leg.id, NOTHING).incarnation)
    failed = sorted({e.device for e in leg.extents} & plan.around.failed_devices)
    offered = not connected and found.state in ("Ready", "Connectable")
    if failed and not offered:
        return f"device {', '.join(failed)} has failed"
    if connected:
        if found.state == "Lost":
            return found.why
        if found.incarnation and not plan.same_life(leg.id):
            return "it came back in a new life, its disk's cache may be lost"
    elif leg.state == "Rebuilding":
        return ""  # nothing waits for it
    since = plan.around.now - plan.around.down_since.get(leg.id, plan.around.now)
    patience = float(plan.volume.spec.on_failure.hold_seconds)
    if not plan.memory.assembled and leg.node not in plan.around.gone_nodes:
        patience = max(patience, ATTACH_SECONDS)
    if not plan.nearness(leg.id):
        patience = max(patience, OWN_SECONDS)
    if plan.around.cut_off and leg.node != plan.around.node:
        patience = max(patience, CUT_OFF_SECONDS)
    if plan.around.ending:
        patience = 0.0
    if since >= patience:
        return f"unreachable for {since:.0f} s"
    plan.wake = min(plan.wake or patience, patience - since)
    plan.waits.append(f"leg {leg.id}: {found.why or 'its path is down'}; given up in {patience - since:.0f} s")
    return ""


def give_up(plan: Attaching, *, back: bool) -> bool:
    """Nothing is left to go on with, and a new epoch could: this stack is broken, reads and writes shall fail.

    Going on in a leg's new life could lose what its disk's cache had, unseen by whoever had it acknowledged.
    ``back``: only when a leg is to be had again, for what is nowhere is better waited for.
    """
    legs = plan.insync()
    if not plan.memory.assembled or not legs or not all(plan.gone_for_good(leg) for leg in legs):
        return False
    if back and not any(plan.sources[leg.id].state != "Lost" for leg in legs):
        return False
    plan.steps.append(
        Remember(
            changes={"broken": True},
            why="every leg in sync has lost its disk's power: reads and writes fail, end the volume's pods",
        )
    )
    return True


def drop(plan: Attaching) -> bool:
    """What the record has dropped leaves the array and the node."""
    for leg in plan.stack.legs():
        known = plan.legs.get(leg)
        if known is None:
            plan.waits.append(f"leg {leg} stands here but the record does not know it: kept")
        elif known.state in ("Stale", "Failed") or known.releasing:
            _part_with(plan, leg)
    return bool(plan.steps)


def _part_with(plan: Attaching, leg: str) -> None:
    member = plan.stack.member(leg)
    others = [other for other in plan.insync() if other.id != leg and plan.good(other)]
    if in_sync(member) and not others:
        plan.waits.append(f"leg {leg} is dropped on record, but no other leg in sync is reachable: kept")
        return
    if member is not None:
        plan.steps += out_of_array(plan, leg)
        return
    if plan.holding(leg):
        plan.steps.append(GateFail(name=plan.gate_name(leg)))
    dismantle(plan, leg)


def out_of_array(plan: Attaching, leg: str) -> list[Step]:
    """Its gate first: what it holds would keep the leg a member. Nothing when only time can take it out."""
    member = plan.stack.member(leg)
    elsewhere = [other for other in plan.queued() if other != leg]
    if elsewhere and faulty(member) and not blocked(member) and not plan.holding(leg):
        # A write that failed here counts as in flight here until it is done everywhere: md does not let go before.
        plan.waits.append(f"leg {leg} leaves the array when what waits for leg {', '.join(elsewhere)} is done")
        return []
    number, steps = plan.stack.gates[leg].major_minor, list[Step]()
    if plan.holding(leg):
        steps.append(GateFail(name=plan.gate_name(leg), why=f"leg {leg}: its gate lets errors pass now"))
    if not faulty(member):
        steps.append(MdFail(name=plan.array_name, major_minor=number))
    why = f"leg {leg} left the array: reads and writes go on"
    return [*steps, AcknowledgeFailure(name=plan.array_name, major_minor=number, why=why)]


def dismantle(plan: Attaching, leg: str) -> None:
    """Gate, path and connections of a leg that is no member."""
    if leg in plan.stack.gates:
        plan.steps.append(RemoveDm(name=plan.gate_name(leg)))
    if leg in plan.stack.paths:
        plan.steps.append(RemoveDm(name=plan.path_name(leg)))
    disconnect(plan, leg, keep="")
    if leg in plan.memory.legs and plan.memory.legs[leg].incarnation:
        plan.steps.append(Remember(legs={leg: {"incarnation": ""}}))


def disconnect(plan: Attaching, leg: str, *, keep: str) -> None:
    for nqn in sorted(plan.stack.controllers):
        parsed = names.parse_nqn(nqn)
        if parsed and parsed[1] == leg and nqn != keep:
            plan.steps.append(Disconnect(nqn=nqn, why=f"leg {leg} disconnected"))
