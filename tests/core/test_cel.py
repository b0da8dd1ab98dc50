"""The subset of CEL that the rules of the model use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from millpond_core.model import KINDS
from millpond_core.model.schema import schema
from millpond_core.testing.cel import compiled


def evaluate(rule: str, **scope: Any) -> Any:
    return compiled(rule)(scope)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("1 == 1 && 2 > 3 || true", True),
        ("!(1 in [1, 2])", False),
        ("'a' in ['b']", False),
        ("self.a.b + 1 <= 3", True),
        ("has(self.a.c)", False),
        ("self.l.exists(x, x > 2)", True),
        ("self.l.all(x, x > 2)", False),
        ("self.l.filter(x, x > 1).size() == 2", True),
        ("self.m.all(k, k.matches('^[a-z]$'))", True),
        ("quantity(self.q).compareTo(quantity('1Gi')) > 0", True),
        ("quantity('1Ki').add(1).asApproximateFloat() == double(1025)", True),
        ("isQuantity('1Gi') && !isQuantity('x')", True),
    ],
)
def test_expressions(rule: str, value: object) -> None:
    assert evaluate(rule, self={"a": {"b": 2}, "l": [1, 2, 3], "m": {"k": "v"}, "q": "1.5Gi"}) == value


@pytest.mark.parametrize("rule", ["self.a ? 1 : 2", "self.a &&", "foo(self.a)", "self.x.reverse()"])
def test_what_is_beyond_the_subset_is_refused(rule: str) -> None:
    with pytest.raises(SyntaxError):
        evaluate(rule, self={"a": 1, "x": "y"})


def rules(part: dict[str, Any]) -> Iterator[str]:
    yield from (rule["rule"] for rule in part.get("x-kubernetes-validations", ()))
    for child in [*part.get("properties", {}).values(), part.get("items"), part.get("additionalProperties")]:
        if child:
            yield from rules(child)


def test_every_rule_of_the_model_compiles() -> None:
    found = [rule for kind in KINDS for rule in rules(schema(kind))]
    assert len(found) > 20
    for rule in found:
        compiled(rule)
