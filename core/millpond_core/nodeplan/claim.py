"""How a disk becomes a device: found by its identity, refused with a reason, labelled, lost, found again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from millpond_core import names
from millpond_core.model.storagedevice import Identity, PresenceState, StorageDevice
from millpond_core.model.storagenode import Disk, DiskState
from millpond_core.observed import BlockDisk, Label
from millpond_core.units import LABEL_BYTES, UNIT_BYTES, format_bytes

Action = Literal["None", "Erase", "Label", "Adopt", "Appear"]


class DiskSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One disk of the node with what lies on it."""

    disk: BlockDisk
    label: Label | None = None
    damaged: str = ""
    """Why its label cannot be read; empty: there is none, or it can."""
    signatures: tuple[str, ...] = ()
    alive: bool = True
    """It answers."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a StorageDevice comes to."""

    state: PresenceState
    seen: DiskSeen | None = None
    action: Action = "None"
    """What has to be done before ``state`` is true: Erase (then look again), Label (write a new one), Adopt (put this
    device's name and this cluster into the label), Appear (raise the attach count)."""
    message: str = ""
    contents: tuple[str, ...] = ()
    fingerprint: str = ""


def fingerprint(disk: BlockDisk, signatures: Iterable[str]) -> str:
    """Names this disk and what is on it: copied to ``eraseSignature``, it allows erasing just that.

    Empty when the disk has no identity of its own (no serial, no wwn): such a disk is never erased.
    """
    if not (disk.serial or disk.wwn):
        return ""
    text = "\n".join((disk.serial, disk.wwn, str(disk.size_bytes), *sorted(signatures)))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def capacity_bytes(disk: BlockDisk) -> int:
    """Bytes for extents: the disk less its label area, in whole units."""
    return max(0, (disk.size_bytes - LABEL_BYTES) // UNIT_BYTES * UNIT_BYTES)


def match(identity: Identity, disks: Iterable[DiskSeen]) -> list[DiskSeen]:
    """The disks that an identity means."""
    found = []
    for seen in disks:
        disk, label = seen.disk, seen.label
        if identity.path is not None:
            hit = identity.path == disk.path or identity.path in disk.links
        elif identity.serial is not None:
            hit = identity.serial == disk.serial
        elif identity.wwn is not None:
            hit = identity.wwn == disk.wwn
        else:
            hit = label is not None and label.device_uuid == identity.device_uuid
        if hit:
            found.append(seen)
    return found


def decide(device: StorageDevice, disks: Sequence[DiskSeen], *, cluster: str, boot_id: str) -> Claim:
    """What the disk that ``device`` names is to it now. ``cluster`` is this cluster's uid."""
    before = device.status.observation
    claimed = bool(before.device_uuid)
    found = match(device.spec.identity, disks)
    if claimed:
        # Once claimed, the disk is known by its label: it may come back in another slot, and another in its place.
        found = [s for s in disks if s.label is not None and s.label.device_uuid == before.device_uuid] or found
    if len(found) > 1:
        paths = ", ".join(seen.disk.path for seen in found)
        return Claim(state="Refused", message=f"{len(found)} disks have this identity ({paths}): name one by its path")
    if not found:
        if claimed:
            return Claim(state="Failed", message="the disk is gone: it was unplugged, or its controller is lost")
        return Claim(state="Absent", message="there is no such disk on this node yet")
    seen = found[0]
    if not seen.alive:
        state: PresenceState = "Failed" if claimed else "Refused"
        return Claim(state=state, seen=seen, message="the disk answers with errors, or not at all")
    if seen.damaged:
        return Claim(
            state="Failed" if claimed else "Refused",
            seen=seen,
            contents=("damaged Millpond label",),
            message=f"it has a Millpond label that cannot be read ({seen.damaged}): it is left as it is",
        )
    if seen.label is not None:
        return _labelled(device, seen, seen.label, cluster=cluster, boot_id=boot_id)
    if claimed:
        return Claim(
            state="Failed",
            seen=seen,
            contents=contents(seen),
            message=f"the disk there has no label, it is not device {before.device_uuid}: delete this StorageDevice "
            "and make a new one to use it",
        )
    return _unlabelled(device, seen)


def _labelled(device: StorageDevice, seen: DiskSeen, label: Label, *, cluster: str, boot_id: str) -> Claim:
    name, before = device.metadata.name, device.status.observation
    found = (f"Millpond label of {label.device_name}",)
    foreign = label.cluster != cluster
    if foreign and device.metadata.annotations.get(names.ANNOTATION_FROM_CLUSTER) != label.cluster:
        message = (
            f"it belongs to the cluster with uid {label.cluster}: Millpond never erases a label of any cluster; if "
            "that cluster is no more, `kubectl millpond vdb import` takes over what lies there"
        )
        return Claim(state="Refused", seen=seen, contents=found, message=message)
    if before.device_uuid and label.device_uuid != before.device_uuid:
        message = f"the disk there is device {label.device_uuid} ({label.device_name}), not {before.device_uuid}"
        return Claim(state="Failed", seen=seen, contents=found, message=message)
    if label.device_name != name:
        if device.spec.identity.device_uuid != label.device_uuid:
            message = (
                f"it is labelled as StorageDevice {label.device_name}: use that name, or name it by "
                f"identity.deviceUuid {label.device_uuid} to take it over"
            )
            return Claim(state="Refused", seen=seen, contents=found, message=message)
        return Claim(state="Claimed", seen=seen, action="Adopt")
    if foreign:
        return Claim(state="Claimed", seen=seen, action="Adopt")
    known = (label.boot_id, label.diskseq) == (boot_id, seen.disk.diskseq)
    # A disk that failed without leaving may have lost its cache all the same: in doubt it is a new life.
    if not known or before.state == "Failed":
        return Claim(state="Claimed", seen=seen, action="Appear")
    return Claim(state="Claimed", seen=seen)


def _unlabelled(device: StorageDevice, seen: DiskSeen) -> Claim:
    disk = seen.disk
    if disk.holders:
        message = f"it is in use ({', '.join(disk.holders)}): a disk in use is refused always"
        return Claim(state="Refused", seen=seen, contents=contents(seen), message=message)
    if capacity_bytes(disk) == 0:
        message = f"it has {format_bytes(disk.size_bytes)}, too little for a label and one extent (8Mi)"
        return Claim(state="Refused", seen=seen, message=message)
    if not seen.signatures:
        return Claim(state="Claimed", seen=seen, action="Label")
    mark = fingerprint(disk, seen.signatures)
    if mark and device.spec.erase_signature == mark:
        return Claim(state="Claimed", seen=seen, action="Erase", contents=contents(seen))
    found = ", ".join(seen.signatures)
    if not mark:
        message = f"it holds {found}, and has neither serial nor wwn: erase it yourself (wipefs) to let Millpond use it"
    elif device.spec.erase_signature:
        message = f"it holds {found}; eraseSignature is for another disk or other contents, {mark} would erase these"
    else:
        message = f"it holds {found}; to erase that, set spec.eraseSignature to {mark}"
    return Claim(state="Refused", seen=seen, contents=contents(seen), fingerprint=mark, message=message)


def contents(seen: DiskSeen) -> tuple[str, ...]:
    """Signatures and holders, for people."""
    return (*seen.signatures, *seen.disk.holders)


def unclaimed(disks: Sequence[DiskSeen], devices: Iterable[StorageDevice]) -> list[Disk]:
    """The disks that no StorageDevice names or has claimed, for StorageNode.status."""
    taken: set[str] = set()
    for device in devices:
        uuid = device.status.observation.device_uuid
        named = match(device.spec.identity, disks)
        labelled = [s for s in disks if uuid and s.label is not None and s.label.device_uuid == uuid]
        taken |= {seen.disk.name for seen in (*named, *labelled)}
    return [_free(seen) for seen in sorted(disks, key=lambda s: s.disk.name) if seen.disk.name not in taken]


def _free(seen: DiskSeen) -> Disk:
    disk = seen.disk
    state: DiskState = "Empty"
    found = contents(seen)
    if seen.label is not None or seen.damaged:
        state = "Millpond"
        found = (f"Millpond label of {seen.label.device_name}",) if seen.label else ("damaged Millpond label",)
    elif disk.holders:
        state = "InUse"
    elif seen.signatures:
        state = "Foreign"
    return Disk(
        path=disk.path,
        serial=disk.serial,
        wwn=disk.wwn,
        model=disk.model,
        size_bytes=disk.size_bytes,
        size=format_bytes(disk.size_bytes),
        state=state,
        contents=list(found),
        fingerprint=fingerprint(disk, seen.signatures) if state == "Foreign" else "",
    )
