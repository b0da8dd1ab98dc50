"""``bench-csi`` on a real API server: it takes all of its objects, and what happens to them is seen."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from bench import peer, trials
from bench.csisamples import DELETE, EXPAND, NONE, OURS, START
from conftest import Kubectl
from rendered import rendered

from demo.cluster import Cluster, Object
from demo.errors import DemoError
from demo.install import NAMESPACE
from demo.workload import namespace
from lab import components
from lab.controlplane import ControlPlane
from millpond_core import names


@pytest.fixture
def cluster(plane: ControlPlane) -> Cluster:
    return Cluster(plane.kubeconfig, components.ensure("kubectl"))


def test_the_peer_is_made_from_what_the_chart_has_put_there(kubectl: Kubectl, cluster: Cluster) -> None:
    chart = rendered(NAMESPACE, peer.CONTROLLER, pods=True)
    cluster.apply(namespace(NAMESPACE))  # a namespace does not go without controllers
    try:
        kubectl("apply", "-f", "-", stdin=chart)
        roles = (cluster.get("clusterrole", peer.CONTROLLER), cluster.get("role", peer.CONTROLLER, "-n", NAMESPACE))
        deployment = cluster.get("deployment", peer.CONTROLLER, "-n", NAMESPACE)
        made = peer.objects("n1", deployment, *roles)
        cluster.apply(*made, *trials.classes())
        cluster.apply(*made, *trials.classes())
    finally:
        kubectl("delete", "-f", "-", stdin=chart)


@pytest.fixture
def kubelet(plane: ControlPlane) -> Iterator[None]:
    """Pods of the namespace become ready."""
    ended = threading.Event()

    def work() -> None:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        while not ended.wait(0.2):
            for found in plane.api.request("GET", trials.PODS)["items"]:
                if not found["status"].get("conditions"):
                    plane.api.merge(f"{trials.PODS}/{found['metadata']['name']}/status", {"status": ready})

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join(10)


def nothing_to_compare(volume: Object) -> None:
    raise AssertionError(f"nothing has legs here: {volume}")


def test_a_pod_is_seen_from_start_to_end_and_its_requests_are_counted(
    plane: ControlPlane, cluster: Cluster, kubelet: None
) -> None:
    with trials.trials(cluster, plane.api, "n1", "n2", nothing_to_compare) as trial:
        found = trial.life(NONE)
        before = trial.asked()
        trial.life(NONE)
        after = trial.asked()
    assert [one.what for one in found] == [START, DELETE]
    assert all(0 < one.seconds < 10 for one in found)
    assert after["pods POST"] - before["pods POST"] == after["pods DELETE"] - before["pods DELETE"] == 1


def test_claims_are_taken_and_one_that_nobody_binds_is_named(
    plane: ControlPlane, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SECONDS", 1.0)
    with trials.trials(cluster, plane.api, "n1", "n2", nothing_to_compare) as trial:
        began = time.monotonic()
        with pytest.raises(DemoError, match=r"claims are bound: not after 1 s; millpond-\d+"):
            trial.bound(OURS)
    assert time.monotonic() - began < 20
    names = json.loads(cluster.kubectl("get", "pvc", "-n", trials.NAMESPACE, "-o", "json"))["items"]
    for each in names:
        plane.api.merge(f"{trials.CLAIMS}/{each['metadata']['name']}", {"metadata": {"finalizers": None}})
    cluster.kubectl("delete", "pvc", "--all", "-n", trials.NAMESPACE, "--timeout=20s")


def test_a_larger_size_is_seen_where_the_kubelet_looks_at_a_changed_pod_alone(
    plane: ControlPlane, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SECONDS", 20.0)
    api, life = plane.api, trials.Names("millpond-grows", "pv-grows", "pv-grows")
    ended = threading.Event()
    one, claim, volume = (
        f"{trials.PODS}/{life.pod}",
        f"{trials.CLAIMS}/{life.pod}",
        f"{trials.VOLUMES}/{life.persistent}",
    )

    def others() -> None:
        """csi-resizer, which enlarges the volume, and a kubelet that looks when a pod is changed."""
        while not ended.wait(0.1):
            asked = api.request("GET", claim)["spec"]["resources"]["requests"]["storage"]
            api.merge(volume, {"spec": {"capacity": {"storage": asked}}})
            if api.request("GET", one)["metadata"].get("annotations"):
                api.merge(f"{claim}/status", {"status": {"capacity": {"storage": asked}}})

    with trials.trials(cluster, api, "n1", "n2", nothing_to_compare) as trial:
        api.request("POST", trials.CLAIMS, trials.claim(life.pod, OURS, trials.LATER))
        api.request("POST", trials.VOLUMES, persistent(life))
        api.merge(claim, {"spec": {"volumeName": life.persistent}})
        api.merge(f"{claim}/status", {"status": {"phase": "Bound", "capacity": {"storage": trials.SIZE}}})
        api.request("POST", trials.PODS, trials.pod(life.pod, "n1", claimed=life.pod))
        thread = threading.Thread(target=others, daemon=True)
        thread.start()
        try:
            found = trial.grow(OURS, life)
        finally:
            ended.set()
            thread.join(10)
            for path in (one, claim, volume):
                api.merge(path, {"metadata": {"finalizers": None}})
                api.request("DELETE", path, {"gracePeriodSeconds": 0})
    assert (found.driver, found.what) == (OURS, EXPAND)
    assert found.seconds > 0


def persistent(life: trials.Names) -> Object:
    """A volume for the claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": life.persistent},
        "spec": {
            "capacity": {"storage": trials.SIZE},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": trials.called(OURS, trials.LATER),
            "claimRef": {"namespace": trials.NAMESPACE, "name": life.pod},
            "csi": {"driver": names.DRIVER, "volumeHandle": life.handle},
        },
    }
