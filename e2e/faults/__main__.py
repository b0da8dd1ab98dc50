"""``python -m faults``: see ``--help``."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from demo.errors import DemoError
from faults import plan
from faults.field import Field
from faults.report import markdown
from faults.suite import Suite
from lab import kernels, paths
from lab.errors import LabError
from lab.progress import say


def main() -> int:
    """0: every case held. 1: one did not, and what is known of it lies in ``build/faults``."""
    parser = argparse.ArgumentParser(prog="faults", description="Faults drawn from a seed, on real kernels.")
    parser.add_argument("--kernel", default=kernels.DEFAULT, choices=kernels.KERNELS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, metavar="N", help="begin with the seed's N-th case")
    parser.add_argument("--case", nargs=4, metavar=("KIND", "PHASE", "ROLE", "SECONDS"), help="this one alone")
    parser.add_argument("--list", action="store_true", help="say what the seed's cases are, and run none")
    parser.add_argument("--markdown", nargs="+", metavar="REPORT", type=Path, help="tables of report.json files")
    given = parser.parse_args()
    if given.markdown:
        print(markdown([json.loads(each.read_text()) for each in given.markdown]))
        return 0
    try:
        chosen = plan.cases(given.seed, given.count)[given.first - 1 :]
        if given.case:
            kind, phase, role, seconds = given.case
            chosen = [plan.one(kind, phase, role, float(seconds))]
    except KeyError as error:
        parser.error(str(error.args[0]))
    if given.list:
        print("\n".join(map(str, chosen)))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends the guests
    folder = Path(paths.REPOSITORY) / "build" / "faults" / f"{given.kernel}-{given.seed}"
    running = revision()  # now: the nodes get the work tree as it is at the start
    try:
        with Field(given.kernel) as field:
            suite = Suite(field, folder)
            try:
                held = suite.run(chosen)
            finally:
                say(f"report: {suite.report(given.seed, running)}")
    except (LabError, DemoError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    if not held:
        failed = chosen[len(suite.outcomes) - 1]
        print(f"faults: a case did not hold; what is known of it lies in {folder}", file=sys.stderr)
        print("\n".join(again(failed, given)), file=sys.stderr)
    return 0 if held else 1


def again(failed: plan.Case, given: argparse.Namespace) -> list[str]:
    """The commands that repeat the case: alone, and with those that come after it in the seed's list."""
    alone = shlex.join(("--case", *failed.words()))
    told = [f"  again, alone: python -m faults --kernel {given.kernel} {alone}"]
    if not given.case:
        those = f"KERNEL={given.kernel} SEED={given.seed} COUNT={given.count} FIRST={failed.number}"
        told.append(f"  again, and what comes after it: make faults {those}")
    return told


def revision() -> str:
    """Of the work tree, with ``-dirty`` where it is not what was committed; empty: nobody knows."""

    def git(*argv: str) -> str:
        return subprocess.run(("git", *argv), cwd=paths.REPOSITORY, capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
