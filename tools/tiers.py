"""Runs the tiers of tests and sums them up.

``tiers.py all`` is what ``make test`` does: each tier in turn, cheap ones first, with a deadline of its own. Every
tier runs even when one before it failed, so that one run tells everything; the exit status is 0 only if all of them
ran tests and none failed. JUnit files and logs land in ``build/``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
KERNELS = ("6.1", "6.12")
UNIT_FOLDERS = ("repo", "core", "adapters", "node", "operator", "csi", "cli", "chart", "lab", "demo", "faults")
E2E = ("e2e/tests/test_install.py", "e2e/tests/test_bad_input.py", "e2e/tests/test_main_job.py")
CONFORMANCE = ("tests/conformance/test_interface.py", "tests/conformance/test_sanity_doubles.py")


@dataclass(frozen=True)
class Run:
    """One command of a tier, the JUnit file that it writes (None: judged by its exit status), its deadline."""

    name: str
    argv: list[str]
    minutes: float
    junit: Path | None = None
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    name: str
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    note: str = ""


def pytest(name: str, *arguments: str, minutes: float, env: dict[str, str] | None = None) -> Run:
    junit = BUILD / f"junit-{name}.xml"
    argv = [sys.executable, "-m", "pytest", "-q", f"--junitxml={junit}", "-o", f"junit_suite_name={name}", *arguments]
    return Run(name, argv, minutes, junit, env or {})


def kernel(release: str) -> Run:
    """The kernel tier runs inside a guest; ``lab guest-run`` brings its /out folder back."""
    name = f"kernel-{release}"
    out = BUILD / name
    inner = ["python3", "-m", "pytest", "-q", "tests/kernel", "--junitxml=/out/junit.xml", "-p", "no:cacheprovider"]
    argv = [sys.executable, "-m", "lab", "guest-run", "--kernel", release, "--out", str(out), "--", *inner]
    return Run(name, argv, 25, out / "junit.xml")


def other(release: str) -> str:
    return next(each for each in KERNELS if each != release)


def tiers(release: str) -> dict[str, list[Run]]:
    python = sys.executable
    unit = [f"tests/{folder}" for folder in UNIT_FOLDERS if (ROOT / "tests" / folder).is_dir()]
    cluster = {"MILLPOND_KERNEL": release}
    return {
        "lint": [
            Run("ruff", [python, "-m", "ruff", "check", "."], 2),
            Run("ruff-format", [python, "-m", "ruff", "format", "--check", "."], 2),
            Run("mypy", [python, "-m", "mypy"], 5),
            Run("imports", [str(Path(python).with_name("lint-imports"))], 2),
            Run("generated", [python, "tools/generate.py", "--check"], 2),
        ],
        "unit": [pytest("unit", *unit, minutes=10)],
        # -s: its states and the histories of its mutations are worth reading.
        "model": [pytest("model", "tests/model", "-s", minutes=15)],
        "api": [pytest("api", "tests/api", minutes=25)],
        "kernel": [kernel(each) for each in KERNELS],
        # On the kernel that the cluster does not have.
        "faults": [pytest("faults", "tests/field", "-sx", minutes=25, env={"MILLPOND_KERNEL": other(release)})],
        "e2e": [pytest("e2e", "e2e/tests", minutes=60, env=cluster)],
        "conformance": [pytest("conformance", "tests/conformance", minutes=60, env=cluster)],
        # What `make test` runs of these two. Volumes of every kind, a returning disk, the kill rounds and csi-sanity on
        # the cluster are `make e2e` and `make test-conformance`: they join once they have passed, whole, on a quiet
        # machine.
        "cluster": [
            pytest("e2e", *E2E, minutes=45, env=cluster),
            pytest("conformance", *CONFORMANCE, minutes=20),
        ],
    }


def execute(run: Run) -> Result:
    """Run it in a process group of its own; at its deadline the group is interrupted, then killed."""
    print(f"\n=== {run.name}  (at most {run.minutes:g} min)", flush=True)
    if run.junit is not None:
        run.junit.unlink(missing_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(run.argv, cwd=ROOT, env={**os.environ, **run.env}, start_new_session=True)
    note = ""
    try:
        code = process.wait(run.minutes * 60)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        # SIGINT first: pytest and the lab then stop what they started.
        note = f"not done after {run.minutes:g} min" if isinstance(reason, subprocess.TimeoutExpired) else "interrupted"
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        code = 1
        if isinstance(reason, KeyboardInterrupt):
            raise
    result = Result(run.name, time.monotonic() - began, note=note)
    if run.junit is None:
        result.passed, result.failed = (1, 0) if code == 0 else (0, 1)
    else:
        count(run.junit, result)
        if code != 0 and result.failed == 0:
            result.failed = 1
            result.note = result.note or f"exit status {code}"
    return result


def count(junit: Path, result: Result) -> None:
    """Add up a JUnit file. None, or one without a test that ran, is a failure: a tier must really run."""
    try:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))  # noqa: S314 - our own file
    except (OSError, ET.ParseError) as error:
        result.failed, result.note = 1, result.note or f"no JUnit file: {error}"
        return
    for suite in suites:
        total, bad, skipped = (
            int(suite.get("tests", 0)),
            int(suite.get("failures", 0)) + int(suite.get("errors", 0)),
            int(suite.get("skipped", 0)),
        )
        result.failed += bad
        result.skipped += skipped
        result.passed += total - bad - skipped
    if result.passed + result.failed == 0:
        result.failed, result.note = 1, "no test ran"


def summarize(results: list[Result]) -> int:
    print(f"\n{'':16}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for each in results:
        numbers = f"{each.passed:8}{each.failed:8}{each.skipped:8}{each.seconds:9.0f}"
        print(f"{each.name:16}{numbers}  {each.note}")
    passed, failed, skipped = (sum(getattr(r, k) for r in results) for k in ("passed", "failed", "skipped"))
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tier", choices=["all", "lint", "unit", "model", "api", "kernel", "faults", "conformance", "e2e"]
    )
    parser.add_argument("--kernel", default=KERNELS[0], choices=KERNELS, help="of the cluster's nodes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends what we have started
    BUILD.mkdir(exist_ok=True)
    table = tiers(options.kernel)
    chosen = (
        ("lint", "unit", "model", "api", "kernel", "faults", "cluster") if options.tier == "all" else (options.tier,)
    )
    return summarize([execute(run) for name in chosen for run in table[name]])


if __name__ == "__main__":
    sys.exit(main())
