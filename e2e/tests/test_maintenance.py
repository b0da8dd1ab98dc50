"""A leg node is drained and rebooted as planned, for longer than the grace period: no spare, a delta, equal legs."""

from __future__ import annotations

import time

import pytest

from demo import install
from demo.cluster import Cluster
from demo.faults import Faults
from demo.job import MainJob
from demo.reality import discrepancies
from demo.report import Report
from demo.session import MakeWorkload
from demo.story import Story

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

GRACE = 20
SHUTDOWN_SECONDS = 240.0
BACK_SECONDS = 900.0


def maintain(cluster: Cluster, *arguments: str) -> str:
    """What ``kubectl millpond maintain`` says; it must succeed."""
    done = cluster.millpond("maintain", *arguments)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def test_a_leg_node_is_rebooted_as_planned(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work = workload(storage_class="maintained")
    story, report = Story(), Report()
    with MainJob(cluster, faults, work, story, report, grace=GRACE) as job:
        job.write_something()
        node, off = job.victims()[0].node, False
        try:
            assert "it may be away until" in maintain(
                cluster, node, "--intent", "reboot", "--for", "30m", "--wait", "5m"
            )
            cluster.kubectl("wait", "--for=condition=MaintenanceReady", f"snode/{node}", "--timeout=60s", seconds=90)
            options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
            cluster.kubectl("drain", node, *options, seconds=400)
            began, off = time.monotonic(), True
            faults.shut_down(node, seconds=SHUTDOWN_SECONDS, cut_off=False)
            story.wait("stale", "the loss is recorded", seconds=300, since=began, subject=job.volume)
            time.sleep(3 * GRACE)
            work.goes_on(seconds=300, more=100)
            assert "is absent as planned until" in job.see()["status"]["message"]
        finally:
            if off:
                faults.power_on(node)
            cluster.kubectl("uncordon", node)
        story.wait("insync", "its leg has caught up", seconds=BACK_SECONDS, since=began, subject=job.volume)
        maintain(cluster, node, "--done")
        install.ready(cluster, seconds=BACK_SECONDS)
        after = job.see()
        job.compare()
        assert report.differing_stretches == 0, report.problems
        assert discrepancies(cluster, faults, after) == []
        assert story.find("spare", since=began) is None, "a spare was made for a node that was to come back"
        told = [seen.moment.text for seen in story.seen if seen.moment.kind == "progress" and seen.at >= began]
        assert all(text.startswith("catching up") for text in told), told
        assert [leg["id"] for leg in after["status"]["mapping"]["legs"]] == ["a", "b"]
        work.pause()
        acks, text = work.acks()
        verdict = work.verify("writer", text)
        assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict
        assert acks.errors == 0
