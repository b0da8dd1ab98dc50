"""Whoever is out of whose reach: nothing unrecorded is acknowledged, the case has its name, and all of it heals."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from faults.field import Object
from faults.suite import Suite
from lab.api import wait_for
from lab.progress import say

pytestmark = pytest.mark.timeout(1800)

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))
NAMED_SECONDS = 240.0
KILLED = f"exit status {-signal.SIGKILL}"
"""How a pod ends that was killed; one whose connection broke alone has no exit status."""


@contextmanager
def links_restored(suite: Suite) -> Iterator[None]:
    """Whatever becomes of the test, the links of all nodes are whole again."""
    try:
        yield
    finally:
        for node in suite.field.nodes:
            suite.field.link(node, lan=True, wan=True)


def case_of(suite: Suite, node: str) -> str:
    """How the record names what is the matter with a node."""
    conditions = suite.field.get("storagenodes", node)["status"]["conditions"]
    return next(str(each["reason"]) for each in conditions if each["type"] == "Ready")


def leg_node(suite: Suite) -> str:
    attach = suite.volume.node()
    return next(str(leg["node"]) for leg in suite.volume.legs("InSync") if leg["node"] != attach)


def phase_of(suite: Suite, node: str) -> str:
    phase: str = suite.field.get("storagenodes", node)["status"]["phase"]
    return phase


def heals(suite: Suite) -> None:
    suite.make_whole()
    assert suite.look() == []


def test_a_leg_node_cut_off_from_the_api_server_alone_is_named(suite: Suite) -> None:
    """The attach node still reaches its legs: that is the second witness."""
    lost = leg_node(suite)
    with links_restored(suite):
        suite.field.link(lost, wan=False)
        wait_for(lambda: phase_of(suite, lost) == "Failed", f"{lost} is Failed", seconds=NAMED_SECONDS, every=1)
        assert case_of(suite, lost) == "CutOffFromApiServer"
        suite.volume.writes(seconds=NAMED_SECONDS)
    heals(suite)


def test_an_attach_node_cut_off_from_the_api_server_alone_is_fenced(suite: Suite) -> None:
    """It writes on as far as it may, and that is nowhere: its epoch is over before anyone else begins.

    What its pod was told while nobody could hear it is in the pod's own list, and must be there as well.
    """
    lost = suite.volume.node()
    epoch = suite.volume.see()["status"]["attachment"]["epoch"]
    with links_restored(suite):
        suite.field.link(lost, wan=False)
        wait_for(lambda: phase_of(suite, lost) == "Failed", f"{lost} is Failed", seconds=NAMED_SECONDS, every=1)
        assert case_of(suite, lost) == "CutOffFromApiServer", "the other leg's node has a connection of it"
        wait_for(lambda: suite.volume.node() != lost, "the volume is taken from it", seconds=NAMED_SECONDS, every=1)
        assert suite.volume.see()["status"]["attachment"]["epoch"] > epoch
        other = next(node for node in suite.field.nodes if node != lost)
        suite.volume.attach(other, seconds=NAMED_SECONDS)
        # The old pod may live on, cut off.
        before, suite.volume.pod = suite.volume.pod, None
        suite.volume.begin(other)
        suite.volume.writes(seconds=NAMED_SECONDS)
    assert before is not None
    wait_for(lambda: not before.alive(), "the old pod was ended", seconds=NAMED_SECONDS, every=1)
    assert before.end.startswith(KILLED), f"it was not killed: {before.end}"
    before.stop()
    heals(suite)


def test_a_node_cut_off_from_the_storage_network_alone_is_named_and_loses_its_legs(suite: Suite) -> None:
    lost = leg_node(suite)
    with links_restored(suite):
        suite.field.link(lost, lan=False)
        wait_for(
            lambda: case_of(suite, lost) == "CutOffFromStorageNetwork", f"{lost} has its name", seconds=NAMED_SECONDS
        )
        assert phase_of(suite, lost) == "Ready", "its state manager is heard"
        suite.volume.writes(seconds=NAMED_SECONDS)
        assert [leg["node"] for leg in suite.volume.legs("Stale", "Failed")] in ([], [lost])
        assert lost not in [leg["node"] for leg in suite.volume.legs("InSync")]
    heals(suite)


@contextmanager
def nobody_records(suite: Suite, lost: str) -> Iterator[tuple[str, int]]:
    """The API server does not answer and the disk under the leg on ``lost`` is gone.

    Gives the leg's id and how many writes were acknowledged when what was on its way was through. The disk must have
    all of them, and all that come until the API server is back: the record calls it in sync. The disk is not back.
    """
    leg: Object = next(leg for leg in suite.volume.legs("InSync") if leg["node"] == lost)
    suite.field.signal_process("kube-apiserver", signal.SIGSTOP)
    try:
        suite.field.unplug(lost, leg["extents"][0]["device"])
        time.sleep(10)
        yield leg["id"], suite.volume.ledger.count
        lacks = suite.volume.lacks(leg, suite.volume.ledger.promised())
        assert lacks == [], "acknowledged on one leg, and nobody has recorded that"
    finally:
        suite.field.signal_process("kube-apiserver", signal.SIGCONT)


def shown(suite: Suite, node: str) -> Object:
    """What a node says of the volume where people look who cannot ask the API server."""
    report: Object = json.loads(suite.field.run(node, "cat", f"/run/millpond/reports/{suite.volume.name}.json"))
    return report


def device_of(suite: Suite, node: str) -> str:
    leg = next(leg for leg in suite.volume.legs() if leg["node"] == node)
    return str(leg["extents"][0]["device"])


def test_a_leg_that_fails_while_nobody_can_record_it_holds_writes_until_somebody_can(suite: Suite) -> None:
    volume, attach, lost = suite.volume, suite.volume.node(), leg_node(suite)
    device = device_of(suite, lost)
    with nobody_records(suite, lost) as (leg, held):
        time.sleep(OUTAGE_SECONDS)
        assert volume.ledger.count == held, "a write was acknowledged on one leg, and nobody has recorded that"
        holding = {path["id"]: path.get("holdingSince") for path in shown(suite, attach)["paths"]}
        assert holding[leg], f"the node itself does not show what it holds: {holding}"
    back = time.monotonic()
    volume.writes(seconds=120, more=1)
    say(f"   writes went on {time.monotonic() - back:.1f} s after the API server was back")
    assert volume.legs("Stale", "Failed"), "recorded before it was acknowledged"
    suite.field.plug(lost, device)
    heals(suite)


def test_where_writes_may_fail_they_do_and_none_is_acknowledged_that_nobody_recorded(suite: Suite) -> None:
    volume, attach, lost = suite.volume, suite.volume.node(), leg_node(suite)
    device, pod = device_of(suite, lost), volume.pod
    assert pod is not None
    epoch = volume.see()["status"]["attachment"]["epoch"]
    suite.field.merge("virtualvolumes", volume.name, {"spec": {"onFailure": {"unrecorded": "Fail"}}})
    volume.writes(seconds=NAMED_SECONDS, more=100)  # by then its node has heard of it
    with nobody_records(suite, lost) as (_, held):
        wait_for(lambda: not pod.alive(), "the pod that waits for a write is ended", seconds=NAMED_SECONDS, every=1)
        assert volume.ledger.count == held, "a write was acknowledged on one leg, and nobody has recorded that"
        wait_for(lambda: shown(suite, attach).get("endedEpoch") == epoch, "its epoch is over", seconds=120, every=1)
    suite.field.merge("virtualvolumes", volume.name, {"spec": {"onFailure": {"unrecorded": "Hold"}}})
    suite.field.plug(lost, device)
    heals(suite)
