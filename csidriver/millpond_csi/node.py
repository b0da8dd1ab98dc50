"""The Node service: mounts what the state manager has assembled.

Stage waits for the front and mounts it once; publish shows it to a pod. Unpublish, unstage and stats need nothing but
the node itself: they work while the API server is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from millpond_core import names
from millpond_core.errors import Invalid, NotFound
from millpond_core.observed import Mount
from millpond_core.ports import Mounts
from millpond_csi import sizes, staging, validation, volumes
from millpond_csi.deadline import Deadline
from millpond_csi.errors import NotReady, OutOfRange, Refused
from millpond_csi.formats import FormatMarks
from millpond_csi.stubs import csi
from millpond_csi.validation import Capability

_Rpc = csi.NodeServiceCapability.RPC
CAPABILITIES = (
    _Rpc.STAGE_UNSTAGE_VOLUME,
    _Rpc.GET_VOLUME_STATS,
    _Rpc.EXPAND_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
)

LOOK_SECONDS = 0.2
"""Between two looks for a front. It is there before stage is called, but after a reboot, when it is assembled anew."""

_STACKED = 16
"""Mounts over each other at one path that are taken away in one call."""


class NodeService:
    """Lock-free: ``interceptors.VolumeLocks`` lets one call at a time through for each volume.

    ``kubelet_dir`` is the kubelet's folder: no path outside of it is touched. ``max_volumes`` 0: no bound.
    """

    def __init__(
        self, mounts: Mounts, node: str, kubelet_dir: str, formats: FormatMarks, *, max_volumes: int = 0
    ) -> None:
        self._mounts = mounts
        self._node = node
        self._root = kubelet_dir
        self._formats = formats
        self._max_volumes = max_volumes

    async def node_get_capabilities(self, request: Any, deadline: Deadline) -> Any:
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[csi.NodeServiceCapability(rpc=_Rpc(type=each)) for each in CAPABILITIES]
        )

    async def node_get_info(self, request: Any, deadline: Deadline) -> Any:
        return csi.NodeGetInfoResponse(
            node_id=self._node,
            max_volumes_per_node=self._max_volumes,
            accessible_topology=volumes.topology(self._node),
        )

    # --- staging ---

    async def node_stage_volume(self, request: Any, deadline: Deadline) -> Any:
        """Mount the volume at the staging path, made ready before if need be; raw block has only to be there.

        A filesystem that is smaller than its device stays so: the kubelet calls NodeExpandVolume right after this when
        the claim is to be larger. What could fail or hang when growing must not keep a pod from a filesystem that it
        could use as it is, least of all while it is started elsewhere because its node has failed.
        """
        volume_id = validation.volume_id(request.volume_id)
        target = self._path(request.staging_target_path, "staging_target_path")
        capability = validation.capability(request.volume_capability)
        uuid = validation.uuid(request.volume_context, request.publish_context)
        device, number = await self._front(volume_id, uuid, deadline)
        if capability.block or await self._is_mounted(target, number, capability.mounted_readonly):
            return csi.NodeStageVolumeResponse()
        await self._prepare(volume_id, uuid, device, capability, request.publish_context.get(validation.EPOCH_KEY, ""))
        await self._mounts.make(target, folder=True)
        device, _ = await self._front(volume_id, uuid, deadline)  # numbers are reused: look again before each use
        options = [*capability.options, *(["ro"] if capability.readonly else [])]
        await self._mounts.mount(device, target, capability.fs_type, options)
        return csi.NodeStageVolumeResponse()

    async def node_unstage_volume(self, request: Any, deadline: Deadline) -> Any:
        """Take the staging mount away; what was written is on the legs when this returns."""
        validation.volume_id(request.volume_id)
        await self._unmount(self._path(request.staging_target_path, "staging_target_path"))
        return csi.NodeUnstageVolumeResponse()

    # --- publishing ---

    async def node_publish_volume(self, request: Any, deadline: Deadline) -> Any:
        """Show the staged volume, or its device, at the pod's path."""
        volume_id = validation.volume_id(request.volume_id)
        target = self._path(request.target_path, "target_path")
        capability = validation.capability(request.volume_capability)
        staging_path = self._path(request.staging_target_path, "staging_target_path")
        uuid = validation.uuid(request.volume_context, request.publish_context)
        device, number = await self._front(volume_id, uuid, deadline)
        table = await self._mounts.table()
        if capability.block:
            source, here = device, _device_mounts(table, device, names.front(uuid))
        else:
            source, here = staging_path, [mount for mount in table if mount.major_minor == number]
            if not any(mount.target == staging_path for mount in here):
                raise Refused(f"volume {volume_id} is not staged at {staging_path}: call NodeStageVolume first")
        if capability.exclusive:
            others = [mount.target for mount in here if mount.target not in (target, staging_path)]
            if others:
                raise Refused(f"volume {volume_id} is one pod's alone and in use at {others[0]}")
        await self._publish(table, source, target, here, readonly=request.readonly, block=capability.block)
        return csi.NodePublishVolumeResponse()

    async def node_unpublish_volume(self, request: Any, deadline: Deadline) -> Any:
        """Take the pod's path away."""
        validation.volume_id(request.volume_id)
        target = self._path(request.target_path, "target_path")
        await self._unmount(target)
        await self._mounts.remove(target)
        return csi.NodeUnpublishVolumeResponse()

    async def node_get_volume_stats(self, request: Any, deadline: Deadline) -> Any:
        """How full the volume is, in bytes and inodes; of raw block its size."""
        volume_id = validation.volume_id(request.volume_id)
        path = (await self._shown(volume_id, request.volume_path)).target
        number = await self._mounts.block_device(path)
        if number is not None:
            return csi.NodeGetVolumeStatsResponse(
                usage=[csi.VolumeUsage(unit=csi.VolumeUsage.BYTES, total=await self._mounts.size(number))]
            )
        usage = await self._mounts.usage(path)
        return csi.NodeGetVolumeStatsResponse(
            usage=[
                csi.VolumeUsage(
                    unit=csi.VolumeUsage.BYTES,
                    total=usage.total_bytes,
                    used=usage.used_bytes,
                    available=usage.available_bytes,
                ),
                csi.VolumeUsage(
                    unit=csi.VolumeUsage.INODES,
                    total=usage.total_inodes,
                    used=usage.used_inodes,
                    available=usage.available_inodes,
                ),
            ]
        )

    async def node_expand_volume(self, request: Any, deadline: Deadline) -> Any:
        """Let the filesystem fill its device, where it is mounted; raw block has only to be that large.

        The node's state manager enlarges the device. Until it has, the answer is NotReady: call again. Nothing is asked
        of the API server, and nothing touches the device but a child with a deadline: the front may hold its I/O.
        """
        volume_id = validation.volume_id(request.volume_id)
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        sizes.check_range(required, limit)
        staged = request.staging_target_path
        shown = await self._shown(
            volume_id, request.volume_path, self._path(staged, "staging_target_path") if staged else ""
        )
        raw = await self._mounts.block_device(shown.target)
        size = await self._mounts.size(raw or shown.major_minor)
        if size < required:
            raise NotReady(
                f"the device of volume {volume_id} has {size} bytes, {required} are to be: the state manager of node "
                f"{self._node} has not enlarged it yet; `kubectl get vvol {volume_id}` says what it waits for"
            )
        if limit and size > limit:
            raise OutOfRange(f"the device of volume {volume_id} has {size} bytes, it is to have {limit} at most")
        if raw is None:
            await self._grow(volume_id, shown)
        return csi.NodeExpandVolumeResponse(capacity_bytes=size)

    # --- inside ---

    async def _shown(self, volume_id: str, path: str, staged: str = "") -> Mount:
        """What is mounted at ``path``, a volume_path, or else at the staging path ``staged``; NotFound: nothing."""
        if not path:
            raise Invalid("volume_path is missing")
        validation.plain_path(path, "volume_path")
        if path.startswith(f"{self._root}/"):
            table = await self._mounts.table()
            shown = _top(table, path) or (_top(table, staged) if staged else None)
            if shown is not None:
                return shown
        raise NotFound(f"volume {volume_id} is not published at {path[:200]!r}")

    async def _grow(self, volume_id: str, shown: Mount) -> None:
        """Through any mount of the whole filesystem that may write: the pod's own may be read-only."""
        if shown.fs_type not in validation.FS_TYPES:
            raise Refused(f"{shown.target} shows {shown.fs_type}, which cannot be grown: it is no volume of Millpond's")
        table = await self._mounts.table()
        same = [mount for mount in table if mount.major_minor == shown.major_minor and mount.root == "/"]
        writable = next((mount.target for mount in same if "rw" in mount.options), None)
        if writable is None:
            raise Refused(f"volume {volume_id} is mounted read-only: its filesystem grows when it is mounted writable")
        await self._mounts.grow(shown.major_minor, writable, shown.fs_type)

    def _path(self, value: str, field: str) -> str:
        return validation.path(value, field, self._root)

    async def _front(self, volume_id: str, uuid: str, deadline: Deadline) -> tuple[str, str]:
        """(device node, major:minor) of the volume's front, waited for."""
        name = names.front(uuid)
        while True:
            found = await self._mounts.device(name, names.dm_uuid(name))
            if found is not None:
                return found
            if deadline.remaining() <= LOOK_SECONDS:
                raise NotReady(
                    f"volume {volume_id} is not assembled on node {self._node}: there is no device {name}; "
                    f"`kubectl get vvol {volume_id}` says what it waits for"
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def _is_mounted(self, target: str, number: str, readonly: bool) -> bool:
        """Whether the device ``number`` is what ``target`` shows already."""
        top = _top(await self._mounts.table(), target)
        if top is None:
            return False
        if top.major_minor != number:
            raise Refused(f"{target} shows {top.source} already, another device than this volume's")
        if readonly != ("ro" in top.options):
            raise Refused(f"{target} shows this volume already, {'writable' if readonly else 'read-only'}")
        return True

    async def _prepare(self, volume_id: str, uuid: str, device: str, capability: Capability, epoch: str) -> None:
        """Format or check the device, whichever its contents allow."""
        contents = await self._mounts.contents(device)
        verdict = staging.prepare(
            contents,
            capability.fs_type,
            readonly=capability.readonly,
            format_interrupted=self._formats.interrupted(uuid, epoch),
        )
        if verdict.action == "Refuse":
            raise Refused(f"volume {volume_id} cannot be mounted: {verdict.reason}")
        if verdict.action == "Format":
            self._formats.begin(uuid, epoch)
            await self._mounts.format(device, capability.fs_type)
        elif not capability.readonly:
            await self._mounts.check(device, capability.fs_type)
        self._formats.end(uuid)

    async def _publish(
        self, table: Sequence[Mount], source: str, target: str, here: Sequence[Mount], *, readonly: bool, block: bool
    ) -> None:
        top = _top(table, target)
        if top is not None:
            if top not in here:
                raise Refused(f"{target} shows {top.source} already, another device than this volume's")
            # A bind is as read-only as what it shows.
            staged = _top(table, source)
            if (readonly or (staged is not None and "ro" in staged.options)) == ("ro" in top.options):
                return
            await self._mounts.unmount(target)
        await self._mounts.make(target, folder=not block)
        await self._mounts.bind(source, target, readonly=readonly)

    async def _unmount(self, target: str) -> None:
        for _ in range(_STACKED):
            if _top(await self._mounts.table(), target) is None:
                return
            await self._mounts.unmount(target)
        raise Refused(f"{target} still has a mount after {_STACKED} were taken away: who mounts there?")


def _top(table: Sequence[Mount], target: str) -> Mount | None:
    """What is seen at ``target``; None: nothing is mounted there."""
    return next((mount for mount in reversed(table) if mount.target == target), None)


def _device_mounts(table: Sequence[Mount], device: str, name: str) -> list[Mount]:
    """Mounts of the device node itself: bind mounts of a file of devtmpfs."""
    files = (device.removeprefix("/dev"), f"/mapper/{name}")
    return [mount for mount in table if mount.fs_type == "devtmpfs" and mount.root in files]
