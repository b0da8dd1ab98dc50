"""What is asked of a block device, and how it ends."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["ok", "error", "held", "unreadable"]
"""``unreadable``: an error that is not the path's, so a gate lets it through."""


class Request:
    """What is asked of a block device."""

    def __init__(self, verb: Literal["read", "write", "fua", "flush"], sector: int = 0, value: int = 0) -> None:
        self.verb, self.sector, self.value = verb, sector, value

    def at(self, sector: int) -> Request:
        moved = Request(self.verb, sector, self.value)
        moved._origin = self._origin or self
        return moved

    _origin: Request | None = None

    def answer(self, value: int) -> None:
        (self._origin or self).value = value
