"""``python -m faults``: see ``--help``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from demo.errors import DemoError
from faults import plan
from faults.field import Field
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
    given = parser.parse_args()
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
    try:
        with Field(given.kernel) as field:
            suite = Suite(field, folder)
            try:
                held = suite.run(chosen)
            finally:
                say(f"report: {suite.report(given.kernel, given.seed)}")
    except (LabError, DemoError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    if not held:
        again = f"make faults KERNEL={given.kernel} SEED={given.seed} COUNT={given.count}"
        print(f"faults: a case did not hold; what is known of it lies in {folder}\n  again: {again}", file=sys.stderr)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
