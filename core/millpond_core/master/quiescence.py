"""One quiescence: its turn, its participants' word, the commit, the release. See ``quiesce`` for the table.

The doorbells are the nodes' (``node.doorbell``): they follow from the phase. Commits are made one volume at a time,
each by a compare-and-swap of its own; what is left is told from the volumes, so that a new master completes what the
last one began.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from millpond_core import names, quiesce
from millpond_core.instants import parse, span, stamp
from millpond_core.master import changes, conditions, scope
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Decision, Delete, Notice, Patch, Wait
from millpond_core.master.world import World
from millpond_core.model import Quiescence, VirtualVolume
from millpond_core.model.quiescence import (
    Acknowledgement,
    GenerationChange,
    QuiescencePhase,
    QuiescenceStatus,
    TimelineEntry,
)
from millpond_core.model.storagenode import NodeQuiescence

KEPT = 20
"""The master's own quiescences that are kept when they are over."""

STILL = frozenset({"Quiesced", "Applied"})


def decide(world: World, q: Quiescence, now: float) -> Decision:
    """The next step of a quiescence."""
    phase = q.status.phase
    if phase in quiesce.OVER:
        # How long it was held is known once the last node has let go.
        held = _held_ms(world, q)
        late = _said(world, q, q.status.message, now, longest_hold_ms=held) if held > q.status.longest_hold_ms else None
        return late or _pruned(world, q)
    if phase == "Pending":
        return _pending(world, q, now)
    if q.spec.release:
        return _enter(world, q, "released", "released on request", now)
    match phase:
        case "Instructed" | "Draining":
            return _draining(world, q, now)
        case "Quiesced":
            return _quiesced(world, q, now) if own(q) else _held(world, q, now)
        case _:
            return _reconfigured(world, q, now)


def own(q: Quiescence) -> bool:
    """Whether the master made it."""
    return q.metadata.labels.get(names.LABEL_MADE_BY) == names.MASTER


# --- phases -----------------------------------------------------------------------------------------------------------


def _pending(world: World, q: Quiescence, now: float) -> Decision:
    if q.spec.release:
        return _enter(world, q, "released", "released before it began", now)
    if find := scope.to_find(world, q, now):
        return Act(find, "")
    if not own(q) and (refused := scope.refusal(world, q)):
        return _enter(world, q, "refused", f"refused: {refused}", now)
    volumes = scope.volumes(world, q)
    if own(q) and not any(changes.ready(world, world.volumes[name], now) for name in volumes):
        return _enter(world, q, "nothing to do", "what it was for has passed, or is done", now)
    if before := _ahead(world, q, set(volumes)):
        message = f"waits for {', '.join(before)}, with a volume in common"
        return _said(world, q, message, now) or Wait("Queued", message)
    participants = sorted(
        {
            node
            for name in volumes
            if (node := world.volumes[name].status.attachment.node) and world.state_of(node).state != "Failed"
        }
    )
    frozen = {
        "participants": participants,
        "volumes": volumes,
        "generations": [
            GenerationChange(volume=name, before=world.volumes[name].status.mapping.generation) for name in volumes
        ],
        "scope": f"{_count(volumes, 'vol')}, {_count(participants, 'node')}",
    }
    said = f"instructed {', '.join(participants)}" if participants else "no volume of it is attached"
    return _enter(world, q, "turn", said, now, **frozen)


def _draining(world: World, q: Quiescence, now: float) -> Decision:
    acknowledgements = _acknowledgements(world, q)
    awaited = _awaited(world, q, acknowledgements)
    fields = {"acknowledgements": acknowledgements, "longest_hold_ms": _held_ms(world, q)}
    if not awaited:
        return _enter(world, q, "all still", _word(world, q, acknowledgements), now, **fields)
    if now >= _deadline(q):
        said = f"not still within {q.spec.deadline_seconds} s: {_laggards(world, q, awaited)}; everything goes on"
        return _enter(world, q, "late", said, now, **fields)
    refused = [node for node in awaited if (a := _answer(world, q, node)) and a.phase in ("Refused", "Expired")]
    if refused:
        return _enter(world, q, "late", f"refused: {_laggards(world, q, refused)}; everything goes on", now, **fields)
    if q.status.phase == "Instructed" and any(_answer(world, q, node) for node in q.status.participants):
        return _enter(world, q, "seen", f"waits for {', '.join(awaited)}", now, **fields)
    message = f"waits for {', '.join(awaited)} to become still"
    return _said(world, q, message, now, **fields) or Wait("Draining", message, _deadline(q))


def _quiesced(world: World, q: Quiescence, now: float) -> Decision:
    """Commit, volume by volume: where not all may be rebuilt at once, those go first that have most to lose."""
    generations = _generations(world, q)
    volumes = [volume for name in q.status.volumes if (volume := world.volumes.get(name))]
    for volume in sorted(volumes, key=lambda one: changes.endangered(world, one)):
        name = volume.metadata.name
        change = changes.ready(world, volume, now)
        if change is None:
            continue
        if moving := _moving(world, q):
            said = f"not still any more: {_laggards(world, q, moving)}; {name} is tried again; everything goes on"
            return _enter(world, q, "late", said, now, generations=generations)
        holds = [(parse(a.at) or 0.0, a.hold_remaining_ms) for a in q.status.acknowledgements if q.spec.hold_io]
        if now >= _deadline(q) or not quiesce.hold_allows(holds, now):
            said = f"no time left to commit {name}: it is tried again; everything goes on"
            return _enter(world, q, "late", said, now, generations=generations)
        return Act(
            Patch(VirtualVolume, name, changes.operations(volume, change)),
            f"{change.why}: generation {volume.status.mapping.generation + 1} committed",
            (Notice("GenerationCommitted", f"generation {volume.status.mapping.generation + 1}: {change.why}"),),
        )
    told = _told(generations)
    said = f"{told} committed" if told else "nothing was left to change"
    return _enter(world, q, "committed", said, now, generations=generations)


def _held(world: World, q: Quiescence, now: float) -> Decision:
    """Made by people: still until they release it, or its time is up."""
    if now >= _deadline(q):
        return _enter(world, q, "time is up", f"its {q.spec.deadline_seconds} s are over, everything goes on", now)
    fields = {"longest_hold_ms": _held_ms(world, q)}
    message = f"still; goes on when spec.release is true, in {q.spec.deadline_seconds} s at the latest"
    return _said(world, q, message, now, **fields) or Wait("Held", message, _deadline(q))


def _reconfigured(world: World, q: Quiescence, now: float) -> Decision:
    generations = _generations(world, q)
    behind = [change.volume for change in generations if not _in_force(world, q, change)]
    fields = {"generations": generations, "longest_hold_ms": _held_ms(world, q)}
    if not behind:
        said = f"{_told(generations) or 'no generation'} in force, long operations go on"
        return _enter(world, q, "in force", said, now, **fields)
    if now >= _deadline(q):
        said = f"{', '.join(behind)}: its attach node takes the new generation up later, long operations go on"
        return _enter(world, q, "time is up", said, now, **fields)
    message = f"waits for the attach node of {', '.join(behind)} to bring the new generation into force"
    return _said(world, q, message, now, **fields) or Wait("Applying", message, _deadline(q))


def _pruned(world: World, q: Quiescence) -> Decision:
    if not own(q):
        return Wait()
    over = [other for other in world.quiescences.values() if own(other) and other.status.phase in quiesce.OVER]
    over.sort(key=lambda other: (other.metadata.creation_timestamp or "", other.metadata.name), reverse=True)
    if q in over[KEPT:]:
        return Act(Delete(Quiescence, q.metadata.name), "over for long, and made by the master")
    return Wait()


# --- helpers ----------------------------------------------------------------------------------------------------------


def _ahead(world: World, q: Quiescence, volumes: set[str]) -> list[str]:
    """Those that go before: running, or waiting and more urgent or older, with a volume in common."""

    def rank(one: Quiescence) -> tuple[bool, str, str]:
        return one.spec.reason not in quiesce.URGENT, one.metadata.creation_timestamp or "", one.metadata.name

    def covers(other: Quiescence) -> set[str]:
        if other.status.phase in quiesce.RUNNING:
            return set(other.status.volumes)
        waits_before = other.status.phase == "Pending" and rank(other) < rank(q)
        return set(scope.volumes(world, other)) if waits_before else set()

    others = (other for other in world.quiescences.values() if other.metadata.name != q.metadata.name)
    return [other.metadata.name for other in others if volumes & covers(other)]


def _count(things: Sequence[str], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _answer(world: World, q: Quiescence, node: str) -> NodeQuiescence | None:
    there = world.nodes.get(node)
    answers = there.status.quiescences if there else []
    return next((answer for answer in answers if answer.uid == q.metadata.uid), None)


def _acknowledgements(world: World, q: Quiescence) -> list[Acknowledgement]:
    """Each participant's first word that it is still."""
    said = {a.node: a for a in q.status.acknowledgements}
    for node in q.status.participants:
        answer = _answer(world, q, node)
        if node not in said and answer is not None and answer.phase in STILL:
            said[node] = Acknowledgement(
                node=node,
                at=answer.acknowledged_at,
                hold_remaining_ms=answer.hold_remaining_ms,
                held=answer.held_volumes,
                halted=answer.halted_operations,
            )
    return [said[node] for node in q.status.participants if node in said]


def _awaited(world: World, q: Quiescence, acknowledgements: Iterable[Acknowledgement]) -> list[str]:
    """Participants whose word is still to come; one that has failed meanwhile says nothing any more."""
    heard = {a.node for a in acknowledgements}
    return [n for n in q.status.participants if n not in heard and world.state_of(n).state != "Failed"]


def _moving(world: World, q: Quiescence) -> list[str]:
    """Participants who have taken their word back: by its deadline a node goes on, whatever the master knows."""
    there = [n for n in q.status.participants if world.state_of(n).state != "Failed"]
    return [n for n in there if (answer := _answer(world, q, n)) is not None and answer.phase not in STILL]


def _laggards(world: World, q: Quiescence, nodes: Iterable[str]) -> str:
    told = []
    for node in nodes:
        answer, health = _answer(world, q, node), world.state_of(node)
        what = ": ".join(filter(None, (answer.phase, answer.message))) if answer else "has not seen the instruction"
        told.append(f"{node} ({what if health.state == 'Ready' else health.state})")
    return ", ".join(told)


def _word(world: World, q: Quiescence, acknowledgements: list[Acknowledgement]) -> str:
    started, last = _entered(q, "Instructed"), max((parse(a.at) or 0.0 for a in acknowledgements), default=0.0)
    if not acknowledgements:
        return "nobody has anything to halt"
    return f"all still after {span(last - started)}" if last > started else "all still"


def _held_ms(world: World, q: Quiescence) -> int:
    answers = (_answer(world, q, node) for node in q.status.participants)
    return max([q.status.longest_hold_ms, *(answer.held_ms for answer in answers if answer)])


def _generations(world: World, q: Quiescence) -> list[GenerationChange]:
    """Before and after, told from the volumes."""
    told = []
    for change in q.status.generations:
        volume = world.volumes.get(change.volume)
        at = volume.status.mapping.generation if volume else 0
        risen = not change.after and at > change.before
        told.append(msgspec.structs.replace(change, after=at) if risen else change)
    return told


def _told(generations: Iterable[GenerationChange]) -> str:
    """For a sentence; empty: nothing has changed."""
    done = [f"{change.volume} {change.before} → {change.after}" for change in generations if change.after]
    more = f" and {len(done) - 5} more" if len(done) > 5 else ""
    return f"generation {', '.join(done[:5])}{more}" if done else ""


def _in_force(world: World, q: Quiescence, change: GenerationChange) -> bool:
    """Whether nothing is to be waited for: not changed, not attached here any more, or reported."""
    volume = world.volumes.get(change.volume)
    node = volume.status.attachment.node if volume else ""
    if volume is None or not change.after or node not in q.status.participants:
        return True
    said = v.report(volume, node)
    return world.state_of(node).state == "Failed" or (said is not None and said.generation >= change.after)


def _entered(q: Quiescence, phase: QuiescencePhase) -> float:
    return next((parse(e.at) or 0.0 for e in q.status.timeline if e.phase == phase), 0.0)


def _deadline(q: Quiescence) -> float:
    return _entered(q, "Instructed") + q.spec.deadline_seconds


def _enter(world: World, q: Quiescence, event: quiesce.QuiescenceEvent, message: str, now: float, **fields: Any) -> Act:
    """The step into the phase that follows ``event``."""
    phase = quiesce.step(q.status.phase, event)
    assert phase is not None, f"{event} means nothing in {q.status.phase}"
    timeline = [*q.status.timeline, TimelineEntry(phase=phase, at=stamp(now), message=message)]
    applied = _fields(q, now, phase=phase, message=message, timeline=timeline[-64:], **fields)
    notice = Notice(phase, message, warning=phase in ("Aborted", "Expired"))
    return Act(_status(q, applied), f"{q.status.phase} → {phase}: {message}", (notice,))


def _said(world: World, q: Quiescence, message: str, now: float, **fields: Any) -> Act | None:
    """The step that says how far it is; None when that is said already."""
    applied = _fields(q, now, message=message, **fields)
    if q.status.observed_generation and conditions.applied(q.status, applied):
        return None
    return Act(_status(q, applied), "")


def _status(q: Quiescence, fields: dict[str, Any]) -> Patch:
    """Of two masters one is refused: else what is over would begin again, or a deadline move, by an old view."""
    unchanged = {"op": "test", "path": "/metadata/resourceVersion", "value": q.metadata.resource_version}
    status = conditions.partial(QuiescenceStatus, fields)
    return Patch(Quiescence, q.metadata.name, [unchanged, v.put("/status", status)])


def _fields(q: Quiescence, now: float, **changed: Any) -> dict[str, Any]:
    """All of the status: it is the master's alone."""
    fields = {name: getattr(q.status, name) for name in QuiescenceStatus.__struct_fields__ if name != "conditions"}
    fields |= changed
    fields["observed_generation"] = max(q.metadata.generation, 1)
    over = fields["phase"] in quiesce.OVER
    fields["acks"] = f"{len(fields['acknowledgements'])}/{len(fields['participants'])}"
    fields["held"] = f"{fields['longest_hold_ms']}ms" if fields["phase"] not in ("Pending", "Instructed") else ""
    says = [
        Says("Complete", over, fields["phase"], fields["message"]),
        Says("Progressing", not over, fields["phase"], fields["message"]),
    ]
    fields["conditions"] = conditions.conditions(q.status.conditions, says, now=now, generation=q.metadata.generation)
    return fields
