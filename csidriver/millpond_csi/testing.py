"""For tests: capabilities, and a master with state managers that do at once what they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millpond_core import names
from millpond_core.errors import Conflict, NotFound, Unavailable
from millpond_core.master.volumes import NO_SPARE
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Extent, Leg
from millpond_core.ports import Kube
from millpond_core.units import leg_units, parse_quantity, round_up
from millpond_csi.stubs import csi
from millpond_csi.volumes import RESIZED

Mode = csi.VolumeCapability.AccessMode

Front = Callable[[str, str, int], None]
"""Called with the node, spec.uuid and the size in bytes when a front appears or has grown, and size 0 when it goes."""


def mount_capability(fs_type: str = "", mode: int = Mode.SINGLE_NODE_WRITER, flags: tuple[str, ...] = ()) -> Any:
    """To be mounted."""
    return csi.VolumeCapability(mount={"fs_type": fs_type, "mount_flags": flags}, access_mode=Mode(mode=mode))


def block_capability(mode: int = Mode.SINGLE_NODE_WRITER) -> Any:
    """To be used raw."""
    return csi.VolumeCapability(block={}, access_mode=Mode(mode=mode))


class ScriptedMaster:
    """Places each volume on ``node``, prepares, attaches, detaches and enlarges it, and lets it go.

    ``room``: bytes of the largest volume that there is room for; ``spares``: how many more copies of one. It stops
    short of what ``stuck`` names: "allocate", "prepare", "attach", "detach", "grow", "enlarge" (the front), "release".
    """

    def __init__(self, kube: Kube, node: str, *, room: int = 1 << 50, front: Front = lambda node, uuid, size: None):
        self._kube = kube
        self._node = node
        self.room = room
        self.spares = 3
        self._front = front
        self.stuck: set[str] = set()

    async def run(self) -> None:
        """For ever."""
        async for event, volume in self._kube.watch(VirtualVolume):
            if event in ("ADDED", "MODIFIED"):
                try:
                    await self._act(volume)
                except (Conflict, NotFound, Unavailable):
                    continue  # the next event has what it changed to; in an outage nobody gets any further

    async def _act(self, volume: VirtualVolume) -> None:
        status = volume.status
        if volume.metadata.deletion_timestamp:
            if "release" not in self.stuck:
                await self._change(volume, {"metadata": {"finalizers": []}}, status=False)
        elif not volume.metadata.finalizers:
            await self._change(volume, {"metadata": {"finalizers": [names.FINALIZER]}}, status=False)
        elif status.phase == "Pending":
            if "allocate" not in self.stuck:
                await self._allocate(volume)
        elif names.ANNOTATION_ALLOCATED not in volume.metadata.annotations:
            note = {names.ANNOTATION_ALLOCATED: volume.spec.uuid}
            await self._change(volume, {"metadata": {"annotations": note}}, status=False)
        elif status.phase == "Preparing":
            if "prepare" not in self.stuck:
                await self._change(volume, {"status": {"phase": "Ready"}})
        elif volume.spec.attachment.node and not status.attachment.node:
            if "attach" not in self.stuck:
                await self._attach(volume)
        elif status.attachment.node and not volume.spec.attachment.node:
            if "detach" not in self.stuck:
                await self._detach(volume)
        else:
            await self._settle(volume)

    async def _settle(self, volume: VirtualVolume) -> None:
        """What more the spec asks for, one thing at a time, and word of what cannot be had."""
        status, at = volume.status, volume.status.attachment
        size, there = round_up(parse_quantity(volume.spec.size)), len(status.mapping.legs) + len(status.spares)
        short, fits = volume.spec.layout.copies > there, size <= max(self.room, status.size_bytes)
        told = (
            all(each.type != RESIZED or each.status == "True" for each in status.conditions),
            NO_SPARE in status.message,
        )
        heard = (fits and not short) or status.observed_generation >= volume.metadata.generation
        if short and len(status.spares) < self.spares:
            await self._spare(volume, there)
        elif "grow" not in self.stuck and fits and size > status.size_bytes:
            await self._change(volume, {"status": {"sizeBytes": size}})
        elif "grow" not in self.stuck and not (heard and told == (fits, short)):
            await self._tell(volume, "" if fits else f"needs {size} bytes, {self.room} are free", short=short)
        elif at.node and 0 < status.nodes[0].size_bytes < status.size_bytes and "enlarge" not in self.stuck:
            await self._attach(volume, at.epoch)

    async def _tell(self, volume: VirtualVolume, no_room: str, *, short: bool) -> None:
        resized = {
            "type": RESIZED,
            "status": "False" if no_room else "True",
            "reason": "NoRoom" if no_room else "Done",
            "message": no_room,
            "lastTransitionTime": "2026-11-22T20:00:00Z",
            "observedGeneration": volume.metadata.generation,
        }
        message = f"{NO_SPARE}: no other node" if short else ""
        said = {"conditions": [resized], "message": message, "observedGeneration": volume.metadata.generation}
        await self._change(volume, {"status": said})

    async def _spare(self, volume: VirtualVolume, number: int) -> None:
        extent = Extent(device=f"x{number}-nvme1", device_uuid=volume.spec.uuid, start=0, length=1)
        made = Leg(id=names.leg_id(number), node=f"x{number}", state="Rebuilding", extents=[extent])
        await self._change(volume, {"status": {"spares": msgspec.to_builtins([*volume.status.spares, made])}})

    async def _allocate(self, volume: VirtualVolume) -> None:
        size = round_up(parse_quantity(volume.spec.size))
        if size > self.room:
            refusal = {
                "type": "Ready",
                "status": "False",
                "reason": "NoRoom",
                "message": f"needs {size} bytes, {self.room} are free on {self._node}",
                "lastTransitionTime": "2026-11-22T20:00:00Z",
            }
            if not volume.status.conditions:
                await self._change(volume, {"status": {"conditions": [refusal]}})
            return
        extent = Extent(device=f"{self._node}-nvme1", device_uuid=volume.spec.uuid, start=0, length=leg_units(size))
        leg = Leg(id="a", node=self._node, state="InSync", complete=True, extents=[extent])
        mapping = {"generation": 1, "recordSeq": 1, "legs": [msgspec.to_builtins(leg)]}
        await self._change(volume, {"status": {"mapping": mapping, "phase": "Preparing", "sizeBytes": size}})

    async def _attach(self, volume: VirtualVolume, epoch: int = 0) -> None:
        node, epoch = volume.spec.attachment.node, epoch or volume.status.attachment.epoch + 1
        size = volume.status.size_bytes
        self._front(node, volume.spec.uuid, size)
        said = {"node": node, "epoch": epoch, "front": "Active", "generation": 1, "sizeBytes": size}
        attachment = {"node": node, "epoch": epoch, "clean": False}
        await self._change(volume, {"status": {"attachment": attachment, "nodes": [said]}})

    async def _detach(self, volume: VirtualVolume) -> None:
        at = volume.status.attachment
        self._front(at.node, volume.spec.uuid, 0)
        said = {"node": at.node, "epoch": at.epoch, "cleanEpoch": at.epoch, "front": "None"}
        await self._change(volume, {"status": {"attachment": {"node": "", "clean": True}, "nodes": [said]}})

    async def _change(self, volume: VirtualVolume, patch: dict[str, Any], *, status: bool = True) -> None:
        version = {"resourceVersion": volume.metadata.resource_version}
        patch = {**patch, "metadata": {**patch.get("metadata", {}), **version}}
        await self._kube.merge(VirtualVolume, volume.metadata.name, patch, status=status)
