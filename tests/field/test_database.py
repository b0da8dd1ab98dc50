"""etcd goes back to what it was, or is gone: no old mapping comes into force, and the labels bring the volume back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.field import DISKS, NAMES, Object
from faults.suite import ATTACH_SECONDS, Suite
from faults.volume import GRACE_SECONDS
from lab.api import wait_for
from lab.progress import say

pytestmark = pytest.mark.timeout(1800)

BOUND_SECONDS = 240.0


def looks(suite: Suite, folder: Path) -> list[str]:
    """What each node's labels tell, as options of ``kubectl millpond vdb``."""
    options = []
    for node in NAMES:
        guest, path = suite.field.nodes[node], folder / f"{node}.json"
        told = guest.agent.run(["python3", "-m", "millpond_node.labels", node], seconds=90, env=guest.environment())
        path.write_text(told.stdout)
        options += ["--from", str(path)]
    return options


def imported(suite: Suite, folder: Path, *arguments: str) -> str:
    """``kubectl millpond vdb import --yes`` of everything that the labels know; what it says."""
    done = suite.field.cluster.millpond("vdb", "import", "--yes", *arguments, *looks(suite, folder))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def operator_back(suite: Suite) -> Iterator[None]:
    """Whatever becomes of the test, the operator runs afterwards."""
    try:
        yield
    finally:
        if "operator" not in suite.field.operators:
            suite.field.start_operator()


def replace_a_leg(suite: Suite) -> None:
    """The mapping moves on: a spare takes the place of a leg whose disk is pulled, and the disk comes back."""
    volume = suite.volume
    generation = volume.see()["status"]["mapping"]["generation"]
    lost = next(leg for leg in volume.legs("InSync") if leg["node"] != volume.node())
    try:
        volume.set_grace(0)
        suite.field.unplug(lost["node"], lost["extents"][0]["device"])
        wait_for(
            lambda: volume.see()["status"]["mapping"]["generation"] > generation and len(volume.legs("InSync")) == 2,
            "a spare has taken the place of the lost leg",
            seconds=BOUND_SECONDS,
        )
    finally:
        suite.field.plug_all()
        volume.set_grace(GRACE_SECONDS)
    suite.make_whole()


def ready(volume: Object) -> Object:
    found: Object = next(one for one in volume["status"]["conditions"] if one["type"] == "Ready")
    return found


def test_an_etcd_that_is_restored_from_an_old_backup_brings_no_old_mapping_into_force(
    suite: Suite, tmp_path: Path
) -> None:
    volume, backup = suite.volume, tmp_path / "etcd"
    with operator_back(suite):
        suite.field.change_etcd(lambda etcd: shutil.copytree(etcd, backup))
        suite.field.start_operator()
        old = volume.see()["status"]["mapping"]
        replace_a_leg(suite)
        newest = volume.see()["status"]["mapping"]
        volume.writes(seconds=BOUND_SECONDS)

        def put_back(etcd: Path) -> None:
            shutil.rmtree(etcd)
            shutil.copytree(backup, etcd)

        suite.field.change_etcd(put_back)
        assert volume.see()["status"]["mapping"]["generation"] == old["generation"] < newest["generation"]
        suite.field.start_operator()
        wait_for(
            lambda: ready(volume.see())["reason"] == "RecordOld", "the record is known to be old", seconds=BOUND_SECONDS
        )
        say(f"   {ready(volume.see())['message']}")
        volume.writes(seconds=BOUND_SECONDS)
        assert volume.see()["status"]["mapping"]["generation"] == old["generation"], "nothing was made of it"
        volume.end()
        say("   " + imported(suite, tmp_path).replace("\n", "\n   "))
        brought = volume.see()["status"]["mapping"]
        assert brought["generation"] == newest["generation"]
        assert {leg["id"] for leg in brought["legs"]} == {leg["id"] for leg in newest["legs"]}
    suite.make_whole()
    assert suite.look() == []


def test_an_etcd_that_is_lost_is_made_anew_from_the_labels(suite: Suite, tmp_path: Path) -> None:
    volume, field = suite.volume, suite.field
    volume.writes(seconds=BOUND_SECONDS, more=100)
    attach = volume.node()
    volume.end()
    before = volume.see()["status"]
    old = field.api.request("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
    with operator_back(suite):
        field.change_etcd(shutil.rmtree, empty=True)
        assert volume.see() == {"status": {}}, "nothing of it is left"
        wait_for(lambda: len(field.items("storagenodes")) == len(NAMES), "every node is known", seconds=BOUND_SECONDS)
        say("   " + imported(suite, tmp_path, "--from-cluster", old).replace("\n", "\n   "))
        after = volume.see()["status"]
        assert after["mapping"]["generation"] == before["mapping"]["generation"]
        assert {leg["id"] for leg in after["mapping"]["legs"]} == {leg["id"] for leg in before["mapping"]["legs"]}
    assert len(field.items("storagedevices")) == len(NAMES) * len(DISKS), "those without a leg as well"
    volume.make_persistent()
    volume.attach(attach, seconds=ATTACH_SECONDS)
    volume.begin(attach)
    suite.make_whole()
    assert suite.look() == []
