"""The parameters of a StorageClass: one table, and what it makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

from millpond_core.errors import Invalid
from millpond_core.model.meta import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN, POOL_PATTERN
from millpond_core.model.virtualvolume import Layout, OnFailure, Placement, Rebuild
from millpond_core.units import parse_quantity
from millpond_csi.validation import FS_TYPES

Value = TypeVar("Value")


class Values(NamedTuple):
    """What a parameter can be, for people, and how its text is read: ValueError says what it must be."""

    told: str
    read: Callable[[str], Any]


class Parameter(NamedTuple):
    """One parameter, as docs/storageclass.md lists it."""

    values: Values
    default: str
    """Empty: none."""
    help: str
    mutable: tuple[str, ...] = ()
    """Where it stands in the volume's spec, of one that may change later (attributes.py); empty: it may not."""


@dataclass(frozen=True)
class VolumeClass:
    """What a StorageClass asks for."""

    layout: Layout
    placement: Placement
    rebuild: Rebuild
    on_failure: OnFailure
    leg_nodes_only: bool
    """``access: LegNodes``: pods run only where a leg lies."""
    fs_type: str
    """Empty: not said here."""
    claim: str
    """``namespace/name`` of the claim, empty when the provisioner does not tell."""


def _integer(low: int, high: int) -> Values:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return Values(f"{low} to {high}", read)


def _one_of(*values: str) -> Values:
    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be {' or '.join(values)}")
        return text

    return Values(", ".join(values), read)


def _matching(pattern: str, what: str) -> Values:
    def read(text: str) -> str:
        if len(text) > 317 or re.fullmatch(pattern, text) is None:
            raise ValueError(f"must be {what}")
        return text

    return Values(what, read)


def _stripe_size(text: str) -> int:
    size = parse_quantity(text)
    if not 4096 <= size <= 4194304 or size & (size - 1):
        raise ValueError("must be a power of two from 4Ki to 4Mi")
    return size


def _selector(text: str) -> dict[str, str]:
    selector = {}
    for term in filter(None, text.split(",")):
        key, _, value = term.partition("=")
        if not re.fullmatch(LABEL_KEY_PATTERN, key) or not re.fullmatch(LABEL_VALUE_PATTERN, value):
            raise ValueError("must be labels such as disk=fast,zone=a")
        selector[key] = value
    return selector


PARAMETERS: dict[str, Parameter] = {
    "pool": Parameter(_matching(POOL_PATTERN, "the name of a pool"), "default", "Devices of this pool alone."),
    "copies": Parameter(_integer(1, 4), "1", "Legs, each a full copy on a node of its own.", ("layout", "copies")),
    "stripes": Parameter(_integer(1, 16), "1", "Devices of one node that a leg is striped over."),
    "stripeSize": Parameter(Values("a power of two from 4Ki to 4Mi", _stripe_size), "64Ki", "Bytes in one stripe."),
    "access": Parameter(
        _one_of("Any", "LegNodes"), "Any", "Any: pods run on every node; LegNodes: only where a leg lies at first."
    ),
    "nodeSelector": Parameter(
        Values("labels such as disk=fast,zone=a", _selector), "", "Legs only on nodes with all of these labels."
    ),
    "spreadTopology": Parameter(
        _matching(LABEL_KEY_PATTERN, "the key of a node label"),
        "kubernetes.io/hostname",
        "No two legs share a value of this node label.",
    ),
    "holdSeconds": Parameter(
        _integer(0, 600),
        "10",
        "Seconds for which writes wait for an unreachable leg.",
        ("onFailure", "holdSeconds"),
    ),
    "gracePeriodSeconds": Parameter(
        _integer(0, 86400),
        "60",
        "Seconds for which a lost leg may come back before a spare replaces it.",
        ("onFailure", "gracePeriodSeconds"),
    ),
    "unrecorded": Parameter(
        _one_of("Hold", "Fail"),
        "Hold",
        "Whether writes wait while a loss cannot be recorded, or fail after a minute.",
        ("onFailure", "unrecorded"),
    ),
    "minInSync": Parameter(
        _integer(1, 4),
        "1",
        "Below so many legs in sync, reads and writes wait; not more than copies.",
        ("onFailure", "minInSync"),
    ),
    "maxRebuildRate": Parameter(
        _integer(0, 999_999_999),
        "0",
        "Ceiling of a rebuild in KiB/s; 0: the kernel's own.",
        ("rebuild", "maxRate"),
    ),
    "csi.storage.k8s.io/fstype": Parameter(_one_of(*FS_TYPES), "ext4", "Filesystem of volumes that are mounted."),
}

CLAIM_NAMESPACE = "csi.storage.k8s.io/pvc/namespace"
CLAIM_NAME = "csi.storage.k8s.io/pvc/name"
METADATA = frozenset({CLAIM_NAMESPACE, CLAIM_NAME, "csi.storage.k8s.io/pv/name"})
"""Added by the provisioner (``--extra-create-metadata``), not by people."""


def volume_class(parameters: Mapping[str, str]) -> VolumeClass:
    """What the parameters ask for; absent ones have the defaults of the VirtualVolume. Invalid names each fault."""
    unknown = sorted(parameters.keys() - PARAMETERS.keys() - METADATA)
    if unknown:
        raise Invalid(
            f"unknown StorageClass parameter {', '.join(repr(name[:63]) for name in unknown[:5])}; "
            f"known: {', '.join(PARAMETERS)}"
        )
    given = {name: read(name, text) for name, text in parameters.items() if name in PARAMETERS}

    def get(name: str, default: Value) -> Value:
        return cast(Value, given.get(name, default))

    layout, placement, on_failure = Layout(), Placement(), OnFailure()
    made = VolumeClass(
        layout=Layout(
            copies=get("copies", layout.copies),
            stripes=get("stripes", layout.stripes),
            stripe_size=get("stripeSize", layout.stripe_size),
        ),
        placement=Placement(
            pool=get("pool", placement.pool),
            node_selector=get("nodeSelector", placement.node_selector),
            spread_topology=get("spreadTopology", placement.spread_topology),
        ),
        rebuild=Rebuild(max_rate=get("maxRebuildRate", 0)),
        on_failure=OnFailure(
            hold_seconds=get("holdSeconds", on_failure.hold_seconds),
            grace_period_seconds=get("gracePeriodSeconds", on_failure.grace_period_seconds),
            unrecorded=get("unrecorded", on_failure.unrecorded),
            min_in_sync=get("minInSync", on_failure.min_in_sync),
        ),
        leg_nodes_only=get("access", "Any") == "LegNodes",
        fs_type=get("csi.storage.k8s.io/fstype", ""),
        claim=_claim(parameters),
    )
    if made.on_failure.min_in_sync > made.layout.copies:
        raise Invalid(
            f"parameter minInSync is {made.on_failure.min_in_sync}, copies only {made.layout.copies}: "
            "such a volume could never be written"
        )
    return made


def read(name: str, text: str, whose: str = "StorageClass") -> Any:
    """The value of a known parameter. Invalid names it and says what it may be."""
    try:
        return PARAMETERS[name].values.read(text)
    except ValueError as error:
        raise Invalid(f"{whose} parameter {name} is {text[:63]!r}: {error}") from error


def _claim(parameters: Mapping[str, str]) -> str:
    namespace, name = parameters.get(CLAIM_NAMESPACE, ""), parameters.get(CLAIM_NAME, "")
    return f"{namespace}/{name}" if namespace and name else ""
