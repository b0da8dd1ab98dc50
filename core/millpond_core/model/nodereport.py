"""What one node has made of a volume; written by its state manager alone."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from millpond_core.model.meta import Wire, keyed

GateMode = Literal["None", "Holding", "Failing"]
PathState = Literal["None", "Up", "Down"]
FrontState = Literal["None", "Active", "Suspended", "Fenced"]


class LegReport(Wire, frozen=True, kw_only=True):
    """A leg as its leg node sees it."""

    id: Annotated[str, Meta(description="The leg.")]
    prepared: Annotated[bool, Meta(description="Its extents are zeroed, labelled and mapped.")] = False
    nqn: Annotated[str, Meta(description="Subsystem under which it is exported; empty: not exported.")] = ""
    address: Annotated[str, Meta(description="Where it is exported, as ip:port.")] = ""
    incarnation: Annotated[
        str, Meta(description="Changes when acknowledged writes may have been lost with a cache.")
    ] = ""
    synced_epoch: Annotated[
        int, Meta(description="Highest epoch in which its label says that it was in sync.", ge=0)
    ] = 0
    prepared_bytes: Annotated[
        int, Meta(description="Usable bytes of a volume for which it is zeroed, mapped and exported.", ge=0)
    ] = 0
    released: Annotated[bool, Meta(description="Export, mapping and label entry are gone.")] = False
    unmapped: Annotated[bool, Meta(description="It is being given back, and its export and mapping are gone.")] = False
    kept_on: Annotated[
        list[str],
        Meta(
            description="Of one being given back: StorageDevices whose label still has it, or that cannot be asked.",
            max_length=256,
        ),
    ] = []
    message: Annotated[str, Meta(description="Why it is not prepared or exported.")] = ""


class PathReport(Wire, frozen=True, kw_only=True):
    """A leg as the attach node sees it."""

    id: Annotated[str, Meta(description="The leg.")]
    gate: Annotated[GateMode, Meta(description="None, Holding or Failing.")] = "None"
    path: Annotated[PathState, Meta(description="None, Up or Down.")] = "None"
    member: Annotated[
        str,
        Meta(
            description="What md says: InSync, Rebuilding, Stopped (its copy came to a place that no leg can be read "
            "at, and is begun again later), Faulty, or None when it is not in the array."
        ),
    ] = "None"
    incarnation: Annotated[str, Meta(description="The incarnation that was connected.")] = ""
    since: Annotated[str, Meta(description="When path last changed (RFC 3339, microseconds).")] = ""
    holding_since: Annotated[str, Meta(description="Since when the gate holds I/O (RFC 3339); empty: it does not.")] = (
        ""
    )


class Progress(Wire, frozen=True, kw_only=True):
    """A rebuild or scrub as the attach node sees it."""

    leg: Annotated[str, Meta(description="The leg that is rebuilt; empty for a scrub.")] = ""
    kind: Annotated[str, Meta(description="Full, Delta or Scrub.")] = "Full"
    done_bytes: Annotated[int, Meta(description="Bytes done.", ge=0)] = 0
    total_bytes: Annotated[int, Meta(description="Bytes in all.", ge=0)] = 0
    rate: Annotated[int, Meta(description="Bytes per second.", ge=0)] = 0
    halted: Annotated[bool, Meta(description="Halted by a quiescence.")] = False


class Place(Wire, frozen=True, kw_only=True):
    """A run of bytes of the volume."""

    start_bytes: Annotated[int, Meta(description="First byte.", ge=0)]
    length_bytes: Annotated[int, Meta(description="Number of bytes.", ge=1)]


class ScrubReport(Wire, frozen=True, kw_only=True):
    """A comparison of the legs as the attach node sees it."""

    number: Annotated[int, Meta(description="Of status.scrub that this is about.", ge=0)]
    done_bytes: Annotated[int, Meta(description="Compared for good, from the start: it goes on from here.", ge=0)] = 0
    places: Annotated[
        list[Place],
        Meta(description="Where the legs differ, seen twice, to a mebibyte.", max_length=16),
    ] = []
    more: Annotated[bool, Meta(description="There are more places than are told.")] = False
    ended: Annotated[bool, Meta(description="All of the volume was compared.")] = False


class NodeReport(Wire, frozen=True, kw_only=True):
    """One node's part of the volume; written by its state manager alone."""

    node: Annotated[str, Meta(description="The node.", max_length=253)]
    boot_id: Annotated[str, Meta(description="Its boot id.")] = ""
    epoch: Annotated[
        int,
        Meta(description="Highest epoch confirmed: nothing of an older one exists here, nor will again.", ge=0),
    ] = 0
    generation: Annotated[int, Meta(description="Mapping generation in force here.", ge=0)] = 0
    record_seq: Annotated[int, Meta(description="recordSeq in force here.", ge=0)] = 0
    clean_epoch: Annotated[
        int, Meta(description="Highest epoch whose assembly was stopped here with all legs flushed.", ge=0)
    ] = 0
    ended_epoch: Annotated[
        int,
        Meta(
            description="Highest epoch whose assembly is gone here for good. Above cleanEpoch: not cleanly, the legs "
            "may differ.",
            ge=0,
        ),
    ] = 0
    newer_label: Annotated[
        str,
        Meta(description="Why the volume must stand still: a label here knows more than the record. Empty: none does."),
    ] = ""
    front: Annotated[FrontState, Meta(description="What pods use: None, Active, Suspended or Fenced.")] = "None"
    device: Annotated[str, Meta(description="Path of the front's device node.")] = ""
    size_bytes: Annotated[int, Meta(description="Usable bytes of the front; 0: there is none.", ge=0)] = 0
    legs: Annotated[
        list[LegReport],
        Meta(description="Legs that lie on this node, by id.", max_length=32, extra_json_schema=keyed("id")),
    ] = []
    paths: Annotated[
        list[PathReport],
        Meta(
            description="Legs as assembled here, by id; on the attach node only.",
            max_length=32,
            extra_json_schema=keyed("id"),
        ),
    ] = []
    progress: Annotated[list[Progress], Meta(description="Long operations running here.", max_length=32)] = []
    scrub: Annotated[ScrubReport | None, Meta(description="The last comparison of the legs that it began.")] = None
    longest_hold_ms: Annotated[
        int, Meta(description="Longest time a gate or a suspended front held I/O since attach, in ms.", ge=0)
    ] = 0
    message: Annotated[str, Meta(description="What this node waits for and why; empty: nothing.")] = ""
