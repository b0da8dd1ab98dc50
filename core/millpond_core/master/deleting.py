"""Giving back: legs leave on a positive record, a volume goes when all of its legs are given back."""

from __future__ import annotations

import msgspec

from millpond_core import names
from millpond_core.master import attaching
from millpond_core.master import volumes as v
from millpond_core.master.steps import Act, Merge, Patch, Wait
from millpond_core.master.world import World
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Extent, Leg


def decide(world: World, volume: VirtualVolume, now: float) -> Act | Wait:
    """The way out of a volume that is to be deleted: detached, legs releasing, released, gone."""
    status, name = volume.status, volume.metadata.name
    if names.FINALIZER not in volume.metadata.finalizers:
        return Wait("Deleting", f"waits for finalizer {', '.join(volume.metadata.finalizers)} of others")
    if status.mapping.generation == 0:
        return _gone(volume, "it has no mapping")
    if original := v.copied_from(world, volume):
        # Its nodes know legs by the uuid: they would give back that one's.
        return Wait("Invalid", f"has the spec.uuid of volume {original}: its legs are given back after that one's")
    if volume.spec.attachment.node:
        return Wait("InUse", f"is to be deleted, but still wanted on {volume.spec.attachment.node}")
    if status.attachment.node:
        return attaching.decide(world, volume, now) or Wait("Detaching", "waits to be detached")
    if covering := v.covering(world, name):
        return Wait("Quiescing", f"is deleted when quiescence {', '.join(covering)} is over")
    if status.phase != "Deleting":
        return Wait("Deleting", "is being deleted")  # the phase is written next: the record tells why legs may go
    if any(not leg.releasing for leg in (*status.mapping.legs, *status.spares)):
        legs = [msgspec.structs.replace(leg, releasing=True) for leg in status.mapping.legs]
        spares = [msgspec.structs.replace(leg, releasing=True) for leg in status.spares]
        operations = [
            *v.record_tests(volume, status.mapping.legs),
            *v.spare_tests(volume),
            *v.put_legs(volume, legs, commit=True),
            v.put("/status/spares", spares),
        ]
        return Act(Patch(VirtualVolume, name, operations), "its legs are given back")
    left = [leg for leg in (*status.mapping.legs, *status.spares) if not given_back(world, volume, leg)]
    if left:
        return Wait("Releasing", f"waits for leg {'; '.join(_whereabouts(world, volume, leg) for leg in left)}")
    return _gone(volume, "all of its legs are given back")


def drop_released(world: World, volume: VirtualVolume) -> Act | None:
    """Legs and spares that were given back leave the record, once the attach node runs a generation without them."""
    mapping, at, name = volume.status.mapping, volume.status.attachment, volume.metadata.name
    said = v.report(volume, at.node) if at.node else None
    caught_up = not at.node or (said is not None and said.generation >= mapping.generation)
    gone = [leg for leg in mapping.legs if leg.releasing and caught_up and given_back(world, volume, leg)]
    if gone:
        legs = [leg for leg in mapping.legs if leg not in gone]
        operations = [*v.record_tests(volume, gone), *v.put_legs(volume, legs, commit=False)]
        return Act(
            Patch(VirtualVolume, name, operations),
            f"leg {', '.join(leg.id for leg in gone)} is given back, its room free",
        )
    spares = [leg for leg in volume.status.spares if leg.releasing and given_back(world, volume, leg)]
    if spares:
        left = [leg for leg in volume.status.spares if leg not in spares]
        operations = [*v.record_tests(volume), *v.spare_tests(volume), v.put("/status/spares", left)]
        return Act(Patch(VirtualVolume, name, operations), f"spare {', '.join(s.id for s in spares)} is given back")
    return None


def given_back(world: World, volume: VirtualVolume, leg: Leg) -> bool:
    """Whether a leg's node says so; but for devices that are lost, which people have deleted, labels and all."""
    said = v.leg_report(volume, leg)
    if said is not None and said.released:
        return True
    if said is not None and said.unmapped:
        left = [extent for extent in leg.extents if extent.device in said.kept_on]
        return all(_deleted(world, extent) for extent in left)
    return all(_deleted(world, extent) for extent in leg.extents)


def _deleted(world: World, extent: Extent) -> bool:
    """Whether people have given up the device under an extent."""
    device = world.device(extent.device_uuid)
    if device is None:
        # One of the same name that has not told its identity yet may be it.
        namesake = world.devices.get(extent.device)
        return namesake is None or namesake.status.observation.device_uuid not in ("", extent.device_uuid)
    seen = device.status.observation
    return bool(device.metadata.deletion_timestamp) and seen.state in ("Failed", "Absent")


def _gone(volume: VirtualVolume, why: str) -> Act:
    left = [finalizer for finalizer in volume.metadata.finalizers if finalizer != names.FINALIZER]
    metadata = {"resourceVersion": volume.metadata.resource_version, "finalizers": left}
    return Act(Merge(VirtualVolume, volume.metadata.name, {"metadata": metadata}), f"deleted: {why}")


def _whereabouts(world: World, volume: VirtualVolume, leg: Leg) -> str:
    loss, said = v.loss(world, volume, leg), v.leg_report(volume, leg)
    if loss:
        return f"{leg.id}: {loss.why}; bring it back, or delete its StorageDevice"
    return f"{leg.id} on {leg.node}{': ' + said.message if said and said.message else ''}"
