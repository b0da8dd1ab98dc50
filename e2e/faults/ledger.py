"""What a writer was told, and whether a leg holds to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from faults import blocks


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
    highest: int = 0
    longest_gap: float = 0.0
    """Longest time between two acknowledgements of one writer, in seconds."""
    _last: float = 0.0
    _rest: bytes = b""

    def starts(self) -> None:
        """A writer starts: what an earlier one left unfinished is begun, nothing more."""
        self._rest, self._last = b"", time.monotonic()

    def feed(self, data: bytes) -> None:
        """Bytes of its output, cut anywhere; a line that never ends says nothing."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode())

    def _line(self, line: str) -> None:
        kind, *numbers = line.split()
        block, sequence = int(numbers[0]), int(numbers[1])
        if kind == "W":
            self.begun.setdefault(block, set()).add(sequence)
            self.highest = max(self.highest, sequence)
        elif kind == "A":
            self.acknowledged[block] = sequence
            self.begun[block] = {other for other in self.begun[block] if other > sequence}
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
