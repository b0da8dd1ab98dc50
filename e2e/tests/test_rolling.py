"""What administrators do every week: a kubelet restarted, the control plane's node drained, one node rebooted after the
other. Nobody's hands are needed, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import time

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.database import POD, read_back, stateful_set
from demo.ends import everything_is_there
from demo.errors import DemoError
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.session import MakeWorkload
from demo.story import Story
from demo.workload import Workload, storage_class
from millpond_core import names

pytestmark = [pytest.mark.timeout(3000), pytest.mark.usefixtures("all_disks")]

BACK_SECONDS = 900.0
SHUTDOWN_SECONDS = 240.0
OWN_LIST = "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/acks/{life}/acks"


def components(cluster: Cluster) -> dict[str, str]:
    """Where each part of the control plane runs: its name → the node."""
    found = {}
    for pod in cluster.items("pods", "-n", install.NAMESPACE):
        component = pod["metadata"]["labels"].get("app.kubernetes.io/component", "")
        if component in ("operator", "controller") and pod["status"].get("phase") == "Running":
            found[component] = pod["spec"]["nodeName"]
    return found


def elsewhere(cluster: Cluster) -> str:
    """A node without any of it."""
    busy = {*components(cluster).values()}
    return next(name for each in cluster.items("nodes") if (name := each["metadata"]["name"]) not in busy)


def begun(cluster: Cluster, work: Workload, node: str = "") -> Object:
    """A pod that writes on ``node``, as it is after its first records."""
    cluster.apply(*work.claim_objects())
    work.write(node=node)
    work.running()
    work.goes_on(seconds=400, more=100)
    return cluster.get("pod", "writer", "-n", work.namespace)


def ends(cluster: Cluster, faults: Faults, work: Workload, before: Object) -> None:
    """The same container still writes, and all that it was told is there, on both legs."""
    work.goes_on(seconds=400, more=100)
    after = cluster.get("pod", "writer", "-n", work.namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [each["restartCount"] for each in after["status"]["containerStatuses"]] == [0]
    found = cluster.get("vvol", work.volume())
    assert found["status"]["mapping"]["generation"] == 1
    everything_is_there(cluster, faults, work)


def test_a_kubelet_is_restarted_under_a_pod_that_writes(
    cluster: Cluster, faults: Faults, workload: MakeWorkload
) -> None:
    work = workload(storage_class="millpond-mirrored", rate=10)
    pod = begun(cluster, work)
    node = pod["spec"]["nodeName"]
    process = faults.run(node, "systemctl", "show", "--property=MainPID", "kubelet")
    faults.run(node, "systemctl", "restart", "kubelet", seconds=120)
    assert faults.run(node, "systemctl", "show", "--property=MainPID", "kubelet") != process

    def renewed() -> str:
        lease = cluster.get("lease", node, "-n", "kube-node-lease")["spec"]["renewTime"]
        return "" if lease > since else f"its Lease is of {lease}"

    since = cluster.get("lease", node, "-n", "kube-node-lease")["spec"]["renewTime"]
    cluster.wait(renewed, f"the kubelet of {node} is heard of again", seconds=BACK_SECONDS)

    def told() -> str:
        try:
            work.count()
        except DemoError as error:
            return str(error)
        return ""

    # Its Lease is renewed before it knows its pods again.
    cluster.wait(told, f"the kubelet of {node} answers", seconds=BACK_SECONDS)
    ends(cluster, faults, work, pod)


def test_the_nodes_of_the_control_plane_are_drained(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work = workload(storage_class="millpond-mirrored", rate=10)
    pod = begun(cluster, work, elsewhere(cluster))
    before = components(cluster)
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
    try:
        for node in sorted({*before.values()}):
            cluster.kubectl("drain", node, *options, seconds=400)
        install.ready(cluster, seconds=BACK_SECONDS)
        assert not {*before.values()} & {*components(cluster).values()}, "both run on the node that is left"
    finally:
        for node in sorted({*before.values()}):
            cluster.kubectl("uncordon", node)
    ends(cluster, faults, work, pod)


def test_one_node_is_rebooted_after_the_other(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    """Without drain and without a word: as updates of an operating system do it."""
    cluster.apply(storage_class("rolling", grace=1800))
    work, story = workload(storage_class="rolling"), Story()
    cluster.apply(*work.claim_objects())
    cluster.apply(stateful_set(work))
    volume = work.volume()
    work.running(POD)

    def lives() -> int:
        """How often it was started, by the files that it has begun; 0: nobody can be asked."""
        count = ("sh", "-c", "ls /data | grep -c '^records'")
        said = cluster.kubectl("exec", "-n", work.namespace, POD, "--", *count, seconds=60, check=False)
        return int(said) if said.strip().isdigit() else 0

    def writes(since: int) -> str:
        pod = cluster.get("pod", POD, "-n", work.namespace)
        if pod["status"].get("phase") != "Running" or lives() < since:
            return work.events(POD) or "it has not been started anew"
        return "" if work.count(POD) > 50 else "it runs, but has written little"

    def whole() -> str:
        status = cluster.get("vvol", volume)["status"]
        states = {leg["id"]: leg["state"] for leg in status["mapping"]["legs"]}
        there = [each["metadata"]["name"] for each in cluster.items("nodes") if _avoided(each)]
        told = [] if states == {"a": "InSync", "b": "InSync"} else [f"{states}: {status.get('message', '')}"]
        return "; ".join([*told, *(f"no pod is started on {name}" for name in there)])

    cluster.wait(lambda: writes(1), "the pod writes", seconds=BACK_SECONDS)
    for node in sorted(each["metadata"]["name"] for each in cluster.items("nodes")):
        pod, life = cluster.get("pod", POD, "-n", work.namespace), lives()
        here = pod["spec"]["nodeName"] == node
        began = time.monotonic()
        try:
            faults.shut_down(node, seconds=SHUTDOWN_SECONDS, cut_off=False)
        finally:
            faults.power_on(node)
        own = OWN_LIST.format(uid=pod["metadata"]["uid"], life=life - 1)
        text = faults.run(node, "cat", own) if here else ""
        cluster.wait(lambda least=life + here: writes(least), "the pod writes", seconds=BACK_SECONDS)
        if here:
            acks = read_back(work, f"records{life - 1}", text)
            story.say(f"{len(acks.digests)} records acknowledged on {node} are read back")
        took = cluster.wait(whole, "everything is as before", seconds=BACK_SECONDS)
        story.say(f"{node}: {time.monotonic() - began:.0f} s, the last {took:.0f} of them until all was as before")
    install.ready(cluster, seconds=BACK_SECONDS)
    program = ("python3", "/program/writer.py", "pause", "--acks", f"/acks/{lives() - 1}")
    cluster.kubectl("exec", "-n", work.namespace, POD, "--", *program, seconds=90)
    found = cluster.get("vvol", volume)
    assert discrepancies(cluster, faults, found) == []
    assert compare_in_sync(cluster, found, faults)[1] == []


def _avoided(node: Object) -> bool:
    ready = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
    return ready != ["True"] or any(taint["key"] == names.TAINT for taint in node["spec"].get("taints", ()))
