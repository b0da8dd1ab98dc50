"""``python -m external``: see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demo import diagnostics
from demo.errors import DemoError
from external import known, outcome, rehearsal, run
from external.parts import SELECTION, WHOLE, Part, least
from lab import kernels, paths
from lab.errors import LabError


def main(argv: Sequence[str] | None = None) -> int:
    """0: as many tests as must have run passed, and nothing failed or was skipped for a reason that is not known."""
    parser = argparse.ArgumentParser(prog="external", description=__doc__)
    parser.add_argument("--kernel", default=kernels.DEFAULT, choices=kernels.KERNELS, help="of the cluster's nodes")
    parser.add_argument("--selection", action="store_true", help="those few that `make test` has")
    parser.add_argument("--list", action="store_true", help="say which would run, on an API server without nodes")
    parser.add_argument("--name", default="", help="of the lab; one that is up is used (default: one of our own)")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument(
        "--out", type=Path, default=paths.REPOSITORY / "build" / "external", help="folder for all files"
    )
    given = parser.parse_args(argv)
    chosen = SELECTION if given.selection else WHOLE
    folder = given.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.list:
        return listed(chosen, folder)
    try:
        with run.cluster(given.name or f"external-{os.getpid()}", given.kernel, folder, keep=given.keep) as session:
            try:
                found = run.all_parts(session, chosen, folder)
                problems = outcome.problems(found, least(chosen))
            except (LabError, DemoError) as error:
                found, problems = [], [str(error)]
            if problems:
                diagnostics.collect(session.cluster, session.faults, folder / "cluster")
    except (LabError, DemoError) as error:
        print(f"external: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("external: interrupted", file=sys.stderr)
        return 130
    (folder / "passed.md").write_text(outcome.table(found) + "\n")
    print(outcome.summary(found))
    print("\n".join(f"NOT GOOD: {each}" for each in problems) or "nothing failed")
    return 1 if problems else 0


def listed(chosen: Sequence[Part], folder: Path) -> int:
    """1: a test skips itself for a reason that is not known."""
    try:
        with rehearsal.cluster() as made:
            found = [rehearsal.rehearse(made, part, folder) for part in chosen]
    except (LabError, DemoError) as error:
        print(f"external: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(rehearsal.told, found)))
    return 1 if any(list(known.unexplained(each.skipped, each.part.capabilities)) for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
