"""What the CSI driver makes of the master's own words when more copies are asked for."""

from __future__ import annotations

import pytest
from harness import Cluster, attached

from millpond_core.model import VirtualVolume
from millpond_csi.attributes import taken_up
from millpond_csi.errors import Refused
from millpond_csi.waiting import Wait


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
