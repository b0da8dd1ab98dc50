"""What every kind shares: metadata, conditions, the base struct and the ways to say a CEL rule."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

ConditionStatus = Literal["True", "False", "Unknown"]


class Rule(NamedTuple):
    """One CEL validation of the struct that carries it, and the sentence that a refused writer reads."""

    cel: str
    message: str


class Column(NamedTuple):
    """One printer column: its heading, where its value stands, and how kubectl is to print it."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


class Wire(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True):
    """The base of everything that stands in an object: camelCase on the wire, absent when default, immutable."""


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


class Condition(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A condition in the form of ``meta/v1`` that ``kubectl wait`` and kstatus understand."""

    type: Annotated[str, Meta(description="What is being said, such as Ready or Degraded.", max_length=316)]
    status: Annotated[ConditionStatus, Meta(description="Whether it holds: True, False or Unknown.")]
    reason: Annotated[str, Meta(description="One CamelCase word for why.", min_length=1, max_length=1024)]
    message: Annotated[str, Meta(description="One sentence for a person.", max_length=32768)] = ""
    last_transition_time: Annotated[
        str,
        Meta(description="When status last changed (RFC 3339).", extra_json_schema={"format": "date-time"}),
    ]
    observed_generation: Annotated[int, Meta(description="metadata.generation this was judged from.", ge=0)] = 0
