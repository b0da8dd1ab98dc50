"""VirtualVolume: a volume, its mapping onto extents, and what each node has made of that mapping."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import (
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    NODE_PATTERN,
    POOL_PATTERN,
    REQUIRED,
    UUID_PATTERN,
    Column,
    Condition,
    ObjectMeta,
    Rule,
    Wire,
    keyed,
)

MIN_SIZE = "4Mi"
MAX_SIZE = "256Ti"
SIZE_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$"
CRON_PATTERN = r"^(|@(hourly|daily|weekly|monthly)|[0-9A-Za-z*,/-]+( +[0-9A-Za-z*,/-]+){4})$"

VolumePhase = Literal["Pending", "Preparing", "Ready", "Degraded", "Faulted", "Deleting"]
LegState = Literal["InSync", "Rebuilding", "Stale", "Failed"]
GateMode = Literal["None", "Holding", "Failing"]
PathState = Literal["None", "Up", "Down"]
FrontState = Literal["None", "Active", "Suspended", "Fenced"]


# --- spec ------------------------------------------------------------------------------------------------------------


class Layout(Wire, frozen=True, kw_only=True):
    """How many copies, and how each is laid out over devices."""

    copies: Annotated[int, Meta(description="Mutable. Legs, each a full copy on a node of its own.", ge=1, le=4)] = 1
    stripes: Annotated[
        int, Meta(description="Immutable. Devices of one node that a leg is striped over.", ge=1, le=16)
    ] = 1
    stripe_size: Annotated[
        int,
        Meta(description="Immutable. Bytes in one stripe; a power of two, 4 KiB to 4 MiB.", ge=4096, le=4194304),
    ] = 65536

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.stripeSize in {[2**n for n in range(12, 23)]}",
            "spec.layout.stripeSize must be a power of two from 4096 (4 KiB) to 4194304 (4 MiB), such as 65536",
            ".stripeSize",
        ),
        Rule(
            "self.stripes == oldSelf.stripes",
            "spec.layout.stripes is immutable: it says where every byte lies",
            ".stripes",
        ),
        Rule(
            "self.stripeSize == oldSelf.stripeSize",
            "spec.layout.stripeSize is immutable: it says where every byte lies",
            ".stripeSize",
        ),
    )


class Placement(Wire, frozen=True, kw_only=True):
    """Where legs may lie."""

    pool: Annotated[
        str, Meta(description="Mutable. Only devices of this pool.", pattern=POOL_PATTERN, max_length=63)
    ] = "default"
    node_selector: Annotated[
        dict[str, Annotated[str, Meta(pattern=LABEL_VALUE_PATTERN, max_length=63)]],
        Meta(description="Mutable. Only nodes (StorageNodes) with all of these labels.", max_length=16),
    ] = {}
    spread_topology: Annotated[
        str,
        Meta(
            description="Mutable. No two legs share a value of this node label.",
            pattern=LABEL_KEY_PATTERN,
            max_length=317,
        ),
    ] = "kubernetes.io/hostname"
    preferred_node: Annotated[
        str,
        Meta(
            description="Mutable. A node that should get a leg when it can; empty: none.",
            pattern=NODE_PATTERN,
            max_length=253,
        ),
    ] = ""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.nodeSelector.all(key, key.size() < 318 && key.matches('{LABEL_KEY_PATTERN}'))",
            "spec.placement.nodeSelector has a key that no label can have: write [prefix/]name",
            ".nodeSelector",
        ),
    )


class Rebuild(Wire, frozen=True, kw_only=True):
    """Limits of rebuilds."""

    max_rate: Annotated[int, Meta(description="Mutable. Ceiling of a rebuild in KiB/s; 0: the kernel's own.", ge=0)] = 0


class Scrub(Wire, frozen=True, kw_only=True):
    """Regular comparison of the legs."""

    schedule: Annotated[
        str,
        Meta(
            description="Mutable. When to compare the legs: five cron fields or @daily and the like; empty: never.",
            pattern=CRON_PATTERN,
            max_length=64,
        ),
    ] = ""


class OnFailure(Wire, frozen=True, kw_only=True):
    """What happens to I/O and to the mapping when a leg is lost."""

    hold_seconds: Annotated[
        int,
        Meta(
            description="Mutable. Seconds for which writes to an unreachable leg wait for its return before the leg is "
            "recorded Stale. A leg whose device is reported Failed is not waited for.",
            ge=0,
            le=600,
        ),
    ] = 10
    grace_period_seconds: Annotated[
        int,
        Meta(
            description="Mutable. Seconds for which a lost leg may return and catch up with a delta before a spare "
            "replaces it.",
            ge=0,
            le=86400,
        ),
    ] = 60
    unrecorded: Annotated[
        Literal["Hold", "Fail"],
        Meta(description="Mutable. What writes do while the loss of a leg cannot be recorded."),
    ] = "Hold"
    min_in_sync: Annotated[int, Meta(description="Mutable. Below this many legs in sync, I/O holds.", ge=1, le=4)] = 1


class DesiredAttachment(Wire, frozen=True, kw_only=True):
    """Where the volume is wanted."""

    node: Annotated[
        str,
        Meta(
            description="Mutable. Node on which the volume is to be assembled; empty: nowhere. From one node to "
            "another only through empty.",
            pattern=NODE_PATTERN,
            max_length=253,
        ),
    ] = ""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.node == oldSelf.node || self.node == '' || oldSelf.node == ''",
            "spec.attachment.node names another node already: empty it first and wait until the volume is detached",
            ".node",
        ),
    )


class VirtualVolumeSpec(Wire, frozen=True, kw_only=True):
    """What people and the CSI driver want of the volume."""

    uuid: Annotated[
        str,
        Meta(
            description="Identity of the volume (UUID), in every name that it has on nodes. Immutable once set.",
            pattern=UUID_PATTERN,
            max_length=36,
        ),
    ] = ""
    size: Annotated[
        str,
        Meta(
            description=f"Usable size in bytes as a Kubernetes quantity, such as 50Gi; {MIN_SIZE} to {MAX_SIZE}, "
            "rounded up to 4 MiB. May only grow.",
            pattern=SIZE_PATTERN,
            max_length=32,
            extra_json_schema=REQUIRED,
        ),
    ] = ""
    layout: Annotated[Layout, Meta(description="Copies and stripes.")] = Layout()
    placement: Annotated[Placement, Meta(description="Where legs may lie.")] = Placement()
    rebuild: Annotated[Rebuild, Meta(description="Limits of rebuilds.")] = Rebuild()
    scrub: Annotated[Scrub, Meta(description="Regular comparison of the legs.")] = Scrub()
    on_failure: Annotated[OnFailure, Meta(description="What a failure does to I/O and to the mapping.")] = OnFailure()
    attachment: Annotated[DesiredAttachment, Meta(description="Where the volume is wanted.")] = DesiredAttachment()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(oldSelf.uuid) || (has(self.uuid) && self.uuid == oldSelf.uuid)",
            "spec.uuid is immutable once set: it is the volume's identity on every disk",
            ".uuid",
        ),
        Rule(
            f"!isQuantity(self.size) || (quantity(self.size).compareTo(quantity('{MIN_SIZE}')) >= 0"
            f" && quantity(self.size).compareTo(quantity('{MAX_SIZE}')) <= 0)",
            f"spec.size must be from {MIN_SIZE} to {MAX_SIZE}, such as 50Gi",
            ".size",
        ),
        Rule(
            "!isQuantity(self.size) || !isQuantity(oldSelf.size)"
            " || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
            "spec.size may only grow: what a smaller volume would cut off may be in use",
            ".size",
        ),
        Rule(
            "self.onFailure.minInSync <= self.layout.copies",
            "spec.onFailure.minInSync must not exceed spec.layout.copies: I/O would never start",
            ".onFailure.minInSync",
        ),
    )


# --- status: the mapping, written by the master (and a leg's state by the attach node) ------------------------------


class Extent(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A run of 4 MiB units on one device. Unit 0 is the first unit after the label area."""

    device: Annotated[str, Meta(description="Name of the StorageDevice.", max_length=253)]
    device_uuid: Annotated[str, Meta(description="Identity (UUID) in that device's label.", max_length=36)]
    start: Annotated[int, Meta(description="First unit (4 MiB each).", ge=0)]
    length: Annotated[int, Meta(description="Number of units (4 MiB each).", ge=1)]


class Leg(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """One full copy: [1 MiB write-intent bitmap | data], concatenated or striped over its extents."""

    id: Annotated[
        str, Meta(description="Identity within the volume, never reused.", pattern="^[a-z]{1,4}$", max_length=4)
    ]
    node: Annotated[str, Meta(description="Leg node: where the extents are.", max_length=253)]
    state: Annotated[LegState, Meta(description="What the record says: InSync, Rebuilding, Stale or Failed.")]
    complete: Annotated[bool, Meta(description="It held a full copy once: a delta may suffice.")] = False
    releasing: Annotated[
        bool, Meta(description="The leg's extents are being given back; it is part of the volume no more.")
    ] = False
    extents: Annotated[list[Extent], Meta(description="Where the bytes are, in order.", max_length=256)] = []

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.state != 'InSync' || !(oldSelf.state in ['Stale', 'Failed'])",
            "a leg that is Stale or Failed lacks writes: it becomes InSync through Rebuilding only",
            ".state",
        ),
        Rule(
            "self.node == oldSelf.node",
            "a leg's node is immutable: a copy elsewhere is another leg",
            ".node",
        ),
        Rule(
            "self.releasing || !oldSelf.releasing",
            "a leg's releasing cannot be taken back: its extents may hold others' data already",
            ".releasing",
        ),
        Rule(
            "self.extents.size() >= oldSelf.extents.size()",
            "a leg's extents only grow: give them back by releasing the leg",
            ".extents",
        ),
    )


class Mapping(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """The record. Changed only by JSON Patch that tests what it replaces."""

    generation: Annotated[int, Meta(description="Counts the master's commits: which legs there are.", ge=0)] = 0
    record_seq: Annotated[int, Meta(description="Counts every change of a leg's state.", ge=0)] = 0
    legs: Annotated[list[Leg], Meta(description="The legs, by id.", max_length=8, extra_json_schema=keyed("id"))] = []

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.generation >= oldSelf.generation",
            "status.mapping.generation never falls: what is written comes from an outdated record, read it again",
            ".generation",
        ),
        Rule(
            "self.recordSeq >= oldSelf.recordSeq",
            "status.mapping.recordSeq never falls: what is written comes from an outdated record, read it again",
            ".recordSeq",
        ),
        Rule(
            "self.recordSeq > oldSelf.recordSeq || self == oldSelf",
            "status.mapping.recordSeq must rise with every change of the mapping",
            ".recordSeq",
        ),
        Rule(
            "oldSelf.generation == 0 || self.legs.all(l, l.state == 'Rebuilding' || "
            "oldSelf.legs.exists(o, o.id == l.id))",
            "status.mapping.legs: a leg that joins after the first mapping holds nothing yet, it starts as Rebuilding",
            ".legs",
        ),
    )


class Attachment(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """Where the volume is assembled, and by which epoch."""

    node: Annotated[str, Meta(description="Attach node; empty: nowhere.", max_length=253)] = ""
    epoch: Annotated[int, Meta(description="Raised with each attach: one writer per epoch.", ge=0)] = 0
    clean: Annotated[bool, Meta(description="The last assembly was stopped with all legs equal.")] = True

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.epoch >= oldSelf.epoch",
            "status.attachment.epoch never falls: what is written comes from an outdated record, read it again",
            ".epoch",
        ),
        Rule(
            "self.node == oldSelf.node || self.node == '' || self.epoch > oldSelf.epoch",
            "status.attachment.epoch must rise with each attach: one writer per epoch",
            ".epoch",
        ),
        Rule(
            "self.node == '' || !self.clean",
            "status.attachment.clean must be false while a node is named: writes may be in flight",
            ".clean",
        ),
    )
    boot_id: Annotated[
        str,
        Meta(
            description="Boot of the attach node in which this epoch may be assembled: after a reboot the legs may "
            "differ, and the master raises the epoch and names a source first. Empty: any."
        ),
    ] = ""


# --- status: what each node reports, one entry a node ----------------------------------------------------------------


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
    released: Annotated[bool, Meta(description="Export, mapping and label entry are gone.")] = False
    message: Annotated[str, Meta(description="Why it is not prepared or exported.")] = ""


class PathReport(Wire, frozen=True, kw_only=True):
    """A leg as the attach node sees it."""

    id: Annotated[str, Meta(description="The leg.")]
    gate: Annotated[GateMode, Meta(description="None, Holding or Failing.")] = "None"
    path: Annotated[PathState, Meta(description="None, Up or Down.")] = "None"
    member: Annotated[
        str,
        Meta(description="What md says: InSync, Rebuilding, Faulty, or None when it is not in the array."),
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
    front: Annotated[FrontState, Meta(description="What pods use: None, Active, Suspended or Fenced.")] = "None"
    device: Annotated[str, Meta(description="Path of the front's device node.")] = ""
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
    longest_hold_ms: Annotated[
        int, Meta(description="Longest time a gate or a suspended front held I/O since attach, in ms.", ge=0)
    ] = 0
    message: Annotated[str, Meta(description="What this node waits for and why; empty: nothing.")] = ""


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
        Column("UUID", ".spec.uuid", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date", wide=True),
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (
        ".spec.attachment.node",
        ".status.attachment.node",
        ".status.phase",
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    metadata: ObjectMeta = ObjectMeta()
    spec: VirtualVolumeSpec = VirtualVolumeSpec()
    status: VirtualVolumeStatus = VirtualVolumeStatus()
