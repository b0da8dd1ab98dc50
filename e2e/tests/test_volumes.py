"""Volumes of every kind: written in one pod, read back in another, on another node when there is one; then deleted."""

from __future__ import annotations

from typing import Any

import pytest

from demo.cluster import Cluster
from demo.faults import Faults
from demo.reality import discrepancies
from demo.session import MakeWorkload
from demo.workload import storage_class

pytestmark = [pytest.mark.timeout(2400)]

KINDS = [
    pytest.param({"mode": "Block", "storage_class": "millpond-mirrored", "size": "64Mi"}, id="raw block, two copies"),
    pytest.param({"storage_class": "e2e-xfs", "size": "320Mi"}, id="xfs, two copies"),
    pytest.param({"storage_class": "millpond", "size": "64Mi"}, id="ext4, one copy"),
]
FEW = 200


@pytest.mark.parametrize("kind", KINDS)
def test_written_moved_and_read_back(
    cluster: Cluster, faults: Faults, workload: MakeWorkload, kind: dict[str, Any]
) -> None:
    cluster.apply(storage_class("e2e-xfs", parameters={"csi.storage.k8s.io/fstype": "xfs"}))
    work = workload(records=10_000, **kind)
    cluster.apply(*work.claim_objects())
    work.write()
    volume = work.volume()
    first = work.running()
    cluster.wait(lambda: "" if work.count() >= FEW else "too few", f"{FEW} records are written", seconds=400)
    assert discrepancies(cluster, faults, cluster.get("vvol", volume)) == []
    work.pause()
    _, text = work.acks()
    work.delete_pod("writer")
    others = sorted({node["metadata"]["name"] for node in cluster.items("nodes")} - {first})
    work.idle("reader", node=others[0])
    assert work.running("reader") == others[0]
    verdict = work.verify("reader", text)
    assert verdict["checked"] >= FEW
    assert (verdict["lost"], verdict["wrong"]) == (0, 0), verdict["examples"]
    assert discrepancies(cluster, faults, cluster.get("vvol", volume)) == []


def test_deleting_gives_the_room_back(cluster: Cluster) -> None:
    """Every volume of the tests above is gone: nothing is allocated on any device."""

    def missing() -> str:
        devices = cluster.items("storagedevices")
        full = [each for each in devices if each["status"].get("allocatedBytes", 0)]
        return ", ".join(f"{each['metadata']['name']} has {each['status'].get('legs')} legs" for each in full)

    cluster.wait(missing, "all extents are given back", seconds=300)
