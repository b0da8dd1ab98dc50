"""Pure: one object → why it is as it is, what happens next, and until when."""

from __future__ import annotations

from collections.abc import Iterator

from millpond_cli.report import held
from millpond_core import quiesce
from millpond_core.errors import Invalid
from millpond_core.instants import parse as instant
from millpond_core.instants import span
from millpond_core.model import KINDS, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.operation import LongOperation
from millpond_core.model.quiescence import Acknowledgement
from millpond_core.units import format_bytes

Explained = StorageNode | StorageDevice | VirtualVolume | Quiescence


def parse(what: str) -> tuple[type[Explained], str]:
    """``kind/name``, the kind as kubectl takes it. Raises Invalid."""
    word, slash, name = what.partition("/")
    for kind in KINDS:
        if slash and name and word.lower() in (kind.__name__.lower(), kind.plural, *kind.short_names):
            return kind, name
    kinds = ", ".join(f"{kind.short_names[0]}/NAME" for kind in KINDS)
    raise Invalid(f"{what!r} is no object of Millpond's: say one of {kinds}")


def explain(obj: Explained) -> list[str]:
    """Lines for a person."""
    return list(_quiescence(obj) if isinstance(obj, Quiescence) else _other(obj))


def _quiescence(q: Quiescence) -> Iterator[str]:
    scope = q.status.scope or "scope not looked at yet"
    yield f"{q.metadata.name}: {q.status.phase}, {q.spec.reason}, {held(q)}, {scope}"
    yield f"  {q.status.message or 'nobody has acted upon it yet'}"
    if q.spec.message:
        yield f"  for: {q.spec.message}"
    if q.status.longest_hold_ms:
        yield f"  longest hold of I/O: {q.status.held}"
    began = next((at for e in q.status.timeline if e.phase == "Instructed" and (at := instant(e.at))), None)
    for entry in q.status.timeline:
        yield f"  {_since(began, entry.at)}  {entry.phase:<12} {entry.message}"
    heard = {word.node: word for word in q.status.acknowledgements}
    for node in q.status.participants:
        yield f"  {node}: {_word(heard.get(node), over=q.status.phase in quiesce.OVER)}"
    for change in q.status.generations:
        if change.after:
            yield f"  {change.volume}: generation {change.before} → {change.after}"


def _word(word: Acknowledgement | None, *, over: bool) -> str:
    if word is None:
        return "never said that it is still" if over else "not still yet"
    said = [f"still at {word.at[11:23]} by its own clock"]
    said += [f"holds {', '.join(word.held)} for {span(word.hold_remaining_ms / 1000)} at most"] if word.held else []
    said += [f"has halted {', '.join(word.halted)}"] if word.halted else []
    return ", ".join(said)


def _since(began: float | None, at: str) -> str:
    then = instant(at)
    return f"{then - began:+8.3f} s" if then is not None and began is not None else f"{'':10}"


def _other(obj: StorageNode | StorageDevice | VirtualVolume) -> Iterator[str]:
    yield f"{obj.metadata.name}: {obj.status.phase or 'new'}"
    if obj.status.message:
        yield f"  {obj.status.message}"
    if isinstance(obj, StorageNode) and (work := obj.spec.maintenance).intent != "None":
        yield f"  maintenance: {work.intent}{f' until {work.until}' if work.until else ''}"
    if isinstance(obj, VirtualVolume):
        yield from (f"  {line}" for operation in obj.status.operations for line in _operation(operation))
    for condition in obj.status.conditions:
        why = f": {condition.message}" if condition.message and condition.message != obj.status.message else ""
        yield f"  {condition.type} {condition.status} ({condition.reason}) since {condition.last_transition_time}{why}"


def _operation(one: LongOperation) -> Iterator[str]:
    """What is copied or compared, how far it is, and why."""
    done, total = one.done_bytes, one.done_bytes + one.left_bytes
    far = f", {format_bytes(done)} of {format_bytes(total)}" if one.state != "Waiting" and total else ""
    limit = f" of at most {format_bytes(one.max_rate)}/s" if one.max_rate else ""
    rate = f" at {format_bytes(one.rate)}/s{limit}" if one.rate else ""
    end = f", until about {one.expected_end[11:19]}" if one.expected_end else ""
    by = f" by {', '.join(one.halted_by)}" if one.halted_by else ""
    waits = f" ({one.message})" if one.message else ""
    yield f"{one.id}: {one.state}{by}{waits}{far}{rate}{end}"
    between = f"legs {', '.join(one.sources)}" if not one.target else f"leg {one.target}"
    source = f" from leg {', '.join(one.sources)}" if one.target and one.sources else ""
    place = f", in place of leg {one.replaces}" if one.replaces else ""
    yield f"  {between}{' gets what it missed' if one.delta else ''}{source}{place}; {one.why}, {one.since}"
