"""What the demo cannot get over: what happened, what to do next."""

from __future__ import annotations


class DemoError(Exception):
    """A sentence for people, and the next step."""

    def __init__(self, what: str, *, next_step: str = "") -> None:
        self.what, self.next_step = what, next_step
        super().__init__(what + (f"\n  next: {next_step}" if next_step else ""))
