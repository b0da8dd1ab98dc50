"""The objects, made anew from the labels: a plan first, with every reason why something is not in it.

* The newest record counts, by epoch, generation and recordSeq; its label says which legs there were.
* A leg is InSync if that record says so *and* its own labels are of that record; else it is copied anew.
* One of which nothing is found may know more than those that are: refused, unless people say that it is no more.
* The volume was perhaps not detached cleanly, so on its next attach one leg is the source (docs/safety.md, rule 4).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from millpond_core import names
from millpond_core.errors import Invalid
from millpond_core.master.steps import Create, Merge, Patch
from millpond_core.master.volumes import put, record_tests, size_bytes
from millpond_core.model import ObjectMeta, StorageDevice, VirtualVolume
from millpond_core.model.storagedevice import Identity, StorageDeviceSpec
from millpond_core.model.virtualvolume import (
    Attachment,
    Extent,
    Layout,
    Leg,
    LegState,
    VirtualVolumeSpec,
)
from millpond_core.model.virtualvolume import Mapping as Record
from millpond_core.units import MIB, format_bytes
from millpond_core.vdb import found as labels
from millpond_core.vdb.found import Device, VolumeFound
from millpond_core.vdb.seen import Finding, NodeSeen

MAX_COPIES = 4
TWO_RECORDS = "one of the two is not its own: restore the newest backup of etcd that there is"
Step = Create | Merge | Patch


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What is done for one object, in this order; each step is safe to be the last."""

    about: str
    says: tuple[str, ...]
    steps: tuple[Step, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    parts: tuple[Part, ...] = ()
    refused: tuple[Finding, ...] = ()


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What people have said."""

    from_clusters: frozenset[str] = frozenset()
    """Uids of clusters that are no more."""
    without: frozenset[str] = frozenset()
    """Names of volumes whose missing legs are no more."""


def plan(
    nodes: Collection[NodeSeen],
    devices: Iterable[StorageDevice],
    volumes: Iterable[VirtualVolume],
    *,
    cluster: str,
    choices: Choices | None = None,
    claims: Mapping[str, str] | None = None,
) -> Plan:
    """``cluster``: uid of this one. ``claims``: names of volumes → namespace/name of the claim bound to them."""
    choices = choices or Choices()
    found, refused = labels.devices(nodes)
    refused += [
        Finding(
            about=f"snode/{node.node}", what=problem, todo="what is there is not known: legs on it count as missing"
        )
        for node in nodes
        for problem in node.problems
    ]
    parts: list[Part] = []
    called: dict[str, str] = {}
    known = list(devices)
    for device in found:
        part, name = _device(device, known, {*called.values()}, cluster, choices)
        if isinstance(part, Finding):
            refused.append(part)
            continue
        called[device.label.device_uuid] = name
        parts += [part] if part else []
    usable = [device for device in found if device.label.device_uuid in called]
    objects = list(volumes)
    for volume in labels.volumes(usable).values():
        restored = _volume(volume, objects, _Around(nodes, called, choices, claims or {}))
        if isinstance(restored, Finding):
            refused.append(restored)
        elif restored:
            parts.append(restored)
    return Plan(parts=tuple(parts), refused=tuple(refused))


# --- devices ---


def _device(
    device: Device, objects: list[StorageDevice], taken: set[str], cluster: str, choices: Choices
) -> tuple[Part | Finding | None, str]:
    """What is done for a labelled disk (None: nothing), and the name of its StorageDevice."""
    label, where = device.label, f"{device.path} on {device.node}"
    about = f"sdev/{label.device_name}"
    foreign = label.cluster != cluster
    if foreign and label.cluster not in choices.from_clusters:
        what = f"{where} belongs to the cluster with uid {label.cluster}, this one is {cluster}"
        todo = f"if that cluster is no more, and only then, take it over with --from-cluster {label.cluster}"
        return Finding(about=about, what=what, todo=todo), ""
    annotation = {names.ANNOTATION_FROM_CLUSTER: label.cluster} if foreign else {}
    for obj in objects:
        if label.device_uuid in (obj.status.observation.device_uuid, obj.spec.identity.device_uuid):
            return _existing(obj, device, annotation), obj.metadata.name
    name = label.device_name
    same = next((obj for obj in objects if obj.metadata.name == name), None)
    if same is not None and not same.status.observation.device_uuid and same.spec.node_name == device.node:
        return _existing(same, device, annotation), name  # its node finds the label by itself
    if same is not None or name in taken:
        whose = (same.status.observation.device_uuid or f"one of {same.spec.node_name}") if same else "found twice"
        what = f"{where} is device {label.device_uuid} by its label, and another has its name ({whose})"
        return Finding(about=about, what=what, todo="delete the StorageDevice that is wrong, and import again"), ""
    made = StorageDevice(
        metadata=ObjectMeta(name=name, annotations=annotation),
        spec=StorageDeviceSpec(node_name=device.node, identity=Identity(device_uuid=label.device_uuid)),
    )
    said = [f"made for {where}, {len(label.legs)} legs, in pool default: labels do not tell its pool"]
    said += [f"taken over from cluster {label.cluster}"] if foreign else []
    return Part(about=about, says=tuple(said), steps=(Create(made),)), name


def _existing(obj: StorageDevice, device: Device, annotation: dict[str, str]) -> Part | Finding | None:
    about = f"sdev/{obj.metadata.name}"
    if obj.spec.node_name != device.node:
        what = f"its disk is on {device.node} now, and spec.nodeName is {obj.spec.node_name}"
        return Finding(about=about, what=what, todo="put the disk back, or delete the StorageDevice and import again")
    if not annotation.items() - obj.metadata.annotations.items():
        return None
    said = f"taken over from cluster {device.label.cluster}"
    step = Merge(StorageDevice, obj.metadata.name, {"metadata": {"annotations": annotation}})
    return Part(about=about, says=(said,), steps=(step,))


# --- volumes ---


class _Around(NamedTuple):
    """What else a volume's part depends on."""

    nodes: Collection[NodeSeen]
    called: Mapping[str, str]
    """By uuid of a device: the name of its StorageDevice."""
    choices: Choices
    claims: Mapping[str, str]


def _volume(found: VolumeFound, objects: list[VirtualVolume], around: _Around) -> Part | Finding | None:
    """What is done for a volume; None: its record is as new as its labels."""
    newest = found.newest
    same = [obj for obj in objects if obj.spec.uuid == found.uuid]
    before = same[0] if len(same) == 1 else None
    if before and _not_older(before, found):
        return None
    if why := _contradiction(found, objects, around.nodes):
        return Finding(about=found.about, what=why[0], todo=why[1])
    missing = [peer for peer in newest.peers if not peer.releasing and not _whole(found, peer.leg)]
    doubtful = [peer for peer in missing if peer.state == "InSync"]
    if doubtful and not around.choices.without & {newest.volume_name, found.uuid}:
        which = ", ".join(f"leg {peer.leg} on {peer.node}" for peer in doubtful)
        what = (
            f"{which} was in sync by the newest label, and is not found, or not whole: it may know more than the rest"
        )
        todo = f"bring its disks back; if they are no more, say --without-missing {newest.volume_name}"
        return Finding(about=found.about, what=what, todo=todo)
    legs = _legs(found, around.called, before)
    if taken := _taken(found, legs, objects):
        return Finding(about=found.about, what=taken, todo="tell which of the two is right, and delete the other")
    if not any(leg.state == "InSync" and not leg.releasing for leg in legs):
        states = ", ".join(f"{leg.id} on {leg.node} is {leg.state}" for leg in legs) or "none is whole"
        todo = "look for the disk of a leg that was in sync; what is there stays untouched"
        return Finding(about=found.about, what=f"no leg in sync is found ({states})", todo=todo)
    after = _object(found, before, legs, around.claims)
    says = (
        *_says(found, before, legs),
        *(f"leg {p.leg} on {p.node} ({p.state}) is not found: left out" for p in missing),
    )
    return Part(about=f"vvol/{after.metadata.name}", says=says, steps=_steps(before, after))


def _not_older(before: VirtualVolume, found: VolumeFound) -> bool:
    mapping, epoch = before.status.mapping, before.status.attachment.epoch
    newest = found.newest
    newer = newest.epoch > epoch or newest.generation > mapping.generation or newest.record_seq > mapping.record_seq
    same = (newest.generation, newest.record_seq) == (mapping.generation, mapping.record_seq)
    differs = same and labels.record(mapping.legs) != newest.peers
    return mapping.generation > 0 and not newer and not differs


def _contradiction(
    found: VolumeFound, objects: list[VirtualVolume], nodes: Collection[NodeSeen]
) -> tuple[str, str] | None:
    """(What speaks against it, what to do); None: nothing."""
    newest = found.newest
    if found.contradictions:
        return "; ".join(found.contradictions), "it is left as it is: tell which disk is wrong by taking it away"
    if used := [f"{node.node} ({count} times)" for node in nodes if (count := node.opened(found.uuid))]:
        what = f"it is in use on {', '.join(used)}, and would be taken from under its pods"
        return what, "end the pods that use it, and import again"
    same = [obj.metadata.name for obj in objects if obj.spec.uuid == found.uuid]
    if len(same) > 1:
        return f"{' and '.join(sorted(same))} have its spec.uuid", "delete the copies, and import again"
    called = next((obj for obj in objects if obj.metadata.name == newest.volume_name), None)
    if not same:
        if called:
            what = f"the VirtualVolume of its name has spec.uuid {called.spec.uuid or 'none'}, its labels {found.uuid}"
            return what, "delete that VirtualVolume if nothing is on it, and import again"
        return None
    before = next(obj for obj in objects if obj.spec.uuid == found.uuid)
    if before.metadata.deletion_timestamp:
        return "it is being deleted", "nothing is done for it"
    layout = before.spec.layout
    if (layout.stripes, layout.stripe_size) != (newest.stripes, newest.stripe_bytes):
        what = f"its spec has {layout.stripes} stripes of {layout.stripe_size} bytes, its labels {newest.stripes} of "
        todo = "delete the VirtualVolume, which has no mapping, and import again: it is made from the labels"
        return f"{what}{newest.stripe_bytes}", todo
    return _against(before, found)


def _against(before: VirtualVolume, found: VolumeFound) -> tuple[str, str] | None:
    newest, mapping = found.newest, before.status.mapping
    try:
        size = size_bytes(before)
    except Invalid as error:
        return str(error), "correct the spec, and import again"
    if size < newest.size_bytes:
        raised = _quantity(newest.size_bytes)
        return f"its spec.size is {before.spec.size}, its labels know {raised}", f"set spec.size to {raised}"
    if not mapping.generation:
        return None
    mine, its = (mapping.generation, mapping.record_seq), (newest.generation, newest.record_seq)
    if mine[0] > its[0] or mine[1] > its[1]:
        what = f"its record (generation {mine[0]}, recordSeq {mine[1]}) and its labels {its} are each in part newer"
        return what, TWO_RECORDS
    if mine == its and labels.record(mapping.legs) != newest.peers:
        return f"its record and its labels are two of the same numbers {mine}, and differ", TWO_RECORDS
    return None


def _whole(found: VolumeFound, leg: str) -> bool:
    return leg in found.legs and found.legs[leg].whole(found.newest.size_bytes)


def _legs(found: VolumeFound, called: Mapping[str, str], before: VirtualVolume | None) -> list[Leg]:
    """The legs of the newest record that are there, and those that it had given up, to be released."""
    peers = {peer.leg: peer for peer in found.newest.peers}
    recorded = {leg.id: leg for leg in before.status.mapping.legs} if before else {}
    legs = []
    for id_, leg in found.legs.items():
        peer, old = peers.get(id_), recorded.get(id_)
        given_up = peer is None or peer.releasing
        if not _whole(found, id_) and not given_up:
            continue
        state: LegState = "Stale" if peer is None else peer.state
        entries = [entry for _, entry in leg.parts]
        current = labels.version(leg.newest) == labels.version(found.newest)
        ready = min(entry.ready_bytes for entry in entries)
        zeroed = ready >= found.newest.size_bytes or found.newest.epoch == 0
        # The rules of the record: what joins it later starts as Rebuilding, and so does what lacks writes.
        joins = bool(recorded) and (old is None or old.state in ("Stale", "Failed"))
        if state == "InSync" and (not current or not zeroed or joins):
            state = "Rebuilding"
        if recorded and old is None:
            state = "Rebuilding"
        extents = sorted(
            (index, Extent(device=called[d.label.device_uuid], device_uuid=d.label.device_uuid, start=start, length=n))
            for d, entry in leg.parts
            for index, start, n in entry.extents
        )
        legs.append(
            Leg(
                id=id_,
                node=leg.nodes[0],
                state=state,
                complete=state == "InSync",
                releasing=given_up or (old is not None and old.releasing),
                extents=[extent for _, extent in extents],
            )
        )
    return legs


def _taken(found: VolumeFound, legs: list[Leg], objects: list[VirtualVolume]) -> str:
    """Which units the record gives to another volume; empty: none."""
    for other in objects:
        for its in (*other.status.mapping.legs, *other.status.spares) if other.spec.uuid != found.uuid else ():
            for one in its.extents:
                for leg in legs:
                    for e in leg.extents:
                        first, end = max(one.start, e.start), min(one.start + one.length, e.start + e.length)
                        if one.device_uuid == e.device_uuid and first < end:
                            whose = f"leg {its.id} of {other.metadata.name}"
                            return (
                                f"units {first}-{end - 1} of {e.device}, of its leg {leg.id}, are {whose} by the record"
                            )
    return ""


def _object(
    found: VolumeFound, before: VirtualVolume | None, legs: list[Leg], claims: Mapping[str, str]
) -> VirtualVolume:
    """The VirtualVolume as it shall be: what is known of its spec stays, what labels cannot tell has its default."""
    newest = found.newest
    if before is None:
        copies = sum(1 for peer in newest.peers if not peer.releasing)
        layout = Layout(copies=min(max(copies, 1), MAX_COPIES), stripes=newest.stripes, stripe_size=newest.stripe_bytes)
        spec = VirtualVolumeSpec(uuid=found.uuid, size=_quantity(newest.size_bytes), layout=layout)
        claim = claims.get(newest.volume_name)
        notes = {names.ANNOTATION_CLAIM: claim} if claim else {}
        before = VirtualVolume(metadata=ObjectMeta(name=newest.volume_name, annotations=notes), spec=spec)
    # The master may have raised the epoch on an old record, before it heard of the labels.
    epoch = max([newest.epoch, before.status.attachment.epoch, *(said.epoch for said in before.status.nodes)])
    # Two records of the same numbers are told apart by nobody but the nodes, which stand still then.
    changed = 0 if labels.record(legs) == newest.peers else 1
    meta = msgspec.structs.replace(
        before.metadata,
        annotations={**before.metadata.annotations, names.ANNOTATION_ALLOCATED: found.uuid},
        labels={**before.metadata.labels, **{names.node_label(leg.node): "" for leg in legs}},
        finalizers=sorted({*before.metadata.finalizers, names.FINALIZER}),
    )
    status = msgspec.structs.replace(
        before.status,
        growth=None,
        size_bytes=newest.size_bytes,
        mapping=Record(
            generation=newest.generation,
            record_seq=newest.record_seq + changed,
            size_bytes=newest.size_bytes,
            legs=legs,
        ),
        next_leg=max(labels.next_leg(found), before.status.next_leg),
        attachment=Attachment(node="", epoch=epoch, clean=epoch == 0),
    )
    return msgspec.structs.replace(before, metadata=meta, status=status)


def _steps(before: VirtualVolume | None, after: VirtualVolume) -> tuple[Step, ...]:
    """The note that it was allocated comes first: what has it and no mapping is never allocated blank."""
    meta, status, name = after.metadata, after.status, after.metadata.name
    wire = {"annotations": meta.annotations, "labels": meta.labels, "finalizers": meta.finalizers}
    old = before or VirtualVolume()
    first: Step = Create(msgspec.structs.replace(after, status=VirtualVolume().status))
    if before is not None:
        first = Merge(VirtualVolume, name, {"metadata": {"resourceVersion": meta.resource_version, **wire}})
    operations = [
        # What the API server fills in of a status that nobody has written is not there to be tested.
        *(record_tests(old) if old.status.mapping.generation else ()),
        {"op": "test", "path": "/spec/uuid", "value": after.spec.uuid},
        put("/status/mapping", status.mapping),
        put("/status/attachment", status.attachment),
        put("/status/sizeBytes", status.size_bytes),
        # The labels have its extents: what of them the volume does not use yet it will be given anew.
        *([{"op": "remove", "path": "/status/growth"}] if old.status.growth else []),
        put("/status/nextLeg", status.next_leg),
    ]
    return first, Patch(VirtualVolume, name, operations)


def _says(found: VolumeFound, before: VirtualVolume | None, legs: list[Leg]) -> Iterable[str]:
    newest = found.newest
    epoch, generation, record = labels.version(newest)
    size = format_bytes(newest.size_bytes)
    yield f"{size}, generation {generation}, recordSeq {record}, epoch {epoch}: as of the newest label"
    if before is None:
        yield "made anew: placement, onFailure, rebuild and scrub have their defaults, copies are those it had"
    elif before.status.mapping.generation:
        yield f"its record (generation {before.status.mapping.generation}) is older and is brought up to that"
    for leg in legs:
        where = ", ".join(sorted({extent.device for extent in leg.extents}))
        what = "is given back, that record had given it up" if leg.releasing else leg.state
        was = next((peer.state for peer in newest.peers if peer.leg == leg.id), leg.state)
        why = f", was {was}, but its label or the record is older" if was != leg.state and not leg.releasing else ""
        yield f"leg {leg.id} on {leg.node} ({where}): {what}{why}"
    if epoch and sum(leg.state == "InSync" and not leg.releasing for leg in legs) > 1:
        yield "on its next attach one leg is the source, and the others catch up from it"


def _quantity(size: int) -> str:
    """A size as a spec has it, exactly."""
    return f"{size // (1024 * MIB)}Gi" if size % (1024 * MIB) == 0 else f"{size // MIB}Mi"
