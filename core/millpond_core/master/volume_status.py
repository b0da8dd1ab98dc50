"""What a volume's status says: phase, copies, conditions, and one sentence for people.

Ready           usable as it is now; kubectl wait --for=condition=Ready
Progressing     something is under way that ends by itself
Degraded        fewer copies in reach than asked for; PlannedAbsence: only for as long as people work on a node
Holding         reads and writes wait: who holds them, since when, what ends it
Resized         it has the size that was asked for; there once a larger one was
LegsEqual       the last comparison of the legs found no difference; there once there was one
DiskWarns       a disk under a leg warns of its end; there while one does
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec

from millpond_core.errors import Invalid
from millpond_core.instants import clock, span
from millpond_core.machine import USABLE
from millpond_core.master import changes, conditions, growth, health, operations, scrub
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Apply, Decision, Notice, Refuse, Wait
from millpond_core.master.world import World
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import ClaimRef, Leg, VirtualVolumeStatus, VolumePhase
from millpond_core.units import format_bytes


def decide(world: World, volume: VirtualVolume, decision: Decision, now: float) -> Act | None:
    """Apply the status when it is not what it should be; with Events for what people would want to be told."""
    fields = status(world, volume, decision, now)
    if volume.status.observed_generation and conditions.applied(volume.status, fields):
        return None
    step = Apply(VirtualVolume, volume.metadata.name, conditions.partial(VirtualVolumeStatus, fields))
    before, after = health.of(volume), health.unhealthy(fields["phase"], fields["conditions"])
    notices = tuple(replace(notice, claim=bool(before or after)) for notice in _notices(volume, fields))
    words = not notices and after == before and _same_facts(volume, fields)
    return Act(step, "", notices, claim=after if after != before else None, words=words)


def _same_facts(volume: VirtualVolume, fields: dict[str, Any]) -> bool:
    there = conditions.wordless({"conditions": volume.status.conditions})
    return conditions.applied(msgspec.structs.replace(volume.status, **there), conditions.wordless(fields))


def status(world: World, volume: VirtualVolume, decision: Decision, now: float) -> dict[str, Any]:
    """The master's part of the status, by the struct's names."""
    phase = v.phase(world, volume)
    copies = f"{len(v.in_reach(world, volume))}/{volume.spec.layout.copies}" if volume.status.mapping.generation else ""
    says, message = _says(world, volume, phase, decision, now)
    if compared := scrub.says(volume):
        says.append(compared)
        message = message if compared.true else "; ".join(part for part in (message, compared.message) if part)
    if resized := growth.says(world, volume, now):
        says.append(resized)
    if warned := _warned(world, volume):
        says.append(Says("DiskWarns", True, "Failing", warned))
    return {
        "observed_generation": max(volume.metadata.generation, 1),
        "phase": phase,
        "copies": copies,
        "size_bytes": _size(volume),
        "operations": operations.of(world, volume, now),
        "claim_ref": _claim(volume),
        "message": message,
        "conditions": conditions.conditions(
            volume.status.conditions, says, now=now, generation=volume.metadata.generation
        ),
    }


def _says(
    world: World, volume: VirtualVolume, phase: VolumePhase, decision: Decision, now: float
) -> tuple[list[Says], str]:
    usable = phase in USABLE
    why_degraded, degraded = _degraded(world, volume, phase, now)
    why_held, held = _holding(world, volume)
    under_way = _under_way(world, volume, phase, decision)
    reason, message = "", ""
    if isinstance(decision, Refuse):
        reason, message = decision.category, decision.message
    elif isinstance(decision, Wait):
        reason, message = decision.reason, decision.message
    if usable and degraded:
        extra = decision.message if isinstance(decision, Wait) and decision.reason not in ("", "Quiescing") else ""
        message = "; ".join(part for part in (degraded, extra) if part)
    elif not message:
        message = under_way or ""
    if phase == "Faulted" and not isinstance(decision, Refuse):
        reason, message = "NoCopyInReach", _unreachable(world, volume)
    if usable and (severed := _severed(volume)):
        usable, reason, message = False, "NeedsNewPods", severed
    if isinstance(decision, Refuse) and decision.category == "RecordOld":
        usable, reason, message = False, decision.category, decision.message
    message = message or scrub.progress(volume)
    message = "; ".join(dict.fromkeys(part for part in (held, message) if part))
    ready = Says("Ready", usable, ("Degraded" if degraded else "AllCopies") if usable else reason or phase, message)
    progressing = Says("Progressing", bool(under_way), reason or phase if under_way else "Settled", under_way)
    short = Says("Degraded", bool(degraded), why_degraded, degraded)
    holding = Says("Holding", bool(held), why_held, held)
    return [ready, progressing, short, holding], message


def _degraded(world: World, volume: VirtualVolume, phase: VolumePhase, now: float) -> tuple[str, str]:
    """Why copies are missing, in a word; what each leg that is not in sync is about, and until when; empty: none is."""
    if phase not in ("Degraded", "Faulted") or not volume.status.mapping.generation:
        return "AllCopies", ""
    look = changes.outlook(world, volume, now)
    absent = {leg.id: loss for leg, loss in (*look.absent, *look.lost)}
    grace = volume.spec.on_failure.grace_period_seconds
    said, planned = [], 0
    for leg in v.legs(volume):
        loss = absent.get(leg.id)
        if loss and leg in look.kept and now < loss.back_at:
            planned += 1
            until = f" until {clock(loss.back_at)}" if math.isfinite(loss.back_at) else ": all nodes are shut down"
            said.append(f"leg {leg.id} on {leg.node} is absent as planned{until}: waits for it, then takes a spare")
        elif loss and leg.id in look.deferred:
            said.append(f"leg {leg.id} lost{loss.when()}: {loss.why}; replaced if it is not back when attached")
        elif loss and leg in look.kept:
            until = f"until {clock(loss.patience_ends(grace))}" if math.isfinite(loss.since) else f"for {span(grace)}"
            said.append(f"leg {leg.id} lost{loss.when()}: {loss.why}; waits for it {until}, then takes a spare")
        elif loss:
            said.append(f"leg {leg.id} lost{loss.when()}: {loss.why}; {_replacing(look)}")
        elif leg.state == "Rebuilding":
            said.append(f"leg {leg.id} on {leg.node} {_rebuilding(volume, leg)}")
        elif leg.state == "Stale":
            said.append(f"leg {leg.id} on {leg.node} is out of step with the others, to be taken in again")
    if not said and look.missing > 0:
        said.append(f"{look.missing} leg(s) missing; {_replacing(look)}")
    reason = "AllCopies" if not said else "PlannedAbsence" if planned == len(said) else "FewerCopies"
    return reason, "; ".join(said)


def _holding(world: World, volume: VirtualVolume) -> tuple[str, str]:
    """Why reads and writes wait, in a word, and what people should know of it; empty: they do not."""
    node = volume.status.attachment.node
    said = v.report(volume, node) if node else None
    if said is None:
        return "NothingHeld", ""
    if said.front == "Suspended":
        for_whom = ", ".join(v.covering(world, volume.metadata.name)) or "a quiescence"
        return "Quiescence", f"{node} holds reads and writes for {for_whom}, until its deadline at the latest"
    since = v.holding(volume)
    told = []
    for leg in v.legs(volume):
        if leg.id not in since:
            continue
        what = f"{node} holds reads and writes for leg {leg.id} on {leg.node} since {clock(since[leg.id])}"
        others = [other for other in v.in_reach(world, volume) if other.id != leg.id and v.reached(volume, other)]
        if leg.state == "InSync" and len(others) >= volume.spec.on_failure.min_in_sync:
            until = since[leg.id] + volume.spec.on_failure.hold_seconds
            told.append(
                f"{what}: they go on when it answers, or without it once that is recorded, about {clock(until)}"
            )
        else:
            told.append(f"{what}: they go on when it answers, too few other legs in sync are in reach")
    return ("LegAway", "; ".join(told)) if told else ("NothingHeld", "")


def _replacing(look: changes.Outlook) -> str:
    if not look.spares:
        return "no spare yet"
    return f"spare {', '.join(f'{spare.id} on {spare.node}' for spare in look.spares)} takes its place"


def _rebuilding(volume: VirtualVolume, leg: Leg) -> str:
    progress = v.progress(volume, leg.id)
    if not volume.status.attachment.node:
        return "is rebuilt when the volume is attached"
    path = v.path_report(volume, leg)
    if path is not None and path.member == "Stopped":
        return operations.STOPPED.format(node=volume.status.attachment.node)
    if progress is None or not progress.total_bytes:
        return "is about to be rebuilt"
    return f"rebuilding{' what it missed' if progress.kind == 'Delta' else ''}, {v.how_far(progress)}"


def _under_way(world: World, volume: VirtualVolume, phase: VolumePhase, decision: Decision) -> str:
    """What ends by itself; empty: nothing is under way."""
    if phase == "Deleting":
        return decision.message if isinstance(decision, Wait) else "is being deleted"
    if phase == "Preparing":
        left = [leg for leg in v.legs(volume) if not v.prepared(volume, leg)]
        where = "; ".join(_preparing(world, volume, leg) for leg in left)
        return f"waits for its legs to be zeroed: {where}" if left else "its legs are prepared"
    if phase == "Pending" and isinstance(decision, Act):
        return "is being allocated"
    wanted, at = volume.spec.attachment.node, volume.status.attachment
    said = v.report(volume, at.node) if at.node else None
    if wanted != at.node:
        return (f"is being detached from {at.node}" if at.node else f"is being attached to {wanted}") + (
            f": {decision.message}" if isinstance(decision, Wait) and decision.message else ""
        )
    if at.node and (said is None or said.epoch < at.epoch or said.front == "None"):
        return f"{at.node} assembles it" + (f": {said.message}" if said and said.message else "")
    rebuilding = [leg for leg in v.legs(volume) if leg.state == "Rebuilding"] if at.node else []
    if rebuilding:
        return "; ".join(f"leg {leg.id} on {leg.node} {_rebuilding(volume, leg)}" for leg in rebuilding)
    if v.spares(volume):
        return f"spare {', '.join(spare.id for spare in v.spares(volume))} is being prepared"
    return growth.progress(volume)


def _preparing(world: World, volume: VirtualVolume, leg: Leg) -> str:
    loss, said = v.loss(world, volume, leg), v.leg_report(volume, leg)
    more = loss.why if loss else said.message if said else ""
    return f"{leg.id} on {leg.node}{f' ({more})' if more else ''}"


def _severed(volume: VirtualVolume) -> str:
    """Why nothing can go on in the pods that have the volume now; empty: it can."""
    said = v.report(volume, volume.status.attachment.node)
    return said.message if said is not None and said.front == "Fenced" else ""


def _unreachable(world: World, volume: VirtualVolume) -> str:
    told = []
    for leg in v.legs(volume):
        loss = v.loss(world, volume, leg)
        told.append(f"leg {leg.id} ({leg.state}): {loss.why}" if loss else f"leg {leg.id} on {leg.node} is {leg.state}")
    return f"no leg in sync is in reach, reads and writes wait: {'; '.join(told)}"


def _warned(world: World, volume: VirtualVolume) -> str:
    """Which disks under its legs warn of their end; empty: none does."""
    return "; ".join(
        f"leg {leg.id} is on {device.metadata.name} of {leg.node}, which warns: {', '.join(device.dying())}"
        for leg in v.legs(volume)
        for device in world.devices_of(leg)
        if device.dying()
    )


def _size(volume: VirtualVolume) -> int:
    if volume.status.mapping.generation and volume.status.mapped_bytes:
        return volume.status.mapped_bytes
    try:
        return v.size_bytes(volume)
    except Invalid:
        return 0


def _claim(volume: VirtualVolume) -> ClaimRef | None:
    namespace, name = health.claim(volume)
    return ClaimRef(namespace=namespace, name=name) if name else None


def _notices(volume: VirtualVolume, fields: dict[str, Any]) -> list[Notice]:
    """An Event for a phase that people should know of, and for a new reason why nothing can be done."""
    before, phase, message = volume.status.phase, fields["phase"], fields["message"]
    notices = []
    if phase != before and phase == "Ready":
        notices.append(Notice("Ready", f"{format_bytes(fields['size_bytes'])}, copies {fields['copies']}"))
    elif phase != before and phase in ("Degraded", "Faulted"):
        notices.append(Notice(phase, message or phase, warning=True))
    was, ready = (conditions.find(there, "Ready") for there in (volume.status.conditions, fields["conditions"]))
    told = ("NoRoom", "Invalid", "MappingLost", "RecordOld")
    if ready and ready.reason in told and (was is None or was.reason != ready.reason):
        notices.append(Notice(ready.reason, message, warning=True))
    was, resized = (conditions.find(there, "Resized") for there in (volume.status.conditions, fields["conditions"]))
    if resized and resized.reason in _TOLD and (was is None or was.reason != resized.reason):
        notices.append(Notice("Resized", resized.message, warning=resized.status != "True"))
    for kind, over in (("Holding", "reads and writes go on"), ("DiskWarns", "no disk under it warns any more")):
        was, now = (conditions.find(there, kind) for there in (volume.status.conditions, fields["conditions"]))
        warns = now is not None and now.status == "True"
        if warns is not (was is not None and was.status == "True"):
            notices.append(Notice(kind, now.message if now and warns else over, warning=warns))
    if v.NO_SPARE in message and v.NO_SPARE not in volume.status.message:
        notices.append(Notice("NoRoom", message, warning=True))
    if operations.CANNOT_COPY in message and operations.CANNOT_COPY not in volume.status.message:
        notices.append(Notice("CannotCopy", message, warning=True))
    return notices


_TOLD = ("Done", "NoRoom", "Invalid")
"""Reasons of Resized that people would want to be told."""
