"""``make bench-hold``: for how long a writer stands when everything goes still with I/O held, into docs/performance.md.

Three storage nodes (``faults.field``), a volume of two legs and one writer. In each round: nothing at all, ``dmsetup
suspend`` and ``resume`` of the front by hand, a Quiescence that holds I/O and is released as soon as all are still.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figures, described, host, replace_section

from faults.by_hand import by_hand
from faults.field import NAMES, Field
from faults.volume import Volume
from lab import kernels
from lab.progress import say
from millpond_core import names

ROOT = Path(__file__).resolve().parents[1]
VOLUME_MIB = 64
SOON_SECONDS = 300.0
QUIET_SECONDS = 5.0
"""Of writing before and after each act, and of writing alone."""
HOLD_SECONDS = 60
NOTES = (
    "",
    "The writer makes 60 random writes of 4 KiB a second, each acknowledged by its fsync; a pause is the longest time",
    "between two acknowledgements. By hand: one command in the guest, which suspends (`--nolockfs`) and resumes the",
    "front at once. A quiescence is created, waited for and released through the API server by a program outside,",
    "which looks ten times a second: *held* is what the record says of it (`longestHoldMs`), and is mostly that.",
    "",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written."""
    parser = argparse.ArgumentParser(prog="bench.hold", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args(argv)
    figures = Figures()
    with Field(arguments.kernel) as field:
        release = field.run(NAMES[0], "uname", "-r").strip()
        volume = Volume(field, "bench", mib=VOLUME_MIB, grace=3600)
        volume.attach(NAMES[0], seconds=SOON_SECONDS)
        volume.begin(NAMES[0])
        volume.writes(seconds=SOON_SECONDS, more=100)
        for run in range(1, arguments.runs + 1):
            say(f"run {run} of {arguments.runs}")
            measure(volume, run, figures)
        volume.end()  # what is being written while they are compared is on one leg first
        if found := volume.check():
            raise SystemExit(f"the legs are not what they should be: {'; '.join(found)}")
    machine = {"kernel": release, "host": host(), "runs": str(arguments.runs)}
    told = described(machine, f"make bench-hold KERNEL={arguments.kernel}", NOTES)
    path = ROOT / "docs" / "performance.md"
    content = f"## A hold of reads and writes, kernel {arguments.kernel}\n\n{told}\n{figures.table()}"
    replace_section(path, f"hold-{arguments.kernel}", content, "# Performance\n")
    print(f"\n{figures.table()}\n\nwritten to {path}")
    return 0


def measure(volume: Volume, run: int, figures: Figures) -> None:
    """One round: the three in turn."""
    volume.ledger.gap()
    time.sleep(2 * QUIET_SECONDS)
    figures.add("pause with nothing going on", 1000 * volume.ledger.gap(), "ms")

    front = names.front(volume.uuid)
    command = f"dmsetup suspend --nolockfs {front} && dmsetup resume {front}"
    volume.field.run(NAMES[0], "sh", "-c", command, seconds=SOON_SECONDS)
    time.sleep(QUIET_SECONDS)
    figures.add("pause with `dmsetup suspend; resume` by hand", 1000 * volume.ledger.gap(), "ms")

    with by_hand(volume, f"bench-{run}", seconds=HOLD_SECONDS) as quiescence:
        quiescence.becomes("Quiesced")
        quiescence.release()
        time.sleep(QUIET_SECONDS)
        gap, held = 1000 * volume.ledger.gap(), float(quiescence.status().get("longestHoldMs", 0))
    figures.add("pause with a quiescence that holds I/O", gap, "ms")
    figures.add("of which it was held, by the record", held, "ms")
    figures.add("the rest", max(gap - held, 0.0), "ms")


if __name__ == "__main__":
    raise SystemExit(main())
