"""What every kind shares: metadata, conditions, the base struct, and the ways to say what its schema shall say."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

ConditionStatus = Literal["True", "False", "Unknown"]

UUID_PATTERN = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
POOL_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NODE_PATTERN = "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"
"""A node's name (RFC 1123 subdomain) or nothing."""

LABEL_KEY_PATTERN = "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"

Name = Annotated[str, Meta(max_length=253)]
"""Name of an object; bounded, so that CEL's cost is too."""

REQUIRED = {"x-millpond-required": True}
"""``extra_json_schema`` of a field that has a default in Python but none in the API."""

UNIQUE: dict[str, Any] = {"x-kubernetes-list-type": "set"}
"""``extra_json_schema`` of a list of strings without duplicates."""


def keyed(key: str) -> dict[str, Any]:
    """``extra_json_schema`` of a list whose elements are told apart by ``key``: each may have an owner of its own."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class Rule(NamedTuple):
    """One CEL validation of the struct that carries it, and the sentence that a refused writer reads."""

    cel: str
    message: str
    field: str = ""
    """Path below the struct that the refusal blames, such as ``.size``; empty: the struct itself."""


class Column(NamedTuple):
    """One printer column: its heading, where its value stands, and how kubectl is to print it."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


class Wire(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True, gc=False):
    """The base of everything that stands in an object: camelCase on the wire, absent when default, immutable.

    In a ``spec`` the API server fills absent fields in. In a ``status`` it does so only for structs with
    ``omit_defaults=False``, the ones that JSON Patch tests and replaces field by field.
    """


class ObjectMeta(Wire, frozen=True, kw_only=True):
    """The part of Kubernetes' ObjectMeta that Millpond reads or writes."""

    name: str = ""
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []


class Condition(Wire, frozen=True, kw_only=True):
    """A condition in the form of ``meta/v1`` that ``kubectl wait`` and kstatus understand."""

    type: Annotated[str, Meta(description="What is being said, such as Ready or Degraded.", max_length=316)]
    status: Annotated[ConditionStatus, Meta(description="Whether it holds: True, False or Unknown.")]
    reason: Annotated[str, Meta(description="One CamelCase word for why.", min_length=1, max_length=1024)]
    message: Annotated[str, Meta(description="One sentence for a person.", max_length=32768)] = ""
    last_transition_time: Annotated[
        str,
        Meta(description="When status last changed (RFC 3339).", extra_json_schema={"format": "date-time"}),
    ]
    observed_generation: Annotated[
        int,
        Meta(
            description="metadata.generation this was judged from; kubectl wait ignores what is older than the object.",
            ge=0,
        ),
    ] = 0
