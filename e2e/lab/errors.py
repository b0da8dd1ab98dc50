"""The one exception that the lab raises for things a person can act on."""

from __future__ import annotations

from pathlib import Path


class LabError(Exception):
    """Something the lab needs did not work: what happened, what to do next, and where the details are."""

    def __init__(self, what: str, *, next_step: str = "", log: Path | None = None) -> None:
        self.what = what
        self.next_step = next_step
        self.log = log
        self.tail = _tail(log)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        if self.log is not None:
            lines.append(f"  log:  {self.log}")
            lines += [f"      | {line}" for line in self.tail]
        return "\n".join(lines)


def _tail(log: Path | None, lines: int = 15) -> list[str]:
    """The end of the log, now: a lab that is taken down takes its logs along."""
    try:
        return log.read_text(errors="replace").splitlines()[-lines:] if log is not None else []
    except OSError:
        return []


class Ended(LabError):
    """Something that was to be waited for is gone: waiting longer is no use."""
