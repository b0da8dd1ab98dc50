"""What a node answers to a quiescence, and when."""

from __future__ import annotations

import pytest

from millpond_core.model import ObjectMeta, Quiescence
from millpond_core.model.quiescence import QuiescenceSpec, QuiescenceStatus
from millpond_core.nodeplan import still
from millpond_core.nodeplan.still import Standing


def instruction(*, hold_io: bool = False) -> still.Instruction:
    quiescence = Quiescence(
        metadata=ObjectMeta(name="q", uid="u"),
        spec=QuiescenceSpec(hold_io=hold_io, deadline_seconds=30),
        status=QuiescenceStatus(phase="Instructed", participants=["n1"], volumes=["v"]),
    )
    return still.instructed(quiescence, boot_id="b", now=100.0, wall=0.0, generations={"v": 3})


MOVING = Standing(settled=True, frozen=False, suspended=False, generation=3)
FROZEN = Standing(settled=True, frozen=True, suspended=False, generation=3)
HELD = Standing(settled=True, frozen=True, suspended=True, generation=3)
APPLIED = Standing(settled=True, frozen=True, suspended=True, generation=4)


@pytest.mark.parametrize(
    ("hold_io", "standings", "now", "released", "phase"),
    [
        (False, {"v": None}, 101, False, "Draining"),
        (False, {"v": MOVING}, 101, False, "Draining"),
        (False, {"v": FROZEN}, 101, False, "Quiesced"),
        (True, {"v": FROZEN}, 101, False, "Draining"),
        (True, {"v": HELD}, 101, False, "Quiesced"),
        (False, {}, 101, False, "Quiesced"),
        (False, {"v": MOVING}, 130, False, "Expired"),
        (False, {"v": FROZEN}, 101, True, "Released"),
    ],
)
def test_when_a_node_is_still(
    hold_io: bool, standings: dict[str, Standing | None], now: float, released: bool, phase: str
) -> None:
    judged = still.judged(instruction(hold_io=hold_io), standings, released=released, now=now, wall=0.0)
    assert judged.answer.phase == phase


def test_a_new_generation_under_a_quiescence_is_applied() -> None:
    quiet = still.judged(instruction(hold_io=True), {"v": HELD}, released=False, now=101, wall=0.0)
    assert quiet.answer.hold_remaining_ms == 29_000
    assert still.judged(quiet, {"v": HELD}, released=False, now=102, wall=0.0).answer.phase == "Quiesced"
    assert still.judged(quiet, {"v": APPLIED}, released=False, now=102, wall=0.0).answer.phase == "Applied"


def test_what_is_over_stays_over() -> None:
    over = still.judged(instruction(), {"v": FROZEN}, released=True, now=101, wall=0.0)
    assert still.judged(over, {"v": FROZEN}, released=False, now=102, wall=0.0) == over
    assert still.wants([over], "v", 102) == (False, False)


def test_a_deadline_ends_what_is_wanted() -> None:
    wanted = instruction(hold_io=True)
    assert still.wants([wanted], "v", 129.9) == (True, True)
    assert still.wants([wanted], "v", 130.0) == (False, False)
    assert still.wants([wanted], "other", 101) == (False, False)
