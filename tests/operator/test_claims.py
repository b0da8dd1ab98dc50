"""The claim of a volume that is not well says so, and no longer when it is well; whatever becomes of the claim."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Cluster, MasterKube, attached, remote

from millpond_core import names
from millpond_core.errors import Conflict, Forbidden, MillpondError, Unavailable
from millpond_core.model import VirtualVolume

CLAIMS = "/api/v1/namespaces/shop/persistentvolumeclaims"
RESIZING = {"type": "Resizing", "status": "True"}


async def claimed(cluster: Cluster, volume: str = "v1", **status: Any) -> None:
    """v1, attached, and the claim shop/data, which is bound to ``volume``; empty: v1 alone."""
    await attached(cluster)
    annotations = {names.ANNOTATION_CLAIM: "shop/data"}
    await cluster.kube.merge(VirtualVolume, "v1", {"metadata": {"annotations": annotations}})
    if volume:
        body = {"metadata": {"name": "data"}, "spec": {"volumeName": volume}, "status": status}
        await cluster.kube.raw("POST", CLAIMS, body)
    await cluster.settle()
    cluster.kube.calls.clear()


async def lose(cluster: Cluster) -> str:
    """A leg's disk is pulled; its name."""
    disk = remote(await cluster.volume()).extents[0].device
    cluster.nodes.pull(disk)
    await cluster.settle()
    assert (await cluster.volume()).status.phase == "Degraded"
    return disk


async def says(cluster: Cluster) -> list[Any]:
    return list((await cluster.kube.raw("GET", f"{CLAIMS}/data")).get("status", {}).get("conditions", []))


def events(cluster: Cluster) -> list[str]:
    return [event.reason for event in cluster.kube.events if event.kind == "PersistentVolumeClaim"]


def asked(cluster: Cluster) -> int:
    """How often anything was asked of claims, but by ``says``."""
    return len([path for verb, path in cluster.kube.calls if verb == "raw" and "persistentvolumeclaims" in path])


async def test_a_lost_copy_is_told_and_so_is_its_replacement(cluster: Cluster) -> None:
    await claimed(cluster, conditions=[RESIZING])
    assert events(cluster) == []
    await lose(cluster)
    others, condition = await says(cluster)
    assert others == RESIZING
    volume = await cluster.volume()
    assert (condition["type"], condition["reason"]) == ("millpond.io/Unhealthy", "FewerCopies")
    assert condition["message"] == volume.status.message
    assert events(cluster)[-1] == "Degraded"
    await cluster.later(70)
    assert (await cluster.volume()).status.phase == "Ready"
    assert await says(cluster) == [RESIZING]
    assert events(cluster)[-1] == "Ready"


async def test_nothing_is_asked_of_claims_while_nothing_changes(cluster: Cluster) -> None:
    await claimed(cluster)
    await cluster.later(30)
    assert asked(cluster) == 0
    await lose(cluster)
    told = asked(cluster)
    assert told > 0
    said = list(cluster.kube.events)
    cluster._renew()
    await cluster.later(20)
    assert asked(cluster) == told, "a new master finds everything told"
    assert cluster.kube.events == said


@pytest.mark.parametrize("volume", ["", "v2"], ids=["gone", "another volume's"])
async def test_a_claim_that_is_not_this_volumes_hears_nothing(cluster: Cluster, volume: str) -> None:
    await claimed(cluster, volume)
    await lose(cluster)
    await cluster.later(20)
    assert events(cluster) == []
    if volume:
        assert await says(cluster) == []
    assert asked(cluster) < 10
    assert not cluster.master._untold


async def test_a_master_that_dies_in_between_has_a_successor_that_tells(cluster: Cluster) -> None:
    """Killed after each of its first writes of this, whichever it is."""
    await claimed(cluster)
    cluster.nodes.pull(remote(await cluster.volume()).extents[0].device)
    for _ in range(6):
        MasterKube.budget, cluster.next_budget = 1, 1
        await cluster.turn()
        await cluster.nodes.act()
    MasterKube.budget = cluster.next_budget = None
    assert cluster.kills
    await cluster.settle()
    assert [one["reason"] for one in await says(cluster)] == ["FewerCopies"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(Unavailable("away"), True, id="what passes is tried again"),
        pytest.param(Conflict("written by another"), True, id="so is what another has just written to"),
        pytest.param(Forbidden("may not"), False, id="what is forbidden is not"),
    ],
)
async def test_a_claim_that_cannot_be_told_keeps_nobody_from_anything(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, error: MillpondError, again: bool
) -> None:
    await claimed(cluster)
    raw = MasterKube.raw

    async def refused(self: MasterKube, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        if method == "PATCH" and "persistentvolumeclaims" in path:
            raise error
        return await raw(self, method, path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(MasterKube, "raw", refused)
        await lose(cluster)
        assert await says(cluster) == []
    assert events(cluster)[-1] == "Degraded", "an Event needs no condition"
    assert bool(cluster.master._untold) is again
    volume = await cluster.volume()
    cluster.master._look(volume)
    await cluster.settle()
    assert [one["reason"] for one in await says(cluster)] == (["FewerCopies"] if again else [])
