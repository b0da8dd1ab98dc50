"""What is going on when a fault strikes.

A phase brings the volume there and returns; the fault strikes at once. What it has broken itself is undone by
``after``, when the fault is undone as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from demo.install import API_VERSION
from faults.field import NAMES, Object
from faults.volume import GRACE_SECONDS, Volume

SOON_SECONDS = 120.0
ANOTHER = "another"
BY_HAND = "by-hand-"
HOLD_SECONDS = 30
"""Reads and writes are held for so long at most, whatever a fault does to whoever would let them go."""
RATE_KIB = 1024
"""Of a rebuild that a fault is to meet half-way: the volume takes half a minute."""


@dataclass(frozen=True)
class Phase:
    """``begin`` gets the volume, whole and attached, its pod writing, and the node that the fault will strike."""

    name: str
    begin: Callable[[Volume, str], object]
    after: Callable[[Volume], object] = lambda _: None
    """Undo what the phase did; must work twice."""
    ends_pods: bool = False
    """Whether a pod may end by this and any fault: none ran, or there is one good copy that the fault may strike."""
    since: int = 1
    """The first seed that it takes part in (``plan``)."""


def _idle(volume: Volume, _: str) -> None:
    volume.end()


def _victim(volume: Volume, struck: str) -> tuple[str, str]:
    """Node and device of a leg that the fault does not strike, so that the phase is what it is called."""
    legs = sorted(volume.legs("InSync"), key=lambda leg: leg["node"] == struck)
    return legs[0]["node"], legs[0]["extents"][0]["device"]


def _lose(volume: Volume, struck: str, *, grace: int) -> None:
    volume.set_grace(grace)
    node, device = _victim(volume, struck)
    volume.field.unplug(node, device)


def _degraded(volume: Volume, struck: str) -> None:
    _lose(volume, struck, grace=600)
    volume.wait(lambda: "" if volume.legs("Stale") else "no leg is Stale", "the loss is recorded", seconds=SOON_SECONDS)


def _quiescing(phase: str) -> Callable[[Volume, str], object]:
    """A spare takes the place of a lost leg; the fault strikes when the Quiescence has come to ``phase`` or beyond."""
    order = ("", "Pending", "Instructed", "Draining", "Quiesced", "Reconfigured", "Expired", "Released", "Aborted")

    def begin(volume: Volume, struck: str) -> None:
        before = {q["metadata"]["name"] for q in volume.field.items("quiescences")}
        _lose(volume, struck, grace=0)

        def missing() -> str:
            new = [q for q in volume.field.items("quiescences") if q["metadata"]["name"] not in before]
            phases = [q["status"].get("phase", "") for q in new]
            return "" if any(order.index(each) >= order.index(phase) for each in phases) else f"quiescences: {phases}"

        volume.wait(missing, f"a quiescence is {phase}", seconds=SOON_SECONDS)

    return begin


def _losing(volume: Volume, struck: str) -> None:
    """The fault strikes before anybody has recorded, or even noticed, that a leg is lost."""
    _lose(volume, struck, grace=GRACE_SECONDS)


def _held_by_hand(volume: Volume, _: str) -> None:
    """A person has reads and writes wait, and does not let them go."""
    name = BY_HAND + os.urandom(3).hex()
    spec = {"scope": {"volumes": [volume.name]}, "holdIo": True, "deadlineSeconds": HOLD_SECONDS}
    volume.field.cluster.apply(
        {"apiVersion": API_VERSION, "kind": "Quiescence", "metadata": {"name": name}, "spec": spec}
    )

    def missing() -> str:
        status = volume.field.get("quiescences", name).get("status", {})
        return "" if status.get("acknowledgements") else f"{name} is {status.get('phase')}"

    volume.wait(missing, "it is held", seconds=SOON_SECONDS)


def _let_go(volume: Volume) -> None:
    for each in volume.field.items("quiescences"):
        if each["metadata"]["name"].startswith(BY_HAND):
            volume.field.delete("quiescences", each["metadata"]["name"])


def _rebuilding(part: float) -> Callable[[Volume, str], object]:
    def begin(volume: Volume, struck: str) -> None:
        before = volume.see()["status"]["mapping"]["generation"]

        def reach(part: float, rate: int) -> None:
            volume.field.merge("virtualvolumes", volume.name, {"spec": {"rebuild": {"maxRate": rate}}})
            missing = lambda: short_of(volume.see()["status"], part, before)  # noqa: E731
            volume.wait(missing, f"{part:.0%} are rebuilt", seconds=2 * SOON_SECONDS)

        _lose(volume, struck, grace=0)
        reach(min(part, 0.9), RATE_KIB)
        if part > 0.9:
            reach(part, RATE_KIB // 8)  # or it is over before a report says that it is so far

    return begin


def short_of(status: Object, part: float, generation: int) -> str:
    """Why a rebuild that began after mapping ``generation`` is not as far as ``part``; empty: it is, or is over."""
    mapping = status["mapping"]
    if mapping["generation"] <= generation:
        return "the loss is not dealt with yet"  # whatever is said of legs and progress is of before
    if rebuilt(status) >= part:
        return ""
    states = [leg["state"] for leg in mapping["legs"] if not leg.get("releasing")]
    return "" if states == ["InSync", "InSync"] else f"too little is done: legs are {states}"


def rebuilt(status: Object) -> float:
    """How much of the leg that is rebuilt has been, 0 to 1; -1: nobody reports a rebuild."""
    parts = [-1.0]
    for report in status.get("nodes", ()):
        for progress in report.get("progress", ()):
            if progress.get("leg") and progress.get("totalBytes"):
                parts.append(progress.get("doneBytes", 0) / progress["totalBytes"])  # nought is left out of an object
    return max(parts)


def _plug_all(volume: Volume) -> None:
    volume.field.plug_all()
    volume.set_grace(GRACE_SECONDS)
    volume.field.merge("virtualvolumes", volume.name, {"spec": {"rebuild": {"maxRate": 0}}})


def _attaching(volume: Volume, _: str) -> None:
    node = volume.node()
    volume.end()
    volume.detach(seconds=SOON_SECONDS)
    volume.want(node)


def _detaching(volume: Volume, _: str) -> None:
    volume.end()
    volume.want("")


def _moving(volume: Volume, _: str) -> None:
    """To another node, and the fault strikes while it is on its way there."""
    node = volume.node()
    volume.end()
    volume.detach(seconds=SOON_SECONDS)
    volume.want(next(each for each in NAMES if each != node))
    time.sleep(0.5)


def _making_another(volume: Volume, _: str) -> None:
    volume.make_another(ANOTHER, mib=32)


def _deleting_another(volume: Volume, struck: str) -> None:
    _making_another(volume, struck)

    def missing() -> str:
        phase = volume.others()[ANOTHER]["status"].get("phase")
        return "" if phase == "Ready" else f"it is {phase}"

    volume.wait(missing, f"{ANOTHER} is made", seconds=SOON_SECONDS)
    volume.delete_others()


PHASES = (
    Phase("idle", _idle),
    Phase("writing", lambda volume, _: None),
    Phase("degraded", _degraded, _plug_all, ends_pods=True),
    Phase("quiescence instructed", _quiescing("Instructed"), _plug_all, ends_pods=True),
    Phase("quiescence quiesced", _quiescing("Quiesced"), _plug_all, ends_pods=True),
    Phase("quiescence reconfigured", _quiescing("Reconfigured"), _plug_all, ends_pods=True),
    Phase("rebuild at 1 %", _rebuilding(0.01), _plug_all, ends_pods=True),
    Phase("rebuild at 50 %", _rebuilding(0.5), _plug_all, ends_pods=True),
    Phase("rebuild at 99 %", _rebuilding(0.99), _plug_all, ends_pods=True),
    Phase("attaching", _attaching, ends_pods=True),
    Phase("detaching", _detaching, ends_pods=True),
    Phase("moving", _moving, ends_pods=True),
    Phase("another volume made", _making_another, Volume.delete_others),
    Phase("another volume deleted", _deleting_another),
    # from seed 2 on
    Phase("losing a leg", _losing, _plug_all, ends_pods=True, since=2),
    Phase("quiescence draining", _quiescing("Draining"), _plug_all, ends_pods=True, since=2),
    Phase("quiescence released", _quiescing("Released"), _plug_all, ends_pods=True, since=2),
    Phase("held by hand", _held_by_hand, _let_go, since=2),
)
