"""StorageNode: one node that holds legs or attaches volumes, as its state manager reports it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import Column, Condition, ObjectMeta, Rule, Wire, keyed

DiskState = Literal["Empty", "Foreign", "InUse", "Millpond"]
Intent = Literal["None", "Reboot", "Replace", "Retire", "Shutdown"]
NodeQuiescencePhase = Literal["Draining", "Quiesced", "Applied", "Released", "Expired", "Refused"]


class Maintenance(Wire, frozen=True, kw_only=True):
    """What people are about to do with the node."""

    intent: Annotated[
        Intent,
        Meta(
            description="Mutable. Reboot: the node is away and comes back with its disks, its legs are waited for. "
            "Replace: it does not come back with them, its legs move off first. Retire: the same, and the StorageNode "
            "is deleted once it is silent and has no StorageDevice. Shutdown: every node is switched off and comes "
            "back; no pod is started here and no volume attached before. No leg is placed here with any of them."
        ),
    ] = "None"
    until: Annotated[
        str | None,
        Meta(
            description="Mutable. When the node is back from a Reboot (RFC 3339): no spare takes the place of a leg of "
            "it before. The grace period of each volume begins then.",
            extra_json_schema={"format": "date-time"},
        ),
    ] = None
    boot_id: Annotated[
        str,
        Meta(description="Mutable. What a Shutdown ends: status.bootId. It is over once that is another one."),
    ] = ""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.intent != 'Shutdown' || (has(self.bootId) && self.bootId != '')",
            "spec.maintenance.bootId says which boot a Shutdown ends: copy it from status.bootId",
            ".bootId",
        ),
        Rule(
            "self.intent != 'Reboot' || has(self.until)",
            "spec.maintenance.until says when the node is back from a Reboot: its legs are waited for until then",
            ".until",
        ),
    )


class StorageNodeSpec(Wire, frozen=True, kw_only=True):
    """What people want of the node."""

    unschedulable: Annotated[bool, Meta(description="Mutable. No new leg is placed here while true.")] = False
    maintenance: Annotated[Maintenance, Meta(description="Mutable. Planned work on the node.")] = Maintenance()


class Disk(Wire, frozen=True, kw_only=True):
    """A whole disk of the node that no StorageDevice has claimed."""

    path: Annotated[str, Meta(description="Stable path, /dev/disk/by-id/… where there is one.")]
    serial: Annotated[str, Meta(description="The disk's serial number; empty when it has none.")] = ""
    wwn: Annotated[str, Meta(description="World wide name (NAA, EUI or NVMe uuid); empty when it has none.")] = ""
    model: Annotated[str, Meta(description="The vendor's name of the model.")] = ""
    size_bytes: Annotated[int, Meta(description="Size in bytes.", ge=0)] = 0
    size: Annotated[str, Meta(description="Size for people, such as 1.8Ti.")] = ""
    state: Annotated[DiskState, Meta(description="Empty; Foreign (holds signatures); InUse; Millpond (labelled).")]
    contents: Annotated[
        list[str],
        Meta(description="What was found on it or what holds it, such as 'ext4' or 'mounted on /'."),
    ] = []
    fingerprint: Annotated[
        str,
        Meta(description="To allow erasing, copy this to eraseSignature of the StorageDevice; empty when not needed."),
    ] = ""


class NodeQuiescence(Wire, frozen=True, kw_only=True):
    """This node's answer to one Quiescence."""

    uid: Annotated[str, Meta(description="metadata.uid of the Quiescence.")]
    name: Annotated[str, Meta(description="Its name.")]
    phase: Annotated[NodeQuiescencePhase, Meta(description="How far this node is.")]
    held_volumes: Annotated[list[str], Meta(description="Volumes whose I/O this node holds for it.")] = []
    halted_operations: Annotated[
        list[str], Meta(description="Long operations halted, as volume/leg@checkpoint sectors.")
    ] = []
    instructed_at: Annotated[str, Meta(description="When the instruction was seen (RFC 3339, microseconds).")] = ""
    acknowledged_at: Annotated[str, Meta(description="When this node had become still (RFC 3339).")] = ""
    applied_at: Annotated[str, Meta(description="When the new generation was in force here (RFC 3339).")] = ""
    hold_remaining_ms: Annotated[
        int, Meta(description="Milliseconds left of the I/O hold when acknowledged; 0: no I/O is held.", ge=0)
    ] = 0
    held_ms: Annotated[int, Meta(description="Longest time any front was suspended for it, in ms.", ge=0)] = 0
    message: Annotated[str, Meta(description="One sentence: what, why, what next.")] = ""


class StorageNodeStatus(Wire, frozen=True, kw_only=True):
    """What the node's state manager reports; phase and verdicts are the master's."""

    observed_generation: Annotated[int, Meta(description="metadata.generation last acted on.", ge=0)] = 0
    api_level: Annotated[int, Meta(description="Level of the record that this state manager understands.", ge=0)] = 0
    version: Annotated[str, Meta(description="Version of the state manager.")] = ""
    addresses: Annotated[list[str], Meta(description="IP addresses on which legs are exported.")] = []
    host_nqn: Annotated[str, Meta(description="NVMe qualified name under which this node connects.")] = ""
    host_id: Annotated[str, Meta(description="NVMe host identifier (UUID) that belongs to hostNqn.")] = ""
    connected: Annotated[
        list[str],
        Meta(description="IP addresses that are connected to what is exported here: a witness that those nodes run."),
    ] = []
    boot_id: Annotated[str, Meta(description="The kernel's boot id: a new one means that caches were lost.")] = ""
    kernel: Annotated[str, Meta(description="Kernel release.")] = ""
    features: Annotated[dict[str, str], Meta(description="Kernel features probed: name to 'yes' or why not.")] = {}
    unclaimed_disks: Annotated[list[Disk], Meta(description="Disks that no StorageDevice names.", max_length=256)] = []
    disks: Annotated[str, Meta(description="Summary of disks: claimed and unclaimed.")] = ""
    orphaned_legs: Annotated[
        list[str],
        Meta(description="Legs found on labels that no mapping knows: kept, as volumeUuid/leg on device."),
    ] = []
    quiescences: Annotated[
        list[NodeQuiescence],
        Meta(description="Answers to instructions, by uid.", max_length=256, extra_json_schema=keyed("uid")),
    ] = []
    leaked_holds: Annotated[
        int,
        Meta(description="Holds of I/O that lasted long beyond their deadline since the node booted: none may.", ge=0),
    ] = 0
    restarting_until: Annotated[
        str | None,
        Meta(description="The state manager stopped on purpose and will be back by then (RFC 3339)."),
    ] = None
    shutting_down: Annotated[
        bool, Meta(description="The node is shutting down in this boot: its volumes leave, none is attached to it.")
    ] = False
    phase: Annotated[str, Meta(description="Ready, StateManagerDown or Failed; judged by the master.")] = ""
    message: Annotated[str, Meta(description="One sentence: what, why, what next, until when.")] = ""
    conditions: Annotated[
        list[Condition],
        Meta(
            description="Ready (the state manager works), NodeFailed and StateManagerDown (the master's verdicts), "
            "MaintenanceReady (while there is an intent: whether it may be taken away now).",
            max_length=32,
            extra_json_schema=keyed("type"),
        ),
    ] = []


class StorageNode(Wire, frozen=True, kw_only=True):
    """A node that stores legs or attaches volumes.

    Made by the node's state manager under the Kubernetes node's name. The spec is people's: what may happen on the
    node. The status is the state manager's: its disks, its addresses and its answers to quiescences.
    """

    plural: ClassVar[str] = "storagenodes"
    short_names: ClassVar[tuple[str, ...]] = ("snode",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Phase", ".status.phase"),
        Column("Disks", ".status.disks"),
        Column("Kernel", ".status.kernel"),
        Column("Message", ".status.message"),
        Column("Maintenance", ".spec.maintenance.intent", wide=True),
        Column("Version", ".status.version", wide=True),
        Column("Addresses", ".status.addresses", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date", wide=True),
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (".status.phase",)
    rules: ClassVar[tuple[Rule, ...]] = ()

    metadata: ObjectMeta = ObjectMeta()
    spec: StorageNodeSpec = StorageNodeSpec()
    status: StorageNodeStatus = StorageNodeStatus()

    def intent(self) -> Intent:
        """What people are about to do with it; a Shutdown is over once it has booted anew."""
        work, boot_id = self.spec.maintenance, self.status.boot_id
        return "None" if work.intent == "Shutdown" and boot_id not in ("", work.boot_id) else work.intent
