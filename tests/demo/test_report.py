"""The verdict: good only when everything was checked and nothing was amiss. Each reason to say no is tried alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demo.report import ENOUGH, Report


def good(**changes: Any) -> Report:
    report = Report(
        records_acknowledged=ENOUGH,
        records_lost=0,
        records_wrong=0,
        generation_before=1,
        generation_after=2,
        differing_stretches=0,
    )
    for name, value in changes.items():
        setattr(report, name, value)
    return report


def test_good() -> None:
    assert good().verdict() == []


def test_a_run_that_never_began_is_not_good() -> None:
    assert len(Report().verdict()) == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"records_lost": 1}, "records lost: 1", id="lost"),
        pytest.param({"records_wrong": 2}, "records wrong: 2", id="wrong"),
        pytest.param({"records_lost": -1}, "never checked", id="never read back"),
        pytest.param({"records_acknowledged": ENOUGH - 1}, "at least 1000 are wanted", id="too few"),
        pytest.param({"generation_after": 1}, "from generation 1 to 1", id="no new mapping"),
        pytest.param({"generation_before": 0}, "from generation 0 to 2", id="never looked before"),
        pytest.param({"differing_stretches": 3}, "differing stretches: 3", id="legs differ"),
        pytest.param({"differing_stretches": -1}, "never checked", id="legs not compared"),
        pytest.param({"problems": ["interrupted"]}, "interrupted", id="interrupted"),
    ],
)
def test_not_good(changes: dict[str, Any], said: str) -> None:
    (fault,) = good(**changes).verdict()
    assert said in fault


def verdict(checked: int = ENOUGH, lost: int = 0, wrong: int = 0, *examples: str) -> dict[str, Any]:
    return {"checked": checked, "lost": lost, "wrong": wrong, "examples": list(examples)}


def test_the_worst_reading_counts() -> None:
    report = good(records_lost=-1, records_wrong=-1)
    report.count(verdict())
    assert report.verdict() == []
    report.count(verdict(ENOUGH, 1, 2, "record 7 is lost: zeros"))
    report.count(verdict())
    assert (report.records_lost, report.records_wrong) == (1, 2)
    assert "record 7 is lost: zeros" in report.verdict()


def test_records_that_were_not_read_are_not_good() -> None:
    report = good()
    report.count(verdict(ENOUGH - 1))
    assert report.verdict() == ["1 acknowledged records were not read back"]


def test_what_is_written(tmp_path: Path) -> None:
    report = good(kernel="6.1.0-56-amd64", phases={"lab": 90.5})
    report.write(tmp_path / "demo" / "report.json")
    written = json.loads((tmp_path / "demo" / "report.json").read_text())
    wanted = (
        "kernel kubernetes millpond records_acknowledged records_lost records_wrong detected_ms quiesced_ms held_ms"
    )
    wanted += " longest_write_gap_ms rebuild_seconds generation_before generation_after phases"
    assert set(wanted.split()) <= set(written)
    assert (written["kernel"], written["phases"], written["good"]) == ("6.1.0-56-amd64", {"lab": 90.5}, True)
