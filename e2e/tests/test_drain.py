"""A device is emptied under load, by ``kubectl millpond``: what was planned is what is done, and its writer sees none
of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.cluster import Cluster
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.session import MakeWorkload

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

DRAIN_SECONDS = 1500
AGREE = 0.1
"""By so much of its bytes a plan may be wrong."""


def millpond(cluster: Cluster, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of one command of the plugin."""
    done = cluster.millpond(*arguments, seconds=DRAIN_SECONDS)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_device_is_emptied_as_planned(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work = workload(storage_class="millpond-mirrored", rate=20)
    cluster.apply(*work.claim_objects())
    work.write()
    work.running()
    volume = work.volume()
    work.goes_on(seconds=400)
    status = cluster.get("vvol", volume)["status"]
    remote = next(leg for leg in status["mapping"]["legs"] if leg["node"] != status["attachment"]["node"])
    device = remote["extents"][0]["device"]

    code, plan = millpond(cluster, "plan", "drain", device, "-o", "json")
    assert (code, plan["ends"], plan["losses"]) == (0, "Drained", []), plan
    move = next(move for move in plan["moves"] if move["volume"] == volume)
    assert move["pods"] == [f"{work.namespace}/writer"]
    assert move["fewest"] == 2, "never with one copy less"
    try:
        code, outcome = millpond(cluster, "drain", device, "-o", "json")
        assert (code, outcome["left"]) == (0, []), outcome["message"]
        assert outcome["departures"] == []
        assert abs(outcome["bytes"] - plan["bytes"]) <= AGREE * plan["bytes"]
        assert cluster.get("sdev", device)["status"]["phase"] == "Drained"
        work.goes_on(seconds=400)

        found = cluster.get("vvol", volume)
        assert device not in {e["device"] for leg in found["status"]["mapping"]["legs"] for e in leg["extents"]}
        everything_is_there(cluster, faults, work)
    finally:
        cluster.kubectl("patch", "sdev", device, "--type=merge", "-p", '{"spec":{"desiredState":"InService"}}')
