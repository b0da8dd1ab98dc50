"""A disk dies under a pod that writes, and another of the same node takes its place, by ``kubectl millpond adopt`` and
``kubectl millpond replace``.
"""

from __future__ import annotations

import json

import pytest

from demo import install
from demo.cluster import Cluster
from demo.ends import everything_is_there
from demo.faults import Faults
from demo.job import serial_of
from demo.session import MakeWorkload
from demo.story import Story
from demo.workload import storage_class

pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("all_disks")]

DEAD_SECONDS = 300.0
REPLACE_SECONDS = 1500


def test_a_dead_disk_is_replaced_by_one_command(cluster: Cluster, faults: Faults, workload: MakeWorkload) -> None:
    cluster.apply(storage_class("replacing", grace=3600))  # nothing is copied elsewhere meanwhile
    work, story = workload(storage_class="replacing", rate=20), Story()
    cluster.apply(*work.claim_objects())
    work.write()
    node = work.running()
    volume = work.volume()
    work.goes_on(seconds=400)
    uid = cluster.get("pod", "writer", "-n", work.namespace)["metadata"]["uid"]
    legs = cluster.get("vvol", volume)["status"]["mapping"]["legs"]
    lost = next(leg for leg in legs if leg["node"] != node)
    [dead] = {extent["device"] for extent in lost["extents"]}
    serial = serial_of(cluster.get("sdev", dead))
    fresh = sorted(str(disk["serial"]) for disk in install.unclaimed(cluster)[lost["node"]])
    assert fresh, f"{lost['node']} has no disk that is free"

    faults.unplug(lost["node"], serial)
    cluster.wait(
        lambda: "" if (phase := cluster.get("sdev", dead)["status"]["phase"]) == "Failed" else f"it is {phase}",
        f"{dead} is dead",
        seconds=DEAD_SECONDS,
    )
    [new] = install.hand_over(cluster, f"{lost['node']}/{fresh[0]}")
    done = cluster.millpond("replace", dead, "--with", new, "-o", "json", seconds=REPLACE_SECONDS)
    assert done.returncode == 0, f"{done.stderr}{done.stdout}"
    outcome = json.loads(done.stdout)
    assert (outcome["left"], outcome["departures"]) == ([], []), outcome
    story.say(f"{dead} is replaced by {new}: {outcome['bytes'] >> 20} MiB copied")
    assert dead not in {each["metadata"]["name"] for each in cluster.items("storagedevices")}

    found = cluster.get("vvol", volume)
    after = found["status"]["mapping"]["legs"]
    assert [leg["state"] for leg in after] == ["InSync", "InSync"]
    assert len({leg["node"] for leg in after}) == 2
    assert dead not in {extent["device"] for leg in after for extent in leg["extents"]}
    work.goes_on(seconds=400)
    assert cluster.get("pod", "writer", "-n", work.namespace)["metadata"]["uid"] == uid
    count = everything_is_there(cluster, faults, work)
    story.say(f"{count} records are read back, both legs are equal")

    # The dead one may come back with what it held: nobody takes it in, and it is told what it is.
    faults.plug(lost["node"], serial)

    def shown() -> str:
        disks = cluster.get("snode", lost["node"])["status"].get("unclaimedDisks", ())
        return "" if serial in {disk["serial"] for disk in disks} else f"{lost['node']} shows {disks}"

    cluster.wait(shown, f"{serial} is seen as nobody's", seconds=DEAD_SECONDS)
