"""Legs compared on real kernels: what differs is found, halted and resumed, and made good when a person says which."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from demo.install import API_VERSION
from demo.legs import runs
from faults.field import Object
from faults.suite import Suite
from lab.api import wait_for
from millpond_core.units import BITMAP_BYTES, MIB

pytestmark = pytest.mark.timeout(1200)

BOUND_SECONDS = 180.0
SLOW_KIB = 2048
"""35 MiB take 17 seconds."""


def ask(suite: Suite, **scrub: Any) -> Object | None:
    """As ``kubectl millpond scrub`` does; what the last comparison found, before this one."""
    volume = suite.volume
    before: Object | None = volume.see()["status"].get("lastScrub")
    asked = {"requestedAt": datetime.now(UTC).isoformat(), **scrub}
    suite.field.merge("virtualvolumes", volume.name, {"spec": {"scrub": asked}})
    return before


def compared(suite: Suite, before: Object | None) -> Object:
    """Wait for the next comparison's end."""

    def last() -> Object:
        found: Object = suite.volume.see()["status"].get("lastScrub") or {"number": 0}
        return found

    number = before["number"] if before else 0
    wait_for(lambda: last()["number"] > number, "the legs are compared", seconds=BOUND_SECONDS)
    return last()


def progress(suite: Suite) -> Object:
    """Of the running comparison; empty: there is none."""
    found = suite.volume.report(suite.volume.node()).get("progress", ())
    return next((one for one in found if one["kind"] == "Scrub"), {})


def test_a_comparison_is_halted_by_a_quiescence_and_goes_on_while_a_pod_writes(suite: Suite) -> None:
    field, volume = suite.field, suite.volume
    before = ask(suite, maxRate=SLOW_KIB)
    wait_for(lambda: progress(suite).get("doneBytes", 0) > 0, "part of it is compared", seconds=BOUND_SECONDS)
    spec = {"scope": {"volumes": [volume.name]}, "deadlineSeconds": 60}
    field.cluster.apply({"apiVersion": API_VERSION, "kind": "Quiescence", "metadata": {"name": "halt"}, "spec": spec})

    def status() -> Object:
        found: Object = field.get("quiescences", "halt").get("status", {})
        return found

    wait_for(lambda: status().get("phase") == "Quiesced", "all are still", seconds=BOUND_SECONDS)
    heard = next(word for word in status()["acknowledgements"] if word["node"] == volume.node())
    (halted,) = heard["halted"]
    what, _, at = halted.partition("@")
    assert what == f"{volume.name}/scrub"
    volume.writes(seconds=BOUND_SECONDS)
    assert progress(suite).get("halted"), "it runs while all is to be still"
    field.merge("quiescences", "halt", {"spec": {"release": True}})
    field.merge("virtualvolumes", volume.name, {"spec": {"scrub": {"maxRate": 0}}})
    result = compared(suite, before)
    assert result.get("places", []) == []
    assert int(at) > 0
    field.delete("quiescences", "halt")
    suite.make_whole()
    assert suite.look() == []


def test_what_differs_is_found_and_made_good_from_the_leg_that_a_person_trusts(suite: Suite) -> None:
    """A mebibyte of the remote leg is altered beneath everything, where the pod does not write meanwhile."""
    field, volume = suite.field, suite.volume
    volume.end()
    wrong = next(leg for leg in volume.legs("InSync") if leg["node"] != volume.node())
    place = 9 * MIB
    at = BITMAP_BYTES + place
    images = {e["device"]: field.image(wrong["node"], e["device"]) for e in wrong["extents"]}
    (run,) = [run for run in runs(wrong, images) if run.leg_start <= at < run.leg_start + run.length]
    with run.image.open("r+b", buffering=0) as image:
        image.seek(run.image_start + at - run.leg_start + 4096)
        image.write(os.urandom(4096))
    result = compared(suite, ask(suite))
    assert result["places"] == [{"startBytes": place, "lengthBytes": MIB}]
    told = "copies differ in 1 place(s)"  # by the write that follows the result's
    wait_for(lambda: told in volume.see()["status"]["message"], "it is told", seconds=BOUND_SECONDS)
    assert {leg["state"] for leg in volume.legs()} == {"InSync"}, "nobody knows which is right"
    field.merge("virtualvolumes", volume.name, {"spec": {"scrub": {"distrusted": [wrong["id"]]}}})
    wait_for(lambda: wrong["id"] not in {leg["id"] for leg in volume.legs()}, "it is gone", seconds=BOUND_SECONDS)
    volume.wait(volume.not_whole, "it is whole again", seconds=2 * BOUND_SECONDS)
    assert volume.check() == []
    assert compared(suite, ask(suite)).get("places", []) == []
    volume.begin(volume.node())
    suite.make_whole()
    assert suite.look() == []
