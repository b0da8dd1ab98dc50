"""A node is lost under a StatefulSet of one: by a power cut, shut down without being drained, or cut off from the API
server while it runs on. Its pod writes elsewhere soon, nothing acknowledged is lost, and it comes back by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.database import POD, followed, in_pod, read_back, stateful_set
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.session import MakeWorkload, build_folder
from demo.story import Story
from demo.workload import Workload, storage_class
from millpond_core import names

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("all_disks")]

ENOUGH = 300
DETECT_SECONDS = 150.0  # both Leases have stood still after 30 s; kube-controller-manager itself takes 50 s
FENCE_SECONDS = 60.0
ATTACH_SECONDS = 150.0  # 60 of them if Kubernetes has to find out by itself that the volume is detached
RUN_SECONDS = 240.0
BACK_SECONDS = 600.0
OWN_LIST = "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/acks/0/acks"
KEPT = "/var/lib/kubelet/acks-{uid}"
"""A second name of it: the kubelet removes the first with the pod, as soon as it hears that there is another."""
SHUTDOWN_SECONDS = 240.0
"""A node without anything of ours takes a quarter of it; systemd would kill what is left only after 90 s."""


def alone(cluster: Cluster, node: str, *, wanted: bool) -> None:
    """Whether new pods are started on ``node`` alone."""
    others = [each["metadata"]["name"] for each in cluster.items("nodes") if each["metadata"]["name"] != node]
    cluster.kubectl("cordon" if wanted else "uncordon", *others)


def quiet_node(cluster: Cluster) -> str:
    """A node without the CSI controller: that one would have to be started elsewhere first, which is another story."""
    label = "--selector=app.kubernetes.io/component=controller"
    busy = {pod["spec"].get("nodeName") for pod in cluster.items("pods", "-n", install.NAMESPACE, label)}
    return next(name for each in cluster.items("nodes") if (name := each["metadata"]["name"]) not in busy)


class Move:
    """Follows a volume and its pod from one node to another, and tells how long each part took."""

    def __init__(self, cluster: Cluster, work: Workload, story: Story, volume: str, dead: str) -> None:
        self.cluster, self.work, self.story, self.volume, self.dead = cluster, work, story, volume, dead
        self.began = time.monotonic()
        self.epoch = int(self.vvol()["status"]["attachment"]["epoch"])
        self.uid = str(self.pod()["metadata"]["uid"])

    def vvol(self) -> Object:
        return self.cluster.get("vvol", self.volume)

    def pod(self) -> Object:
        return self.cluster.get("pod", POD, "-n", self.work.namespace)

    def part(self, name: str, missing: Any, seconds: float) -> None:
        took = self.cluster.wait(missing, name, seconds=seconds, every=0.25)
        self.story.say(f"{name}: {took:.1f} s, {time.monotonic() - self.began:.1f} s after its end")

    def detected(self) -> str:
        status = self.cluster.get("snode", self.dead).get("status", {})
        told = [each.get("message") for each in status.get("conditions", ()) if each["type"] == "NodeFailed"]
        return "" if status.get("phase") == "Failed" else f"{status.get('phase')}: {told}"

    def case(self) -> str:
        conditions = self.cluster.get("snode", self.dead)["status"]["conditions"]
        return next(str(each["reason"]) for each in conditions if each["type"] == "Ready")

    def fenced(self) -> str:
        status = self.vvol()["status"]
        at = status["attachment"]
        if int(at["epoch"]) <= self.epoch:
            return f"its epoch is still {at['epoch']}: {status.get('message', '')}"
        legs = {leg["node"] for leg in status["mapping"]["legs"] if leg["node"] != self.dead}
        late = [e["node"] for e in status["nodes"] if e["node"] in legs and int(e.get("epoch", 0)) <= self.epoch]
        return f"{', '.join(late)} has not confirmed" if late else ""

    def started_elsewhere(self) -> str:
        found = self.pod()
        if found["metadata"]["uid"] == self.uid:
            return f"it is still the one on {self.dead}"
        return "" if found["spec"].get("nodeName", self.dead) != self.dead else "it is not scheduled elsewhere yet"

    def attached(self) -> str:
        at = self.vvol()["status"]["attachment"]["node"]
        for each in self.cluster.items("volumeattachments"):
            there = each["spec"]["nodeName"] != self.dead and each.get("status", {}).get("attached")
            if at and at == each["spec"]["nodeName"] and there:
                return ""
        return f"attached to {at or 'no node'}; {self.work.events(POD)}"

    def writes(self) -> str:
        if self.pod()["status"].get("phase") != "Running":
            return self.work.events(POD) or "no event yet"
        return "" if self.work.count(POD) > 20 else "it runs, but has written little"

    def back(self) -> str:
        status, node = self.cluster.get("snode", self.dead).get("status", {}), self.cluster.get("node", self.dead)
        ready = [c for c in node["status"]["conditions"] if c["type"] == "Ready"]
        if ready[0]["status"] != "True":
            return f"its kubelet: {ready[0].get('message', '')}"
        if any(taint["key"] == names.TAINT for taint in node["spec"].get("taints", ())):
            return f"it still bears {names.TAINT}"
        return "" if status.get("phase") == "Ready" else f"its state manager: {status.get('phase')}"

    def in_sync(self) -> str:
        status = self.vvol()["status"]
        states = {leg["id"]: leg["state"] for leg in status["mapping"]["legs"]}
        return "" if set(states.values()) == {"InSync"} else f"{states}: {status.get('message', '')}"


@dataclass(frozen=True)
class End:
    """A way in which a node is lost to a cluster, and how it is undone."""

    name: str
    begin: Callable[[Faults, str], None]
    undo: Callable[[Faults, str], None]
    case: str = "NodeGone"
    """What the record calls it."""
    keeps: bool = True
    """What its pod was told to the very last is on its disk afterwards."""


def power_on(faults: Faults, node: str) -> None:
    faults.power_on(node)


ENDS = (
    End("power_cut", lambda faults, node: faults.power_off(node), power_on, keeps=False),
    # The volume is attached, mounted and written to, and so is its other leg; nothing of it may keep the node up.
    End(
        "shut_down",
        lambda faults, node: faults.shut_down(node, seconds=SHUTDOWN_SECONDS, cut_off=False),
        power_on,
    ),
    # Each write waits for the leg elsewhere, whose loss nobody can record any more: that may not keep it up either.
    End(
        "shut_down_without_network",
        lambda faults, node: faults.shut_down(node, seconds=SHUTDOWN_SECONDS, cut_off=True),
        power_on,
    ),
    # It runs on, and so does its pod: what that is told after the other leg is fenced would be lost.
    End(
        "cut_off_from_the_api_server",
        lambda faults, node: faults.link(node, api=False),
        lambda faults, node: faults.link(node, api=True),
        case="CutOffFromApiServer",
    ),
)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_a_pod_moves_from_a_node_that_is_lost_and_the_node_comes_back(
    cluster: Cluster,
    faults: Faults,
    workload: MakeWorkload,
    request: pytest.FixtureRequest,
    end: End,
) -> None:
    cluster.apply(storage_class("moving", grace=1800))
    work, story = workload(storage_class="moving"), Story()
    dead = quiet_node(cluster)
    cluster.apply(*work.claim_objects())
    alone(cluster, dead, wanted=True)
    try:
        cluster.apply(stateful_set(work))
        volume = work.volume()
        assert work.running(POD) == dead
    finally:
        alone(cluster, dead, wanted=False)
    off = False
    with cluster.watch(story.changed), followed(work, build_folder(request.node.name)) as heard:
        try:
            cluster.wait(lambda: "" if work.count(POD) > ENOUGH else "too few", "the pod writes", seconds=120)
            move = Move(cluster, work, story, volume, dead)
            kept = KEPT.format(uid=move.uid)
            faults.run(dead, "ln", OWN_LIST.format(uid=move.uid), kept)
            asked = time.monotonic()
            off = True
            end.begin(faults, dead)
            move.began = time.monotonic()
            story.say(
                f"{end.name}: {dead} is off after {move.began - asked:.0f} s, {POD} and a leg of {volume} with it"
            )
            move.part("detection", move.detected, DETECT_SECONDS)
            assert move.case() == end.case
            move.part("fence", move.fenced, FENCE_SECONDS)
            move.part("pod started elsewhere", move.started_elsewhere, FENCE_SECONDS)
            move.part("attach", move.attached, ATTACH_SECONDS)
            move.part("pod writes", move.writes, RUN_SECONDS)
            whole = time.monotonic() - move.began
            story.say(f"from its end to new records: {whole:.0f} s")
            assert whole < 360, "Kubernetes alone would wait 6 minutes for the detachment"

            acks = read_back(work, "records0", heard.read_text())
            assert len(acks.digests) >= ENOUGH
            story.say(f"{len(acks.digests)} records acknowledged on {dead} are read back elsewhere")

            switched_on = time.monotonic()
            end.undo(faults, dead)
            off = False
            if end.keeps:
                # When nobody outside could hear it any more.
                own = read_back(work, "records0", faults.run(dead, "cat", kept))
                assert len(own.digests) >= len(acks.digests)
                story.say(f"{len(own.digests)} records on its own list are read back")
            faults.run(dead, "rm", "-f", kept)
        finally:
            if off:
                faults.power_off(dead)
                faults.power_on(dead)
        move.began = switched_on
        move.part("node ready", move.back, BACK_SECONDS)
        move.part("in sync again", move.in_sync, BACK_SECONDS)
        told = [seen.moment.text for seen in story.seen if seen.moment.kind == "progress" and seen.at > switched_on]
        assert all(text.startswith("catching up") for text in told), told
    install.ready(cluster, seconds=BACK_SECONDS)
    after = move.vvol()
    legs = sorted(leg["id"] for leg in after["status"]["mapping"]["legs"])
    assert legs == ["a", "b"], "no spare was made for a node that came back in time"

    in_pod(work, "pause")
    try:
        size, differences = compare_in_sync(cluster, after, faults)
        story.say(f"{size >> 20} MiB of each leg compared: {len(differences)} stretches differ")
        assert differences == []
        assert discrepancies(cluster, faults, move.vvol()) == []
        text = cluster.kubectl("exec", "-n", work.namespace, POD, "--", "cat", "/acks/1/acks", seconds=120)
    finally:
        in_pod(work, "resume")
    acks = read_back(work, "records1", text)
    assert acks.errors == 0
    story.say(f"{len(acks.digests)} records acknowledged after the move are read back")
