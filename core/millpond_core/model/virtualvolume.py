"""VirtualVolume: a volume, its mapping onto extents, and what each node has made of that mapping."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import Column, Condition, ObjectMeta, Rule, Wire

UUID_PATTERN = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

VolumePhase = Literal["Pending", "Preparing", "Ready", "Degraded", "Faulted", "Deleting"]
LegState = Literal["InSync", "Rebuilding", "Stale", "Failed"]
GateMode = Literal["None", "Holding", "Failing"]
PathState = Literal["None", "Up", "Down"]
FrontState = Literal["None", "Active", "Suspended", "Fenced"]


# --- spec ------------------------------------------------------------------------------------------------------------


class Layout(Wire, frozen=True, kw_only=True):
    """How many copies, and how each is laid out over devices."""

    copies: Annotated[int, Meta(description="Legs, each a full copy on a node of its own.", ge=1, le=4)] = 1
    stripes: Annotated[
        int, Meta(description="Immutable. Devices of one node that a leg is striped over.", ge=1, le=16)
    ] = 1
    stripe_size: Annotated[
        int,
        Meta(description="Immutable. Bytes in one stripe; a power of two, 4 KiB to 4 MiB.", ge=4096, le=4194304),
    ] = 65536

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.stripes == oldSelf.stripes", "layout.stripes is immutable"),
        Rule("self.stripeSize == oldSelf.stripeSize", "layout.stripeSize is immutable"),
    )


class Placement(Wire, frozen=True, kw_only=True):
    """Where legs may lie."""

    pool: Annotated[
        str, Meta(description="Only devices of this pool.", pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    ] = "default"
    node_selector: Annotated[
        dict[str, str], Meta(description="Only nodes (StorageNodes) with all of these labels.")
    ] = {}
    spread_topology: Annotated[str, Meta(description="No two legs share a value of this node label.")] = (
        "kubernetes.io/hostname"
    )
    preferred_node: Annotated[str, Meta(description="A node that should get a leg when it can.")] = ""


class Rebuild(Wire, frozen=True, kw_only=True):
    max_rate: Annotated[int, Meta(description="Ceiling of a rebuild in KiB/s; 0: the kernel's own.", ge=0)] = 0


class Scrub(Wire, frozen=True, kw_only=True):
    schedule: Annotated[str, Meta(description="When to compare the legs (cron); empty: never.")] = ""


class OnFailure(Wire, frozen=True, kw_only=True):
    """What happens to I/O and to the mapping when a leg is lost."""

    hold_seconds: Annotated[
        int,
        Meta(
            description="Seconds for which writes to an unreachable leg wait for its return before the leg is recorded "
            "Stale. A leg whose device is reported Failed is not waited for.",
            ge=0,
            le=600,
        ),
    ] = 10
    grace_period_seconds: Annotated[
        int,
        Meta(
            description="Seconds for which a lost leg may return and catch up with a delta before a spare replaces it.",
            ge=0,
            le=86400,
        ),
    ] = 60
    unrecorded: Annotated[
        Literal["Hold", "Fail"],
        Meta(description="What writes do while the loss of a leg cannot be recorded."),
    ] = "Hold"
    min_in_sync: Annotated[int, Meta(description="Below this many legs in sync, I/O holds.", ge=1, le=4)] = 1


class DesiredAttachment(Wire, frozen=True, kw_only=True):
    node: Annotated[
        str, Meta(description="Node on which the volume is to be assembled; empty: nowhere.", max_length=253)
    ] = ""


class VirtualVolumeSpec(Wire, frozen=True, kw_only=True):
    """What people and the CSI driver want of the volume."""

    uuid: Annotated[str, Meta(description="Identity of the volume; immutable once set.", pattern=UUID_PATTERN)] = ""
    size: Annotated[
        str,
        Meta(
            description="Size as a Kubernetes quantity, such as 50Gi; rounded up to 4 MiB. May only grow.",
            max_length=32,
        ),
    ] = ""
    layout: Annotated[Layout, Meta(description="Copies and stripes.")] = Layout()
    placement: Annotated[Placement, Meta(description="Where legs may lie.")] = Placement()
    rebuild: Annotated[Rebuild, Meta(description="Limits of rebuilds.")] = Rebuild()
    scrub: Annotated[Scrub, Meta(description="Comparison of legs.")] = Scrub()
    on_failure: Annotated[OnFailure, Meta(description="What a failure does.")] = OnFailure()
    attachment: Annotated[DesiredAttachment, Meta(description="Where the volume is wanted.")] = DesiredAttachment()


# --- status: the mapping, written by the master (and a leg's state by the attach node) ------------------------------


class Extent(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A run of 4 MiB units on one device. Unit 0 is the first unit after the label area."""

    device: Annotated[str, Meta(description="Name of the StorageDevice.")]
    device_uuid: Annotated[str, Meta(description="Identity in that device's label.")]
    start: Annotated[int, Meta(description="First unit (4 MiB each).", ge=0)]
    length: Annotated[int, Meta(description="Number of units (4 MiB each).", ge=1)]


class Leg(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """One full copy: [1 MiB write-intent bitmap | data], concatenated or striped over its extents."""

    id: Annotated[str, Meta(description="Identity within the volume, never reused.", pattern="^[a-z]{1,4}$")]
    node: Annotated[str, Meta(description="Leg node: where the extents are.")]
    state: Annotated[LegState, Meta(description="What the record says: InSync, Rebuilding, Stale or Failed.")]
    complete: Annotated[bool, Meta(description="It held a full copy once: a delta may suffice.")] = False
    releasing: Annotated[
        bool, Meta(description="The leg's extents are being given back; it is part of the volume no more.")
    ] = False
    extents: Annotated[list[Extent], Meta(description="Where the bytes are, in order.", max_length=256)] = []


class Mapping(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """The record. Changed only by JSON Patch that tests what it replaces."""

    generation: Annotated[int, Meta(description="Counts the master's commits: which legs there are.", ge=0)] = 0
    record_seq: Annotated[int, Meta(description="Counts every change of a leg's state.", ge=0)] = 0
    legs: Annotated[list[Leg], Meta(description="The legs, by id.", max_length=8)] = []


class Attachment(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """Where the volume is assembled, and by which epoch."""

    node: Annotated[str, Meta(description="Attach node; empty: nowhere.")] = ""
    epoch: Annotated[int, Meta(description="Raised with each attach: one writer per epoch.", ge=0)] = 0
    clean: Annotated[bool, Meta(description="The last assembly was stopped with all legs equal.")] = True
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

    node: Annotated[str, Meta(description="The node.")]
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
    legs: Annotated[list[LegReport], Meta(description="Legs that lie on this node.")] = []
    paths: Annotated[list[PathReport], Meta(description="Legs as assembled here; on the attach node only.")] = []
    progress: Annotated[list[Progress], Meta(description="Long operations running here.")] = []
    longest_hold_ms: Annotated[
        int, Meta(description="Longest time a gate or a suspended front held I/O since attach, in ms.", ge=0)
    ] = 0
    message: Annotated[str, Meta(description="What this node waits for and why; empty: nothing.")] = ""


class ClaimRef(Wire, frozen=True, kw_only=True):
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
            description="Legs being prepared for the next generation, not part of the volume yet.",
            max_length=4,
        ),
    ] = []
    next_leg: Annotated[int, Meta(description="Legs ever allocated: ids are never reused.", ge=0)] = 0
    attachment: Annotated[Attachment, Meta(description="Where the volume is assembled.")] = Attachment()
    nodes: Annotated[list[NodeReport], Meta(description="What each node has made of it.", max_length=16)] = []
    claim_ref: Annotated[ClaimRef | None, Meta(description="The claim that this volume serves.")] = None
    message: Annotated[str, Meta(description="One sentence: what, why, what next, until when.")] = ""
    conditions: Annotated[list[Condition], Meta(description="Ready, Progressing, Degraded.")] = []


class VirtualVolume(Wire, frozen=True, kw_only=True):
    """A volume, as a mapping onto extents of storage devices."""

    plural: ClassVar[str] = "virtualvolumes"
    short_names: ClassVar[tuple[str, ...]] = ("vvol",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Claim", ".metadata.annotations.millpond\\.io/claim"),
        Column("Size", ".spec.size"),
        Column("Copies", ".status.copies"),
        Column("Phase", ".status.phase"),
        Column("Node", ".status.attachment.node"),
        Column("Gen", ".status.mapping.generation", "integer"),
        Column("Epoch", ".status.attachment.epoch", "integer", wide=True),
        Column("Message", ".status.message"),
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (".spec.attachment.node",)
    rules: ClassVar[tuple[Rule, ...]] = ()

    metadata: ObjectMeta = ObjectMeta()
    spec: VirtualVolumeSpec = VirtualVolumeSpec()
    status: VirtualVolumeStatus = VirtualVolumeStatus()
