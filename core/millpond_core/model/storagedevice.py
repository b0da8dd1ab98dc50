"""StorageDevice: a disk that people handed to Millpond."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import (
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

DevicePhase = Literal["Pending", "Online", "Failing", "Offline", "Failed", "Draining", "Drained", "Retired"]
DesiredState = Literal["InService", "Drained", "Retired"]
PresenceState = Literal["Unknown", "Absent", "Refused", "Claimed", "Failed"]
DiskWarning = Literal["SpareLow", "TooHot", "Unreliable", "ReadOnly", "BackupFailed", "MemoryUnreliable"]

DYING: frozenset[DiskWarning] = frozenset({"SpareLow", "Unreliable", "ReadOnly", "BackupFailed"})
"""Warnings after which nobody should rely on what lies on a disk."""


class Identity(Wire, frozen=True, kw_only=True):
    """Which disk is meant. Exactly one field is set."""

    path: (
        Annotated[
            str,
            Meta(
                description="A path under /dev/disk/by-id or /dev/disk/by-path.",
                # What udev leaves in a link's name, and never a way out of the folder.
                pattern=r"^/dev/disk/by-(id|path)/[A-Za-z0-9_][A-Za-z0-9#+.:=@_\\-]*$",
                max_length=255,
            ),
        ]
        | None
    ) = None
    serial: Annotated[str, Meta(description="The disk's serial number.", min_length=1, max_length=128)] | None = None
    wwn: Annotated[str, Meta(description="The disk's world wide name.", min_length=1, max_length=128)] | None = None
    device_uuid: (
        Annotated[
            str,
            Meta(
                description="The identity (UUID) in its Millpond label, once labelled.",
                pattern=UUID_PATTERN,
                max_length=36,
            ),
        ]
        | None
    ) = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.path), has(self.serial), has(self.wwn), has(self.deviceUuid)].filter(x, x).size() == 1",
            "spec.identity names the disk by exactly one of path, serial, wwn or deviceUuid",
        ),
    )


class StorageDeviceSpec(Wire, frozen=True, kw_only=True):
    """What people want of the disk."""

    node_name: Annotated[
        str,
        Meta(
            description="Immutable. Name of the node that has the disk.",
            min_length=1,
            max_length=253,
            pattern=NODE_PATTERN,
            extra_json_schema=REQUIRED,
        ),
    ] = ""
    identity: Annotated[
        Identity,
        Meta(description="Immutable. Which disk is meant: exactly one field is set.", extra_json_schema=REQUIRED),
    ] = Identity()
    pool: Annotated[
        str,
        Meta(
            description="Mutable. Pool that the device belongs to.",
            pattern=POOL_PATTERN,
        ),
    ] = "default"
    desired_state: Annotated[DesiredState, Meta(description="Mutable. InService, Drained (no legs) or Retired.")] = (
        "InService"
    )
    erase_signature: Annotated[
        str,
        Meta(
            description="Mutable. Allows erasing what is on the disk: must equal status.observation.fingerprint. "
            "Used once.",
            max_length=256,
        ),
    ] = ""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.nodeName == oldSelf.nodeName",
            "spec.nodeName is immutable: a disk that moved to another node is a new StorageDevice",
            ".nodeName",
        ),
        Rule(
            "self.identity == oldSelf.identity",
            "spec.identity is immutable: another disk is another StorageDevice",
            ".identity",
        ),
    )


class DeviceObservation(Wire, frozen=True, kw_only=True):
    """What the node's state manager sees of the disk; written by it alone."""

    state: Annotated[
        PresenceState,
        Meta(
            description="Absent; Refused (see message); Claimed (labelled, usable); Failed (was claimed, now gone or "
            "erring)."
        ),
    ] = "Unknown"
    device_uuid: Annotated[str, Meta(description="Identity in the label.")] = ""
    attach_count: Annotated[
        int,
        Meta(
            description="How often this disk was seen to appear: a change means that its cache may be lost.",
            ge=0,
        ),
    ] = 0
    boot_id: Annotated[str, Meta(description="Boot id of the node when this was seen.")] = ""
    path: Annotated[str, Meta(description="Where it is now.")] = ""
    serial: Annotated[str, Meta(description="Serial number.")] = ""
    capacity_bytes: Annotated[
        int, Meta(description="Bytes for extents: the disk less its label area, in whole 4 MiB units.", ge=0)
    ] = 0
    contents: Annotated[list[str], Meta(description="Signatures or holders found on it.")] = []
    fingerprint: Annotated[str, Meta(description="Copy it to spec.eraseSignature to allow erasing what is on it.")] = ""
    warnings: Annotated[
        list[DiskWarning],
        Meta(
            description="What the disk says of its own health (NVMe: critical warning), where it has a way to. "
            "SpareLow: few spare blocks are left. Unreliable: media or internal errors. ReadOnly: it takes no more "
            "writes. BackupFailed: its cache may be lost with the power. With any of these it is Failing. TooHot and "
            "MemoryUnreliable are told, no more."
        ),
    ] = []
    since: Annotated[str, Meta(description="When state last changed (RFC 3339, microseconds).")] = ""
    message: Annotated[str, Meta(description="One sentence: what, why, what next.")] = ""


class StorageDeviceStatus(Wire, frozen=True, kw_only=True):
    """Observation by the node, judgement by the master."""

    observed_generation: Annotated[int, Meta(description="metadata.generation last acted on.", ge=0)] = 0
    observation: Annotated[DeviceObservation, Meta(description="What the node sees; written by its state manager.")] = (
        DeviceObservation()
    )
    phase: Annotated[DevicePhase, Meta(description="Where the device stands in its life; written by the master.")] = (
        "Pending"
    )
    size: Annotated[str, Meta(description="Capacity for people, such as 1.8Ti.")] = ""
    free: Annotated[str, Meta(description="Free capacity for people; '-' when it cannot be used.")] = ""
    allocated_bytes: Annotated[int, Meta(description="Bytes of extents in use or being released.", ge=0)] = 0
    free_bytes: Annotated[int, Meta(description="Bytes that can be allocated.", ge=0)] = 0
    legs: Annotated[int, Meta(description="Number of legs with an extent here.", ge=0)] = 0
    message: Annotated[str, Meta(description="One sentence: what, why, what next, until when.")] = ""
    conditions: Annotated[
        list[Condition],
        Meta(
            description="Ready (Online and usable), Degraded (legs on it lack a copy) and others.",
            max_length=32,
            extra_json_schema=keyed("type"),
        ),
    ] = []


class StorageDevice(Wire, frozen=True, kw_only=True):
    """A disk that people handed to Millpond.

    The spec says which disk of which node, and for what. A mounted or busy disk is refused always; one with foreign
    data is refused until eraseSignature names exactly what is on it. Deleting a StorageDevice drains it first.
    """

    plural: ClassVar[str] = "storagedevices"
    short_names: ClassVar[tuple[str, ...]] = ("sdev",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Node", ".spec.nodeName"),
        Column("Pool", ".spec.pool"),
        Column("Phase", ".status.phase"),
        Column("Size", ".status.size"),
        Column("Free", ".status.free"),
        Column("Legs", ".status.legs", "integer"),
        Column("Message", ".status.message"),
        Column("Seen", ".status.observation.state", wide=True),
        Column("Serial", ".status.observation.serial", wide=True),
        Column("UUID", ".status.observation.deviceUuid", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date", wide=True),
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (".spec.nodeName", ".spec.pool", ".status.phase")
    rules: ClassVar[tuple[Rule, ...]] = ()

    metadata: ObjectMeta = ObjectMeta()
    spec: StorageDeviceSpec = StorageDeviceSpec()
    status: StorageDeviceStatus = StorageDeviceStatus()

    def dying(self) -> list[DiskWarning]:
        """Warnings of its disk for which it is to be emptied."""
        return [warning for warning in self.status.observation.warnings if warning in DYING]
