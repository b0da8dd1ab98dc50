"""``python -m fuzz``: see ``--help``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from fuzz.overlap import scenarios
from fuzz.run import LENGTH, Report, drawn, run

REQUESTS_BY_SCENARIO = 500
"""After so many requests one scenario of overlapping calls more."""


def main() -> int:
    """0: every rule held."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Generated requests for the CSI driver.")
    parser.add_argument("--count", type=int, default=10_000, help="requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with the seed's N-th sequence, from 0")
    parser.add_argument("--scenario", type=int, metavar="SEED", help="this one of the overlapping calls, alone")
    given = parser.parse_args()
    if given.scenario is not None:
        faults = asyncio.run(scenarios([given.scenario], print))
        print("\n".join(faults))
        return 1 if faults else 0
    print(f"seed {given.seed}: {given.count} requests from sequence {given.first} on", flush=True)
    began = time.monotonic()
    steps = drawn(given.seed, given.first * LENGTH, given.count)
    report = asyncio.run(run(steps, given.first, lambda line: print(f"  {line}", flush=True)))
    print(report.table())
    print(summary(report, given.seed))
    faults = []
    if not given.first:
        seeds = range(given.seed * 1000, given.seed * 1000 + given.count // REQUESTS_BY_SCENARIO)
        faults = asyncio.run(scenarios(seeds, print))
        print("\n".join(faults[:20]))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if report.failures or faults or not report.requests else 0


def summary(report: Report, seed: int) -> str:
    """The failures, each sentence once, with the command that repeats it; then one line."""
    lines, seen = [], set()
    for failure in report.failures:
        if failure.rule[:60] not in seen:
            seen.add(failure.rule[:60])
            lines.append(f"FAILED {failure.rule}\n  request: {failure.request}")
            lines.append(f"  again: make fuzz-csi SEED={seed} FIRST={failure.sequence} COUNT={LENGTH}")
    never = report.never_ok()
    lines.append(f"never successful: {', '.join(never) or 'none of the calls that are served'}")
    lines.append(f"seed {seed}: {report.requests} requests, {len(report.failures)} failures")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
