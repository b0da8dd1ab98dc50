"""What the CSI driver makes of what the master says: of a volume that grows, and of more copies."""

from __future__ import annotations

import pytest
from harness import Cluster, attached
from test_whole import Whole, whole

from millpond_core.model import VirtualVolume
from millpond_core.units import MIB
from millpond_csi.attributes import taken_up
from millpond_csi.errors import OutOfRange, Refused
from millpond_csi.sizes import quantity
from millpond_csi.volumes import Resize, grown
from millpond_csi.waiting import Wait

__all__ = ["whole"]


@pytest.mark.parametrize("used", [True, False], ids=["attached", "detached"])
async def test_a_volume_that_grows_one_that_cannot_and_one_that_may_again(whole: Whole, used: bool) -> None:
    async def ask(mib: int) -> None:
        """As ControllerExpandVolume does."""
        step = grown(whole.vvol("v1"), mib * MIB)
        assert step == Resize(whole.vvol("v1"), mib * MIB)
        await whole.kube.merge(VirtualVolume, "v1", {"spec": {"size": quantity(mib * MIB)}})
        assert isinstance(grown(whole.vvol("v1"), mib * MIB), Wait)

    def refused(mib: int) -> str:
        try:
            grown(whole.vvol("v1"), mib * MIB)
        except OutOfRange as error:
            return str(error)
        return ""

    await whole.claim()
    if used:
        await whole.use()
    await ask(32)
    await whole.until(lambda: isinstance(grown(whole.vvol("v1"), 32 * MIB), VirtualVolume))
    assert whole.report("v1", "n1").size_bytes == (32 * MIB if used else 0)
    await ask(1024)
    await whole.until(lambda: bool(refused(1024)))
    assert "v1 has 32Mi and cannot have 1Gi as things are: no room to grow to 1Gi: leg a on n1 needs" in refused(1024)
    await ask(40)
    await whole.until(lambda: isinstance(grown(whole.vvol("v1"), 40 * MIB), VirtualVolume))


@pytest.mark.parametrize("held", [True, False], ids=["attached", "detached"])
async def test_copies_that_have_a_place_and_copies_that_have_none(cluster: Cluster, held: bool) -> None:
    if held:
        await attached(cluster)
    else:
        await cluster.nodes.add_volume("v1")
        await cluster.settle()
    volume = await cluster.volume()
    assert taken_up(volume, 2) is volume
    for copies in (3, 4):
        written = await cluster.kube.merge(VirtualVolume, "v1", {"spec": {"layout": {"copies": copies}}})
        assert isinstance(taken_up(written, copies), Wait), "the master has not looked yet"
        await cluster.settle()
        volume = await cluster.volume()
        if copies == 3:
            assert taken_up(volume, 3) is volume
            continue
        with pytest.raises(Refused, match=r"has 3 of 4 copies: .*no spare can be placed: "):
            taken_up(volume, 4)
