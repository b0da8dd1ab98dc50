"""Runs the tiers of tests and sums them up.

``tiers.py all`` is what ``make test`` does: what runs in one process or in guests of its own two at a time, cheap ones
first, then the cluster's tests alone, each with a deadline of its own. Every run is made even when one before it
failed, so that one call tells everything; the exit status is 0 only if all of them ran tests and none failed. JUnit
files and logs land in ``build/``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
KERNELS = ("6.1", "6.12")
SIDE_BY_SIDE = 2
"""Of the runs that are mostly one process or one guest; the cluster's three guests need the machine for themselves."""
TELL_SECONDS = 60.0
# fmt: off
UNIT_FOLDERS = (
    "repo", "core", "adapters", "node", "operator", "csi", "cli", "chart", "lab", "demo", "faults", "external", "bench",
)
# fmt: on
E2E = tuple(f"e2e/tests/test_{name}.py" for name in ("install", "bad_input", "main_job", "kubernetes"))
CONFORMANCE = tuple(f"tests/conformance/test_{name}.py" for name in ("interface", "external_names", "sanity_doubles"))
PLANE = ("etcd", "kube-apiserver", "kubectl")
SANITY = ("csi-sanity",)
KUBERNETES = ("e2e.test", "ginkgo", "agnhost", "bastion")


@dataclass(frozen=True)
class Run:
    """One command of a tier, the JUnit file that it writes (None: judged by its exit status), its deadline.

    ``needs``: programs of the lab that its tests use, built before any test's own deadline runs.
    """

    name: str
    argv: list[str]
    minutes: float
    junit: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass
class Result:
    name: str
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    note: str = ""


def pytest(
    name: str, *arguments: str, minutes: float, env: dict[str, str] | None = None, needs: tuple[str, ...] = ()
) -> Run:
    junit = BUILD / f"junit-{name}.xml"
    argv = [sys.executable, "-m", "pytest", "-q", f"--junitxml={junit}", "-o", f"junit_suite_name={name}", *arguments]
    return Run(name, argv, minutes, junit, env or {}, needs)


def kernel(release: str) -> Run:
    """The kernel tier runs inside a guest; ``lab guest-run`` brings its /out folder back."""
    name = f"kernel-{release}"
    out = BUILD / name
    inner = ["python3", "-m", "pytest", "-q", "tests/kernel", "--junitxml=/out/junit.xml", "-p", "no:cacheprovider"]
    minutes = 35  # beside the three guests of the fault tier it takes three times as long as alone
    limit = ["--timeout", str((minutes - 3) * 60)]
    argv = [sys.executable, "-m", "lab", "guest-run", "--kernel", release, "--out", str(out), *limit, "--", *inner]
    return Run(name, argv, minutes, out / "junit.xml")


def programs(*runs: Run) -> list[Run]:
    """What builds whatever the runs need. From the cache it takes no time."""
    needs = list(dict.fromkeys(name for run in runs for name in run.needs))
    return [Run("programs", [sys.executable, "-m", "lab", "build", *needs], 45)] if needs else []


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
        "unit": [pytest("unit", *unit, minutes=10, needs=("helm",))],
        # -s: its states and the histories of its mutations are worth reading.
        "model": [pytest("model", "tests/model", "-s", minutes=15)],
        "api": [pytest("api", "tests/api", minutes=25, needs=(*PLANE, "helm"))],
        "kernel": [kernel(each) for each in KERNELS],
        # On the kernel that the cluster does not have. Most of its time it waits, beside whatever else runs.
        "faults": [
            pytest("faults", "tests/field", "-sx", minutes=35, env={"MILLPOND_KERNEL": other(release)}, needs=PLANE)
        ],
        "e2e": [pytest("e2e", "e2e/tests", minutes=60, env=cluster, needs=KUBERNETES)],
        "conformance": [pytest("conformance", "tests/conformance", minutes=60, env=cluster, needs=SANITY)],
        # What `make test` runs of these two. The rest of e2e/tests and csi-sanity on the cluster are `make e2e` and
        # `make test-conformance`: they join once they have passed, whole, on a quiet machine.
        "cluster": [
            pytest("e2e", *E2E, minutes=45, env=cluster, needs=KUBERNETES),
            pytest("conformance", *CONFORMANCE, minutes=20, needs=SANITY),
        ],
    }


class Started:
    """A run under way, in a process group of its own. With ``log`` its output goes there and is shown at its end."""

    def __init__(self, run: Run, log: Path | None = None) -> None:
        self.run, self.log, self.began = run, log, time.monotonic()
        follow = f", follow it in {os.path.relpath(log, ROOT)}" if log else ""
        print(f"\n=== {run.name}  (at most {run.minutes:g} min{follow})", flush=True)
        if run.junit is not None:
            run.junit.unlink(missing_ok=True)
        out = log.open("wb") if log else None
        try:
            self.process = subprocess.Popen(
                run.argv, cwd=ROOT, env={**os.environ, **run.env}, start_new_session=True, stdout=out, stderr=out
            )
        finally:
            if out:
                out.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def progress(self) -> str:
        """Its name, its minutes and the last line that it printed."""
        said = self.log.read_text(errors="replace").split("\n") if self.log else []
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return f"{self.run.name} ({self.seconds / 60:.0f} min): {last[-100:]}"

    def interrupt(self) -> None:
        """SIGINT, so that pytest and the lab stop what they started; SIGKILL after two minutes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    def result(self) -> Result | None:
        """What came of it; None while it runs."""
        note = ""
        if self.process.poll() is None:
            if self.seconds < self.run.minutes * 60:
                return None
            note = f"not done after {self.run.minutes:g} min"
            self.interrupt()
        result = Result(self.run.name, self.seconds, note=note)
        failed = bool(note) or self.process.returncode != 0
        if self.run.junit is None:
            result.passed, result.failed = (0, 1) if failed else (1, 0)
        else:
            count(self.run.junit, result)
            if failed and result.failed == 0:
                result.failed = 1
                result.note = result.note or f"exit status {self.process.returncode}"
        if self.log:
            print(f"\n=== {self.run.name} after {self.seconds:.0f} s", flush=True)
            print(self.log.read_text(errors="replace"), flush=True)
        return result


def execute(runs: Sequence[Run], side_by_side: int = 1) -> list[Result]:
    """Make the runs in order, so many at a time. Interrupted, it ends those that are under way."""
    # What is started in the background ignores SIGINT, and so would all that is started from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    waiting, running, results = deque(runs), list[Started](), list[Result]()
    told = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                run = waiting.popleft()
                running.append(Started(run, BUILD / f"{run.name}.log" if side_by_side > 1 else None))
            for each in list(running):
                if (result := each.result()) is not None:
                    running.remove(each)
                    results.append(result)
            if side_by_side > 1 and time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                print("\n".join(f"  ... {each.progress()}" for each in running), flush=True)
            time.sleep(0.1)
    except KeyboardInterrupt:
        for each in running:
            each.interrupt()
        raise
    return results


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
        "tier",
        choices=["all", "lint", "unit", "model", "api", "kernel", "faults", "conformance", "e2e"],
    )
    parser.add_argument("--kernel", default=KERNELS[0], choices=KERNELS, help="of the cluster's nodes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends what we have started
    BUILD.mkdir(exist_ok=True)
    table = tiers(options.kernel)
    if options.tier != "all":
        runs = table[options.tier]
        return summarize(execute([*programs(*runs), *runs]))
    # The one that waits most first, beside the rest.
    small = [run for name in ("lint", "faults", "unit", "model", "api", "kernel") for run in table[name]]
    results = execute(programs(*small, *table["cluster"]))
    return summarize([*results, *execute(small, SIDE_BY_SIDE), *execute(table["cluster"])])


if __name__ == "__main__":
    sys.exit(main())
