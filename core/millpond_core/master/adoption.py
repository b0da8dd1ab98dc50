"""Disks that are handed over: under which name, by the surest thing that tells them from others; and by a policy.

Millpond touches no disk that nobody has handed over. A policy hands over in advance: what is empty (no signature, no
label, held by nothing) and fits. Everything else stays with people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from millpond_core.errors import Invalid
from millpond_core.master.steps import Act, Create, Notice
from millpond_core.model import ObjectMeta, StorageDevice, StorageNode
from millpond_core.model.meta import Wire
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.storagenode import Disk
from millpond_core.units import parse_quantity

NAME_CHARACTERS = 200


class Policy(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which disks are taken into which pool (the chart's ``adoption``)."""

    pool: str = "default"
    node_selector: Mapping[str, str] = {}
    """Labels that the node has; empty: any node."""
    model: Annotated[str, Meta(max_length=128)] = ""
    """A part of the disk's model; empty: any."""
    min_size: str = "0"
    """A Kubernetes quantity of bytes."""

    def fits(self, node: StorageNode, disk: Disk) -> bool:
        """Whether it says anything of the disk."""
        labels = node.metadata.labels
        there = all(labels.get(key) == value for key, value in self.node_selector.items())
        return there and self.model in disk.model and disk.size_bytes >= parse_quantity(self.min_size)


def policies(text: str) -> tuple[Policy, ...]:
    """From JSON; empty: none. Raises Invalid."""
    try:
        found = msgspec.json.decode(text or "[]", type=tuple[Policy, ...])
        for policy in found:
            parse_quantity(policy.min_size)
    except (msgspec.DecodeError, ValueError) as error:
        raise Invalid(f"ADOPTION is no list of policies: {error}") from None
    return found


def next_disk(policies: Sequence[Policy], node: StorageNode, known: Mapping[str, StorageDevice]) -> Act | None:
    """Hand the next empty disk of a node over that a policy wants, the first that fits; None: there is none."""
    if not policies or node.spec.maintenance.intent != "None" or node.metadata.deletion_timestamp:
        return None
    there = node.status.unclaimed_disks
    for disk in there:
        pool = next((policy.pool for policy in policies if policy.fits(node, disk)), None)
        if disk.state != "Empty" or pool is None:
            continue
        made = device(node.metadata.name, disk, [other for other in there if other is not disk], pool=pool)
        if made.metadata.name not in known:
            what = f"{disk.path} ({disk.size}), empty, into pool {pool}, by the policy of the chart"
            return Act(Create(made), f"{made.metadata.name}: {what}", (Notice("DiskAdopted", what),))
    return None


def device(node: str, disk: Disk, others: Iterable[Disk], *, pool: str, erase: bool = False) -> StorageDevice:
    """The StorageDevice that names a disk by the surest thing that tells it from the ``others`` of its node."""
    others = list(others)
    if disk.serial and disk.serial not in {other.serial for other in others}:
        identity, mark = Identity(serial=disk.serial), disk.serial
    elif disk.wwn and disk.wwn not in {other.wwn for other in others}:
        identity, mark = Identity(wwn=disk.wwn), disk.wwn
    else:
        identity, mark = Identity(path=disk.path), disk.path.rpartition("/")[2]
    short = re.sub(r"[^a-z0-9]+", "-", mark.lower()).strip("-")[:NAME_CHARACTERS]
    name = short if short.startswith(f"{node}-") else f"{node}-{short}"
    fingerprint = disk.fingerprint if erase and disk.state == "Foreign" else ""
    spec = StorageDeviceSpec(node_name=node, identity=identity, pool=pool, erase_signature=fingerprint)
    return StorageDevice(metadata=ObjectMeta(name=name), spec=spec)
