"""A device: its phase and its room, told from what its node sees and from all mappings; and leaving in good order.

A device that is deleted or to be emptied keeps its finalizer until no leg is left on it. Its legs move to spares; one
that is the last copy in reach stays, until people accept the loss by naming the device's identity.
"""

from __future__ import annotations

from typing import Any

from millpond_core import names
from millpond_core.instants import clock, parse
from millpond_core.master import conditions
from millpond_core.master import volumes as v
from millpond_core.master.conditions import Says
from millpond_core.master.steps import Act, Apply, Decision, Merge, Notice, Wait
from millpond_core.master.world import World
from millpond_core.model import StorageDevice
from millpond_core.model.storagedevice import DevicePhase, DiskWarning, StorageDeviceStatus
from millpond_core.units import UNIT_BYTES, format_bytes


def decide(world: World, device: StorageDevice, now: float) -> Decision:
    """Keep it from vanishing while legs lie on it; then say how it is."""
    if act := _finalized(world, device):
        return act
    fields = status(world, device, now)
    if device.status.observed_generation and conditions.applied(device.status, fields):
        return Wait()
    step = Apply(StorageDevice, device.metadata.name, conditions.partial(StorageDeviceStatus, fields))
    return Act(step, "", _notices(device, fields))


def status(world: World, device: StorageDevice, now: float) -> dict[str, Any]:
    """The master's part of the status, by the struct's names."""
    seen = device.status.observation
    phase = _phase(world, device)
    capacity = seen.capacity_bytes // UNIT_BYTES
    taken = sum(length for _, length in world.used(seen.device_uuid)) if seen.device_uuid else 0
    free = max(capacity - taken, 0) * UNIT_BYTES
    usable = phase == "Online"
    message = _message(world, device, phase)
    says = [
        Says("Ready", usable, phase, message),
        Says("Degraded", phase in ("Failed", "Offline"), phase, message),
        Says("Progressing", _empties(phase) and bool(world.legs_on(seen.device_uuid)), phase, message),
    ]
    return {
        "observed_generation": max(device.metadata.generation, 1),
        "phase": phase,
        "size": format_bytes(seen.capacity_bytes) if seen.capacity_bytes else "",
        "free": format_bytes(free) if usable else "-",
        "allocated_bytes": taken * UNIT_BYTES,
        "free_bytes": free if usable else 0,
        "legs": world.legs_on(seen.device_uuid) if seen.device_uuid else 0,
        "message": message,
        "conditions": conditions.conditions(
            device.status.conditions, says, now=now, generation=device.metadata.generation
        ),
    }


def _finalized(world: World, device: StorageDevice) -> Act | None:
    meta, seen = device.metadata, device.status.observation
    metadata: dict[str, Any] = {"resourceVersion": meta.resource_version}
    if not meta.deletion_timestamp:
        if names.FINALIZER in meta.finalizers:
            return None
        metadata["finalizers"] = [*meta.finalizers, names.FINALIZER]
        return Act(Merge(StorageDevice, meta.name, {"metadata": metadata}), "kept until no leg lies on it")
    if names.FINALIZER not in meta.finalizers:
        return None
    if seen.device_uuid and world.legs_on(seen.device_uuid) and not _loss_accepted(device):
        return None
    metadata["finalizers"] = [finalizer for finalizer in meta.finalizers if finalizer != names.FINALIZER]
    why = "no leg lies on it" if not world.legs_on(seen.device_uuid) else "the loss of what lies on it is accepted"
    return Act(Merge(StorageDevice, meta.name, {"metadata": metadata}), f"deleted: {why}")


def _loss_accepted(device: StorageDevice) -> bool:
    uuid = device.status.observation.device_uuid
    return bool(uuid) and device.metadata.annotations.get(names.ANNOTATION_ACCEPT_DATA_LOSS) == uuid


def _phase(world: World, device: StorageDevice) -> DevicePhase:
    seen = device.status.observation
    health = world.state_of(device.spec.node_name)
    known = bool(seen.device_uuid)
    legs = world.legs_on(seen.device_uuid) if known else 0
    if health.state == "Failed" and known:
        return "Offline"
    if health.state == "StateManagerDown" and device.status.observed_generation:
        return device.status.phase  # its node says nothing now; what it last said stands
    match seen.state:
        case "Claimed":
            if device.metadata.deletion_timestamp or device.spec.desired_state == "Drained":
                return "Draining" if legs else "Drained"
            if device.spec.desired_state == "Retired":
                return "Draining" if legs else "Retired"
            if world.leaves(device.spec.node_name):
                return "Draining" if legs else "Drained"
            return "Failing" if device.dying() else "Online"
        case "Failed":
            return "Failed"
        case "Absent" | "Refused" if known:
            return "Offline"
    return "Pending"


def _message(world: World, device: StorageDevice, phase: DevicePhase) -> str:
    seen = device.status.observation
    health = world.state_of(device.spec.node_name)
    said: list[str] = []
    if health.state != "Ready":
        said.append(f"node {device.spec.node_name} is {health.state}")
    elif phase in ("Failed", "Offline"):
        since = parse(seen.since)
        said.append((seen.message or f"it is {seen.state}") + (f" (since {clock(since)})" if since else ""))
    elif phase == "Pending":
        said.append(seen.message or f"waits for {device.spec.node_name} to find and label it")
    if seen.warnings and phase != "Pending":
        said.append(f"its disk warns: {', '.join(_WARNINGS[warning] for warning in seen.warnings)}")
    if phase == "Failing":
        said.append("no leg is placed on it, and those on it move off with all copies at every step")
    if phase in ("Failed", "Offline") or _empties(phase) or device.metadata.deletion_timestamp:
        blocked, moving, replaced = remaining(world, device)
        if total := len(moving) + replaced:
            said.append(f"{replaced}/{total} legs replaced")
        if blocked:
            said.append(
                f"the last copy in reach of {', '.join(sorted(blocked)[:5])} lies here"
                + (
                    f": to lose it, annotate {names.ANNOTATION_ACCEPT_DATA_LOSS}={seen.device_uuid}"
                    if device.metadata.deletion_timestamp
                    else ""
                )
            )
        elif phase in ("Failing", "Failed") and not moving:
            said.append("nothing needs it any more, safe to delete")
    return "; ".join(said)


def remaining(world: World, device: StorageDevice) -> tuple[set[str], list[str], int]:
    """(volumes of which the last copy is here, volumes with a leg that still belongs to them, legs given back)."""
    uuid = device.status.observation.device_uuid
    last: set[str] = set()
    moving: list[str] = []
    replaced = 0
    for name in world.volumes_on(uuid) if uuid else ():
        volume = world.volumes[name]
        for leg in volume.status.mapping.legs:
            if all(extent.device_uuid != uuid for extent in leg.extents):
                continue
            if leg.releasing:
                replaced += 1
                continue
            moving.append(name)
            if leg.state == "InSync" and all(other.id == leg.id for other in v.in_reach(world, volume)):
                last.add(name)
    return last, moving, replaced


def _notices(device: StorageDevice, fields: dict[str, Any]) -> tuple[Notice, ...]:
    before, phase = device.status.phase, fields["phase"]
    if phase in (before, "Pending"):
        return ()
    bad = phase in ("Failing", "Failed", "Offline")
    return (Notice(phase, fields["message"] or f"it is {phase}", warning=bad),)


def _empties(phase: DevicePhase) -> bool:
    return phase in ("Failing", "Draining")


_WARNINGS: dict[DiskWarning, str] = {
    "SpareLow": "few spare blocks are left",
    "TooHot": "it is too hot or too cold",
    "Unreliable": "media or internal errors have made it unreliable",
    "ReadOnly": "it takes no more writes",
    "BackupFailed": "its cache may be lost with the power",
    "MemoryUnreliable": "its persistent memory region is unreliable",
}
