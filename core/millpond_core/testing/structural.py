"""What the API server does with a schema: fills defaults in, refuses unknown and missing fields and broken rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from millpond_core.model.schema import Schema
from millpond_core.testing.cel import compiled


def member(schema: Schema, name: str) -> Schema:
    """The schema of one member of an object; ``{}`` when there is none."""
    found: Schema = schema.get("properties", {}).get(name) or schema.get("additionalProperties", {})
    return found


def key_of(schema: Schema) -> str | None:
    """By what the elements of this list are told apart; None: the list is atomic, or no list."""
    keys = schema.get("x-kubernetes-list-map-keys")
    return str(keys[0]) if keys else None


def fill(schema: Schema, value: Any) -> Any:
    """A copy of ``value`` with every default filled in."""
    if isinstance(value, Mapping):
        filled = {name: fill(member(schema, name), child) for name, child in value.items()}
        for name, part in schema.get("properties", {}).items():
            if name not in filled and "default" in part:
                filled[name] = fill(part, copy.deepcopy(part["default"]))
        return filled
    if isinstance(value, list):
        return [fill(schema.get("items", {}), child) for child in value]
    return value


def faults(schema: Schema, value: Any, path: str = "") -> Iterator[str]:
    """Each field that is unknown or missing, and each key that occurs twice, as a sentence."""
    if isinstance(value, Mapping) and "properties" in schema:
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name}: Required value".lstrip(".")
        for name, child in value.items():
            where = f"{path}.{name}".lstrip(".")
            if name in schema["properties"]:
                yield from faults(schema["properties"][name], child, where)
            else:
                yield f'unknown field "{where}"'
    elif isinstance(value, list):
        key = key_of(schema)
        keys = [child.get(key) for child in value if isinstance(child, Mapping)]
        yield from (f'{path}: Duplicate value: "{one}"' for one in {k for k in keys if key and keys.count(k) > 1})
        for index, child in enumerate(value):
            yield from faults(schema.get("items", {}), child, f"{path}[{index}]")


def violations(schema: Schema, new: Any, old: Any = None, path: str = "") -> Iterator[str]:
    """Each CEL rule that ``new`` breaks, with the field it blames; transition rules where there is an ``old``."""
    for rule in schema.get("x-kubernetes-validations", ()):
        transition = "oldSelf" in rule["rule"]
        if (old is not None or not transition) and not compiled(rule["rule"])({"self": new, "oldSelf": old}):
            yield f"{path}{rule.get('fieldPath', '')}: Invalid value: {rule['message']}".lstrip(".")
    if isinstance(new, Mapping):
        for name, child in new.items():
            before = old.get(name) if isinstance(old, Mapping) else None
            yield from violations(member(schema, name), child, before, f"{path}.{name}")
    elif isinstance(new, list) and (key := key_of(schema)):
        known = {element[key]: element for element in old or ()}
        for index, element in enumerate(new):
            yield from violations(schema["items"], element, known.get(element[key]), f"{path}[{index}]")
