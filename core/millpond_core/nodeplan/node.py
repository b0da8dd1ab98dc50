"""The plan of one volume on one node: its stack if this is the attach node, its legs if some lie here, its report."""

from __future__ import annotations

from millpond_core import layout, names
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import FrontState, GateMode, NodeReport, PathReport, PathState, Progress
from millpond_core.nodeplan import leave, legs, scrubbing
from millpond_core.nodeplan.attach import maintain
from millpond_core.nodeplan.attaching import NOTHING, Attaching
from millpond_core.nodeplan.stack import faulty, in_sync
from millpond_core.nodeplan.steps import Plan, Remember, Step
from millpond_core.nodeplan.view import Around, Kernel, LegMemory, Memory, volume_bytes
from millpond_core.observed import Member
from millpond_core.units import SECTOR


def plan(volume: VirtualVolume, kernel: Kernel, around: Around, memory: Memory) -> Plan:
    """What this node does for ``volume`` now, and what it says of it.

    ``kernel.devices`` must be complete: a device that is not in it is taken for one that is not claimed here.
    """
    on_disk = legs.plan(volume, kernel, around, memory)
    attaching = Attaching(volume, kernel, around, memory)
    fenced = _attach(attaching, on_disk.newer or _newer_elsewhere(attaching))
    parts: list[tuple[Step, ...]] = [tuple(attaching.steps), on_disk.steps]
    epoch = attaching.epoch
    apart = attaching.stack.empty or memory.epoch == epoch
    if epoch > memory.confirmed and on_disk.confirmed == epoch and apart:
        parts.append((Remember(changes={"confirmed": epoch}, why=f"epoch {epoch} confirmed: nothing older is here"),))
    mapping = volume.status.mapping
    in_force = (mapping.generation, mapping.record_seq)
    # What the mapping gives up still stands: whoever hears that it is in force takes the leg away under it.
    dropped = {leg.id for leg in mapping.legs if leg.releasing or leg.state == "Failed"} & set(attaching.stack.legs())
    if not any(parts) and not around.connecting and not dropped and in_force != (memory.generation, memory.record_seq):
        news = f"generation {mapping.generation} is in force" if mapping.generation != memory.generation else ""
        changes = {"generation": mapping.generation, "record_seq": mapping.record_seq}
        parts.append((Remember(changes=changes, why=news),))
    down = attaching.down if volume.status.attachment.node == around.node else ()
    waits = _waits(attaching, on_disk)
    return Plan(
        parts=tuple(part for part in parts if part),
        waits=waits,
        down={leg: attaching.nearness(leg) for leg in down},
        wake=attaching.wake,
        report=_report(attaching, on_disk, waits, fenced=fenced),
    )


def _newer_elsewhere(attaching: Attaching) -> str:
    """What another node says of its label, as long as nothing was begun by the record as it is."""
    memory = attaching.memory
    if memory.assembled and memory.epoch == attaching.epoch:
        return ""
    others = (said for said in attaching.volume.status.nodes if said.node != attaching.around.node)
    return next((f"{said.node} says: {said.newer_label}" for said in others if said.newer_label), "")


def _attach(attaching: Attaching, newer: str) -> bool:
    """Plan the stack's part. True: this node is fenced from the volume."""
    volume, memory, stack = attaching.volume, attaching.memory, attaching.stack
    node = attaching.around.node
    here = volume.status.attachment.node == node and attaching.epoch > 0
    if newer or (volume.status.mapping.generation == 0 and not stack.empty):
        if not stack.empty:
            attaching.waits.append(newer or "the mapping is lost: what stands here is kept as it is")
        return False
    if not here or (memory.epoch not in (0, attaching.epoch) and not stack.empty):
        if not stack.empty or memory.epoch:
            leave.fence(attaching)
        return not stack.empty
    if memory.epoch == 0 and not stack.empty and memory.clean_epoch != attaching.epoch:
        attaching.waits.append("what stands here was not made by anyone remembered: kept, detach the volume by hand")
        return False
    if attaching.epoch < memory.confirmed:
        attaching.waits.append(
            f"epoch {memory.confirmed} was confirmed here: the record's {attaching.epoch} is too old"
        )
        return False
    since_boot = volume.status.attachment.boot_id
    if since_boot and since_boot != attaching.kernel.boot_id and stack.empty:
        # What this node did under this epoch ended with the reboot, and not cleanly.
        attaching.waits.append(f"this node has rebooted since epoch {attaching.epoch} began: it waits for a new one")
        return False
    if memory.broken:
        leave.broken(attaching)
        return not stack.empty
    if volume.spec.attachment.node == node and not memory.leaving and not attaching.around.ending:
        maintain(attaching)
    else:
        leave.detach(attaching)
    return False


def _report(attaching: Attaching, on_disk: legs.LegsPlan, waits: tuple[str, ...], *, fenced: bool) -> NodeReport:
    volume, memory, stack = attaching.volume, attaching.memory, attaching.stack
    front: FrontState = "None"
    if stack.front is not None:
        front = "Fenced" if fenced else "Suspended" if stack.front.suspended else "Active"
        if not memory.assembled and not fenced:
            front = "None"
    return NodeReport(
        node=attaching.around.node,
        boot_id=attaching.kernel.boot_id,
        epoch=memory.confirmed,
        generation=memory.generation,
        record_seq=memory.record_seq,
        clean_epoch=memory.clean_epoch,
        ended_epoch=memory.ended_epoch,
        newer_label=on_disk.newer,
        front=front,
        device=names.dm_path(names.front(volume.spec.uuid)) if front in ("Active", "Suspended") else "",
        size_bytes=layout.table_sectors(stack.front.table) * SECTOR if stack.front else 0,
        legs=list(on_disk.reports),
        paths=_paths(attaching),
        progress=[*_progress(attaching), *scrubbing.progress(attaching)],
        scrub=scrubbing.report(memory.scrub),
        longest_hold_ms=memory.longest_hold_ms,
        message="; ".join(waits),
    )


def _waits(attaching: Attaching, on_disk: legs.LegsPlan) -> tuple[str, ...]:
    """Each once: without those that another one begins with and says more."""
    said = [*dict.fromkeys((*attaching.waits, *on_disk.waits))]
    return tuple(one for one in said if not any(more != one and more.startswith(one) for more in said))


def _paths(attaching: Attaching) -> list[PathReport]:
    stack, node = attaching.stack, attaching.around.node
    wanted: set[str] = set()
    if attaching.volume.status.attachment.node == attaching.volume.spec.attachment.node == node:
        wanted = {leg.id for leg in attaching.wanted()}
    reports = []
    for leg in sorted({*stack.legs(), *wanted}):
        gate: GateMode = "None"
        if leg in stack.gates:
            gate = "Holding" if attaching.holding(leg) else "Failing"
        path: PathState = "None"
        if leg in stack.paths:
            path = "Up" if leg in attaching.sources and attaching.up(leg) else "Down"
        known = attaching.memory.legs.get(leg, NOTHING)
        said = _place(stack.member(leg), known)
        reports.append(PathReport(id=leg, gate=gate, path=path, member=said, incarnation=known.incarnation))
    return reports


def _place(member: Member | None, known: LegMemory) -> str:
    if member is None:
        return "None"
    if faulty(member):
        return "Faulty"
    if in_sync(member):
        return "InSync"
    return "Stopped" if member.slot is None and known.stopped else "Rebuilding"


def _progress(attaching: Attaching) -> list[Progress]:
    array = attaching.stack.array
    if array is None or not attaching.memory.assembled:
        return []
    copying = [
        leg
        for leg in sorted(attaching.stack.gates)
        if (m := attaching.stack.member(leg)) and m.slot is not None and not in_sync(m) and not faulty(m)
    ]
    total = volume_bytes(attaching.volume)
    reports = []
    for leg in copying:
        done = array.sync_done_sectors * SECTOR
        if array.sync_action == "frozen":
            member = attaching.stack.member(leg)
            done = (member.recovery_start or 0) * SECTOR if member else 0
        whole = array.sync_total_sectors * SECTOR or total
        delta = attaching.delta_of(leg)
        reports.append(
            Progress(
                leg=leg,
                kind="Delta" if delta else "Full",
                done_bytes=min(done, whole),
                total_bytes=whole,
                halted=array.sync_action == "frozen",
            )
        )
    return reports
