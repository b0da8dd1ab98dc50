"""The figures of one run, and whether it was good."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

ENOUGH = 1_000


@dataclass
class Report:
    """What ``build/demo/report.json`` says. Times in ms or s as named; -1: never got so far."""

    kernel: str = ""
    kubernetes: str = ""
    millpond: str = ""
    records_acknowledged: int = 0
    records_lost: int = -1
    """Acknowledged, but not to be read back: the worst of all readings."""
    records_wrong: int = -1
    """Acknowledged, but read back as something else."""
    records_refused: int = 0
    """Answered with an error, hence never promised."""
    detected_ms: float = -1
    """From pulling the disk to the state manager's word in the database, by the watcher's clock."""
    quiesced_ms: float = -1
    """From the instruction to the last acknowledgement, by the master's clock."""
    held_ms: float = -1
    """Longest time that the attach node held a write, by its own report."""
    longest_write_gap_ms: float = -1
    """Longest time without an acknowledged record, by the pod's clock, over both failures."""
    rebuild_seconds: float = -1
    """From the new generation to in sync."""
    generation_before: int = 0
    generation_after: int = 0
    compared_bytes: int = 0
    """Of each leg, in the disks' own bytes."""
    differing_stretches: int = -1
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of the run."""
    problems: list[str] = field(default_factory=list)
    """Examples of what was lost or wrong, and what stopped the run."""

    def verdict(self) -> list[str]:
        """Why the run was not good; empty: it was."""
        faults = list(self.problems)
        if self.records_acknowledged < ENOUGH:
            faults.append(f"only {self.records_acknowledged} records were acknowledged, at least {ENOUGH} are wanted")
        for name in ("records_lost", "records_wrong", "differing_stretches"):
            count = getattr(self, name)
            if count < 0:
                faults.append(f"{name.replace('_', ' ')}: it was never checked")
            elif count > 0:
                faults.append(f"{name.replace('_', ' ')}: {count}")
        if not self.generation_after > self.generation_before > 0:
            faults.append(f"the mapping went from generation {self.generation_before} to {self.generation_after}")
        return faults

    def count(self, verdict: dict[str, int | list[str]]) -> None:
        """Take in what one reading back has found; the worst of several counts."""
        checked, lost, wrong = (int(verdict[name]) for name in ("checked", "lost", "wrong"))  # type: ignore[arg-type]
        unread = max(0, self.records_acknowledged - checked)
        if unread:
            self.problems.append(f"{unread} acknowledged records were not read back")
        self.records_lost = max(self.records_lost, lost)
        self.records_wrong = max(self.records_wrong, wrong)
        self.problems += [str(text) for text in verdict["examples"]]  # type: ignore[union-attr]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(self), "good": not self.verdict()}, indent=2) + "\n")
