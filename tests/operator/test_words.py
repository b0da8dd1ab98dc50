"""A volume's status says at once what has become of it, and mere words of it now and then (decision 27)."""

from __future__ import annotations

from harness import Cluster

from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Leg
from millpond_core.telling import WORDS_SECONDS


async def says(cluster: Cluster, leg: Leg, message: str = "", *, prepared: bool = False) -> str:
    """A leg's node reports; what the master's status says after it has looked."""
    entry = {"id": leg.id, "message": message, "prepared": prepared, "incarnation": "1" if prepared else ""}
    report = {"node": leg.node, "generation": 1, "recordSeq": 1, "legs": [entry]}
    await cluster.kube.apply_status(VirtualVolume, "v1", {"nodes": [report]}, manager=f"millpond-node-{leg.node}")
    await cluster.turn()
    await cluster.turn()
    return (await cluster.volume()).status.message


async def test_words_wait_for_a_moment_and_facts_do_not(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1")
    for _ in range(4):
        await cluster.turn()
    one, other = (await cluster.volume()).status.mapping.legs
    before = (await cluster.volume()).status.message
    assert "waits for its legs to be zeroed" in before
    assert await says(cluster, one, "it is being zeroed") == before
    assert await says(cluster, one, "its disk is slow") == before
    cluster.clock.pass_(WORDS_SECONDS)
    assert "its disk is slow" in await says(cluster, one, "its disk is slow")
    await says(cluster, one, prepared=True)
    await says(cluster, other, prepared=True)
    assert (await cluster.volume()).status.phase == "Ready"


async def test_the_last_words_are_not_forgotten(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1")
    for _ in range(4):
        await cluster.turn()
    leg = (await cluster.volume()).status.mapping.legs[0]
    assert "its disk is slow" not in await says(cluster, leg, "its disk is slow")
    cluster.clock.pass_(WORDS_SECONDS)
    await cluster.turn()
    assert "its disk is slow" in (await cluster.volume()).status.message, "though nobody has said anything since"
