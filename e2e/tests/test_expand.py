"""Claims that are made larger while their pods write: what was acknowledged stays, the filesystem fills what it got,
and a power cut in the middle of it ends with the larger volume all the same.
"""

from __future__ import annotations

import pytest

from demo.cluster import Cluster
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.session import MakeWorkload
from demo.workload import Workload
from millpond_core.units import MIB, parse_quantity

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

GROW_SECONDS = 400.0
BACK_SECONDS = 900.0
FROM, TO = "64Mi", "160Mi"
ROOM = 0.8
"""So much of its size a filesystem of this size shows at least; what it has for itself is less."""


def ask(work: Workload, size: str) -> None:
    patch = f'{{"spec":{{"resources":{{"requests":{{"storage":"{size}"}}}}}}}}'
    work.cluster.kubectl("patch", "pvc", work.claim, "-n", work.namespace, "--type=merge", "-p", patch)


def not_there(work: Workload, size: str) -> str:
    """What is missing until Kubernetes says that the claim has its size; empty: nothing."""
    claim = work.cluster.get("pvc", work.claim, "-n", work.namespace)["status"]
    has = claim.get("capacity", {}).get("storage", "0")
    if parse_quantity(has) >= parse_quantity(size):
        return ""
    told = [f"{each['type']}: {each.get('message', '')}" for each in claim.get("conditions", ())]
    volume = work.cluster.get("vvol", work.volume())["status"]
    return f"the claim has {has}; {told}; volume: {volume['sizeBytes']} bytes, {volume.get('message', '')}"


def shown(work: Workload) -> int:
    """Bytes of the filesystem, or of the device, that the pod has."""
    of = "s = os.statvfs('/data'); print(s.f_frsize * s.f_blocks)"
    if work.mode == "Block":
        of = f"print(os.lseek(os.open({work.target!r}, os.O_RDONLY), 0, os.SEEK_END))"
    argv = ("exec", "-n", work.namespace, "writer", "--", "python3", "-c", f"import os; {of}")
    return int(work.cluster.kubectl(*argv, seconds=90))


def written(cluster: Cluster, work: Workload) -> str:
    """A pod that writes; returns its volume."""
    cluster.apply(*work.claim_objects())
    work.write()
    work.running()
    work.goes_on(seconds=400)
    return work.volume()


@pytest.mark.parametrize("mode", ["Filesystem", "Block"])
def test_a_mirrored_volume_grows_while_a_pod_writes(
    cluster: Cluster, faults: Faults, workload: MakeWorkload, mode: str
) -> None:
    work = workload(storage_class="millpond-mirrored", size=FROM, rate=20, mode=mode)
    volume = written(cluster, work)
    legs = [leg["id"] for leg in cluster.get("vvol", volume)["status"]["mapping"]["legs"]]
    done = cluster.millpond("plan", "expand", f"{work.namespace}/{work.claim}", TO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"from {FROM} to {TO}" in done.stdout
    ask(work, TO)
    cluster.wait(lambda: not_there(work, TO), f"the claim has {TO}", seconds=GROW_SECONDS)
    size = parse_quantity(TO)
    cluster.wait(
        lambda: "" if shown(work) >= size * (ROOM if mode == "Filesystem" else 1) else f"it shows {shown(work)}",
        "the pod sees it",
        seconds=GROW_SECONDS,
    )
    after = cluster.get("vvol", volume)["status"]
    assert (int(after["sizeBytes"]), after["phase"]) == (size, "Ready"), after.get("message")
    assert [(leg["id"], leg["state"]) for leg in after["mapping"]["legs"]] == [(leg, "InSync") for leg in legs]
    if mode == "Filesystem":
        # More than it had before: it must really lie in the new part.
        fill = f"import os; f = open('/data/fill', 'wb'); [f.write(os.urandom({MIB})) for _ in range(80)]; os.fsync(f)"
        cluster.kubectl("exec", "-n", work.namespace, "writer", "--", "python3", "-c", fill, seconds=400)
    work.goes_on(seconds=400)
    everything_is_there(cluster, faults, work)


def test_a_node_loses_power_while_a_volume_grows(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    work = workload(storage_class="millpond-mirrored", size=FROM, rate=20)
    volume = written(cluster, work)
    status = cluster.get("vvol", volume)["status"]
    at = status["attachment"]["node"]
    remote = next(leg["node"] for leg in status["mapping"]["legs"] if leg["node"] != at)
    ask(work, TO)

    def not_begun() -> str:
        now = cluster.get("vvol", volume)["status"]
        return "" if now.get("growth") or int(now["sizeBytes"]) > parse_quantity(FROM) else "nothing was allocated yet"

    cluster.wait(not_begun, "it begins to grow", seconds=GROW_SECONDS, every=0.1)
    faults.power_off(remote)
    try:
        work.goes_on(seconds=400)
    finally:
        faults.power_on(remote)
    cluster.wait(lambda: not_there(work, TO), f"the claim has {TO}", seconds=BACK_SECONDS)

    def not_whole() -> str:
        now = cluster.get("vvol", volume)["status"]
        return "" if now["phase"] == "Ready" else now.get("message", "")

    cluster.wait(not_whole, "all copies are in sync", seconds=BACK_SECONDS)
    work.goes_on(seconds=400)
    everything_is_there(cluster, faults, work)
