"""Server-side apply, as far as Millpond uses it: who owns which field of a status.

A field's path is a tuple of member names; an element of a list with keys is the pair (key, its value). Lists without
keys, and scalars, are owned as a whole. Applying is always with ``force``, like our adapter does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[Any, ...]
UPDATES = "(updates)"
"""The manager of whatever was last changed by a patch and not by an apply."""

LIST_KEYS = {
    "nodes": "node",
    "legs": "id",
    "paths": "id",
    "spares": "id",
    "quiescences": "uid",
    "conditions": "type",
    "acknowledgements": "node",
    "generations": "volume",
}


def list_key(name: Any, value: Any) -> str | None:
    """The key of the elements of list ``value`` in field ``name``; None: the list is atomic, or no list."""
    key = LIST_KEYS.get(name) if isinstance(name, str) else None
    return key if isinstance(value, list) and all(isinstance(e, Mapping) and key in e for e in value) else None


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each owned path under ``value`` with what stands there; a keyed element's own path with None."""
    if isinstance(value, Mapping) and value:
        for name, member in value.items():
            yield from leaves(member, (*path, name))
    elif path and (key := list_key(path[-1], value)):
        for element in value:
            own = (*path, (key, element[key]))
            yield own, None
            yield from leaves(element, own)
    elif path:
        yield path, value


class Ownership:
    """The field managers of one object's status."""

    def __init__(self) -> None:
        self._owned: dict[str, set[Path]] = {}

    def apply(self, live: Mapping[str, Any], manager: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The status after ``manager`` applied ``wanted``; what it had applied before and no one else has, goes."""
        status = copy.deepcopy(dict(live))
        now = dict(leaves(wanted))
        had = dict(leaves(live))
        gone = self._owned.get(manager, set()) - now.keys()
        for owner, paths in self._owned.items():
            if owner != manager:
                gone -= paths
                # A shared element stays shared; a field of another value changes hands.
                paths.difference_update(
                    p for p, value in now.items() if not isinstance(p[-1], tuple) and had.get(p) != value
                )
        self._owned[manager] = set(now)
        _merge(status, wanted)
        for path in sorted(gone, key=len, reverse=True):
            _drop(status, path)
        return status

    def updated(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Hand what a patch changed over to the patches' manager."""
        old, new = dict(leaves(before)), dict(leaves(after))
        changed = {path for path in old.keys() | new.keys() if path not in old or old[path] != new.get(path, ...)}
        for paths in self._owned.values():
            paths.difference_update(changed)
        self._owned.setdefault(UPDATES, set()).update(changed & new.keys())


def _merge(target: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        there = target.get(name)
        if isinstance(value, Mapping) and isinstance(there, dict):
            _merge(there, value)
        elif (key := list_key(name, value)) and isinstance(there, list):
            by_key = {element.get(key): element for element in there}
            for element in value:
                if element[key] in by_key:
                    _merge(by_key[element[key]], element)
                else:
                    there.append(copy.deepcopy(dict(element)))
        else:
            target[name] = copy.deepcopy(value)


def _drop(status: dict[str, Any], path: Sequence[Any]) -> None:
    """Remove one field or keyed element; an element that others still fill stays with its key."""
    parent: Any = status
    for token in path[:-1]:
        parent = _step(parent, token)
        if parent is None:
            return
    last = path[-1]
    if isinstance(last, tuple):
        element = _step(parent, last)
        if element is not None and set(element) <= {last[0]}:
            parent.remove(element)
    elif isinstance(parent, dict):
        keyed = len(path) > 1 and isinstance(path[-2], tuple) and path[-2][0] == last
        if not keyed:
            parent.pop(last, None)


def _step(parent: Any, token: Any) -> Any:
    if isinstance(token, tuple):
        return next((e for e in parent if e.get(token[0]) == token[1]), None) if isinstance(parent, list) else None
    return parent.get(token) if isinstance(parent, dict) else None
