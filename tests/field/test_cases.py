"""A short selection of the fault suite: each place where a fault can strike, each thing that may be going on."""

from __future__ import annotations

import pytest

from faults import plan
from faults.suite import Suite

SELECTION = (
    ("disk pulled", "writing", "attach", 3),
    ("storage link cut", "rebuild at 50 %", "leg", 5),
    ("state manager killed", "quiescence instructed", "attach", 1),
    ("node rebooted", "writing", "leg", 0),
    ("node without power", "writing", "attach", 60),
)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("names", SELECTION, ids=lambda names: f"{names[0]}, {names[2]}, {names[1]}")
def test_everything_acknowledged_is_there_afterwards(suite: Suite, names: tuple[str, str, str, float]) -> None:
    outcome = suite.case(plan.one(*names))
    assert outcome.violations == []
    assert outcome.acknowledged > 0
