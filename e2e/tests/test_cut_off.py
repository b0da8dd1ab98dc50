"""A node cut off from the storage network alone, its kubelet and its state manager heard as before: it is named so, the
pods that reach their volumes write on, and what it missed is copied when it is back.

The other half, cut off from the API server alone, is in ``test_failover.py``, since its pods move.
"""

from __future__ import annotations

import time

import pytest

from demo.cluster import Cluster
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.session import MakeWorkload
from demo.story import Story
from demo.workload import storage_class

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("all_disks")]

NAMED_SECONDS = 240.0
BACK_SECONDS = 600.0


def test_a_leg_node_cut_off_from_the_storage_network_alone_is_named_and_catches_up(
    cluster: Cluster, faults: Faults, workload: MakeWorkload
) -> None:
    cluster.apply(storage_class("cut-off", grace=1800))
    work, story = workload(storage_class="cut-off"), Story()
    cluster.apply(*work.claim_objects())
    work.write()
    node = work.running()
    work.goes_on(seconds=400, more=100)
    volume = work.volume()
    legs = cluster.get("vvol", volume)["status"]["mapping"]["legs"]
    cut = next(leg["node"] for leg in legs if leg["node"] != node)
    uid = cluster.get("pod", "writer", "-n", work.namespace)["metadata"]["uid"]

    def named() -> str:
        status = cluster.get("snode", cut)["status"]
        ready = next(each for each in status["conditions"] if each["type"] == "Ready")
        return "" if ready["reason"] == "CutOffFromStorageNetwork" else f"{status['phase']}: {ready}"

    def states() -> dict[str, str]:
        return {leg["node"]: leg["state"] for leg in cluster.get("vvol", volume)["status"]["mapping"]["legs"]}

    def whole() -> str:
        there = states()
        return "" if {*there.values()} == {"InSync"} else f"{there}: {cluster.get('vvol', volume)['status']}"

    began = time.monotonic()
    faults.link(cut, legs=False)
    try:
        took = cluster.wait(named, f"{cut} has its name", seconds=NAMED_SECONDS)
        story.say(f"{cut} is known to be cut off from the storage network after {took:.0f} s")
        assert cluster.get("snode", cut)["status"]["phase"] == "Ready", "its state manager is heard"
        work.goes_on(seconds=NAMED_SECONDS, more=100)
        # Its node is heard and offers it, so it may be tried again now and then, in vain.
        assert states()[cut] in ("Stale", "Rebuilding"), (
            "who missed a write is recorded before the next is acknowledged"
        )
        assert {name for name, state in states().items() if state == "InSync"} == {node}
    finally:
        faults.link(cut, legs=True)
    story.say(f"the network is back after {time.monotonic() - began:.0f} s")
    took = cluster.wait(whole, "both legs are in sync again", seconds=BACK_SECONDS)
    story.say(f"in sync {took:.0f} s after that")
    work.goes_on(seconds=400, more=20)
    assert {*states()} == {leg["node"] for leg in legs}, "no spare was made for a node that came back in time"
    assert cluster.get("pod", "writer", "-n", work.namespace)["metadata"]["uid"] == uid

    count = everything_is_there(cluster, faults, work)
    story.say(f"{count} records are read back, both legs are equal")
