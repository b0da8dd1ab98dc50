"""Explores the model whole: within each size nothing acknowledged is lost, and without any one rule something is.

What ``core`` decides is decided by ``core`` (see ``manager``, ``master``, ``record``): a mutation breaks a rule in that
very code, and is caught by the shortest history that shows why the rule is there.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from explore import explore
from mutations import MUTATIONS, Mutation
from sizes import ALONE, CRASH, FAR, LAST, LOSE, MOVE, REPLACE, RETURN, SIZES, STILL, THREE
from state import Size
from world import Model

ROOT = Path(__file__).parents[2]
MINUTES = 60
MEANT = {
    LOSE: (
        "n1: Record b InSync → Stale",
        "n1: Record a InSync → Stale",
        "n1: GateReinstate b",
        "n1: Add b by a delta",
        "n1: Record b Rebuilding → InSync",
        "md on n1 has nothing noted for b: in sync",
        "md on n1 has copied a to b",
        "the record is lost",
    ),
    RETURN: ("n1: AcknowledgeFailure b", "n1: Record b Rebuilding → Stale", "n1: Record b Rebuilding → InSync"),
    CRASH: ("n1: Assemble from a", "n1: Assemble from b", "n1: Add a by a delta", "n1: Record a Rebuilding → InSync"),
    MOVE: ("a pod on n2 opens it", "write 2 is acknowledged", "n1: Stop", "the pod on n1 is killed"),
    STILL: (
        "n1: Suspend front",
        "the watchdog of n1 ends the hold",
        "the quiescence is Released",
        "the quiescence is Aborted",
        "n1: Record c Rebuilding → InSync",
        "the extents of b go to another volume",
    ),
    REPLACE: ("n1: Record c Rebuilding → InSync", "the extents of b go to another volume"),
    THREE: ("n1: Assemble from a", "n1: Record c Rebuilding → InSync"),
    FAR: ("the link is cut", "n1: GateReinstate a", "n1: GateReinstate b"),
    ALONE: ("n1: Sever front", "n1: KillPods", "n1: GateFail a", "the front on n1 is on the wall"),
    LAST: ("n1: KillPods", "write 1 ends, nobody is told of a success"),
}
"""What each size is there to show: a model in which it cannot happen proves nothing."""


@pytest.mark.timeout(20 * MINUTES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_nothing_acknowledged_is_lost(size: Size) -> None:
    found = explore(Model(size))
    print(f"{size.name}: {found}")
    assert found.way is None, "\n".join(found.way or ())
    assert found.whole
    missing = set(MEANT[size]) - found.events
    assert not missing, f"never happens: {sorted(missing)}"


@pytest.mark.timeout(20 * MINUTES)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_without_a_rule_something_is_lost(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(mutation.size)
    mutation.make(monkeypatch, model)
    found = explore(model)
    assert found.way is not None, f"the model does not need this rule: {found}"
    history = "\n".join(found.way)
    print(f"{mutation.name}: {found}\n{history}")
    for shown in mutation.shows:
        assert shown in history, f"caught for another reason: {shown!r} is not in\n{history}"


def test_each_mutation_and_the_tests_stand_beside_their_rule() -> None:
    """In ``docs/safety.md``: rule, where it is kept, what must be caught; and which test would fail without it."""
    told = (ROOT / "docs" / "safety.md").read_text()
    assert [mutation.name for mutation in MUTATIONS if mutation.name not in told] == []
    rules = re.findall(r"^\| \*\*(\d)\.", told, re.MULTILINE)
    rows = dict(re.findall(r"^\| \*\*(\d)\*\* \|(.*)\|$", told, re.MULTILINE))
    assert rules == list(rows) == [*"12345678"]
    named = {rule: re.findall(r"`([\w/]+\.py)::(\w+)`", row) for rule, row in rows.items()}
    assert [rule for rule, tests in named.items() if not tests] == []
    assert [test for tests in named.values() for test in tests if not there(*test)] == []


def there(file: str, function: str) -> bool:
    """Whether a test of this name is in the file."""
    path = ROOT / file
    return path.is_file() and re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE) is not None
