"""Ten rounds of killing every process of ours while a pod writes: no record lost, no pause longer than without.

Bystanders, pods that write to folders of their nodes, tell pauses of ours from those of a node whose cores are taken.

``ROUNDS`` in the environment makes it fewer, where a round takes minutes.
"""

from __future__ import annotations

import os
import time

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.faults import Faults
from demo.reality import discrepancies
from demo.session import MakeWorkload
from demo.story import Story

pytestmark = [pytest.mark.timeout(3600), pytest.mark.usefixtures("all_disks")]

ROUNDS = int(os.environ.get("ROUNDS", "10"))
QUIET_SECONDS = 30.0
MAIN = {"operator": "operator", "controller": "csi", "node": "state-manager"}
"""The container that is killed, by the pods' component."""


def pods(cluster: Cluster) -> list[Object]:
    return [
        each for each in cluster.items("pods", "-n", install.NAMESPACE) if not each["metadata"].get("deletionTimestamp")
    ]


def kill_everything(cluster: Cluster, faults: Faults) -> None:
    """SIGKILL to the first process of each pod's main container, then the pods themselves are deleted."""
    running = [pod for pod in pods(cluster) if pod["status"].get("phase") == "Running"]
    for pod in running:
        container = MAIN[pod["metadata"]["labels"]["app.kubernetes.io/component"]]
        faults.kill(pod["spec"]["nodeName"], pod["metadata"]["name"], container)
    # Deleted as well: a container that dies again and again waits longer each time before it is started anew.
    names = [pod["metadata"]["name"] for pod in running]
    cluster.kubectl("delete", "pods", "-n", install.NAMESPACE, *names, "--now", "--wait=false")


def test_ten_rounds(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work, story = workload(storage_class="millpond-mirrored", rate=10), Story()
    cluster.apply(*work.claim_objects())
    work.write()
    volume = work.volume()
    work.running()
    status = cluster.get("vvol", volume)["status"]
    nodes = sorted({status["attachment"]["node"], *(leg["node"] for leg in status["mapping"]["legs"])})
    for node in nodes:
        work.bystander(f"bystander-{node}", node)
    for name in ("writer", *(f"bystander-{node}" for node in nodes)):
        work.running(name)
        cluster.wait(lambda name=name: "" if work.count(name) > 100 else "too few", f"{name} writes", seconds=400)
    quiet_from = time.time_ns()
    time.sleep(QUIET_SECONDS)
    quiet_until = time.time_ns()
    for number in range(1, ROUNDS + 1):
        kill_everything(cluster, faults)
        install.ready(cluster, seconds=900)
        story.say(f"round {number}: everything was killed and is back; {work.count()} records acknowledged")
    work.goes_on(seconds=400)
    work.pause()
    acks, text = work.acks()
    without = acks.longest_gap_ms(quiet_from, quiet_until)
    during = acks.longest_gap_ms(quiet_until)
    beside = {node: work.acks(f"bystander-{node}")[0].longest_gap_ms(quiet_until) for node in nodes}
    said = f"{during:.0f} ms with the kills, {without:.0f} ms without; beside Millpond, with the kills: " + ", ".join(
        f"{gap:.0f} ms on {node}" for node, gap in beside.items()
    )
    story.say(f"longest pause between two acknowledgements: {said}")
    verdict = work.verify("writer", text)
    assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict
    assert acks.errors == 0
    # Starting a dozen processes takes the cores from every writer: a bystander's pause shows what that alone costs on
    # its node. A record needs the cores of each of them in turn.
    assert during <= without + sum(beside.values()), said
    found = cluster.get("vvol", volume)
    assert [leg["state"] for leg in found["status"]["mapping"]["legs"]] == ["InSync", "InSync"]
    assert found["status"]["mapping"]["generation"] == 1
    assert discrepancies(cluster, faults, found) == []
