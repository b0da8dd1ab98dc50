"""For tests: capabilities, and a master with state managers that do at once what they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millpond_core import names
from millpond_core.errors import Conflict, NotFound
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Extent, Leg
from millpond_core.ports import Kube
from millpond_core.units import leg_units, parse_quantity, round_up
from millpond_csi.stubs import csi

Mode = csi.VolumeCapability.AccessMode

Front = Callable[[str, str, int], None]
"""Called with the node, spec.uuid and the size in bytes when a front appears, and with size 0 when it goes."""


def mount_capability(fs_type: str = "", mode: int = Mode.SINGLE_NODE_WRITER, flags: tuple[str, ...] = ()) -> Any:
    """To be mounted."""
    return csi.VolumeCapability(mount={"fs_type": fs_type, "mount_flags": flags}, access_mode=Mode(mode=mode))


def block_capability(mode: int = Mode.SINGLE_NODE_WRITER) -> Any:
    """To be used raw."""
    return csi.VolumeCapability(block={}, access_mode=Mode(mode=mode))


class ScriptedMaster:
    """Places each volume on ``node``, attaches and detaches it, and lets it go; ``room`` bytes are all there is.

    It stops short of what ``stuck`` names: "allocate", "attach", "detach" or "release".
    """

    def __init__(self, kube: Kube, node: str, *, room: int = 1 << 50, front: Front = lambda node, uuid, size: None):
        self._kube = kube
        self._node = node
        self._room = room
        self._front = front
        self.stuck: set[str] = set()

    async def run(self) -> None:
        """For ever."""
        async for event, volume in self._kube.watch(VirtualVolume):
            if event in ("ADDED", "MODIFIED"):
                try:
                    await self._act(volume)
                except (Conflict, NotFound):
                    continue  # the next event has what it changed to

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
        elif volume.spec.attachment.node and not status.attachment.node:
            if "attach" not in self.stuck:
                await self._attach(volume)
        elif status.attachment.node and not volume.spec.attachment.node and "detach" not in self.stuck:
            await self._detach(volume)

    async def _allocate(self, volume: VirtualVolume) -> None:
        size = round_up(parse_quantity(volume.spec.size))
        if size > self._room:
            refusal = {
                "type": "Ready",
                "status": "False",
                "reason": "NoRoom",
                "message": f"needs {size} bytes, {self._room} are free on {self._node}",
                "lastTransitionTime": "2026-11-22T20:00:00Z",
            }
            if not volume.status.conditions:
                await self._change(volume, {"status": {"conditions": [refusal]}})
            return
        extent = Extent(device=f"{self._node}-nvme1", device_uuid=volume.spec.uuid, start=0, length=leg_units(size))
        leg = Leg(id="a", node=self._node, state="InSync", complete=True, extents=[extent])
        mapping = {"generation": 1, "recordSeq": 1, "legs": [msgspec.to_builtins(leg)]}
        await self._change(volume, {"status": {"mapping": mapping, "phase": "Ready", "sizeBytes": size}})

    async def _attach(self, volume: VirtualVolume) -> None:
        node, epoch = volume.spec.attachment.node, volume.status.attachment.epoch + 1
        self._front(node, volume.spec.uuid, volume.status.size_bytes)
        said = {"node": node, "epoch": epoch, "front": "Active", "generation": 1}
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
