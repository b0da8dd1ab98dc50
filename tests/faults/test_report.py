"""What the fault suite tells of its cases, and how one that did not hold is repeated."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from faults import __main__ as faults
from faults import plan
from faults.report import Outcome, markdown, report


def outcome(case: str, **more: Any) -> Outcome:
    kind, _, rest = case.partition(". ")[2].partition(" (")
    phase = rest.partition(" while ")[2]
    return Outcome(case, kind, phase, seconds=float(rest.partition(" for ")[2].split()[0]), **more)


PULLED = "1. disk pulled (leg node) for 3 s while writing"
LATER = "2. disk pulled (attach node) for 20 s while degraded"
FROZEN = "3. node frozen (leg node) for 40 s while writing"


def test_a_report_says_what_ran_and_what_was_found() -> None:
    outcomes = [
        outcome(PULLED, acknowledged=100, legs_looked_at=6),
        outcome(LATER, acknowledged=20, violations=["lost: leg b ...", "wedged: n1 ..."]),
    ]
    told = report(outcomes, kernel="6.1", release="6.1.0-9", seed=2, revision="abc-dirty")
    assert (told["release"], told["revision"], told["cases"]) == ("6.1.0-9", "abc-dirty", 2)
    assert told["kinds"] == {"disk pulled": 2}
    assert told["seconds"] == {"disk pulled": [3, 20]}
    assert (told["acknowledged"], told["legs looked at"]) == (120, 6)
    assert [told[word] for word in ("lost", "wrong", "unequal", "wedged", "interrupted")] == [1, 0, 0, 1, 0]


def older(told: dict[str, Any]) -> dict[str, Any]:
    """As it was written before it said what ran and how long each fault lasted."""
    told = json.loads(json.dumps(told))
    for name in ("release", "revision", "seconds", "legs looked at"):
        told.pop(name, None)
    for each in told["outcomes"]:
        each.pop("seconds"), each.pop("legs_looked_at")
    return told


def test_tables_take_the_reports_of_a_kernel_together_those_of_old_too(tmp_path: Path) -> None:
    one = report([outcome(PULLED, acknowledged=1000, longest_gap_seconds=1.26)], kernel="6.1", seed=1)
    two = report([outcome(LATER, acknowledged=500)], kernel="6.1", release="6.1.0-9", seed=2, revision="abc")
    three = report([outcome(FROZEN, longest_gap_seconds=46.04, violations=["lost: x"])], kernel="6.12", seed=1)
    told = markdown([older(one), two, older(three)])
    assert told.split("\n\n") == [
        "| kernel | what ran | cases | acknowledged | lost | wrong | unequal | wedged | interrupted |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| 6.1 | seed 1; seed 2, 6.1.0-9, abc | 2 | 1,500 | 0 | 0 | 0 | 0 | 0 |\n"
        "| 6.12 | seed 1 | 1 | 0 | 1 | 0 | 0 | 0 | 0 |",
        "| kind | seconds | 6.1 | 6.12 |\n"
        "| --- | --- | --- | --- |\n"
        "| disk pulled | 3, 20 | 2 | 0 |\n"
        "| node frozen | 40 | 0 | 1 |",
        "| phase | 6.1 | 6.12 |\n"  #
        "| --- | --- | --- |\n"
        "| writing | 1 | 1 |\n"
        "| degraded | 1 | 0 |",
        "| pause | kernel | case |\n"
        "| --- | --- | --- |\n"
        f"| 46.0 s | 6.12 | {FROZEN} |\n"
        f"| 1.3 s | 6.1 | {PULLED} |\n"
        f"| 0.0 s | 6.1 | {LATER} |",
    ]


def test_a_case_that_did_not_hold_is_repeated_alone_or_with_what_comes_after_it() -> None:
    case = plan.cases(1, 20)[16]
    alone, after = faults.again(case, argparse.Namespace(kernel="6.12", seed=1, count=300, case=None))
    given = alone.partition("--case ")[2]
    assert after.endswith("make faults KERNEL=6.12 SEED=1 COUNT=300 FIRST=17")
    assert "--kernel 6.12" in alone
    kind, phase, role, seconds = shlex.split(given)
    again = plan.one(kind, phase, role, float(seconds))
    assert str(again).partition(". ")[2] == str(case).partition(". ")[2]


def test_a_case_that_was_given_by_its_names_is_repeated_by_them() -> None:
    case = plan.one("disk pulled", "writing", "leg", 3)
    given = argparse.Namespace(kernel="6.1", seed=1, count=20, case=[*case.words()])
    assert faults.again(case, given) == [
        "  again, alone: python -m faults --kernel 6.1 --case 'disk pulled' writing leg 3"
    ]


def test_the_revision_says_when_the_work_tree_is_not_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faults.__main__.paths.REPOSITORY", tmp_path)
    said = {"rev-parse": "abc1234\n", "status": ""}
    monkeypatch.setattr("faults.__main__.subprocess.run", lambda argv, **_: argparse.Namespace(stdout=said[argv[1]]))
    assert faults.revision() == "abc1234"
    said["status"] = " M Makefile\n"
    assert faults.revision() == "abc1234-dirty"
