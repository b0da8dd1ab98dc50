"""VirtualVolume: a volume, its mapping onto extents, and what each node has made of that mapping."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from millpond_core.model.meta import UUID_PATTERN, Column, Condition, ObjectMeta, Rule, Wire, keyed
from millpond_core.model.nodereport import (
    FrontState,
    GateMode,
    LegReport,
    NodeReport,
    PathReport,
    PathState,
    Place,
    Progress,
    ScrubReport,
)
from millpond_core.model.operation import LongOperation
from millpond_core.model.record import Attachment, Extent, Growth, Leg, LegGrowth, LegState, Mapping
from millpond_core.model.volumespec import (
    MAX_SIZE,
    MIN_SIZE,
    DesiredAttachment,
    Layout,
    OnFailure,
    Placement,
    Rebuild,
    Scrub,
    VirtualVolumeSpec,
)
from millpond_core.units import UNIT_BYTES

__all__ = [
    "MAX_SIZE",
    "MIN_SIZE",
    "UUID_PATTERN",
    "Attachment",
    "ClaimRef",
    "DesiredAttachment",
    "Extent",
    "FrontState",
    "GateMode",
    "Growth",
    "Layout",
    "Leg",
    "LegGrowth",
    "LegReport",
    "LegState",
    "LongOperation",
    "Mapping",
    "NodeReport",
    "OnFailure",
    "PathReport",
    "PathState",
    "Place",
    "Placement",
    "Progress",
    "Rebuild",
    "Scrub",
    "ScrubInstruction",
    "ScrubReason",
    "ScrubReport",
    "ScrubResult",
    "VirtualVolume",
    "VirtualVolumeSpec",
    "VirtualVolumeStatus",
    "VolumePhase",
]

VolumePhase = Literal["Pending", "Preparing", "Ready", "Degraded", "Faulted", "Deleting"]
ScrubReason = Literal["Schedule", "Request"]


class ScrubInstruction(Wire, frozen=True, kw_only=True):
    """The attach node is to compare the legs."""

    number: Annotated[int, Meta(description="Counts them.", ge=1)]
    reason: Annotated[ScrubReason, Meta(description="Schedule or Request.")]
    begun_at: Annotated[str, Meta(description="When it was instructed (RFC 3339).")]


class ScrubResult(Wire, frozen=True, kw_only=True):
    """What a comparison of the legs has found."""

    number: Annotated[int, Meta(description="Of the instruction.", ge=1)]
    reason: Annotated[ScrubReason, Meta(description="Schedule or Request.")]
    begun_at: Annotated[str, Meta(description="When it was instructed (RFC 3339).")]
    ended_at: Annotated[str, Meta(description="When the attach node was heard to have ended it (RFC 3339).")]
    places: Annotated[list[Place], Meta(description="Where the legs differ.", max_length=16)] = []
    more: Annotated[bool, Meta(description="There are more places than are told.")] = False


class ClaimRef(Wire, frozen=True, kw_only=True):
    """A PersistentVolumeClaim."""

    namespace: Annotated[str, Meta(description="Namespace of the PersistentVolumeClaim.")] = ""
    name: Annotated[str, Meta(description="Its name.")] = ""


class VirtualVolumeStatus(Wire, frozen=True, kw_only=True):
    """Where the volume stands."""

    observed_generation: Annotated[int, Meta(description="metadata.generation last acted on.", ge=0)] = 0
    phase: Annotated[VolumePhase, Meta(description="Where the volume stands in its life.")] = "Pending"
    copies: Annotated[str, Meta(description="Legs in sync of those wanted, such as 1/2.")] = ""
    size_bytes: Annotated[int, Meta(description="Usable bytes.", ge=0)] = 0
    growth: Annotated[
        Growth | None, Meta(description="What is being prepared for a larger size; not part of the volume yet.")
    ] = None
    mapping: Annotated[Mapping, Meta(description="The record: which legs, where, in what state.")] = Mapping()
    spares: Annotated[
        list[Leg],
        Meta(
            description="Legs being prepared for the next generation, by id; not part of the volume yet.",
            max_length=4,
            extra_json_schema={**keyed("id"), "default": []},
        ),
    ] = []
    next_leg: Annotated[
        int,
        Meta(
            description="Legs ever allocated: ids are never reused. Never falls.",
            ge=0,
            extra_json_schema={"default": 0},
        ),
    ] = 0
    attachment: Annotated[Attachment, Meta(description="Where the volume is assembled.")] = Attachment()
    nodes: Annotated[
        list[NodeReport],
        Meta(description="What each node has made of it, by node.", max_length=16, extra_json_schema=keyed("node")),
    ] = []
    scrub: Annotated[
        ScrubInstruction | None, Meta(description="The last comparison of the legs that was instructed.")
    ] = None
    last_scrub: Annotated[ScrubResult | None, Meta(description="The last that came to its end.")] = None
    operations: Annotated[
        list[LongOperation],
        Meta(
            description="Long operations: what is copied or compared, why, how far it is, who halts it.",
            max_length=13,
            extra_json_schema=keyed("id"),
        ),
    ] = []
    claim_ref: Annotated[ClaimRef | None, Meta(description="The claim that this volume serves.")] = None
    message: Annotated[str, Meta(description="One sentence: what, why, what next, until when.")] = ""
    conditions: Annotated[
        list[Condition],
        Meta(
            description="Ready (it can be used), Progressing (something is under way), Degraded (copies are missing).",
            max_length=32,
            extra_json_schema=keyed("type"),
        ),
    ] = []

    @property
    def mapped_bytes(self) -> int:
        """Usable bytes by the record; 0: there is no mapping yet, as far as anyone noted."""
        return self.mapping.size_bytes or self.size_bytes

    def given(self, leg: Leg) -> Leg:
        """A leg with the extents that it is being given."""
        if self.growth is None:
            return leg
        return msgspec.structs.replace(leg, extents=[*leg.extents, *self.growth.of(leg.id)])

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!oldSelf.mapping.legs.exists(l, l.state == 'InSync' && !l.releasing)"
            " || self.mapping.legs.exists(l, l.state == 'InSync' && !l.releasing)"
            " || (has(self.phase) && self.phase == 'Deleting')",
            "status.mapping.legs: the last leg in sync stays, it is the volume; only one whose phase is Deleting may "
            "lose it",
            ".mapping.legs",
        ),
        Rule(
            "self.nextLeg >= oldSelf.nextLeg",
            "status.nextLeg never falls: a leg's id is never reused",
            ".nextLeg",
        ),
    )


class VirtualVolume(Wire, frozen=True, kw_only=True):
    """A volume, as a mapping onto extents of storage devices.

    The spec says how large, how many copies, where, and on which node it is wanted. The status holds the record: which
    legs there are, where their bytes lie and which of them are in sync; and, for each node, what it has made of that.
    """

    plural: ClassVar[str] = "virtualvolumes"
    short_names: ClassVar[tuple[str, ...]] = ("vvol",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Claim", ".metadata.annotations.millpond\\.io/claim"),
        Column("Size", ".spec.size"),
        Column("Copies", ".status.copies"),
        Column("Phase", ".status.phase"),
        Column("Node", ".status.attachment.node"),
        Column("Gen", ".status.mapping.generation", "integer"),
        Column("Message", ".status.message"),
        Column("Epoch", ".status.attachment.epoch", "integer", wide=True),
        Column("Record", ".status.mapping.recordSeq", "integer", wide=True),
        Column("Scrubbed", ".status.lastScrub.endedAt", "date", wide=True),
        Column("UUID", ".spec.uuid", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date", wide=True),
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (
        ".spec.attachment.node",
        ".status.attachment.node",
        ".status.phase",
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        # A larger size that nobody has room for may be taken back. The bytes of a size are rounded up. Floats are
        # exact up to 8 PiB, and a number made a string has a length that the API server takes for unbounded.
        *(
            Rule(
                f"self.spec.size == oldSelf.spec.size || !isQuantity(self.spec.size) || {unless}"
                f" || quantity(self.spec.size).add({UNIT_BYTES}).asApproximateFloat() > double({at})",
                f"spec.size must not fall below what the volume {what}: what a smaller volume would cut off may be "
                "in use",
                ".spec.size",
            )
            for unless, at, what in (
                ("!has(self.status.sizeBytes)", "self.status.sizeBytes", "has"),
                ("!has(self.status.growth)", "self.status.growth.sizeBytes", "is being given"),
            )
        ),
    )

    metadata: ObjectMeta = ObjectMeta()
    spec: VirtualVolumeSpec = VirtualVolumeSpec()
    status: VirtualVolumeStatus = VirtualVolumeStatus()
