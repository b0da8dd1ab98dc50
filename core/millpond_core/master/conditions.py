"""Conditions and wire forms of what the master applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from millpond_core.instants import seconds_stamp
from millpond_core.model.meta import Condition, Wire


class Says(NamedTuple):
    """A condition before it has a time."""

    type: str
    true: bool
    reason: str
    message: str = ""


def conditions(before: Iterable[Condition], says: Iterable[Says], *, now: float, generation: int) -> list[Condition]:
    """The conditions that say ``says``; one whose status did not change keeps its time."""
    known = {condition.type: condition for condition in before}
    result = []
    for said in says:
        old = known.get(said.type)
        status: Any = "True" if said.true else "False"
        same = old is not None and old.status == status
        result.append(
            Condition(
                type=said.type,
                status=status,
                reason=said.reason,
                message=said.message,
                last_transition_time=old.last_transition_time if old and same else seconds_stamp(now),
                observed_generation=generation,
            )
        )
    return result


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == type_), None)


def wire(value: Any) -> Any:
    """Structs to what stands in the JSON."""
    return msgspec.to_builtins(value)


def applied(status: Wire, fields: Mapping[str, Any], *, keyed: Mapping[str, frozenset[str]] | None = None) -> bool:
    """Whether ``status`` says ``fields`` (struct's names) already; of ``conditions`` only the given types count."""
    mine = (keyed or {}).get("conditions")
    for name, value in fields.items():
        there = getattr(status, name)
        if name == "conditions" and mine is not None:
            there = [condition for condition in there if condition.type in mine]
        if key := _KEYS.get(name):
            # The API server keeps what is there where it stands: the order says nothing.
            there, value = sorted(there, key=key), sorted(value, key=key)  # noqa: PLW2901
        if there != value:
            return False
    return True


def wordless(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` without their sentences for people: ``message``, and those of ``conditions``."""
    plain = [msgspec.structs.replace(condition, message="") for condition in fields["conditions"]]
    return {**fields, "message": "", "conditions": plain}


def partial(status: type[Wire], fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` (struct's names) in wire form: defaults included, since what is applied is owned; None left out."""
    encoded = dict(zip(status.__struct_fields__, status.__struct_encode_fields__, strict=True))
    return {encoded[name]: wire(value) for name, value in fields.items() if value is not None}


_KEYS: Mapping[str, Callable[[Any], str]] = {"conditions": attrgetter("type"), "operations": attrgetter("id")}
"""What tells the elements of a list apart."""
