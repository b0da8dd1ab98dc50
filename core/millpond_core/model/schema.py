"""The structural OpenAPI v3 schema of a kind, derived from its structs.

Source: the rules for structural schemas and the ``x-kubernetes-*`` extensions, apiextensions.k8s.io/v1. What a struct
does not say itself (list types, required in the API though not in Python) stands in ``Meta(extra_json_schema=…)``.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec import inspect as types

from millpond_core.model.meta import Rule, Wire

Schema = dict[str, Any]

_TYPE_META = {
    "apiVersion": "Group and version of this object's schema, such as millpond.io/v1alpha1.",
    "kind": "What this object is.",
}
_INT64 = {"type": "integer", "format": "int64"}


def schema(kind: type[Wire]) -> Schema:
    """The ``openAPIV3Schema`` of ``kind``. Shared by all callers: do not change it."""
    return _schema(kind)


@functools.cache
def _schema(kind: Any) -> Schema:
    struct = types.type_info(kind)
    assert isinstance(struct, types.StructType)
    properties: Schema = {name: {"type": "string", "description": text} for name, text in _TYPE_META.items()}
    properties["metadata"] = {"type": "object"}
    required = []
    for field in struct.fields:
        name = field.encode_name
        if name == "metadata":
            continue
        assert isinstance(field.type, types.StructType)
        part = _struct(field.type, fill=name == "spec")
        if "required" in part:
            required.append(name)
        elif filled := _defaults(part):
            part["default"] = filled
        properties[name] = part
    return _object(kind, properties, required)


def paragraphs(documented: type) -> str:
    """A class's docstring with each paragraph on one line."""
    text = inspect.cleandoc(documented.__doc__ or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _object(cls: type, properties: Schema, required: Sequence[str]) -> Schema:
    rules: Sequence[Rule] = cls.__dict__.get("rules", ())
    return {
        "type": "object",
        "description": paragraphs(cls),
        **({"required": list(required)} if required else {}),
        "properties": properties,
        **({"x-kubernetes-validations": [_validation(rule) for rule in rules]} if rules else {}),
    }


def _validation(rule: Rule) -> Schema:
    return {"rule": rule.cel, "message": rule.message, **({"fieldPath": rule.field} if rule.field else {})}


def _struct(struct: types.StructType, *, fill: bool) -> Schema:
    """The schema of a struct; ``fill``: the API server fills absent fields in (see ``Wire``)."""
    fill = fill or not _omits(struct)
    properties, required = {}, []
    for field in struct.fields:
        part, extra = _unwrap(field.type)
        member = _of(part, fill=fill)
        if extra.pop("x-millpond-required", field.required):
            required.append(field.encode_name)
        else:
            member |= _default(field, part, member, fill=fill)
        properties[field.encode_name] = member | extra
    return _object(struct.cls, properties, required)


def _default(field: types.Field, part: types.Type, member: Schema, *, fill: bool) -> Schema:
    """What the API server fills in, if anything: never what it would refuse itself."""
    value = field.default if field.default is not NODEFAULT else field.default_factory()
    if isinstance(part, types.StructType):
        filled = (fill or not _omits(part)) and value is not None
        return {"default": _defaults(member)} if filled else {}
    refused = isinstance(part, types.StrType) and (
        (part.min_length or 0) > len(value or "") or not re.search(part.pattern or "", value or "")
    )
    return {"default": msgspec.to_builtins(value)} if fill and value is not None and not refused else {}


def _defaults(struct: Schema) -> Schema:
    """A struct's default spelled out: the API server judges a default by the rules before it fills it in."""
    return {name: member["default"] for name, member in struct["properties"].items() if "default" in member}


def _omits(struct: types.StructType) -> bool:
    config: msgspec.structs.StructConfig = struct.cls.__struct_config__
    return config.omit_defaults


def _unwrap(part: types.Type) -> tuple[types.Type, Schema]:
    """A field's type without its annotations and without None, and the annotations."""
    extra: Schema = {}
    while True:
        if isinstance(part, types.Metadata):
            extra = {**(part.extra_json_schema or {}), **extra}
            part = part.type
        elif isinstance(part, types.UnionType):
            (part,) = (member for member in part.types if not isinstance(member, types.NoneType))
        else:
            return part, extra


def _of(part: types.Type, *, fill: bool) -> Schema:
    match part:
        case types.StructType():
            return _struct(part, fill=fill)
        case types.LiteralType():
            return {"type": "string", "enum": list(part.values)}
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType():
            return {**_INT64, **_bounds(minimum=part.ge, maximum=part.le)}
        case types.StrType():
            bounds = _bounds(minLength=part.min_length, maxLength=part.max_length, pattern=part.pattern)
            return {"type": "string", **bounds}
        case types.ListType():
            bounds = _bounds(minItems=part.min_length, maxItems=part.max_length)
            return {"type": "array", "x-kubernetes-list-type": "atomic", **bounds, "items": _items(part, fill)}
        case types.DictType():
            value, extra = _unwrap(part.value_type)
            bounds = _bounds(maxProperties=part.max_length)
            return {"type": "object", **bounds, "additionalProperties": {**_of(value, fill=fill), **extra}}
    raise TypeError(f"no schema for {part}: extend millpond_core.model.schema")


def _items(part: types.ListType, fill: bool) -> Schema:
    item, extra = _unwrap(part.item_type)
    return {**_of(item, fill=fill), **extra}


def _bounds(**bounds: int | float | str | None) -> Schema:
    return {name: bound for name, bound in bounds.items() if bound is not None}
