"""Ten volumes on one node that is switched off and on; and a claim that is deleted while its node is away."""

from __future__ import annotations

import json

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.session import MakeWorkload
from demo.workload import Workload

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

VOLUMES = 10
SIZE = "16Mi"
POD_SECONDS = 900.0
BACK_SECONDS = 900.0
DELETE_SECONDS = 600.0
WRITE = (
    "import hashlib, os\n"
    "for n in range({n}):\n"
    "    data = os.urandom(1 << 20)\n"
    "    f = os.open(f'/data/{{n}}/bytes', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n"
    "    os.write(f, data), os.fsync(f)\n"
    "    print(hashlib.sha256(data).hexdigest())\n"
)
READ = (
    "import hashlib\n"
    "for n in range({n}):\n"
    "    print(hashlib.sha256(open(f'/data/{{n}}/bytes', 'rb').read()).hexdigest())\n"
)


def claims(work: Workload) -> list[Object]:
    """The workload's namespace and program, and ten claims of its kind."""
    *rest, claim = work.claim_objects()
    made = [{**claim, "metadata": {**claim["metadata"], "name": f"data-{n}"}} for n in range(VOLUMES)]
    return [*rest, *json.loads(json.dumps(made))]


def pod(work: Workload, node: str) -> Object:
    """One that has all ten, and is started again where it was after its node comes back."""
    made = json.loads(json.dumps(work.pod("ten", ["sleep", "infinity"], node)))
    spec = made["spec"]
    spec["restartPolicy"] = "Always"
    mounts = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] != "data"]
    mounts += [{"name": f"data-{n}", "mountPath": f"/data/{n}"} for n in range(VOLUMES)]
    spec["containers"][0]["volumeMounts"] = mounts
    spec["volumes"] = [each for each in spec["volumes"] if each["name"] != "data"]
    spec["volumes"] += [
        {"name": f"data-{n}", "persistentVolumeClaim": {"claimName": f"data-{n}"}} for n in range(VOLUMES)
    ]
    # The node is away for less than Kubernetes waits before it evicts.
    spec["tolerations"] = [
        {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1800}
        for why in ("not-ready", "unreachable")
    ]
    made_: Object = made
    return made_


def sums(work: Workload, program: str) -> list[str]:
    argv = ("exec", "-n", work.namespace, "ten", "--", "python3", "-c", program.format(n=VOLUMES))
    return work.cluster.kubectl(*argv, seconds=300).split()


def volumes(cluster: Cluster, work: Workload) -> list[Object]:
    return [
        each
        for each in cluster.items("vvol")
        if each["metadata"].get("annotations", {}).get("millpond.io/claim", "").startswith(f"{work.namespace}/data-")
    ]


def test_a_node_with_ten_staged_volumes_is_booted_anew(
    cluster: Cluster, faults: Faults, workload: MakeWorkload
) -> None:
    work = workload(storage_class="millpond-mirrored", size=SIZE)
    node = sorted(each["metadata"]["name"] for each in cluster.items("nodes"))[-1]
    cluster.apply(*claims(work), pod(work, node))
    work.running("ten", seconds=POD_SECONDS)
    written = sums(work, WRITE)
    assert len(written) == VOLUMES
    cluster.millpond("maintain", node, "--intent", "reboot", "--for", "30m")
    began = cluster.get("pod", "ten", "-n", work.namespace)["status"]["containerStatuses"][0]["restartCount"]
    faults.power_off(node)
    faults.power_on(node)

    def not_again() -> str:
        status = cluster.get("pod", "ten", "-n", work.namespace)["status"]
        again = [each["restartCount"] for each in status.get("containerStatuses", ()) if each.get("ready")]
        return "" if again and again[0] > began else f"{status.get('phase')}; {work.events('ten')}"

    cluster.wait(not_again, "the pod runs again where it was", seconds=BACK_SECONDS)
    cluster.millpond("maintain", node, "--done")
    assert sums(work, READ) == written

    def not_whole() -> str:
        late = [each for each in volumes(cluster, work) if each["status"]["phase"] != "Ready"]
        return "; ".join(f"{each['metadata']['name']}: {each['status'].get('message', '')}" for each in late)

    cluster.wait(not_whole, "all ten have all copies", seconds=BACK_SECONDS)
    found = volumes(cluster, work)
    assert len(found) == VOLUMES
    for each in found:
        assert discrepancies(cluster, faults, each) == []
        assert compare_in_sync(cluster, each, faults)[1] == []


def test_a_claim_is_deleted_while_its_node_is_off(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    """The leg there is given back when the node is back, and the object goes only then: its extents are not lost track
    of, nor shown to another.
    """
    work = workload(storage_class="millpond-mirrored", size="64Mi", records=10_000)
    cluster.apply(*work.claim_objects())
    work.write()
    work.running()
    work.goes_on(seconds=400)
    volume = work.volume()
    status = cluster.get("vvol", volume)["status"]
    at = status["attachment"]["node"]
    away = next(leg["node"] for leg in status["mapping"]["legs"] if leg["node"] != at)
    faults.power_off(away)
    try:
        work.delete_pod("writer")
        cluster.kubectl("delete", "pvc", work.claim, "-n", work.namespace, "--wait=false")

        def waits() -> str:
            message = cluster.get("vvol", volume)["status"].get("message", "")
            return "" if away in message else f"it says {message!r}"

        cluster.wait(waits, "it says for whom it waits", seconds=DELETE_SECONDS)
    finally:
        faults.power_on(away)

    def left() -> str:
        there = {each["metadata"]["name"]: each["status"].get("message", "") for each in cluster.items("vvol")}
        return there.get(volume, "") or (f"{volume} is there" if volume in there else "")

    cluster.wait(left, "the volume is gone", seconds=BACK_SECONDS)
    install.ready(cluster, seconds=BACK_SECONDS)
    devices = cluster.items("sdev")
    legs = {each["metadata"]["name"]: each["status"].get("legs", 0) for each in devices}
    assert sum(legs.values()) == 0, legs
