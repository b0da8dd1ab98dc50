"""A disk that comes back within the grace period: its leg catches up with what it missed, and no spare is made."""

from __future__ import annotations

import pytest

from demo.cluster import Cluster
from demo.faults import Faults
from demo.job import MainJob
from demo.reality import discrepancies
from demo.report import Report
from demo.session import MakeWorkload
from demo.story import Story

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]


def test_a_disk_pulled_and_put_back_catches_up(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work = workload(storage_class="patient")
    story, report = Story(), Report()
    with MainJob(cluster, faults, work, story, report, grace=600) as job:
        job.write_something()
        remote, _ = job.victims()
        pulled = job.pull(remote)
        story.wait("stale", "the loss is recorded", seconds=300, since=pulled, subject=job.volume)
        work.goes_on(seconds=300, more=100)
        faults.plug(remote.node, remote.serial)
        story.wait("returned", "the disk is back", seconds=300, since=pulled, subject=remote.device)
        story.wait("insync", "the leg has caught up", seconds=900, since=pulled, subject=job.volume)
        after = job.see()
        job.compare()
        assert report.differing_stretches == 0, report.problems
        assert discrepancies(cluster, faults, after) == []
        assert story.find("spare", since=pulled) is None, "a spare was made for a disk that came back in time"
        told = [seen.moment.text for seen in story.seen if seen.moment.kind == "progress" and seen.at >= pulled]
        assert all(text.startswith("catching up") for text in told), told
        assert [leg["id"] for leg in after["status"]["mapping"]["legs"]] == ["a", "b"]
        work.pause()
        acks, text = work.acks()
        verdict = work.verify("writer", text)
        assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict
