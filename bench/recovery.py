"""``make bench-recovery``: what a lost leg costs, from the pulled disk to two copies again, into docs/performance.md.

Three storage nodes (``faults.field``), a volume of two legs and one writer, round after round: the remote leg's disk is
pulled, put back (the leg catches up), pulled again with a spare to take its place (a full rebuild). Beside each full
rebuild stands what the same path carries when nothing but ``dd`` uses it.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.figures import Figures, described, host, replace_section

from faults import blocks
from faults.field import NAMES, Field, Object
from faults.volume import Volume
from lab import kernels
from lab.progress import say
from millpond_core import names
from millpond_core.units import MIB

ROOT = Path(__file__).resolve().parents[1]
VOLUME_MIB = 128
DIRTY = 0.01
"""The part of the volume's blocks that is written while a leg is away."""
SOON_SECONDS = 300.0
NOTES = (
    "",
    "Times run from the pulled or returned disk until the record says so, looked at four times a second. The writer",
    "makes 60 random writes of 4 KiB a second, each acknowledged by its fsync. During a full rebuild it is quiet, so",
    "that the rebuild is compared with `dd` (direct, 1 MiB at a time) over the same path with nothing else on it.",
    "",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written."""
    parser = argparse.ArgumentParser(prog="bench.recovery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args(argv)
    figures = Figures()
    with Field(arguments.kernel) as field:
        release = field.run(NAMES[0], "uname", "-r").strip()
        bench = Bench(field, figures)
        for run in range(1, arguments.runs + 1):
            say(f"run {run} of {arguments.runs}")
            bench.run()
    machine = {"kernel": release, "host": host(), "runs": str(arguments.runs)}
    told = described(machine, f"make bench-recovery KERNEL={arguments.kernel}", NOTES)
    path = ROOT / "docs" / "performance.md"
    content = f"## A lost leg, kernel {arguments.kernel}\n\n{told}\n{figures.table()}"
    replace_section(path, f"recovery-{arguments.kernel}", content, "# Performance\n")
    print(f"\n{figures.table()}\n\nwritten to {path}")
    return 0


class Bench:
    """One volume on a field, whole and written to before and after each run."""

    def __init__(self, field: Field, figures: Figures) -> None:
        self.field, self.figures = field, figures
        self.volume = Volume(field, "bench", mib=VOLUME_MIB, grace=3600)
        self.volume.attach(NAMES[0], seconds=SOON_SECONDS)
        self.volume.begin(NAMES[0])

    def run(self) -> None:
        """Lose a leg, get it back, lose it for good; then compare the legs."""
        self.volume.writes(seconds=SOON_SECONDS, more=100)
        self._lost_and_back()
        self._replaced()
        self._check()

    def _lost_and_back(self) -> None:
        leg = self._remote("InSync")
        node, disk = leg["node"], leg["extents"][0]["device"]
        self.volume.ledger.gap()
        began = time.monotonic()
        self.field.unplug(node, disk)
        seen = self._until(lambda: self.field.get("storagedevices", disk)["status"].get("phase") == "Failed", began)
        degraded = self._until(lambda: bool(self.volume.legs("Stale")), began)
        dirty = int(DIRTY * VOLUME_MIB * MIB / blocks.BLOCK)
        self.volume.writes(seconds=SOON_SECONDS, more=dirty)
        gap = self.volume.ledger.gap()
        self.figures.add("disk pulled → its failure in the record", seen, "s")
        self.figures.add("disk pulled → its leg recorded Stale, writes go on", degraded, "s")
        self.figures.add("longest pause between two acknowledged writes", gap, "s")
        began = time.monotonic()
        self.field.plug(node, disk)
        taken = self._until(lambda: not self.volume.legs("Stale"), began)
        whole = self._until(lambda: len(self.volume.legs("InSync")) == 2, began)
        self.figures.add("disk back → its leg taken in again", taken, "s")
        self.figures.add(
            f"from there to in sync ({DIRTY:.0%} of the blocks written meanwhile, at random)", whole - taken, "s"
        )

    def _replaced(self) -> None:
        self._settled()
        self.volume.end()
        leg = self._remote("InSync")
        rate = self._path_rate(leg["id"])
        self.figures.add("the path to a remote leg, read by dd", rate, "MiB/s")
        self._policy(grace=0)
        self.field.unplug(leg["node"], leg["extents"][0]["device"])
        self._until(lambda: bool(self.volume.legs("Rebuilding")), 0.0)
        began = time.monotonic()
        took = self._until(lambda: len(self.volume.legs("InSync")) == 2, began)
        self.figures.add(f"full rebuild of {VOLUME_MIB} MiB", took, "s")
        self.figures.add("full rebuild against dd", VOLUME_MIB / took / rate, "of dd's rate")
        self._policy(grace=3600)
        self.field.plug_all()
        self._settled()

    def _check(self) -> None:
        """The legs byte by byte: a fast rebuild that copied the wrong thing is none. The writer is quiet until then."""
        if found := self.volume.check():
            raise SystemExit(f"the legs are not what they should be: {'; '.join(found)}")
        self.volume.begin(NAMES[0])

    def _remote(self, state: str) -> Object:
        return next(leg for leg in self.volume.legs(state) if leg["node"] != self.volume.node())

    def _policy(self, *, grace: int) -> None:
        self.field.merge("virtualvolumes", self.volume.name, {"spec": {"onFailure": {"gracePeriodSeconds": grace}}})

    def _path_rate(self, leg: str) -> float:
        """MiB/s."""
        device = f"/dev/mapper/{names.path(self.volume.uuid, leg)}"
        dd = f"dd if={device} of=/dev/null bs=1M count={VOLUME_MIB} iflag=direct 2>&1"
        told = self.field.run(NAMES[0], "sh", "-c", f"LANG=C {dd}", seconds=SOON_SECONDS)
        found = re.search(r"(\d+) bytes.* ([\d.e-]+) s,", told)
        if found is None:
            raise SystemExit(f"dd says {told!r}")
        return int(found[1]) / MIB / float(found[2])

    def _settled(self) -> None:
        self.volume.wait(self.volume.not_whole, "it is whole", seconds=SOON_SECONDS)

    def _until(self, condition: Callable[[], bool], began: float) -> float:
        """Seconds since ``began`` when ``condition`` holds, looked at four times a second."""
        self.volume.wait(lambda: "" if condition() else "not yet", "the record says so", seconds=SOON_SECONDS)
        return time.monotonic() - began


if __name__ == "__main__":
    raise SystemExit(main())
