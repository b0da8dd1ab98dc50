"""Quiescence: one going-still, from the instruction to the release."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import (
    LABEL_VALUE_PATTERN,
    REQUIRED,
    UNIQUE,
    Column,
    Condition,
    Name,
    ObjectMeta,
    Rule,
    Wire,
    keyed,
)

Reason = Literal["DeviceFailed", "NodeFailed", "Reconfigure", "Maintenance", "Snapshot", "Shutdown", "Manual"]
QuiescencePhase = Literal[
    "Pending", "Instructed", "Draining", "Quiesced", "Reconfigured", "Released", "Expired", "Aborted"
]


class ClaimScope(Wire, frozen=True, kw_only=True):
    """Claims of one namespace: those named, or those with all of some labels, or all."""

    namespace: Annotated[
        str,
        Meta(
            description="Namespace of the PersistentVolumeClaims.",
            pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            max_length=63,
        ),
    ]
    names: Annotated[
        list[Name], Meta(description="Only claims of these names.", max_length=256, extra_json_schema=UNIQUE)
    ] = []
    match_labels: Annotated[
        dict[str, Annotated[str, Meta(pattern=LABEL_VALUE_PATTERN, max_length=63)]],
        Meta(description="Only claims with all of these labels when its turn comes.", max_length=16),
    ] = {}


class Scope(Wire, frozen=True, kw_only=True):
    """What is to go still: everything that is named in any way."""

    volumes: Annotated[
        list[Name], Meta(description="Names of VirtualVolumes.", max_length=1024, extra_json_schema=UNIQUE)
    ] = []
    claims: Annotated[
        list[ClaimScope], Meta(description="Volumes of PersistentVolumeClaims, by namespace.", max_length=16)
    ] = []
    devices: Annotated[
        list[Name],
        Meta(description="All volumes with a leg on these StorageDevices.", max_length=256, extra_json_schema=UNIQUE),
    ] = []
    nodes: Annotated[
        list[Name],
        Meta(description="All volumes attached on these nodes.", max_length=256, extra_json_schema=UNIQUE),
    ] = []
    cluster: Annotated[bool, Meta(description="Every volume.")] = False

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.volumes.size() + self.claims.size() + self.devices.size() + self.nodes.size() > 0 || self.cluster",
            "spec.scope names nothing: list at least one volume, claim, device or node, or say cluster: true",
        ),
    )


class QuiescenceSpec(Wire, frozen=True, kw_only=True):
    """The instruction. Immutable but for release."""

    reason: Annotated[Reason, Meta(description="Immutable. Why.")] = "Manual"
    scope: Annotated[Scope, Meta(description="Immutable. What is to go still.", extra_json_schema=REQUIRED)] = Scope()
    hold_io: Annotated[
        bool,
        Meta(description="Immutable. Whether reads and writes wait too; long operations halt in any case."),
    ] = False
    deadline_seconds: Annotated[
        int, Meta(description="Immutable. Seconds after which every hold ends by itself.", ge=1, le=600)
    ] = 30
    release: Annotated[bool, Meta(description="Set to true to end it; cannot be taken back.")] = False
    message: Annotated[
        str, Meta(description="Immutable. One sentence for people: what it is for.", max_length=1024)
    ] = ""

    rules: ClassVar[tuple[Rule, ...]] = (
        *(
            Rule(
                f"self.{field} == oldSelf.{field}",
                f"spec.{field} is immutable: release this Quiescence and create another",
                f".{field}",
            )
            for field in ("reason", "scope", "holdIo", "deadlineSeconds", "message")
        ),
        Rule(
            "self.release || !oldSelf.release",
            "spec.release cannot be taken back: create another Quiescence",
            ".release",
        ),
    )


class Acknowledgement(Wire, frozen=True, kw_only=True):
    """One participant's word that it is still."""

    node: Annotated[str, Meta(description="The node.")]
    at: Annotated[str, Meta(description="When it was still (RFC 3339, microseconds).")]
    hold_remaining_ms: Annotated[int, Meta(description="Milliseconds of I/O hold it had left.", ge=0)] = 0
    held: Annotated[list[Name], Meta(description="Volumes whose I/O it holds.", max_length=1024)] = []
    halted: Annotated[
        list[str], Meta(description="Long operations it has halted, as volume/leg@checkpoint sectors.", max_length=1024)
    ] = []


class TimelineEntry(Wire, frozen=True, kw_only=True):
    """The beginning of one phase."""

    phase: Annotated[str, Meta(description="The phase that began.")]
    at: Annotated[str, Meta(description="When (RFC 3339, microseconds).")]
    message: Annotated[str, Meta(description="What happened.")] = ""


class GenerationChange(Wire, frozen=True, kw_only=True):
    """What it did to one volume's mapping."""

    volume: Annotated[str, Meta(description="Name of the VirtualVolume.")]
    before: Annotated[int, Meta(description="Mapping generation before.", ge=0)] = 0
    after: Annotated[int, Meta(description="Mapping generation after; 0: not committed yet.", ge=0)] = 0


class QuiescenceStatus(Wire, frozen=True, kw_only=True):
    """How far it is; written by the master."""

    observed_generation: Annotated[int, Meta(description="metadata.generation last acted on.", ge=0)] = 0
    phase: Annotated[QuiescencePhase, Meta(description="How far it is.")] = "Pending"
    participants: Annotated[
        list[Name], Meta(description="Nodes whose word is awaited; frozen at Instructed.", max_length=256)
    ] = []
    volumes: Annotated[list[Name], Meta(description="Volumes concerned; frozen at Instructed.", max_length=1024)] = []
    acknowledgements: Annotated[
        list[Acknowledgement],
        Meta(description="Who is still, by node.", max_length=256, extra_json_schema=keyed("node")),
    ] = []
    generations: Annotated[
        list[GenerationChange],
        Meta(
            description="Mapping generations before and after, by volume.",
            max_length=1024,
            extra_json_schema=keyed("volume"),
        ),
    ] = []
    longest_hold_ms: Annotated[int, Meta(description="Longest hold of I/O for it, in ms.", ge=0)] = 0
    timeline: Annotated[list[TimelineEntry], Meta(description="What happened when.", max_length=64)] = []
    acks: Annotated[str, Meta(description="Acknowledgements of participants, such as 2/3.")] = ""
    scope: Annotated[str, Meta(description="Scope for people, such as '7 vols, 3 nodes'.")] = ""
    held: Annotated[str, Meta(description="Longest hold for people, such as 212ms.")] = ""
    message: Annotated[str, Meta(description="One sentence: what, why, what next, until when.")] = ""
    conditions: Annotated[
        list[Condition],
        Meta(
            description="Quiesced (everyone is still) and Complete (it is over).",
            max_length=32,
            extra_json_schema=keyed("type"),
        ),
    ] = []


class Quiescence(Wire, frozen=True, kw_only=True):
    """One going-still: short operations complete, long ones halt, then the mapping may change.

    The master makes one whenever it has to change a mapping; people may make one by hand. Every hold of I/O ends by
    itself at its deadline. Deleting a Quiescence releases it.
    """

    plural: ClassVar[str] = "quiescences"
    short_names: ClassVar[tuple[str, ...]] = ("qui",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Reason", ".spec.reason"),
        Column("Scope", ".status.scope"),
        Column("Phase", ".status.phase"),
        Column("Acks", ".status.acks"),
        Column("Held", ".status.held"),
        Column("Message", ".status.message"),
        Column("Volumes", ".status.volumes", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date", wide=True),
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (".spec.reason", ".status.phase")
    rules: ClassVar[tuple[Rule, ...]] = ()

    metadata: ObjectMeta = ObjectMeta()
    spec: QuiescenceSpec = QuiescenceSpec()
    status: QuiescenceStatus = QuiescenceStatus()
