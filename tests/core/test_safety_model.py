"""Explores the safety model whole: with every rule nothing is lost, without any one of them something is."""

from __future__ import annotations

import pytest
from safety_model import RULES, explore


def test_with_every_rule_no_reachable_state_loses_a_write() -> None:
    seen, way = explore(RULES)
    assert way is None, "\n".join(way or ())
    assert seen > 1_000, "so small a model shows nothing"


@pytest.mark.parametrize("rule", sorted(RULES))
def test_without_a_rule_a_write_is_lost(rule: str) -> None:
    _, way = explore(RULES - {rule})
    assert way is not None, f"the model does not need the rule {rule!r}"
