"""``kubectl millpond balance``: legs move from full devices to an empty one while pods write."""

from __future__ import annotations

import json

import pytest

from demo.cluster import Cluster
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.session import MakeWorkload

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

BALANCE_SECONDS = 1500


def test_a_device_that_was_empty_gets_its_part(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    """Drained and taken into service again it is the emptiest, with one node's legs all on the disk beside it."""
    works = [workload(storage_class="millpond-mirrored", rate=15) for _ in range(2)]
    volumes = []
    for work in works:
        cluster.apply(*work.claim_objects())
        work.write()
    for work in works:
        work.running()
        work.goes_on(seconds=400)
        volumes.append(work.volume())
    legs = [leg for name in volumes for leg in cluster.get("vvol", name)["status"]["mapping"]["legs"]]
    device = legs[0]["extents"][0]["device"]
    done = cluster.millpond("drain", device, seconds=BALANCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.millpond("undrain", device)

    planned = cluster.millpond("plan", "balance", "--tolerance", "3", "-o", "json")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    plan = json.loads(planned.stdout)
    assert any(device in one["target"] for one in plan["transfers"]), plan
    done = cluster.millpond("balance", "--tolerance", "3", seconds=BALANCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr

    after = [cluster.get("vvol", name) for name in volumes]
    assert all(not each["spec"].get("placement", {}).get("moving") for each in after)
    there = {e["device"] for each in after for leg in each["status"]["mapping"]["legs"] for e in leg["extents"]}
    assert device in there
    assert all(len(each["status"]["mapping"]["legs"]) == 2 for each in after)
    for work in works:
        work.goes_on(seconds=400)
        everything_is_there(cluster, faults, work)
