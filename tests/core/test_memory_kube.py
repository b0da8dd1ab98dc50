"""The API server in memory: it keeps the port's promises, and fails when it is told to."""

from __future__ import annotations

import pytest
from kube_contract import *  # noqa: F403 (the contract's tests become ours)
from kube_contract import take, volume

from millpond_core.errors import Conflict, Unavailable
from millpond_core.model import VirtualVolume
from millpond_core.testing.kube import MemoryKube


@pytest.fixture
def kube() -> MemoryKube:
    return MemoryKube()


async def test_what_vanished_during_an_outage_is_deleted_by_the_relist(kube: MemoryKube) -> None:
    await kube.create(volume("a"))
    await kube.create(volume("b"))
    stream = kube.watch(VirtualVolume)
    await take(stream, 3)
    await kube.delete(VirtualVolume, "a")
    kube.relist()
    assert await take(stream, 3) == [("ADDED", "b"), ("DELETED", "a"), ("SYNCED", "")]


async def test_a_lease_is_one_holders_until_it_stands_still() -> None:
    class Clock:
        at = 1_800_000_000.0

        def now(self) -> float:
            return self.at

        boottime = now

    clock = Clock()
    kube = MemoryKube(clock)
    await kube.renew_lease("l", "one", 10)
    clock.at += 9
    with pytest.raises(Conflict, match="held by one"):
        await kube.renew_lease("l", "two", 10)
    clock.at += 2
    await kube.renew_lease("l", "two", 10)
    found = await kube.raw("GET", "/apis/coordination.k8s.io/v1/namespaces/millpond-system/leases/l")
    assert found["spec"]["holderIdentity"] == "two"


async def test_it_fails_when_told_to(kube: MemoryKube) -> None:
    kube.fail_next("create", Unavailable("gone"))
    with pytest.raises(Unavailable):
        await kube.create(volume())
    await kube.create(volume())
    with kube.outage(), pytest.raises(Unavailable):
        await kube.get(VirtualVolume, "v")
    assert (await kube.get(VirtualVolume, "v")).metadata.name == "v"
