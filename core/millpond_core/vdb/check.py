"""Objects, labels and kernels compared: every difference, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from millpond_core import names
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import Leg
from millpond_core.observed import LabelLeg
from millpond_core.vdb import found as labels
from millpond_core.vdb.found import Device
from millpond_core.vdb.seen import Finding, NodeSeen

IMPORT = "see `kubectl millpond vdb import`"
PASSING = "a state manager sets that right within seconds: check again, and look at its log if it stays"


def check(
    seen: Collection[NodeSeen],
    nodes: Sequence[StorageNode],
    devices: Sequence[StorageDevice],
    volumes: Sequence[VirtualVolume],
    *,
    cluster: str,
) -> list[Finding]:
    """Empty: the three agree. ``cluster``: uid of this one. A node that is not in ``seen`` was not asked."""
    found, wrong = labels.devices(seen)
    asked = {node.node for node in seen}
    findings = [*wrong, *_nodes(seen, nodes, asked), *_devices(found, devices, asked, cluster)]
    ours = [device for device in found if device.label.cluster == cluster]
    records = {volume.spec.uuid: volume for volume in volumes if volume.spec.uuid}
    for uuid, told in labels.volumes(ours).items():
        findings += [Finding(about=told.about, what=each, todo=IMPORT) for each in told.contradictions]
        if uuid not in records:
            what = f"labels know it, leg {', '.join(told.legs)}, and there is no such object"
            findings.append(Finding(about=told.about, what=what, todo=IMPORT))
    for volume in volumes:
        findings += _volume(volume, ours, seen, asked)
    for node in seen:
        findings += _strays(node, records)
    return findings


def _nodes(seen: Collection[NodeSeen], nodes: Sequence[StorageNode], asked: set[str]) -> Iterator[Finding]:
    for node in nodes:
        if node.metadata.name not in asked:
            todo = "see that its state manager runs, or run millpond-labels there and pass what it prints with --from"
            yield Finding(about=f"snode/{node.metadata.name}", what="it was not asked for its labels", todo=todo)
    for each in seen:
        for problem in each.problems:
            yield Finding(about=f"snode/{each.node}", what=problem, todo="what is there is not compared")


def _devices(found: list[Device], devices: Sequence[StorageDevice], asked: set[str], cluster: str) -> Iterator[Finding]:
    known = {d.status.observation.device_uuid or d.spec.identity.device_uuid: d for d in devices}
    there = {device.label.device_uuid for device in found}
    for device in found:
        label, about = device.label, f"sdev/{device.label.device_name}"
        where = f"{device.path} on {device.node}"
        obj = known.get(label.device_uuid)
        if label.cluster != cluster:
            todo = "if that cluster is no more, see `kubectl millpond vdb import`; else take the disk away"
            yield Finding(about=about, what=f"{where} belongs to the cluster with uid {label.cluster}", todo=todo)
        elif obj is None:
            yield Finding(about=about, what=f"{where} is labelled so, and there is no such object", todo=IMPORT)
        elif (obj.metadata.name, obj.spec.node_name) != (label.device_name, device.node):
            what = f"{where} has its label, and the object of that identity is {obj.metadata.name} of "
            todo = "put the disk back where it was, or delete the StorageDevice and make one for where it is"
            yield Finding(about=about, what=what + obj.spec.node_name, todo=todo)
    for uuid, obj in known.items():
        if uuid and uuid not in there and obj.spec.node_name in asked:
            what = f"no disk of {obj.spec.node_name} has its label ({uuid})"
            todo = "bring the disk back, or delete the StorageDevice: its legs are made anew elsewhere"
            yield Finding(about=f"sdev/{obj.metadata.name}", what=what, todo=todo)


def _volume(
    volume: VirtualVolume, devices: list[Device], seen: Collection[NodeSeen], asked: set[str]
) -> Iterator[Finding]:
    about, mapping = f"vvol/{volume.metadata.name}", volume.status.mapping
    uuid = volume.spec.uuid
    entries = [(device, entry) for device in devices for entry in device.label.legs if uuid and entry.volume == uuid]
    if not mapping.generation:
        if entries or volume.metadata.annotations.get(names.ANNOTATION_ALLOCATED):
            yield Finding(about=about, what="it was allocated, and its mapping is lost", todo=IMPORT)
        return
    record = (volume.status.attachment.epoch, mapping.generation, mapping.record_seq)
    for device, entry in entries:
        if any(its > mine for its, mine in zip(labels.version(entry), record, strict=True)):
            what = (
                f"the label of {device.label.device_name} on {device.node} is newer {labels.version(entry)} than the "
                f"record {record}: was the database restored from a backup? The volume stands still"
            )
            todo = "restore a newer backup of etcd, or see `kubectl millpond vdb import`"
            yield Finding(about=about, what=what, todo=todo)
            return
    known = {leg.id for leg in (*mapping.legs, *volume.status.spares)}
    for device, entry in entries:
        if entry.leg not in known:
            what = (
                f"the label of {device.label.device_name} on {device.node} has leg {entry.leg}, and the record does not"
            )
            yield Finding(about=about, what=what, todo="it is kept: Millpond gives nothing back that is not recorded")
    for leg in mapping.legs:
        if not leg.releasing and leg.node in asked:
            on_labels = {d.label.device_uuid: e for d, e in entries if e.leg == leg.id}
            yield from _leg(about, (leg, volume.status.given(leg)), devices, on_labels, record)
            yield from _kernel(about, volume, leg, devices, seen)


def _leg(
    about: str, forms: tuple[Leg, Leg], devices: list[Device], entries: dict[str, LabelLeg], record: labels.Version
) -> Iterator[Finding]:
    """The record against the labels that are there; that a disk is away is said of its StorageDevice. ``forms``: the
    leg, and with what it is being given, which its label may have already.
    """
    leg, _ = forms
    there = {device.label.device_uuid: device for device in devices}
    for uuid in dict.fromkeys(extent.device_uuid for extent in leg.extents):
        if uuid not in there:
            continue
        name, entry = there[uuid].label.device_name, entries.get(uuid)
        recorded, larger = (_on(uuid, form) for form in forms)
        if entry is None:
            todo = PASSING + "; one that was in use is kept away, not erased"
            yield Finding(about=about, what=f"the label of {name} does not have leg {leg.id}", todo=todo)
        elif tuple(sorted(entry.extents)) not in (recorded, larger):
            what = (
                f"leg {leg.id} has units {_runs(recorded)} of {name} by the record, {_runs(entry.extents)} by its label"
            )
            yield Finding(about=about, what=what, todo="one is not its own: restore the newest backup of etcd there is")
        elif labels.version(entry) != record:
            what = f"the label of {name} knows leg {leg.id} as of {labels.version(entry)}, the record is {record}"
            yield Finding(about=about, what=what, todo=PASSING)
        elif entry.state != leg.state:
            what = f"leg {leg.id} is {leg.state} by the record and {entry.state} by the label of {name}"
            yield Finding(about=about, what=what, todo=PASSING)


def _on(uuid: str, leg: Leg) -> tuple[tuple[int, int, int], ...]:
    """A leg's extents on one device, as its label has them."""
    return tuple((i, e.start, e.length) for i, e in enumerate(leg.extents) if e.device_uuid == uuid)


def _kernel(
    about: str, volume: VirtualVolume, leg: Leg, devices: list[Device], seen: Collection[NodeSeen]
) -> Iterator[Finding]:
    there = {device.label.device_uuid for device in devices}
    node = next(node for node in seen if node.node == leg.node)
    present = all(extent.device_uuid in there for extent in leg.extents)
    if present and names.leg(volume.spec.uuid, leg.id) not in node.dm:
        yield Finding(about=about, what=f"leg {leg.id} is not mapped in the kernel of {leg.node}", todo=PASSING)


def _strays(node: NodeSeen, records: dict[str, VirtualVolume]) -> Iterator[Finding]:
    """What stands in a node's kernel and is not to be there by the record."""
    standing: dict[str, list[str]] = {}
    for name in sorted(node.dm):
        if parsed := names.parse_dm(name):
            standing.setdefault(parsed[0], []).append(name)
    for uuid, devices in standing.items():
        volume = records.get(uuid)
        if volume is None:
            what = f"{', '.join(devices)} stands there, and there is no volume with spec.uuid {uuid}"
            yield Finding(about=f"snode/{node.node}", what=what, todo=f"it is kept; {IMPORT}")
            continue
        about, at = f"vvol/{volume.metadata.name}", volume.status.attachment
        if names.front(uuid) in devices and at.node != node.node:
            where = f"attached {f'to {at.node}' if at.node else 'nowhere'}"
            what = f"its front stands on {node.node}, and it is {where} by the record"
            yield Finding(about=about, what=what, todo=f"that node takes it down once nobody uses it there: {PASSING}")
    for nqn in node.exports:
        export = names.parse_nqn(nqn)
        volume = records.get(export[0]) if export else None
        if export and volume and export[2] != volume.status.attachment.epoch:
            epoch = volume.status.attachment.epoch
            what = f"leg {export[1]} is exported by {node.node} under epoch {export[2]}, the record's is {epoch}"
            yield Finding(about=f"vvol/{volume.metadata.name}", what=what, todo=PASSING)


def _runs(extents: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(f"{start}-{start + length - 1}" for _, start, length in sorted(extents))
