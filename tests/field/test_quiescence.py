"""What people ask for while other things happen: a failure, another quiescence, a rebuild that is half done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from faults.by_hand import BOUND_SECONDS, by_hand
from faults.field import Object
from faults.phases import short_of
from faults.suite import Suite
from faults.volume import GRACE_SECONDS
from lab.api import wait_for
from lab.progress import say
from millpond_core.units import MIB, SECTOR

pytestmark = pytest.mark.timeout(1200)

LONG_SECONDS = 300
STILL_SECONDS = 20.0
"""Longer than it may take until progress is reported."""
SLOW_KIB = 256
"""So slow that a progress which is told every 15 s is not over before it is read."""

REGION_BYTES = MIB
"""How far an acknowledged checkpoint may be from what is told later: a chunk of the bitmap, and a sixteenth."""


@contextmanager
def repaired(suite: Suite) -> Iterator[None]:
    """Whatever becomes of the test, every disk is plugged in and rebuilds are as fast as they can be."""
    try:
        yield
    finally:
        suite.field.plug_all()
        suite.volume.set_grace(GRACE_SECONDS)
        suite.field.merge("virtualvolumes", suite.volume.name, {"spec": {"rebuild": {"maxRate": 0}}})


def heals(suite: Suite) -> None:
    suite.make_whole()
    assert suite.look() == []


def waiting(suite: Suite, behind: str) -> list[str]:
    """Names of the quiescences that wait for another one."""
    found = suite.field.items("quiescences")
    return [q["metadata"]["name"] for q in found if q["status"].get("message", "").startswith(f"waits for {behind},")]


def test_a_leg_that_fails_during_a_persons_hold_is_replaced_when_that_is_over(suite: Suite) -> None:
    volume = suite.volume
    generation = volume.see()["status"]["mapping"]["generation"]
    lost = next(leg for leg in volume.legs("InSync") if leg["node"] != volume.node())
    with repaired(suite):
        volume.set_grace(0)
        with by_hand(volume, "held", seconds=LONG_SECONDS) as held:
            held.becomes("Quiesced")
            count = volume.ledger.count
            suite.field.unplug(lost["node"], lost["extents"][0]["device"])
            wait_for(lambda: bool(volume.see()["status"]["spares"]), "a spare is made", seconds=BOUND_SECONDS)
            wait_for(lambda: bool(waiting(suite, "held")), "its quiescence waits", seconds=BOUND_SECONDS)
            assert volume.ledger.count == count, "a write was acknowledged while everything was to be still"
            assert held.phase() == "Quiesced", "what a person asked for is not taken from him"
            assert volume.see()["status"]["mapping"]["generation"] == generation
            held.release()
            volume.writes(seconds=BOUND_SECONDS)
            wait_for(
                lambda: volume.see()["status"]["mapping"]["generation"] > generation,
                "a spare takes the place of the lost leg",
                seconds=BOUND_SECONDS,
            )
    heals(suite)


def test_of_two_that_overlap_the_second_waits_and_says_for_whom(suite: Suite) -> None:
    volume = suite.volume
    with by_hand(volume, "first", seconds=LONG_SECONDS) as first:
        first.becomes("Quiesced")
        with by_hand(volume, "second", seconds=LONG_SECONDS) as second:
            wait_for(lambda: bool(second.status().get("message")), "it says something", seconds=BOUND_SECONDS)
            time.sleep(3)
            assert second.status()["message"] == "waits for first, with a volume in common"
            assert second.phase() == "Pending"
            count = volume.ledger.count
            first.release()
            second.becomes("Quiesced")
            time.sleep(1)
            count = volume.ledger.count
            time.sleep(3)
            assert volume.ledger.count == count
            second.release()
    volume.writes(seconds=BOUND_SECONDS)
    heals(suite)


def test_a_rebuild_halts_half_way_while_writes_go_on_and_is_completed_afterwards(suite: Suite) -> None:
    """That it goes on from its checkpoint is the kernel tier's (``test_rebuild.py``): md tells of a sixteenth at a time
    while it copies, and of nothing for a moment after it was halted.
    """
    volume = suite.volume
    generation = volume.see()["status"]["mapping"]["generation"]
    lost = next(leg for leg in volume.legs("InSync") if leg["node"] != volume.node())
    with repaired(suite):
        suite.field.merge("virtualvolumes", volume.name, {"spec": {"rebuild": {"maxRate": SLOW_KIB}}})
        volume.set_grace(0)
        suite.field.unplug(lost["node"], lost["extents"][0]["device"])
        volume.wait(lambda: short_of(volume.see()["status"], 0.4, generation), "40 % are rebuilt", seconds=400)
        with by_hand(volume, "halts", hold=False, seconds=LONG_SECONDS) as halts:
            halts.becomes("Quiesced")
            [word] = halts.status()["acknowledgements"]
            [halted] = word["halted"]
            checkpoint = int(halted.rpartition("@")[2]) * SECTOR
            volume.writes(seconds=BOUND_SECONDS)
            time.sleep(STILL_SECONDS)
            stood = progress(suite)
            assert 0.4 * stood["totalBytes"] <= stood["doneBytes"] < 0.9 * stood["totalBytes"]
            time.sleep(STILL_SECONDS)
            assert stood.get("rate", 0) == 0
            assert progress(suite)["doneBytes"] == stood["doneBytes"], "something is copied while it is to stand still"
            [told] = volume.see()["status"]["operations"]
            assert (told["kind"], told["state"], told["haltedBy"]) == ("Rebuild", "Halted", ["halts"])
            assert told["checkpointBytes"] == stood["doneBytes"]
            halts.release()
        say(f"   halted at {checkpoint >> 10} of {stood['totalBytes'] >> 10} KiB")
        assert abs(checkpoint - stood["doneBytes"]) <= REGION_BYTES + stood["totalBytes"] // 16
    heals(suite)


def progress(suite: Suite) -> Object:
    """Of the one rebuild under way; empty: nobody reports one."""
    reports = suite.volume.see()["status"].get("nodes", ())
    return next((each for report in reports for each in report.get("progress", ()) if each.get("leg")), {})
