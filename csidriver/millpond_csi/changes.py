"""The part of the Controller service that changes a volume which exists: its size, and what a VolumeAttributesClass may
say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from millpond_core.errors import Conflict, Invalid, NotFound
from millpond_core.model import VirtualVolume
from millpond_core.ports import Kube
from millpond_core.units import format_bytes
from millpond_csi import attributes, sizes, validation, volumes
from millpond_csi.deadline import Deadline
from millpond_csi.errors import OutOfRange
from millpond_csi.stubs import csi
from millpond_csi.waiting import Wait, present, until

Answer = TypeVar("Answer")


class VolumeChanges:
    """Its calls wait for what may take long while the volume is attached and detached beside them
    (``interceptors.BESIDE``): each edit tests or names what it changes, and no more.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def controller_expand_volume(self, request: Any, deadline: Deadline) -> Any:
        """Raise spec.size and wait until the master has given the volume its bytes, and its node the front.

        A filesystem then has to fill them (NodeExpandVolume); for raw block there is nothing left to do. What becomes
        of a size that cannot be had: ``volumes.grown``.
        """
        volume_id = validation.volume_id(request.volume_id)
        if not request.HasField("capacity_range"):
            raise Invalid("capacity_range is missing")
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        wanted = sizes.size_to_have(required, limit)
        block = request.HasField("volume_capability") and validation.capability(request.volume_capability).block

        def judge(seen: VirtualVolume) -> VirtualVolume | volumes.Resize | Wait:
            return _within(volumes.grown(seen, wanted), seen, limit)

        while True:
            step: VirtualVolume | volumes.Resize = await until(self._kube, volume_id, deadline, _of(volume_id, judge))
            if isinstance(step, VirtualVolume):
                return csi.ControllerExpandVolumeResponse(
                    capacity_bytes=step.status.size_bytes, node_expansion_required=not block
                )
            with contextlib.suppress(Conflict):  # judged anew from what it changed to
                await self._resize(step)

    async def controller_modify_volume(self, request: Any, deadline: Deadline) -> Any:
        """Write into the spec what the class says. What it does not name stays as it is.

        All but ``copies`` is in force with that. More copies are answered when the master has allocated a place for
        each, not when they are in sync: a rebuild may take hours, and the volume's status tells of it. Where there is
        no place they stay wanted, and what has one is copied; the answer is final (Refused), since csi-resizer would
        hold on to this class for ever after RESOURCE_EXHAUSTED, though people have gone back to another one.
        """
        volume_id = validation.volume_id(request.volume_id)
        changes = attributes.patch(request.mutable_parameters)
        volume = await present(self._kube, volume_id)
        if attributes.patched(volume.spec, changes) != volume.spec:
            # No version is tested: nobody else writes these fields, and CEL holds together those that hang together.
            await self._kube.merge(VirtualVolume, volume_id, {"spec": changes})
        if (copies := changes.get("layout", {}).get("copies")) is not None:
            judge = _of(volume_id, lambda seen: attributes.taken_up(seen, copies))
            await until(self._kube, volume_id, deadline, judge)
        return csi.ControllerModifyVolumeResponse()

    async def _resize(self, wish: volumes.Resize) -> None:
        """Conflict when the object has changed since: a size is taken back only as far as nothing was given of it."""
        metadata = wish.volume.metadata
        await self._kube.patch(
            VirtualVolume,
            metadata.name,
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version},
                {"op": "replace", "path": "/spec/size", "value": sizes.quantity(wish.size)},
            ],
        )


def _of(
    volume_id: str, judge: Callable[[VirtualVolume], Answer | Wait]
) -> Callable[[VirtualVolume | None], Answer | Wait]:
    """``judge`` for ``waiting.until``: NotFound when the volume is not there, or not for long."""

    def judged(volume: VirtualVolume | None) -> Answer | Wait:
        if volume is None:
            raise NotFound(f"there is no volume {volume_id}")
        if volume.metadata.deletion_timestamp:
            raise NotFound(f"volume {volume_id} is being deleted")
        return judge(volume)

    return judged


def _within(
    step: VirtualVolume | volumes.Resize | Wait, volume: VirtualVolume, limit: int
) -> VirtualVolume | volumes.Resize | Wait:
    """``step``; OutOfRange when the volume has more than ``limit`` bytes already."""
    have = volume.status.size_bytes
    if limit and have > limit:
        raise OutOfRange(
            f"volume {volume.metadata.name} has {format_bytes(have)} ({have} bytes) already, more than the {limit} "
            "that it is to have at most: volumes do not shrink"
        )
    return step
