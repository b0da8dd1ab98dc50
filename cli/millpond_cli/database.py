"""The objects and what labels make of them: read, compared, planned, and written anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from millpond_core import names
from millpond_core.errors import MillpondError
from millpond_core.master.steps import Create, Merge, Patch
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.ports import Kube
from millpond_core.vdb.check import check
from millpond_core.vdb.rebuild import Choices, Plan, Step, plan
from millpond_core.vdb.seen import Finding, NodeSeen

FAILED = 1
"""Exit status when something could not be written."""


class Database(NamedTuple):
    """The objects, as they are now."""

    cluster: str
    nodes: list[StorageNode]
    devices: list[StorageDevice]
    volumes: list[VirtualVolume]


async def read(kube: Kube) -> Database:
    namespace = await kube.raw("GET", "/api/v1/namespaces/kube-system")
    return Database(
        namespace["metadata"]["uid"],
        await kube.list(StorageNode),
        await kube.list(StorageDevice),
        await kube.list(VirtualVolume),
    )


async def compared(kube: Kube, seen: Sequence[NodeSeen]) -> list[Finding]:
    found = await read(kube)
    return check(seen, found.nodes, found.devices, found.volumes, cluster=found.cluster)


async def planned(kube: Kube, seen: Sequence[NodeSeen], choices: Choices) -> Plan:
    found = await read(kube)
    return plan(
        seen,
        found.devices,
        found.volumes,
        cluster=found.cluster,
        choices=choices,
        claims=await _claims(kube),
    )


async def carried_out(kube: Kube, wanted: Plan, tell: Callable[[str], None]) -> int:
    """The exit status. A part that cannot be written ends where it is, and the others go on: import again."""
    status = 0
    for part in wanted.parts:
        try:
            for step in part.steps:
                await _take(kube, step)
        except MillpondError as error:
            tell(f"{part.about}: {error}")
            status = FAILED
        else:
            tell(f"{part.about}: done")
    if status:
        tell("what could not be written is as it was, or waits for the rest: import again")
    return status


async def _take(kube: Kube, step: Step) -> None:
    match step:
        case Create(obj):
            await kube.create(obj)
        case Merge(kind, name, patch):
            await kube.merge(kind, name, patch)
        case Patch(kind, name, operations, status):
            await kube.patch(kind, name, operations, status=status)


async def _claims(kube: Kube) -> dict[str, str]:
    """Names of volumes → namespace/name of the claim that a PersistentVolume binds to them."""
    found = {}
    for each in (await kube.raw("GET", "/api/v1/persistentvolumes"))["items"]:
        csi, claim = each["spec"].get("csi", {}), each["spec"].get("claimRef")
        if csi.get("driver") == names.DRIVER and claim:
            found[csi["volumeHandle"]] = f"{claim['namespace']}/{claim['name']}"
    return found
