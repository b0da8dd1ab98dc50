"""What every test that writes ends with."""

from __future__ import annotations

from demo.cluster import Cluster
from demo.faults import Faults
from demo.job import compare_in_sync
from demo.reality import discrepancies
from demo.workload import Workload


def everything_is_there(cluster: Cluster, faults: Faults, work: Workload) -> int:
    """The writer is paused: all that it was told is read back, the kernels are as recorded, and legs in sync are equal
    byte by byte. How many records that is.
    """
    work.pause()
    acks, text = work.acks()
    verdict = work.verify("writer", text)
    assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict
    assert acks.errors == 0
    found = cluster.get("vvol", work.volume())
    assert discrepancies(cluster, faults, found) == []
    assert compare_in_sync(cluster, found, faults)[1] == []
    return len(acks.digests)
