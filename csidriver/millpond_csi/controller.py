"""The Controller service: CSI calls become edits of VirtualVolumes; the master and the state managers do the rest."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from millpond_core import names
from millpond_core.errors import Conflict, Invalid, NotFound
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.ports import Kube
from millpond_csi import attributes, sizes, validation, volumes
from millpond_csi.capacity import Spaces, largest_volume
from millpond_csi.changes import VolumeChanges
from millpond_csi.deadline import Deadline
from millpond_csi.errors import AlreadyExists, NoRoom, Refused
from millpond_csi.parameters import VolumeClass, volume_class
from millpond_csi.stubs import csi
from millpond_csi.waiting import Wait, present, until

_Rpc = csi.ControllerServiceCapability.RPC
CAPABILITIES = (
    _Rpc.CREATE_DELETE_VOLUME,
    _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    _Rpc.LIST_VOLUMES,
    _Rpc.LIST_VOLUMES_PUBLISHED_NODES,
    _Rpc.GET_CAPACITY,
    _Rpc.EXPAND_VOLUME,
    _Rpc.MODIFY_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
)

_TOKEN = "after:"  # noqa: S105 (a page's mark, no secret)


class ControllerService(VolumeChanges):
    """Lock-free: ``interceptors.VolumeLocks`` lets one call at a time through for each volume.

    ``max_volumes`` is how many one node may have attached, the same that the node service reports; 0: no bound.
    """

    def __init__(
        self, kube: Kube, *, max_volumes: int = 0, new_uuid: Callable[[], str] = lambda: str(uuid.uuid4())
    ) -> None:
        super().__init__(kube)
        self._spaces = Spaces(kube)
        self._max_volumes = max_volumes
        self._new_uuid = new_uuid

    async def controller_get_capabilities(self, request: Any, deadline: Deadline) -> Any:
        return csi.ControllerGetCapabilitiesResponse(
            capabilities=[csi.ControllerServiceCapability(rpc=_Rpc(type=each)) for each in CAPABILITIES]
        )

    # --- volumes ---

    async def create_volume(self, request: Any, deadline: Deadline) -> Any:
        """Make the VirtualVolume, or find it, and wait until it has its extents.

        One that may have been answered with, to whomever, is never deleted here: its data may be what someone kept.
        """
        volume_id = validation.name_to_id(request.name)
        capabilities = validation.capabilities(request.volume_capabilities)
        if request.HasField("volume_content_source"):
            raise Invalid("volume_content_source: volumes cannot be made from snapshots or other volumes yet")
        asked = _class(request)
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        fs_types = [each.fs_type for each in capabilities if not each.block]
        size = sizes.size_for(required, limit, [asked.fs_type or each for each in fs_types])
        requirements = request.accessibility_requirements
        allowed, preferred = _nodes(requirements.requisite), _nodes(requirements.preferred)
        wish = next(iter(preferred or sorted(allowed)), "")

        wanted = volumes.wanted(volume_id, asked, uuid=self._new_uuid(), size=size, preferred=wish, name=request.name)
        unused = True
        try:
            await self._kube.create(wanted)
        except Conflict:
            found = await present(self._kube, volume_id)
            volumes.check_same(found, asked, required, limit)
            unused = volumes.unused(found)
        try:
            volume = await until(self._kube, volume_id, deadline, volumes.created)
            _check_accessible(volume, asked, set(allowed))
        except (NoRoom, Invalid) as error:
            if not unused:
                raise AlreadyExists(f"volume {volume_id} exists and is not what is asked for: {error}") from error
            # Gone before the answer: the claim may be scheduled anew, and nobody would ever delete this one.
            await self._kube.delete(VirtualVolume, volume_id)
            raise
        return csi.CreateVolumeResponse(volume=volumes.message(volume, leg_nodes_only=asked.leg_nodes_only))

    async def delete_volume(self, request: Any, deadline: Deadline) -> Any:
        """Delete the VirtualVolume and wait until its extents are given back. Done when there is none."""
        volume_id = validation.volume_id(request.volume_id)
        volume = await self._find(volume_id)
        if volume is None:
            return csi.DeleteVolumeResponse()
        at = volume.spec.attachment.node or volume.status.attachment.node
        if at and not volume.metadata.deletion_timestamp:
            raise Refused(f"volume {volume_id} is attached to node {at}: detach it first (ControllerUnpublishVolume)")
        await self._kube.delete(VirtualVolume, volume_id)
        await until(self._kube, volume_id, deadline, _gone)
        return csi.DeleteVolumeResponse()

    async def validate_volume_capabilities(self, request: Any, deadline: Deadline) -> Any:
        volume_id = validation.volume_id(request.volume_id)
        if not request.volume_capabilities:
            raise Invalid("volume_capabilities are missing")
        volume = await present(self._kube, volume_id)
        try:
            validation.capabilities(request.volume_capabilities)
            validation.check_context(volume.spec.uuid, request.volume_context)
            if request.parameters:
                volumes.check_same(volume, _class(request), 0, 0)
            elif attributes.patched(volume.spec, attributes.patch(request.mutable_parameters)) != volume.spec:
                raise Invalid(f"volume {volume_id} differs from the mutable_parameters")
        except (Invalid, AlreadyExists) as error:
            return csi.ValidateVolumeCapabilitiesResponse(message=str(error))
        confirmed = csi.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
            mutable_parameters=request.mutable_parameters,
        )
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    async def list_volumes(self, request: Any, deadline: Deadline) -> Any:
        """All volumes by name, in pages: a token names the last one of the page before."""
        token = request.starting_token
        if request.max_entries < 0:
            raise Invalid(f"max_entries is {request.max_entries}: it must not be negative")
        if token and not token.startswith(_TOKEN):
            raise Conflict(f"starting_token {token[:80]!r} is none of ours: list again from the start")
        after = token.removeprefix(_TOKEN)
        found = sorted(await self._kube.list(VirtualVolume), key=lambda volume: volume.metadata.name)
        rest = [volume for volume in found if volume.metadata.name > after]
        page = rest[: request.max_entries or None]
        return csi.ListVolumesResponse(
            entries=[_entry(volume) for volume in page],
            next_token=f"{_TOKEN}{page[-1].metadata.name}" if len(page) < len(rest) else "",
        )

    async def get_capacity(self, request: Any, deadline: Deadline) -> Any:
        """The largest volume of this class that could be placed for a pod on that node.

        With ``access: Any`` a pod runs wherever there is room anywhere; the node matters for LegNodes alone.
        """
        asked = volume_class(request.parameters)
        for capability in request.volume_capabilities:
            validation.capability(capability)
        node = _node(request.accessible_topology.segments) if request.HasField("accessible_topology") else ""
        size = largest_volume(await self._spaces.look(), asked, node)
        response = csi.GetCapacityResponse(available_capacity=size)
        response.maximum_volume_size.value = size
        return response

    # --- attachment ---

    async def controller_publish_volume(self, request: Any, deadline: Deadline) -> Any:
        """Ask for the volume on the node and wait until its front is there."""
        volume_id, node = validation.volume_id(request.volume_id), validation.node_id(request.node_id)
        validation.capability(request.volume_capability)
        if request.readonly:
            raise Invalid("readonly attachment is not offered (PUBLISH_READONLY); mount the volume read-only instead")
        volume = await present(self._kube, volume_id)
        validation.check_context(volume.spec.uuid, request.volume_context)
        await self._known_node(node)
        await self._attach(volume, node)
        volume = await until(self._kube, volume_id, deadline, lambda seen: _attached(seen, volume_id, node))
        return csi.ControllerPublishVolumeResponse(publish_context=volumes.publish_context(volume))

    async def controller_unpublish_volume(self, request: Any, deadline: Deadline) -> Any:
        """Ask for the volume to be taken down on the node (everywhere when none is named) and wait until it is.

        From a node that has failed it is fenced instead, and waited for until its leg nodes say so. Which of those
        have failed themselves is read once: the next call sees what has come of the rest.
        """
        volume_id = validation.volume_id(request.volume_id)
        named = validation.node_id(request.node_id) if request.node_id else ""
        volume = await self._find(volume_id)
        if volume is not None:
            node = named or volume.spec.attachment.node or volume.status.attachment.node
            if node and volume.spec.attachment.node == node:
                await self._set_attachment(volume_id, node, "")
            gone = await self._kube.list(StorageNode, fields="status.phase=Failed")
            failed = {each.metadata.name for each in gone}
            await until(self._kube, volume_id, deadline, lambda seen: volumes.detached(seen, node, failed))
        return csi.ControllerUnpublishVolumeResponse()

    async def _attach(self, volume: VirtualVolume, node: str) -> None:
        if volume.metadata.deletion_timestamp:
            raise Refused(f"volume {volume.metadata.name} is being deleted")
        holder = volume.spec.attachment.node
        if holder and holder != node:
            raise Refused(
                f"volume {volume.metadata.name} is attached to node {holder}, and to one node at a time only: "
                f"detach it there first"
            )
        if not holder:
            await self._check_limit(node)
            await self._set_attachment(volume.metadata.name, "", node)

    async def _check_limit(self, node: str) -> None:
        """The scheduler keeps to the limit already; this one is for whoever goes past it."""
        if self._max_volumes:
            there = await self._kube.list(VirtualVolume, fields=f"spec.attachment.node={node}")
            if len(there) >= self._max_volumes:
                raise NoRoom(f"node {node} has {len(there)} volumes attached, {self._max_volumes} are allowed")

    async def _set_attachment(self, volume_id: str, before: str, after: str) -> None:
        """Conflict when someone else was faster: the caller's next call sees what they wanted."""
        path = "/spec/attachment/node"
        await self._kube.patch(
            VirtualVolume,
            volume_id,
            [{"op": "test", "path": path, "value": before}, {"op": "replace", "path": path, "value": after}],
        )

    async def _known_node(self, node: str) -> None:
        try:
            await self._kube.get(StorageNode, node)
        except NotFound as error:
            raise NotFound(f"node {node} has no StorageNode: does a millpond-node pod run on it?") from error

    async def _find(self, volume_id: str) -> VirtualVolume | None:
        try:
            return await self._kube.get(VirtualVolume, volume_id)
        except NotFound:
            return None


def _class(request: Any) -> VolumeClass:
    """What a StorageClass asks for; where a VolumeAttributesClass says otherwise, that counts."""
    return volume_class({**request.parameters, **attributes.known(request.mutable_parameters)})


def _attached(volume: VirtualVolume | None, volume_id: str, node: str) -> VirtualVolume | Wait:
    if volume is None:
        raise NotFound(f"volume {volume_id} was deleted meanwhile")
    if volume.spec.attachment.node != node:
        raise Conflict(f"volume {volume_id} is no longer wanted on node {node}: someone else changed its attachment")
    return volumes.attached(volume, node)


def _gone(volume: VirtualVolume | None) -> bool | Wait:
    if volume is None:
        return True
    return Wait(volume.status.message or "its extents are being given back")


def _check_accessible(volume: VirtualVolume, asked: VolumeClass, allowed: set[str]) -> None:
    """NoRoom when pods may run on leg nodes only, and none of the allowed nodes got a leg."""
    at = volumes.leg_nodes(volume)
    if asked.leg_nodes_only and allowed and not allowed & set(at):
        raise NoRoom(
            f"access is LegNodes and the pod may run on {', '.join(sorted(allowed))}, but there was room on "
            f"{', '.join(at)} only"
        )


def _nodes(topologies: Iterable[Any]) -> list[str]:
    return [_node(topology.segments) for topology in topologies]


def _node(segments: Mapping[str, str]) -> str:
    """The node of a topology segment."""
    if set(segments) != {names.TOPOLOGY_KEY}:
        raise Invalid(f"topology has the keys {sorted(segments)}; Millpond's has {names.TOPOLOGY_KEY} alone")
    return validation.node_id(segments[names.TOPOLOGY_KEY])


def _entry(volume: VirtualVolume) -> Any:
    at = volume.status.attachment.node
    status = csi.ListVolumesResponse.VolumeStatus(published_node_ids=[at] if at else [])
    return csi.ListVolumesResponse.Entry(volume=volumes.message(volume), status=status)
