"""A claim names one VolumeAttributesClass after the other while its pod writes: 1, 2, 3 and 2 copies again."""

from __future__ import annotations

import pytest

from demo.cluster import Cluster, Object
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.session import MakeWorkload
from demo.workload import Workload

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

COPY_SECONDS = 900.0


def attributes_class(copies: int) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttributesClass",
        "metadata": {"name": f"copies-{copies}"},
        "driverName": "csi.millpond.io",
        "parameters": {"copies": str(copies)},
    }


def ask(work: Workload, copies: int) -> None:
    patch = f'{{"spec":{{"volumeAttributesClassName":"copies-{copies}"}}}}'
    work.cluster.kubectl("patch", "pvc", work.claim, "-n", work.namespace, "--type=merge", "-p", patch)


def not_there(work: Workload, volume: str, copies: int) -> str:
    """What is missing until all copies are in sync, none is too many, and Kubernetes says so."""
    claim = work.cluster.get("pvc", work.claim, "-n", work.namespace)["status"]
    current = claim.get("currentVolumeAttributesClassName", "none")
    status = work.cluster.get("vvol", volume)["status"]
    states = {leg["id"]: leg["state"] for leg in status["mapping"]["legs"]}
    if current == f"copies-{copies}" and list(states.values()) == ["InSync"] * copies:
        return ""
    return f"the claim has {current}; legs {states}, {status.get('message', '')}; {work.events(work.claim)}"


def test_copies_come_and_go_while_a_pod_writes(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    cluster.apply(*(attributes_class(copies) for copies in (2, 3)))
    try:
        work = workload(storage_class="millpond", size="64Mi", rate=20)
        cluster.apply(*work.claim_objects())
        work.write()
        work.running()
        work.goes_on(seconds=400)
        volume = work.volume()
        for copies in (2, 3, 2):
            ask(work, copies)
            cluster.wait(
                lambda wanted=copies: not_there(work, volume, wanted),  # type: ignore[misc]
                f"{copies} copies",
                seconds=COPY_SECONDS,
            )
            work.goes_on(seconds=400)
        everything_is_there(cluster, faults, work)
    finally:
        cluster.kubectl("delete", "vac", "copies-2", "copies-3", "--ignore-not-found", "--wait=false")
