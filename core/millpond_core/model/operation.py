"""A long operation: bytes of a volume that are copied or compared, for minutes or hours."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from millpond_core.model.meta import Wire

OperationKind = Literal["Rebuild", "Move", "Scrub"]
OperationState = Literal["Waiting", "Running", "Halted"]


class LongOperation(Wire, frozen=True, kw_only=True):
    """One of a volume's long operations; written by the master."""

    id: Annotated[str, Meta(description="Such as rebuild-b, move-c or scrub-3.", max_length=32)]
    kind: Annotated[
        OperationKind,
        Meta(
            description="Rebuild: a leg is given what it lacks. Move: the same, so that another leg can leave its "
            "device. Scrub: the legs are compared."
        ),
    ]
    state: Annotated[
        OperationState,
        Meta(
            description="Waiting: message says for what. Running. Halted: a quiescence keeps it still, it goes on from "
            "checkpointBytes."
        ),
    ]
    why: Annotated[str, Meta(description="What brought it about.")] = ""
    since: Annotated[str, Meta(description="When it was found to be needed (RFC 3339).")] = ""
    sources: Annotated[list[str], Meta(description="Legs that are read, by id.", max_length=8)] = []
    target: Annotated[str, Meta(description="Leg that is written, by id; empty: none is.")] = ""
    replaces: Annotated[str, Meta(description="Leg whose place the target takes, by id; empty: its own.")] = ""
    delta: Annotated[bool, Meta(description="Only what the target missed is copied.")] = False
    done_bytes: Annotated[int, Meta(description="Bytes done.", ge=0)] = 0
    left_bytes: Annotated[int, Meta(description="Bytes left.", ge=0)] = 0
    rate: Annotated[int, Meta(description="Bytes per second since it began or went on.", ge=0)] = 0
    max_rate: Annotated[
        int,
        Meta(
            description="Bytes per second at most: the least of the volume's own limit and its shares of those of its "
            "nodes and the cluster; 0: no limit.",
            ge=0,
        ),
    ] = 0
    expected_end: Annotated[str, Meta(description="When it is over at that rate (RFC 3339); empty: not known.")] = ""
    checkpoint_bytes: Annotated[int | None, Meta(description="Of one that is halted: from here it goes on.")] = None
    halted_by: Annotated[list[str], Meta(description="Quiescences that keep it still, by name.", max_length=16)] = []
    message: Annotated[str, Meta(description="What it waits for; empty: for nothing.")] = ""
