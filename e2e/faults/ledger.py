"""What a writer was told, and whether a leg holds to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from faults import blocks

PER_WRITER = 1_000_000
"""Sequence numbers that one writer may use."""
STEP = 256
"""Blocks that are read at once."""
AGAIN = 20
"""How often a block that is half written is read again, and with which pause."""
PAUSE_SECONDS = 0.05

Read = Callable[[int, int], bytes]
"""Gives so many blocks of a leg from a block on, as they are now."""


@dataclass
class Ledger:
    """Fed with the lines of ``blocks``, which count once however often they are heard; times are the host's."""

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
    _said: dict[tuple[int, int], int] = field(default_factory=dict)
    """Writer, thread → its last write that was heard to begin."""
    _cut_short: set[int] = field(default_factory=set)
    """Writers whose last words nobody will ever hear."""
    _answered: set[int] = field(default_factory=set)
    """Sequence numbers of the writes whose answer was heard."""
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

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
                self._line(line.decode(), now=time.monotonic())

        return self._writers * PER_WRITER, feed

    def read(self, own: str) -> int:
        """A writer's own list, of one that has ended; how many acknowledgements nobody had heard.

        They count as the others do, but as nobody knows when they came, for no gap.
        """
        *lines, _ = own.split("\n")
        return sum(self._line(line, now=None) for line in lines)

    def cut_short(self, first: int) -> None:
        """The writer that began with this number lost its node's power: what it began last may be heard of nowhere, and
        may be on the disks all the same.
        """
        self._cut_short.add(first // PER_WRITER)

    def _unheard(self, block: int, sequence: int) -> bool:
        """Whether it may be one of those last writes: beyond all that its thread was heard to begin."""
        writer, thread = sequence // PER_WRITER, sequence % blocks.THREADS
        beyond = sequence > self._said.get((writer, thread), 0)
        return writer in self._cut_short and beyond and block % blocks.THREADS == thread

    def _line(self, line: str, *, now: float | None) -> bool:
        """Whether it is an acknowledgement that was not heard before; ``now``: when it came, if anybody knows."""
        with self._one_at_a_time:  # the last words of a pod may come while the next one writes
            return self._take(line, now)

    def _take(self, line: str, now: float | None) -> bool:
        kind, *numbers = line.split()
        block, sequence = int(numbers[0]), int(numbers[1])
        writer, thread = sequence // PER_WRITER, sequence % blocks.THREADS
        self._said[writer, thread] = max(sequence, self._said.get((writer, thread), 0))
        if sequence in self._answered:
            return False
        if kind == "W":
            if sequence > self.acknowledged.get(block, 0):
                self.begun.setdefault(block, set()).add(sequence)
            return False
        self._answered.add(sequence)
        if kind == "E":
            self.errors += 1
            return False
        # A writer that was cut off may be heard after the next one has begun.
        promised = self.acknowledged[block] = max(sequence, self.acknowledged.get(block, 0))
        self.begun[block] = {other for other in self.begun.get(block, ()) if other > promised}
        self.count += 1
        if now is not None:
            self.longest_gap, self._last = max(self.longest_gap, now - self._last), now
        return True

    def gap(self) -> float:
        """The longest gap since this was asked last."""
        longest, self.longest_gap = self.longest_gap, 0.0
        return longest

    def promised(self) -> dict[int, int]:
        """What has been acknowledged by now, block → sequence number: a copy, while writers go on."""
        return dict(self.acknowledged)

    def lacks(self, promised: Mapping[int, int], read: Read) -> Iterator[str]:
        """What a leg lacks of what was ``promised``, in words; others may be writing.

        A block may have what was promised or anything newer: a write begun since is nobody's fault, whether it has been
        heard of or not. One that is read while it is written is read again. If it stays torn, a write that was begun
        and never answered may have ended half-way with its node's power, which a disk is free to do.
        """
        for start in range(0, self.blocks, STEP):
            wanted = [block for block in range(start, min(start + STEP, self.blocks)) if promised.get(block)]
            if not wanted:
                continue
            content = read(start, min(STEP, self.blocks - start))
            for block in wanted:
                at = (block - start) * blocks.BLOCK
                yield from self._lacks(block, promised[block], content[at : at + blocks.BLOCK], read)

    def _lacks(self, block: int, promised: int, content: bytes, read: Read) -> Iterator[str]:
        found = blocks.read(self.volume, block, content)
        for _ in range(AGAIN):
            if found is not None:
                break
            time.sleep(PAUSE_SECONDS)
            found = blocks.read(self.volume, block, read(block, 1))
        if found is None and not self.begun.get(block):
            yield f"write {promised} of block {block}: what is there no write left there"
        elif found is not None and found < promised:
            yield f"write {promised} of block {block}: it has write {found}"

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
            elif found != promised and found not in self.begun.get(block, ()) and not self._unheard(block, found):
                yield f"wrong: block {block} has write {found}, which was not begun after {promised}"
