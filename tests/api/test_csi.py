"""The CSI controller on a real API server: its edits are what the CRDs allow, its waits end by real watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millpond_adapters.kube import ApiKube
from millpond_core.errors import Conflict
from millpond_core.model import ObjectMeta, StorageNode, VirtualVolume
from millpond_csi.controller import ControllerService
from millpond_csi.deadline import Deadline
from millpond_csi.errors import AlreadyExists, NoRoom, Refused
from millpond_csi.stubs import csi
from millpond_csi.testing import ScriptedMaster, mount_capability

MIB = 1 << 20
NODES = ("n1", "n2")


@pytest.fixture
async def service(kube: ApiKube) -> AsyncIterator[ControllerService]:
    for name in NODES:
        await kube.create(StorageNode(metadata=ObjectMeta(name=name)))
    master = asyncio.ensure_future(ScriptedMaster(kube, "n1", room=1024 * MIB).run())
    yield ControllerService(kube)
    if not master.done():
        master.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await master


async def create(service: ControllerService, name: str = "pvc-1", size: int = 64 * MIB, **parameters: str) -> Any:
    request = csi.CreateVolumeRequest(
        name=name,
        volume_capabilities=[mount_capability()],
        capacity_range={"required_bytes": size},
        parameters=parameters,
    )
    return (await service.create_volume(request, Deadline.after(20))).volume


async def attach(service: ControllerService, node: str) -> Any:
    request = csi.ControllerPublishVolumeRequest(volume_id="pvc-1", node_id=node, volume_capability=mount_capability())
    return (await service.controller_publish_volume(request, Deadline.after(20))).publish_context


async def detach(service: ControllerService, node: str) -> None:
    request = csi.ControllerUnpublishVolumeRequest(volume_id="pvc-1", node_id=node)
    await service.controller_unpublish_volume(request, Deadline.after(20))


async def test_from_claim_to_nothing(service: ControllerService, kube: ApiKube) -> None:
    every = {
        "copies": "2",
        "stripes": "2",
        "stripeSize": "128Ki",
        "nodeSelector": "disk=fast",
        "spreadTopology": "topology.kubernetes.io/zone",
        "holdSeconds": "5",
        "gracePeriodSeconds": "30",
        "unrecorded": "Fail",
        "minInSync": "1",
        "maxRebuildRate": "1000",
        "csi.storage.k8s.io/pvc/name": "db-0",
        "csi.storage.k8s.io/pvc/namespace": "shop",
    }
    volume = await create(service, **every)
    assert await create(service, **every) == volume
    with pytest.raises(AlreadyExists):
        await create(service)

    for epoch, node in enumerate((*NODES, "n1"), 1):
        context = await attach(service, node)
        assert dict(context) == {**volume.volume_context, "epoch": str(epoch)}
        assert await attach(service, node) == context
        with pytest.raises(Refused, match=f"attached to node {node}"):
            await attach(service, "n2" if node == "n1" else "n1")
        await detach(service, node)

    listed = await service.list_volumes(csi.ListVolumesRequest(), Deadline.after(20))
    assert [entry.volume for entry in listed.entries] == [volume]
    await service.delete_volume(csi.DeleteVolumeRequest(volume_id="pvc-1"), Deadline.after(20))
    assert await kube.list(VirtualVolume) == []


async def test_no_room_leaves_nothing(service: ControllerService, kube: ApiKube) -> None:
    with pytest.raises(NoRoom, match="are free on n1"):
        await create(service, size=2048 * MIB)
    await service.delete_volume(csi.DeleteVolumeRequest(volume_id="pvc-1"), Deadline.after(20))
    assert await kube.list(VirtualVolume) == []


async def test_of_two_who_attach_at_once_one_wins(service: ControllerService) -> None:
    await create(service)
    results = await asyncio.gather(*(attach(service, node) for node in NODES), return_exceptions=True)
    losers = [each for each in results if isinstance(each, Exception)]
    assert len(losers) == 1
    assert isinstance(losers[0], Conflict | Refused)
