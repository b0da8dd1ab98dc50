"""The one exception that the lab raises for things a person can act on."""

from __future__ import annotations

from pathlib import Path


class LabError(Exception):
    """Something the lab needs did not work: what happened, what to do next, and where the details are."""

    def __init__(self, what: str, *, next_step: str = "", log: Path | None = None) -> None:
        self.what = what
        self.next_step = next_step
        self.log = log
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        if self.log is not None:
            lines.append(f"  log:  {self.log}")
        return "\n".join(lines)


class Ended(LabError):
    """Something that was to be waited for is gone: waiting longer is no use."""
