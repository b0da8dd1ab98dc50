"""What a writer was told, and whether a leg holds to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from faults import blocks

PER_WRITER = 1_000_000
"""Sequence numbers that one writer may use."""


@dataclass
class Ledger:
    """Fed with the lines of ``blocks``; times are the host's."""

    volume: bytes
    blocks: int
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Block → the highest sequence number that was acknowledged."""
    begun: dict[int, set[int]] = field(default_factory=dict)
    """Block → writes begun after that, which may be there or not."""
    count: int = 0
    errors: int = 0
    longest_gap: float = 0.0
    """Longest time between two acknowledgements of one writer, in seconds."""
    _last: float = 0.0
    _writers: int = 0

    def hear(self) -> tuple[int, Callable[[bytes], None]]:
        """A writer starts: its first sequence number, and what takes its output, in bytes cut anywhere.

        Numbers are beyond all that an earlier one may have used unheard. A line that never ends says nothing.
        """
        self._writers += 1
        self._last, rest = time.monotonic(), b""

        def feed(data: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line.decode())

        return self._writers * PER_WRITER, feed

    def _line(self, line: str) -> None:
        kind, *numbers = line.split()
        block, sequence = int(numbers[0]), int(numbers[1])
        if kind == "W":
            self.begun.setdefault(block, set()).add(sequence)
        elif kind == "A":
            # A writer that was cut off may be heard after the next one has begun.
            promised = self.acknowledged[block] = max(sequence, self.acknowledged.get(block, 0))
            self.begun[block] = {other for other in self.begun[block] if other > promised}
            self.count += 1
            now = time.monotonic()
            self.longest_gap, self._last = max(self.longest_gap, now - self._last), now
        else:
            self.errors += 1

    def gap(self) -> float:
        """The longest gap since this was asked last."""
        longest, self.longest_gap = self.longest_gap, 0.0
        return longest

    def faults(self, start: int, content: bytes) -> Iterator[str]:
        """What is lost or wrong in ``content``, which begins at block ``start``, in words; nobody may be writing."""
        for at in range(0, len(content), blocks.BLOCK):
            block = start + at // blocks.BLOCK
            promised = self.acknowledged.get(block, 0)
            found = blocks.read(self.volume, block, content[at : at + blocks.BLOCK])
            if found is None:
                yield f"wrong: block {block} is not what any write left there (acknowledged: {promised})"
            elif found < promised:
                yield f"lost: block {block} has write {found}, acknowledged was {promised}"
            elif found != promised and found not in self.begun.get(block, ()):
                yield f"wrong: block {block} has write {found}, which was not begun after {promised}"
