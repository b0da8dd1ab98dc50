"""etcd loses every VirtualVolume and StorageDevice: ``kubectl millpond vdb import`` makes them anew from the labels."""

from __future__ import annotations

import pytest

from demo import install
from demo.cluster import Cluster
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.session import MakeWorkload

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

OPERATOR = "millpond-operator"
DIFFERENT = 3


def vdb(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    """Exit status and output of ``kubectl millpond vdb``."""
    done = cluster.millpond("vdb", *arguments)
    return done.returncode, done.stdout + done.stderr


def differs(cluster: Cluster) -> str:
    code, said = vdb(cluster, "check")
    return said if code else ""


def lose(cluster: Cluster, *kinds: str) -> None:
    """As an etcd without them: no operator may see a deletion, which it would take for a person's."""
    cluster.kubectl("scale", "deployment", OPERATOR, "-n", install.NAMESPACE, "--replicas=0")
    label = "--selector=app.kubernetes.io/component=operator"
    cluster.wait(
        lambda: "it still runs" if cluster.items("pods", "-n", install.NAMESPACE, label) else "",
        "no operator runs",
        seconds=300,
    )
    for kind in kinds:
        for each in cluster.items(kind):
            name = each["metadata"]["name"]
            cluster.kubectl("patch", kind, name, "--type=merge", '-p={"metadata":{"finalizers":null}}')
            cluster.kubectl("delete", kind, name)


def test_what_etcd_has_lost_is_made_anew_from_the_labels(
    cluster: Cluster, faults: Faults, workload: MakeWorkload
) -> None:
    work = workload(storage_class="millpond-mirrored", rate=20)
    cluster.apply(*work.claim_objects())
    work.write()
    work.running()
    name = work.volume()
    work.goes_on(seconds=400, more=200)
    work.pause()
    acks, text = work.acks()
    before = cluster.get("vvol", name)
    replicas = cluster.get("deployment", OPERATOR, "-n", install.NAMESPACE)["spec"]["replicas"]
    try:
        lose(cluster, "virtualvolumes", "storagedevices")
        code, said = vdb(cluster, "import")
        assert code == DIFFERENT, said
        assert f"REFUSED vvol/{name}: it is in use on" in said, "its pod runs on"
        work.delete_pod("writer")
        code, said = vdb(cluster, "check")
        assert code == DIFFERENT, said
        assert f"vvol/{name}: labels know it" in said
        code, said = vdb(cluster, "import")
        assert (code, cluster.items("virtualvolumes")) == (0, []), said
        code, said = vdb(cluster, "import", "--yes")
        assert code == 0, said
    finally:
        cluster.kubectl("scale", "deployment", OPERATOR, "-n", install.NAMESPACE, f"--replicas={replicas}")
    after = cluster.get("vvol", name)
    assert after["status"]["mapping"] == before["status"]["mapping"]

    work.idle("reader")
    work.running("reader")
    verdict = work.verify("reader", text)
    assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict

    def behind() -> str:
        status = cluster.get("vvol", name)["status"]
        return "" if status.get("phase") == "Ready" else f"{status.get('phase')}: {status.get('message', '')}"

    cluster.wait(behind, "both legs are in sync", seconds=900)
    found = cluster.get("vvol", name)
    assert found["status"]["attachment"]["epoch"] > before["status"]["attachment"]["epoch"]
    assert discrepancies(cluster, faults, found) == []
    assert compare_in_sync(cluster, found, faults)[1] == []
    cluster.wait(lambda: differs(cluster), "the two places agree", seconds=120, every=5)
