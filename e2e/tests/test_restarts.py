"""Every process of ours ends while a pod writes, by ``kill`` or by ``helm upgrade``: no record lost, no longer pause.

Bystanders, pods that write to folders of their nodes, tell pauses of ours from those of a node whose cores are taken.

``ROUNDS`` in the environment makes the rounds of kills fewer, where one takes minutes.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.session import MakeWorkload, Session
from demo.story import Story
from demo.workload import Workload

pytestmark = [pytest.mark.timeout(3600), pytest.mark.usefixtures("all_disks")]

ROUNDS = int(os.environ.get("ROUNDS", "10"))
QUIET_SECONDS = 30.0
UPGRADE_SECONDS = 1800.0
NEXT = "localhost/millpond:next"
"""Another name for the image that the nodes have."""
MAIN = {"operator": "operator", "controller": "csi", "node": "state-manager"}
"""The container that is killed, by the pods' component."""


def pods(cluster: Cluster) -> list[Object]:
    return [
        each for each in cluster.items("pods", "-n", install.NAMESPACE) if not each["metadata"].get("deletionTimestamp")
    ]


def kill_everything(cluster: Cluster, faults: Faults) -> None:
    """SIGKILL to the first process of each pod's main container, then the pods themselves are deleted."""
    running = [pod for pod in pods(cluster) if pod["status"].get("phase") == "Running"]

    def kill(pod: Object) -> None:
        container = MAIN[pod["metadata"]["labels"]["app.kubernetes.io/component"]]
        faults.kill(pod["spec"]["nodeName"], pod["metadata"]["name"], container)

    with ThreadPoolExecutor(len(running)) as pool:  # a kill takes seconds under emulation, and all are to die together
        list(pool.map(kill, running))
    # Deleted as well: a container that dies again and again waits longer each time before it is started anew.
    names = [pod["metadata"]["name"] for pod in running]
    cluster.kubectl("delete", "pods", "-n", install.NAMESPACE, *names, "--now", "--wait=false")


class Writers:
    """A pod that writes to a volume in two copies, and a bystander on each node that has a part in it."""

    def __init__(self, cluster: Cluster, work: Workload, story: Story) -> None:
        self._cluster, self._work, self._story = cluster, work, story
        cluster.apply(*work.claim_objects())
        work.write()
        self.volume = work.volume()
        work.running()
        status = cluster.get("vvol", self.volume)["status"]
        self._nodes = sorted({status["attachment"]["node"], *(leg["node"] for leg in status["mapping"]["legs"])})
        for node in self._nodes:
            work.bystander(f"bystander-{node}", node)
        for name in ("writer", *(f"bystander-{node}" for node in self._nodes)):
            work.running(name)
            cluster.wait(lambda name=name: "" if work.count(name) > 100 else "too few", f"{name} writes", seconds=400)
        self._quiet_from = time.time_ns()
        time.sleep(QUIET_SECONDS)
        self._quiet_until = time.time_ns()

    def judge(self, what: str, faults: Faults) -> None:
        """What has been done since; nothing was lost, and no pause was longer than the cores explain."""
        work = self._work
        work.goes_on(seconds=400)
        work.pause()
        acks, text = work.acks()
        without = acks.longest_gap_ms(self._quiet_from, self._quiet_until)
        during = acks.longest_gap_ms(self._quiet_until)
        beside = {node: work.acks(f"bystander-{node}")[0].longest_gap_ms(self._quiet_until) for node in self._nodes}
        said = f"{during:.0f} ms with {what}, {without:.0f} ms without; beside Millpond, with {what}: " + ", ".join(
            f"{gap:.0f} ms on {node}" for node, gap in beside.items()
        )
        self._story.say(f"longest pause between two acknowledgements: {said}")
        verdict = work.verify("writer", text)
        assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict
        assert acks.errors == 0
        # Starting a dozen processes takes the cores from every writer: a bystander's pause shows what that alone costs
        # on its node. A record needs the cores of each of them in turn.
        assert during <= without + sum(beside.values()), said
        found = self._cluster.get("vvol", self.volume)
        assert [leg["state"] for leg in found["status"]["mapping"]["legs"]] == ["InSync", "InSync"]
        assert found["status"]["mapping"]["generation"] == 1
        assert discrepancies(self._cluster, faults, found) == []
        assert compare_in_sync(self._cluster, found, faults)[1] == []


def test_ten_rounds(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work, story = workload(storage_class="millpond-mirrored", rate=10), Story()
    writers = Writers(cluster, work, story)
    for number in range(1, ROUNDS + 1):
        kill_everything(cluster, faults)
        install.ready(cluster, seconds=900)
        story.say(f"round {number}: everything was killed and is back; {work.count()} records acknowledged")
    writers.judge("the kills", faults)


def test_an_upgrade_to_new_images(session: Session, workload: MakeWorkload) -> None:
    """``helm upgrade`` as people do it: every pod of ours is replaced, the DaemonSet's one node after the other."""
    cluster, story = session.cluster, Story()
    writers = Writers(cluster, workload(storage_class="millpond-mirrored", rate=10), story)
    old = {pod["metadata"]["uid"] for pod in pods(cluster)}
    for node in session.lab.nodes:
        session.faults.run(node.name, "ctr", "-n", "k8s.io", "images", "tag", "--force", session.image, NEXT)
    try:
        upgrade(session, NEXT)
        assert not old & {pod["metadata"]["uid"] for pod in pods(cluster)}
        images = {each["image"] for pod in pods(cluster) for each in pod["spec"]["containers"]}
        assert session.image not in images
        assert NEXT in images
        writers.judge("the upgrade", session.faults)
    finally:
        upgrade(session, session.image)


def upgrade(session: Session, image: str) -> None:
    """Returns when every pod is new and ready."""
    session.install(image)

    def missing() -> str:
        found = session.cluster.items("deployments,daemonsets", "-n", install.NAMESPACE)
        return "; ".join(filter(None, (_behind(each) for each in found)))

    session.cluster.wait(missing, "every pod is replaced", seconds=UPGRADE_SECONDS, every=2)
    install.ready(session.cluster)


def _behind(found: Object) -> str:
    """What a Deployment or DaemonSet has still to do; empty: nothing."""
    status, name = found["status"], found["metadata"]["name"]
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return f"{name} is not looked at yet"
    if found["kind"] == "Deployment":
        wanted, new, total = found["spec"]["replicas"], status.get("updatedReplicas", 0), status.get("replicas", 0)
    else:
        wanted, new = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
        total = wanted
    ready = status.get("readyReplicas", status.get("numberReady", 0))
    return "" if wanted == new == total == ready else f"{name}: {new} of {wanted} are new, {ready} ready"
