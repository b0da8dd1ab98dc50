"""The disk under the only copy is away for a moment: its cache may have lost what was not flushed, so nothing goes on.

The pod that waits is ended before it is answered, a new one is started, and all that was acknowledged is there.
"""

from __future__ import annotations

import pytest

from demo.cluster import Cluster
from demo.database import POD, followed, read_back, stateful_set
from demo.faults import Faults
from demo.job import serial_of
from demo.reality import discrepancies
from demo.session import MakeWorkload, build_folder

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("all_disks")]

ENOUGH = 200


def test_a_pod_whose_only_copy_blinked_is_ended_and_begins_anew(
    cluster: Cluster, faults: Faults, workload: MakeWorkload, request: pytest.FixtureRequest
) -> None:
    work = workload(storage_class="millpond", size="64Mi", records=10_000)
    cluster.apply(*work.claim_objects(), stateful_set(work))
    volume = work.volume()
    work.running(POD)
    first = cluster.get("pod", POD, "-n", work.namespace)["metadata"]["uid"]
    with followed(work, build_folder(request.node.name)) as heard:
        cluster.wait(lambda: "" if work.count(POD) > ENOUGH else "too few", "the pod writes", seconds=400)
        [leg] = cluster.get("vvol", volume)["status"]["mapping"]["legs"]
        serial = serial_of(cluster.get("sdev", leg["extents"][0]["device"]))
        faults.unplug(leg["node"], serial)

        def not_held() -> str:
            paths = [path for node in cluster.get("vvol", volume)["status"]["nodes"] for path in node.get("paths", [])]
            return "" if any(path.get("holdingSince") for path in paths) else "nothing waits for the leg yet"

        cluster.wait(not_held, "the pod's writes are held", seconds=120)
        faults.plug(leg["node"], serial)

        def same() -> str:
            found = cluster.items("pods", "-n", work.namespace)
            if any(pod["metadata"]["uid"] == first for pod in found):
                return f"the first pod is still there: {work.events(POD)}"
            return ""

        cluster.wait(same, "the pod is ended", seconds=400)
    work.running(POD)
    cluster.wait(lambda: "" if work.count(POD) > 20 else "too few", "the new pod writes", seconds=400)
    told = {each["reason"] for each in cluster.items("events", "-A") if each["involvedObject"]["name"] == volume}
    assert {"EveryLegLost", "PodsKilled"} <= told
    acks = read_back(work, "records0", heard.read_text())
    assert len(acks.digests) >= ENOUGH
    assert discrepancies(cluster, faults, cluster.get("vvol", volume)) == []
