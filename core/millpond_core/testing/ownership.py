"""Server-side apply, as far as Millpond uses it: who owns which field of a status.

A field's path is a tuple of member names; an element of a list with keys is the pair (key, its value). Lists without
keys, and scalars, are owned as a whole. Applying is always with ``force``, like our adapter does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millpond_core.model.schema import Schema
from millpond_core.testing.structural import key_of, member

Path = tuple[Any, ...]
UPDATES = "(updates)"
"""The manager of whatever was last changed by a patch and not by an apply."""


def leaves(schema: Schema, value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each owned path under ``value`` with what stands there; a keyed element's own path with None."""
    key = key_of(schema)
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            yield from leaves(member(schema, name), child, (*path, name))
    elif key and isinstance(value, list):
        for element in value:
            own = (*path, (key, element[key]))
            yield own, None
            yield from leaves(schema["items"], element, own)
    else:
        yield path, value


class Ownership:
    """The field managers of one object's status, which has ``schema``."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._owned: dict[str, set[Path]] = {}

    def copy(self) -> Ownership:
        """The same owners, to be changed without changing this."""
        copied = Ownership(self._schema)
        copied._owned = {manager: set(paths) for manager, paths in self._owned.items()}
        return copied

    def apply(self, live: Mapping[str, Any], manager: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The status after ``manager`` applied ``wanted``; what it had applied before and no one else has, goes."""
        status = copy.deepcopy(dict(live))
        now = dict(leaves(self._schema, wanted))
        had = dict(leaves(self._schema, live))
        gone = self._owned.get(manager, set()) - now.keys()
        for owner, paths in self._owned.items():
            if owner != manager:
                gone -= paths
                # A shared element stays shared; a field of another value changes hands.
                paths.difference_update(
                    path
                    for path, value in now.items()
                    if path and not isinstance(path[-1], tuple) and had.get(path) != value
                )
        self._owned[manager] = set(now)
        _merge(self._schema, status, wanted)
        for path in sorted(gone, key=len, reverse=True):
            _drop(status, path)
        return status

    def updated(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Hand what a patch changed over to the patches' manager."""
        old, new = dict(leaves(self._schema, before)), dict(leaves(self._schema, after))
        changed = {path for path in old.keys() | new.keys() if path not in old or old[path] != new.get(path, ...)}
        for paths in self._owned.values():
            paths.difference_update(changed)
        self._owned.setdefault(UPDATES, set()).update(changed & new.keys())


def _merge(schema: Schema, target: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        there, part = target.get(name), member(schema, name)
        key = key_of(part)
        if isinstance(value, Mapping) and isinstance(there, dict):
            _merge(part, there, value)
        elif key and isinstance(there, list):
            by_key = {element.get(key): element for element in there}
            for element in value:
                if element[key] in by_key:
                    _merge(part["items"], by_key[element[key]], element)
                else:
                    there.append(copy.deepcopy(dict(element)))
        else:
            target[name] = copy.deepcopy(value)


def _drop(status: dict[str, Any], path: Sequence[Any]) -> None:
    """Remove one field or keyed element; an element that others still fill stays with its key."""
    parent: Any = status
    for token in path[:-1]:
        parent = _step(parent, token)
    last = path[-1]
    if isinstance(last, tuple):
        element = _step(parent, last)
        if element is not None and set(element) <= {last[0]}:
            parent.remove(element)
    elif isinstance(parent, dict):
        is_key = len(path) > 1 and isinstance(path[-2], tuple) and path[-2][0] == last
        if not is_key:
            parent.pop(last, None)


def _step(parent: Any, token: Any) -> Any:
    if isinstance(token, tuple):
        return next((e for e in parent if e.get(token[0]) == token[1]), None) if isinstance(parent, list) else None
    return parent.get(token) if isinstance(parent, dict) else None
