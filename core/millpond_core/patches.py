"""JSON Patch (RFC 6902) and JSON merge patch (RFC 7386) on plain JSON, as the API server applies them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from millpond_core.errors import Conflict, Invalid


def json_patch(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """A new document. Conflict when a ``test`` fails or a path leads nowhere: the API server tells both alike."""
    document = copy.deepcopy(document)
    for operation in operations:
        document = _apply(document, operation)
    return document


def merge_patch(target: Any, patch: Any) -> Any:
    """A new document: null removes a member, a list is replaced as a whole."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> Any:
    verb, path = operation["op"], _tokens(operation["path"])
    match verb:
        case "test":
            wanted = operation.get("value")
            found = _get(document, path) if wanted is not None else _peek(document, path)
            if found != wanted:
                raise Conflict(f"test of {operation['path']} failed: it is {found!r}, not {wanted!r}; read again")
            return document
        case "add" | "replace":
            return _put(document, path, copy.deepcopy(operation["value"]), insert=verb == "add")
        case "remove":
            return _remove(document, path)
        case "move":
            source = _tokens(operation["from"])
            value = _get(document, source)
            return _put(_remove(document, source), path, value, insert=True)
        case "copy":
            return _put(document, path, copy.deepcopy(_get(document, _tokens(operation["from"]))), insert=True)
    raise Invalid(f"{verb!r} is no JSON Patch operation")


def _tokens(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise Invalid(f"{pointer!r} is no JSON pointer: it starts with /")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _index(container: list[Any], token: str, *, insert: bool = False) -> int:
    if insert and token == "-":  # noqa: S105 (no password: one past the end)
        return len(container)
    if not token.isdecimal() or int(token) >= len(container) + insert:
        raise Conflict(f"a list of {len(container)} has no index {token}; read again")
    return int(token)


def _get(document: Any, path: Sequence[str]) -> Any:
    for depth, token in enumerate(path):
        if isinstance(document, list):
            document = document[_index(document, token)]
        elif isinstance(document, dict) and token in document:
            document = document[token]
        else:
            raise Conflict(f"there is no /{'/'.join(path[: depth + 1])}; read again")
    return document


def _peek(document: Any, path: Sequence[str]) -> Any:
    """What stands there; None also where there is nothing: ``test`` with null means both."""
    try:
        return _get(document, path)
    except Conflict:
        return None


def _put(document: Any, path: Sequence[str], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, list):
        at = _index(parent, path[-1], insert=insert)
        parent[at : at if insert else at + 1] = [value]
    elif isinstance(parent, dict) and (insert or path[-1] in parent):
        parent[path[-1]] = value
    else:
        raise Conflict(f"there is no /{'/'.join(path)}; read again")
    return document


def _remove(document: Any, path: Sequence[str]) -> Any:
    _get(document, path)
    parent = _get(document, path[:-1])
    del parent[int(path[-1]) if isinstance(parent, list) else path[-1]]
    return document
