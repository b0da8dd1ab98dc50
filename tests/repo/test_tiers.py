"""The runner of the tiers: what it calls passed, and that it ends what it started."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "tiers.py"
GOOD = '<testsuite tests="2" failures="0" errors="0" skipped="1"/>'
BAD = '<testsuite tests="2" failures="1" errors="0" skipped="0"/>'
EMPTY = '<testsuite tests="1" failures="0" errors="0" skipped="1"/>'


@pytest.fixture
def tiers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiers", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tiers", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUILD", tmp_path)
    return module


@pytest.mark.parametrize(
    ("report", "status", "passed", "failed"),
    [(GOOD, 0, 1, 0), (BAD, 1, 1, 1), (EMPTY, 0, 0, 1), (None, 0, 0, 1), (GOOD, 3, 1, 1)],
    ids=["good", "bad", "nothing-ran", "no-report", "good-but-ended-badly"],
)
def test_a_run_passes_only_if_it_says_so(
    tiers: ModuleType, tmp_path: Path, report: str | None, status: int, passed: int, failed: int
) -> None:
    junit = tmp_path / "report.xml"
    junit.write_text(GOOD)  # of a run before this one: it must not count
    write = f"open({str(junit)!r}, 'w').write({report!r});" if report else ""
    run = tiers.Run("it", [sys.executable, "-c", f"{write}raise SystemExit({status})"], 1, junit)
    [result] = tiers.execute([run])
    assert (result.passed, result.failed) == (passed, failed)


def test_runs_are_made_side_by_side_and_their_output_is_kept_apart(
    tiers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meet = (
        "import sys,time,pathlib as p; here=p.Path(sys.argv[1]); here.with_name(sys.argv[2]).touch(); print(sys.argv)\n"
    )
    wait = "while not here.exists(): time.sleep(0.01)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    runs = [
        tiers.Run("one", [sys.executable, "-c", meet + wait, a, "b"], 1),
        tiers.Run("two", [sys.executable, "-c", meet + wait, b, "a"], 1),
        tiers.Run("three", [sys.executable, "-c", "print('after')"], 1),
    ]
    results = tiers.execute(runs, 2)
    assert sorted(result.name for result in results) == ["one", "three", "two"]
    assert all(result.passed for result in results)
    assert (tmp_path / "three.log").read_text() == "after\n"
    assert "after" in capsys.readouterr().out


def test_a_run_that_is_late_is_ended_and_fails(tiers: ModuleType) -> None:
    [result] = tiers.execute([tiers.Run("slow", [sys.executable, "-c", "import time; time.sleep(600)"], 0.01)], 2)
    assert (result.passed, result.failed, result.note) == (0, 1, "not done after 0.01 min")


def test_interrupted_it_ends_what_runs(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import pathlib, signal, tiers
signal.signal(signal.SIGTERM, signal.default_int_handler)
tiers.BUILD = pathlib.Path({str(tmp_path)!r})
sleep = "import os,time; open({str(note)!r}, 'a').write(f'{{os.getpid()}}\\\\n'); time.sleep(600)"
tiers.execute([tiers.Run(name, [sys.executable, "-c", sleep], 5) for name in ("a", "b")], 2)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not note.exists() or len(note.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline, "the runs did not start"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    for pid in note.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize("tier", ["unit", "api", "faults", "conformance"])
def test_what_a_tiers_tests_use_is_built_before_their_deadlines_run(tiers: ModuleType, tier: str) -> None:
    """From an empty cache a program takes minutes to build, a test has two."""
    (run,) = tiers.tiers("6.1")[tier]
    used = set()
    for folder in (SCRIPT.parents[1] / word for word in run.argv if word.startswith("tests/")):
        for file in folder.rglob("*.py"):
            used |= set(re.findall(r'components\.ensure\("([a-z-]+)"\)', file.read_text()))
    assert used <= set(run.needs)
    assert {"unit": "helm", "api": "kube-apiserver", "faults": "etcd", "conformance": "csi-sanity"}[tier] in run.needs
    (build,) = tiers.programs(run, run)
    assert build.argv[-len(run.needs) :] == list(run.needs)
    assert tiers.programs(*tiers.tiers("6.1")["lint"]) == []
