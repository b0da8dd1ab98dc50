"""The parameters of a VolumeAttributesClass: those of a StorageClass that may change, and what comes of a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from millpond_core.errors import Invalid
from millpond_core.master.volumes import NO_SPARE
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import VirtualVolumeSpec
from millpond_csi.errors import Refused
from millpond_csi.parameters import METADATA, PARAMETERS, read
from millpond_csi.volumes import refusal
from millpond_csi.waiting import Wait

MUTABLE = tuple(name for name, parameter in PARAMETERS.items() if parameter.mutable)


def known(parameters: Mapping[str, str]) -> dict[str, str]:
    """``parameters`` without what csi-resizer adds of its own. Invalid when one may not change, or cannot be so."""
    given = {name: text for name, text in parameters.items() if name not in METADATA}
    wrong = sorted(given.keys() - set(MUTABLE))
    if wrong:
        raise Invalid(
            f"VolumeAttributesClass parameter {', '.join(repr(name[:63]) for name in wrong[:5])} is "
            f"{'one of a StorageClass only' if wrong[0] in PARAMETERS else 'unknown'}; mutable: {', '.join(MUTABLE)}"
        )
    for name, text in given.items():
        read(name, text, "VolumeAttributesClass")
    return given


def patch(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The parameters as a merge patch of a spec: what they do not name stays as it is. Raises as ``known``."""
    made: dict[str, Any] = {}
    for name, text in known(parameters).items():
        group, field = PARAMETERS[name].mutable
        made.setdefault(group, {})[field] = read(name, text)
    return made


def patched(spec: VirtualVolumeSpec, changes: Mapping[str, Any]) -> VirtualVolumeSpec:
    """``spec`` with a ``patch``. Invalid when a volume could never be written like that."""
    before = msgspec.to_builtins(spec)
    merged = {**before, **{group: {**before.get(group, {}), **fields} for group, fields in changes.items()}}
    after = msgspec.convert(merged, VirtualVolumeSpec)
    if after.on_failure.min_in_sync > after.layout.copies:
        raise Invalid(
            f"minInSync would be {after.on_failure.min_in_sync}, copies only {after.layout.copies}: such a volume "
            "could never be written; name both in the VolumeAttributesClass"
        )
    return after


def taken_up(volume: VirtualVolume, copies: int) -> VirtualVolume | Wait:
    """The volume once the master has a place for each of so many copies; what is copied there may still be under way.

    Raises Refused when it has none. A copy too many needs no place: that is done as soon as it is written.
    """
    legs = [leg for leg in volume.status.mapping.legs if not leg.releasing and leg.state != "Failed"]
    there, said = len(legs) + len(volume.status.spares), volume.status.message
    if there >= copies:
        return volume
    heard = volume.status.observed_generation >= volume.metadata.generation
    if heard and ((refused := refusal(volume)) is not None or NO_SPARE in said):
        raise Refused(
            f"volume {volume.metadata.name} has {there} of {copies} copies: {refused or said}; the others stay wanted "
            "and are made as soon as there is room"
        )
    return Wait(f"{there} of {copies} copies have a place{f' ({said})' if said else ''}")
