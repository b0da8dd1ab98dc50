"""The life of a quiescence, as a table.

Pending        waits for its turn: another one covers one of its volumes, or a failure goes first
Instructed     participants and volumes are frozen, the doorbells ring
Draining       the first participant is at it
Quiesced       all have acknowledged: long operations are halted, I/O is held if it was asked for
Reconfigured   the master has committed the new generations; the attach nodes bring them into force
Released       over, and done; everything goes on
Expired        over: its time was up while it was held
Aborted        over: refused, or not everyone became still in time; nothing more is changed for it

Rules: nothing is committed but in Quiesced; every state but the last three ends by itself at the deadline; what is over
stays over. Only the master's own quiescences reconfigure; those of people are held until released.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from millpond_core.model.quiescence import QuiescencePhase

QuiescenceEvent = Literal[
    "turn", "refused", "seen", "all still", "committed", "in force", "nothing to do", "released", "late", "time is up"
]

TABLE: dict[tuple[QuiescencePhase, QuiescenceEvent], QuiescencePhase] = {
    ("Pending", "turn"): "Instructed",
    ("Pending", "refused"): "Aborted",
    ("Pending", "nothing to do"): "Released",
    ("Pending", "released"): "Released",
    ("Instructed", "seen"): "Draining",
    ("Instructed", "all still"): "Quiesced",
    ("Instructed", "released"): "Released",
    ("Instructed", "late"): "Aborted",
    ("Draining", "all still"): "Quiesced",
    ("Draining", "released"): "Released",
    ("Draining", "late"): "Aborted",
    ("Quiesced", "committed"): "Reconfigured",
    ("Quiesced", "released"): "Released",
    ("Quiesced", "late"): "Aborted",
    ("Quiesced", "time is up"): "Expired",
    ("Reconfigured", "in force"): "Released",
    ("Reconfigured", "released"): "Released",
    ("Reconfigured", "time is up"): "Released",
}

RUNNING: frozenset[QuiescencePhase] = frozenset({"Instructed", "Draining", "Quiesced", "Reconfigured"})
"""Doorbells ring, and attach, expand and delete of the volumes wait."""

OVER: frozenset[QuiescencePhase] = frozenset({"Released", "Expired", "Aborted"})

URGENT = frozenset({"DeviceFailed", "NodeFailed"})
"""Reasons that go before all others."""

COMMIT_MARGIN_MS = 1500
"""What must be left of the shortest hold for a commit: an API server's slow answer, and a state manager's swap."""


def step(phase: QuiescencePhase, event: QuiescenceEvent) -> QuiescencePhase | None:
    """The phase that follows; None when the event means nothing in ``phase``."""
    return TABLE.get((phase, event))


def hold_allows(acknowledged: Iterable[tuple[float, int]], now: float) -> bool:
    """Whether every hold lasts long enough for a commit: (acknowledged at, ms that were left) by participant."""
    return all((at - now) * 1000 + left >= COMMIT_MARGIN_MS for at, left in acknowledged)


def backoff_seconds(failures: int) -> float:
    """Pause before the next try after ``failures`` in a row: 5 s, doubled each time, five minutes at most."""
    return min(5.0 * 2 ** min(failures - 1, 10), 300.0) if failures else 0.0
