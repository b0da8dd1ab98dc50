"""The legs that lie on this node: label entry, dm device, zeroes, export; and giving them back.

A leg goes through these in order, each step relying on what the one before left behind:

    label entry → leg dm → zeroed (label) → prepared → epoch confirmed (label) → exported to the attach node alone

where it grows (``status.growth``), beside whatever goes on with it:

    label entry with the new extents → longer leg dm → hosts told → new part zeroed (label) → prepared for more

and back: unexported → dm removed → label entry dropped → released. The way back is taken whole on a positive record
(``releasing``) only; without its device, or in a new life of it, a leg falls back to before ``leg dm``. Nothing is ever
torn down because something is absent from the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from millpond_core import layout, names
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Leg, LegReport
from millpond_core.nodeplan.steps import (
    CreateDm,
    DropLeg,
    Export,
    PutLeg,
    Remember,
    RemoveDm,
    Resize,
    Step,
    SwapDm,
    Unexport,
    Zero,
)
from millpond_core.nodeplan.view import Around, DeviceSeen, Kernel, Memory, node_report, volume_bytes
from millpond_core.observed import LabelLeg, PeerLeg
from millpond_core.units import SECTOR, format_bytes

_RESTORED = "was the database restored from a backup? `kubectl millpond vdb check` tells more"


class LegHere(msgspec.Struct, frozen=True, kw_only=True):
    """A leg of this node as the attach node's part of the plan needs it."""

    ready: bool
    """Zeroed, mapped, in its present life."""
    gone: bool = False
    """A device under it is not there."""
    incarnation: str = ""
    """Its present life; empty while a device is missing."""
    major_minor: str = ""
    sectors: int = 0
    why: str = ""


class LegsPlan(msgspec.Struct, frozen=True, kw_only=True):
    steps: tuple[Step, ...] = ()
    waits: tuple[str, ...] = ()
    reports: tuple[LegReport, ...] = ()
    newer: str = ""
    """Why everything stands still: a label knows more than the record."""
    confirmed: int = 0
    """Highest epoch of which it is true that no export of an older one exists here."""


def mine(volume: VirtualVolume, node: str) -> list[Leg]:
    """Legs and spares of ``volume`` on ``node``, each with what it is being given."""
    mapping = volume.status.mapping
    known = {leg.id for leg in mapping.legs}
    spares = [leg for leg in volume.status.spares if leg.id not in known]
    return [volume.status.given(leg) for leg in (*mapping.legs, *spares) if leg.node == node]


def here(volume: VirtualVolume, leg: Leg, kernel: Kernel, memory: Memory) -> LegHere:
    """How a leg of this node is."""
    devices, why = _devices(leg, kernel)
    if why:
        return LegHere(ready=False, gone=True, why=why)
    incarnation = _incarnation(kernel.boot_id, devices)
    name = names.leg(volume.spec.uuid, leg.id)
    dm = kernel.dm.get(name)
    if dm is None or memory.built.get(leg.id) != incarnation:
        return LegHere(ready=False, incarnation=incarnation, why="it is not mapped yet")
    entries = [device.entry(volume.spec.uuid, leg.id) for device in devices]
    if not all(entry is not None and entry.zeroed for entry in entries):
        return LegHere(ready=False, incarnation=incarnation, why="it is being zeroed")
    size, ready = volume_bytes(volume), _ready_bytes(entries)
    if leg.state == "InSync" and ready < size:
        # Its end shows what nobody knows: as if it lacked writes.
        why = f"its label says that it was prepared for {format_bytes(ready)}, and the volume has {format_bytes(size)}"
        return LegHere(ready=False, incarnation=incarnation, why=why)
    sectors = layout.table_sectors(dm.table)
    return LegHere(ready=True, incarnation=incarnation, major_minor=dm.major_minor, sectors=sectors)


def plan(volume: VirtualVolume, kernel: Kernel, around: Around, memory: Memory) -> LegsPlan:
    """What to do for the legs on this node."""
    epoch = volume.status.attachment.epoch
    steps: list[Step] = []
    waits: list[str] = []
    reports: list[LegReport] = []
    newer = _newer_label(volume, kernel)
    if newer:
        return LegsPlan(newer=newer, waits=(newer,), reports=tuple(_report_only(volume, kernel, around, memory)))
    wanted: dict[str, str] = {}
    own = mine(volume, around.node)
    for leg in own:
        leg_steps, nqn, why = _leg(volume, leg, kernel, around, memory)
        if nqn:
            wanted[leg.id] = nqn
        # Exports of another life or epoch go first: what lies under them must be free.
        old = [s for s in kernel.exports if _is(volume, leg.id, s) and s != nqn]
        steps += [Unexport(nqn=s, why=f"leg {leg.id}: export {_life(s)} is over") for s in sorted(old)]
        steps += leg_steps
        if why:
            waits.append(f"leg {leg.id}: {why}")
        reports.append(_report(volume, leg, kernel, around, memory, nqn=nqn, why=why))
    stray = [
        nqn
        for nqn in sorted(kernel.exports)
        if (parsed := names.parse_nqn(nqn))
        and parsed[0] == volume.spec.uuid
        and parsed[1] not in {leg.id for leg in own}
        and parsed[2] < epoch
    ]
    steps += [Unexport(nqn=nqn, why="an older epoch's export of a leg that the record does not know") for nqn in stray]
    return LegsPlan(
        steps=tuple(steps),
        waits=tuple(waits),
        reports=tuple(reports),
        confirmed=epoch if _confirmed(volume, own, kernel) else 0,
    )


def _leg(
    volume: VirtualVolume, leg: Leg, kernel: Kernel, around: Around, memory: Memory
) -> tuple[list[Step], str, str]:
    """Steps, the NQN that shall be exported ("" none), and why it is not further."""
    uuid = volume.spec.uuid
    name = names.leg(uuid, leg.id)
    dm = kernel.dm.get(name)
    if leg.releasing:
        if why := _needed(volume, leg, memory, around):
            return [], _offered(volume, leg, kernel), why
        return _release(volume, leg, kernel, memory)
    devices, why = _devices(leg, kernel)
    if why:
        return ([RemoveDm(name=name, why=f"leg {leg.id}: {why}")] if dm else []), "", why
    incarnation = _incarnation(kernel.boot_id, devices)
    entries = [(device, _entry(volume, leg, device)) for device in devices]
    lost = [device.name for device, old in _known(volume, leg, devices) if old is None or not old.zeroed]
    if lost and leg.state == "InSync" and _was_open(volume):
        return [], "", f"the label of {', '.join(lost)} does not know it although it was in use: kept away, not erased"
    steps: list[Step] = []
    missing = [(d.name, e) for d, e in entries if d.entry(uuid, leg.id) is None]
    steps += [PutLeg(device=d, entry=e, why=f"leg {leg.id} allocated on {d}") for d, e in missing]
    if missing:
        return steps, "", "it is being allocated"
    if dm is not None and memory.built.get(leg.id) != incarnation:
        # It leads to a device of an earlier life. Whoever has it open lets go first (Busy until then).
        return (
            [RemoveDm(name=name, why=f"leg {leg.id} belongs to an earlier life of its disk")],
            "",
            "it is in a new life",
        )
    table = layout.leg_table(
        leg.extents,
        {device.device_uuid: device.major_minor for device in devices},
        stripes=volume.spec.layout.stripes,
        stripe_bytes=volume.spec.layout.stripe_size,
    )
    if dm is None:
        steps += [Remember(built={leg.id: incarnation}), CreateDm(name=name, table=table, why=f"leg {leg.id} mapped")]
        return steps, "", "it is being mapped"
    if lost:
        if leg.id in around.zeroing:
            return steps, "", "it is being zeroed"
        zero = Zero(
            volume=uuid,
            leg=leg.id,
            name=name,
            devices=tuple(device.name for device in devices),
            prepared_bytes=layout.capacity_bytes(leg.extents),
            why=f"zeroing leg {leg.id}, so that it shows no old bytes",
        )
        return [*steps, zero], "", "it is being zeroed"
    # The epoch is confirmed in the label before anything of it is exported, after everything older is gone.
    steps += [
        PutLeg(device=d.name, entry=e, why=f"leg {leg.id}: epoch {e.epoch} noted")
        if _epoch(d, volume, leg) < e.epoch
        else PutLeg(device=d.name, entry=e)
        for d, e in entries
        if e != d.entry(uuid, leg.id)
    ]
    growing, why = _grown(volume, leg, kernel, around, table)
    steps, nqn, hindered = _exported(volume, leg, kernel, around, incarnation=incarnation, steps=[*steps, *growing])
    return steps, nqn, hindered or why


def _grown(volume: VirtualVolume, leg: Leg, kernel: Kernel, around: Around, table: str) -> tuple[list[Step], str]:
    """What makes a leg as large as its extents (``table``), and what of it is not done. Only what lies behind the
    volume's present size is zeroed.

    Hosts are told before the label says that all is done: who is killed in between does both again.
    """
    growth, size = volume.status.growth, volume_bytes(volume)
    dm = kernel.dm[names.leg(volume.spec.uuid, leg.id)]
    steps: list[Step] = []
    if layout.extends(table, dm.table):
        steps.append(SwapDm(name=dm.name, table=table, why=f"leg {leg.id} gets its new extents"))
    elif not layout.same_table(table, dm.table):
        return [], f"what stands is not the leg, nor its beginning: {dm.table.splitlines()[0]}"
    wanted = min(growth.size_bytes, layout.capacity_bytes(leg.extents)) if growth else 0
    devices, _ = _devices(leg, kernel)
    ready = _ready_bytes(device.entry(volume.spec.uuid, leg.id) for device in devices)
    if max(ready, size) >= wanted:
        return steps, ""
    if leg.id not in around.zeroing:
        steps += [Resize(nqn=nqn) for nqn in sorted(kernel.exports) if _is(volume, leg.id, nqn)]
        steps.append(
            Zero(
                volume=volume.spec.uuid,
                leg=leg.id,
                name=dm.name,
                start_bytes=layout.leg_sectors(size) * SECTOR,
                devices=tuple(device.name for device in devices),
                prepared_bytes=wanted,
                why=f"zeroing the new part of leg {leg.id}, for {format_bytes(wanted)}",
            )
        )
    return steps, "its new part is being zeroed"


def _ready_bytes(entries: Iterable[LabelLeg | None]) -> int:
    """Usable bytes of a volume for which all of a leg is zeroed, by the labels of its devices."""
    return min((entry.ready_bytes if entry else 0 for entry in entries), default=0)


def _exported(
    volume: VirtualVolume, leg: Leg, kernel: Kernel, around: Around, *, incarnation: str, steps: list[Step]
) -> tuple[list[Step], str, str]:
    attachment, uuid = volume.status.attachment, volume.spec.uuid
    if attachment.node in ("", around.node) or leg.state == "Failed":
        return steps, "", ""
    if around.ending and any(other.state == "InSync" for other in volume.status.mapping.legs if other.id != leg.id):
        # Who writes to it hears of it now, and need not find out by a silence. The last good one stays to the end.
        return steps, "", f"{around.node} is shutting down"
    nqn = names.subsystem_nqn(uuid, leg.id, attachment.epoch, incarnation)
    if not around.attach_host_nqn:
        # Not knowing is no instruction: what is exported stays so.
        return steps, nqn if nqn in kernel.exports else "", f"the host NQN of {attachment.node} is not known yet"
    export, name = kernel.exports.get(nqn), names.leg(uuid, leg.id)
    identity = names.namespace_uuid(uuid, leg.id, attachment.epoch, incarnation)
    if export and export.enabled and (export.device, export.namespace_uuid) != (names.dm_path(name), identity):
        # By somebody's hands: the attach node does not take it for the leg, and what is enabled cannot be changed.
        said = f"exported as {export.namespace_uuid} of {export.device}, which it is not"
        steps.append(Unexport(nqn=nqn, why=f"leg {leg.id}: {said}"))
        export = None
    if export is None or not (export.enabled and export.linked) or export.allowed_hosts != (around.attach_host_nqn,):
        steps.append(
            Export(
                nqn=nqn,
                name=name,
                namespace_uuid=identity,
                serial=names.serial(uuid, leg.id),
                host_nqn=around.attach_host_nqn,
                address=around.address,
                port=around.port,
                why=f"leg {leg.id} exported to {attachment.node}, epoch {attachment.epoch}",
            )
        )
    return steps, nqn, ""


def _needed(volume: VirtualVolume, leg: Leg, memory: Memory, around: Around) -> str:
    """Why a leg that is given up is left standing: the attach node may still have it in its array; empty: it may go."""
    at, generation = volume.status.attachment.node, volume.status.mapping.generation
    if not at:
        return ""
    if at == around.node:
        in_force = memory.generation
    else:
        said = node_report(volume, at)
        in_force = said.generation if said is not None and said.epoch == volume.status.attachment.epoch else 0
    return "" if in_force >= generation else f"it leaves when {at} goes on without it (generation {generation})"


def _offered(volume: VirtualVolume, leg: Leg, kernel: Kernel) -> str:
    """The NQN under which the leg is exported under the present epoch; empty: it is not."""
    epoch = volume.status.attachment.epoch
    ours = (
        n for n in sorted(kernel.exports) if (p := names.parse_nqn(n)) and p[:3] == (volume.spec.uuid, leg.id, epoch)
    )
    return next(ours, "")


def _release(volume: VirtualVolume, leg: Leg, kernel: Kernel, memory: Memory) -> tuple[list[Step], str, str]:
    uuid, name = volume.spec.uuid, names.leg(volume.spec.uuid, leg.id)
    steps: list[Step] = []
    if name in kernel.dm:
        steps.append(RemoveDm(name=name, why=f"leg {leg.id} is released"))
    if leg.id in memory.built:
        steps.append(Remember(built={leg.id: ""}))
    asked, away = _asked(leg, kernel)
    for device in asked:
        entry = device.entry(uuid, leg.id)
        if entry is not None and entry.generation <= volume.status.mapping.generation:
            steps.append(DropLeg(device=device.name, volume=uuid, leg=leg.id, why=f"leg {leg.id} is released"))
    return steps, "", f"{', '.join(away)} is not here: released when it is back" if away else ""


def _asked(leg: Leg, kernel: Kernel) -> tuple[list[DeviceSeen], list[str]]:
    """The devices under a leg that can be asked for their label, each once, and the names of those that cannot."""
    found: dict[str, DeviceSeen] = {}
    away = set()
    for extent in leg.extents:
        device = kernel.devices.get(extent.device)
        if device is None or not device.present or device.device_uuid != extent.device_uuid:
            away.add(extent.device)
        else:
            found[device.name] = device
    return list(found.values()), sorted(away)


def _report(
    volume: VirtualVolume, leg: Leg, kernel: Kernel, around: Around, memory: Memory, *, nqn: str, why: str
) -> LegReport:
    uuid = volume.spec.uuid
    state = here(volume, leg, kernel, memory)
    export = kernel.exports.get(nqn) if nqn else None
    shown = nqn if export is not None and export.enabled and export.linked else ""
    here_devices = [d for e in leg.extents if (d := kernel.devices.get(e.device)) and d.device_uuid == e.device_uuid]
    entries = [entry for d in here_devices if (entry := d.entry(uuid, leg.id))]
    asked, away = _asked(leg, kernel)
    kept = sorted({*away, *(device.name for device in asked if device.entry(uuid, leg.id))})
    standing = names.leg(uuid, leg.id) in kernel.dm or any(_is(volume, leg.id, known) for known in kernel.exports)
    return LegReport(
        id=leg.id,
        prepared=state.ready and not leg.releasing,
        nqn=shown,
        address=_endpoint(around) if shown else "",
        incarnation=state.incarnation if state.ready else "",
        prepared_bytes=_ready_bytes(entries) if state.ready and not leg.releasing else 0,
        synced_epoch=min((entry.synced_epoch for entry in entries), default=0),
        unmapped=leg.releasing and not standing,
        kept_on=kept if leg.releasing else [],
        released=leg.releasing and not standing and not kept,
        message=why,
    )


def _report_only(volume: VirtualVolume, kernel: Kernel, around: Around, memory: Memory) -> Iterator[LegReport]:
    for leg in mine(volume, around.node):
        nqns = [nqn for nqn in sorted(kernel.exports) if _is(volume, leg.id, nqn)]
        yield _report(volume, leg, kernel, around, memory, nqn=nqns[0] if nqns else "", why="")


def _devices(leg: Leg, kernel: Kernel) -> tuple[list[DeviceSeen], str]:
    """The devices under a leg, each once, and what is wrong with them ("" nothing)."""
    found: dict[str, DeviceSeen] = {}
    for extent in leg.extents:
        device = kernel.devices.get(extent.device)
        if device is None:
            return [], f"device {extent.device} is not claimed here"
        if device.device_uuid != extent.device_uuid:
            return [], f"device {extent.device} is another disk now ({device.device_uuid})"
        if not device.present:
            return [], f"device {extent.device} is gone"
        found[device.name] = device
    return [found[name] for name in sorted(found)], ""


def _incarnation(boot_id: str, devices: list[DeviceSeen]) -> str:
    counts = [(device.device_uuid, device.label.attach_count if device.label else 0) for device in devices]
    return names.incarnation(boot_id, counts)


def _known(volume: VirtualVolume, leg: Leg, devices: list[DeviceSeen]) -> list[tuple[DeviceSeen, LabelLeg | None]]:
    return [(device, device.entry(volume.spec.uuid, leg.id)) for device in devices]


def _epoch(device: DeviceSeen, volume: VirtualVolume, leg: Leg) -> int:
    entry = device.entry(volume.spec.uuid, leg.id)
    return entry.epoch if entry else 0


def _entry(volume: VirtualVolume, leg: Leg, device: DeviceSeen) -> LabelLeg:
    """What the label of ``device`` shall say of the leg now."""
    old = device.entry(volume.spec.uuid, leg.id)
    mapping, attachment = volume.status.mapping, volume.status.attachment
    in_mapping = any(known.id == leg.id for known in mapping.legs)
    open_now = bool(attachment.node) and attachment.epoch > 0
    synced = attachment.epoch if open_now and in_mapping and leg.state == "InSync" else 0
    return LabelLeg(
        volume=volume.spec.uuid,
        volume_name=volume.metadata.name,
        leg=leg.id,
        size_bytes=volume_bytes(volume),
        extents=tuple(
            (index, e.start, e.length) for index, e in enumerate(leg.extents) if e.device_uuid == device.device_uuid
        ),
        epoch=attachment.epoch,
        generation=mapping.generation,
        record_seq=mapping.record_seq,
        state=leg.state,
        zeroed=old.zeroed if old else False,
        prepared_bytes=old.ready_bytes if old and old.ready_bytes != volume_bytes(volume) else 0,
        synced_epoch=max(synced, old.synced_epoch if old else 0),
        extent_count=len(leg.extents),
        stripes=volume.spec.layout.stripes,
        stripe_bytes=volume.spec.layout.stripe_size,
        next_leg=volume.status.next_leg,
        peers=_peers(volume),
    )


def _newer_label(volume: VirtualVolume, kernel: Kernel) -> str:
    """Why the volume must stand still: a label knows more than the record does."""
    mapping, epoch = volume.status.mapping, volume.status.attachment.epoch
    for device in kernel.devices.values():
        for entry in device.entries(volume.spec.uuid):
            numbers = f"(epoch {entry.epoch}, generation {entry.generation}, recordSeq {entry.record_seq})"
            if entry.epoch > epoch or entry.generation > mapping.generation or entry.record_seq > mapping.record_seq:
                return f"the label of {device.name} is newer than the record {numbers}: {_RESTORED}"
            same = (entry.generation, entry.record_seq) == (mapping.generation, mapping.record_seq)
            if same and entry.peers and entry.peers != _peers(volume):
                return f"the label of {device.name} has another record of the same numbers {numbers}: {_RESTORED}"
    return ""


def _peers(volume: VirtualVolume) -> tuple[PeerLeg, ...]:
    legs = volume.status.mapping.legs
    return tuple(PeerLeg(leg=leg.id, node=leg.node, state=leg.state, releasing=leg.releasing) for leg in legs)


def _was_open(volume: VirtualVolume) -> bool:
    """Whether pods may have written to the volume: it was attached, once."""
    return volume.status.attachment.epoch > 0


def _confirmed(volume: VirtualVolume, own: list[Leg], kernel: Kernel) -> bool:
    """No export of an older epoch, and each label here refuses older ones."""
    epoch = volume.status.attachment.epoch
    for nqn in kernel.exports:
        parsed = names.parse_nqn(nqn)
        if parsed and parsed[0] == volume.spec.uuid and parsed[2] < epoch:
            return False
    for leg in own:
        if leg.releasing:
            continue
        for extent in leg.extents:
            device = kernel.devices.get(extent.device)
            if device is None or not device.present or device.device_uuid != extent.device_uuid:
                continue
            entry = device.entry(volume.spec.uuid, leg.id)
            if entry is None or entry.epoch < epoch:
                return False
    return True


def _is(volume: VirtualVolume, leg: str, nqn: str) -> bool:
    parsed = names.parse_nqn(nqn)
    return parsed is not None and parsed[:2] == (volume.spec.uuid, leg)


def _endpoint(around: Around) -> str:
    """``ip:port``, ``[ip]:port`` of IPv6."""
    return f"[{around.address}]:{around.port}" if ":" in around.address else f"{around.address}:{around.port}"


def _life(nqn: str) -> str:
    parsed = names.parse_nqn(nqn)
    return f"e{parsed[2]}:{parsed[3]}" if parsed else nqn
