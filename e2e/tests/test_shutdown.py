"""All nodes are switched off in order and on again: nothing has to be copied, and everything starts by itself."""

from __future__ import annotations

import time

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.database import POD, followed, in_pod, read_back, stateful_set
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.session import MakeWorkload, build_folder
from demo.story import Story
from demo.workload import storage_class
from millpond_core import names

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

GRACE = 20
"""Shorter than the nodes are off: no spare may be made for that."""
OFF_SECONDS = 2 * GRACE
BACK_SECONDS = 900.0


def test_all_nodes_are_switched_off_and_on_again(
    cluster: Cluster, faults: Faults, workload: MakeWorkload, request: pytest.FixtureRequest
) -> None:
    cluster.apply(storage_class("shut-down", grace=GRACE))
    work, story = workload(storage_class="shut-down"), Story()
    cluster.apply(*work.claim_objects())
    cluster.apply(stateful_set(work))
    volume = work.volume()
    work.running(POD)

    def vvol() -> Object:
        return cluster.get("vvol", volume)

    def pod() -> Object:
        return cluster.get("pod", POD, "-n", work.namespace)

    def tainted() -> str:
        there = [n for n in cluster.items("nodes") if any(t["key"] == names.TAINT for t in n["spec"].get("taints", ()))]
        return ", ".join(node["metadata"]["name"] for node in there)

    with cluster.watch(story.changed):
        with followed(work, build_folder(request.node.name)) as heard:
            cluster.wait(lambda: "" if work.count(POD) > 100 else "too few", "the pod writes", seconds=120)
            done = cluster.millpond("shutdown", "--yes", "--wait", "10m", seconds=800)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        assert f"pod {work.namespace}/{POD}" in done.stderr
        before = vvol()
        assert before["status"]["attachment"].get("node", "") == ""
        assert before["status"]["attachment"]["clean"]
        assert "nodeName" not in pod()["spec"], "its successor waits until the nodes are back"
        _, differences = compare_in_sync(cluster, before, faults)
        assert differences == []

        nodes = sorted(node["metadata"]["name"] for node in cluster.items("nodes"))
        try:
            for node in nodes:
                faults.power_off(node)
            time.sleep(OFF_SECONDS)
        finally:
            for node in nodes:
                faults.power_on(node)
        on = time.monotonic()
        took = cluster.wait(lambda: f"{tainted()} bear the taint" if tainted() else "", "pods", seconds=BACK_SECONDS)
        story.say(f"no taint is left {took:.0f} s after the last node was switched on")
        work.running(POD)
        cluster.wait(lambda: "" if work.count(POD) > 100 else "too few", "it writes again", seconds=BACK_SECONDS)
        story.say(f"the pod writes {time.monotonic() - on:.0f} s after the last node was switched on")
    install.ready(cluster, seconds=BACK_SECONDS)
    after = vvol()
    assert after["status"]["mapping"] == before["status"]["mapping"], "nothing has changed: nothing was to be copied"
    assert story.find("spare") is None
    assert [seen for seen in story.seen if seen.moment.kind == "progress"] == []
    acks = read_back(work, "records0", heard.read_text())
    assert len(acks.digests) > 100

    in_pod(work, "pause")
    try:
        _, differences = compare_in_sync(cluster, vvol(), faults)
        assert differences == []
        assert discrepancies(cluster, faults, vvol()) == []
        text = cluster.kubectl("exec", "-n", work.namespace, POD, "--", "cat", "/acks/1/acks", seconds=120)
    finally:
        in_pod(work, "resume")
    acks = read_back(work, "records1", text)
    assert acks.errors == 0
    story.say(f"{len(acks.digests)} records acknowledged since are read back")
