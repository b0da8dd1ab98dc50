"""What people and the CSI driver want of a volume."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import (
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    NODE_PATTERN,
    POOL_PATTERN,
    REQUIRED,
    UNIQUE,
    UUID_PATTERN,
    Rule,
    Wire,
)

MIN_SIZE = "4Mi"
MAX_SIZE = "256Ti"
SIZE_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$"
CRON_PATTERN = r"^(|@(hourly|daily|weekly|monthly)|[0-9A-Za-z*,/-]+( +[0-9A-Za-z*,/-]+){4})$"

LegId = Annotated[str, Meta(pattern="^[a-z]{1,4}$", max_length=4)]
"""Of a leg within its volume; never given again."""


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
    moving: Annotated[
        list[LegId],
        Meta(
            description="Mutable. Legs that are to leave their devices for where there is most room: each is given up "
            "only once another copy is in sync. One that has left already is of no account.",
            max_length=8,
            extra_json_schema=UNIQUE,
        ),
    ] = []

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
            description="Mutable. When to compare the legs, in UTC: five cron fields or @daily and the like; empty: "
            "never.",
            pattern=CRON_PATTERN,
            max_length=64,
        ),
    ] = ""
    requested_at: Annotated[
        str | None,
        Meta(
            description="Mutable. Compare the legs once, at this time (RFC 3339) or as soon as possible after it.",
            extra_json_schema={"format": "date-time"},
        ),
    ] = None
    distrusted: Annotated[
        list[LegId],
        Meta(
            description="Mutable. Legs that differ and are not the right ones, as a person has found: each is given up "
            "and a new one is copied from the others.",
            max_length=8,
            extra_json_schema=UNIQUE,
        ),
    ] = []
    max_rate: Annotated[
        int, Meta(description="Mutable. Ceiling of a comparison in KiB/s; 0: whatever reads and writes leave.", ge=0)
    ] = 0


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
        Meta(
            description="Mutable. What writes do while the loss of a leg cannot be recorded because the API server is "
            "away. Hold: they wait for it. Fail: after a minute reads and writes fail, processes that wait for one are "
            "killed, and the volume comes up anew once the API server is back. Neither acknowledges anything meanwhile."
        ),
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
            "rounded up to 4 MiB. May grow at any time; what the volume has got is never taken away.",
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
            "self.onFailure.minInSync <= self.layout.copies",
            "spec.onFailure.minInSync must not exceed spec.layout.copies: I/O would never start",
            ".onFailure.minInSync",
        ),
    )
