"""A claim of a database goes still, by ``kubectl millpond`` and the chart's rights: its writer stands, and goes on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from demo.cluster import Cluster
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.session import MakeWorkload
from demo.workload import Workload

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("all_disks")]

STILL_SECONDS = 15
DEADLINE_SECONDS = 120


def quiesce(cluster: Cluster, work: Workload, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and the status of the Quiescence, of one that lasts as long as a command that sleeps."""
    scope = ("-n", work.namespace, "-l", "app=database", "--for", str(DEADLINE_SECONDS), *arguments)
    done = cluster.millpond("quiesce", "-o", "json", *scope, "--", "sleep", str(STILL_SECONDS))
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["status"]


def test_a_database_stands_still_and_goes_on(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work = workload(storage_class="millpond-mirrored", rate=20)
    cluster.apply(*work.claim_objects())
    work.write()
    work.running()
    volume = work.volume()
    cluster.kubectl("label", "pvc", "--all", "-n", work.namespace, "app=database")
    work.goes_on(seconds=400)

    count, began = work.count(), time.time_ns()
    code, status = quiesce(cluster, work)
    assert (code, status["phase"], status["volumes"]) == (0, "Released", [volume])
    assert work.count() > count, "without a hold, writes go on"
    acks, _ = work.acks()
    assert acks.longest_gap_ms(began) < STILL_SECONDS * 1000

    work.goes_on(seconds=400)
    began = time.time_ns()
    code, status = quiesce(cluster, work, "--hold")
    assert (code, status["phase"]) == (0, "Released")
    [word] = status["acknowledgements"]
    assert (word["node"], word["held"]) == (cluster.get("vvol", volume)["status"]["attachment"]["node"], [volume])
    work.goes_on(seconds=400)
    acks, _ = work.acks()
    assert acks.longest_gap_ms(began) >= STILL_SECONDS * 1000, "with it, nothing is acknowledged meanwhile"

    everything_is_there(cluster, faults, work)
