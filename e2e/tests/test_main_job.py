"""The main job, as in ``make demo``, with a look at the kernels wherever the mapping has just changed."""

from __future__ import annotations

import pytest

from demo.cli import versions
from demo.cluster import Cluster
from demo.faults import Faults
from demo.job import MainJob
from demo.reality import discrepancies
from demo.report import Report
from demo.session import MakeWorkload, build_folder
from demo.story import Story

pytestmark = [pytest.mark.timeout(3000), pytest.mark.usefixtures("all_disks")]


def test_two_disks_are_pulled_and_nothing_is_lost(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    report = Report()
    report.kubernetes, report.kernel = versions(cluster)
    with MainJob(cluster, faults, workload(), Story(), report) as job:
        job.write_something()
        assert discrepancies(cluster, faults, job.see()) == []
        remote, local = job.victims()
        job.lose(remote)
        assert discrepancies(cluster, faults, job.see()) == [], "after the mapping changed"
        job.compare()
        job.lose_the_other(local)
        job.read_back()
    report.write(build_folder("main-job") / "report.json")
    assert report.verdict() == []
