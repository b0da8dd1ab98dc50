"""Writes numbered, checksummed records and keeps apart which of them were acknowledged; reads them back.

Runs in a pod that has nothing but python3, hence one file and the standard library. ``TARGET`` is a file on a mounted
volume or a raw block device. Record *n* lies at byte ``n * 4096``. A record counts as acknowledged once ``fsync`` has
returned after its write; that is noted in a folder which must not lie on the volume under test, with the time.

    writer.py write TARGET --acks FOLDER     until SIGTERM; one line of JSON a second on standard output
    writer.py pause --acks FOLDER            returns when no write is in flight; ``resume`` goes on
    writer.py verify TARGET < acks           one line of JSON; exit status 1 if anything was lost or wrong

Lines of the list of acknowledgements (times are nanoseconds since the epoch, by a clock that never jumps):

    A <number> <sha256 of the record> <time>    acknowledged
    E <number> <errno> <time>                   answered with an error: not acknowledged, nothing is promised
    P <time>, R <time>                          paused and resumed on purpose
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import mmap
import os
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RECORD_BYTES = 4096
MAGIC = b"millpond"
_HEAD = struct.Struct(">8sQ")
CHUNK_BYTES = 1 << 20
PAUSE_SECONDS = 60.0
EXAMPLES = 10


def make_record(number: int) -> bytes:
    """Record ``number``: magic, number, random bytes, and the SHA-256 of all that."""
    head = _HEAD.pack(MAGIC, number)
    body = head + os.urandom(RECORD_BYTES - len(head) - 32)
    return body + hashlib.sha256(body).digest()


# --- the list of acknowledgements ------------------------------------------------------------------------------------


@dataclass
class Acks:
    """What a list of acknowledgements says."""

    digests: dict[int, str] = field(default_factory=dict)
    """SHA-256 of each acknowledged record, by number."""
    times: list[tuple[str, int]] = field(default_factory=list)
    """(A, P or R, time in ns), in order."""
    errors: int = 0

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Acks:
        """Raises ValueError that names a line which makes no sense; a torn last line (no newline) is ignored."""
        acks = cls()
        for line in lines:
            if not line.endswith("\n"):
                break
            match line.split():
                case ["A", number, digest, when]:
                    acks.digests[int(number)] = digest
                    acks.times.append(("A", int(when)))
                case ["E", _, _, _]:
                    acks.errors += 1
                case [("P" | "R") as kind, when]:
                    acks.times.append((kind, int(when)))
                case _:
                    raise ValueError(f"not a line of acknowledgements: {line!r}")
        acks.times.sort(key=lambda entry: entry[1])
        return acks

    def longest_gap_ms(self, since_ns: int = 0, until_ns: int | None = None) -> float:
        """The longest time without any acknowledgement within a span, pauses on purpose excluded."""
        longest, last, paused = 0, None, False
        for kind, when in self.times:
            if when < since_ns or (until_ns is not None and when > until_ns):
                last = when if when < since_ns else last
                continue
            if last is not None and not paused:
                longest = max(longest, when - last)
            last, paused = when, (kind == "P" or (paused and kind != "R"))
        return longest / 1e6


# --- writing ---------------------------------------------------------------------------------------------------------


class Writer:
    """``threads`` writers of one target, at most ``rate`` records a second together (0: as fast as it goes)."""

    def __init__(self, target: Path, folder: Path, *, threads: int, rate: float, records: int) -> None:
        self._target, self._records, self._threads = target, records, threads
        self._pause = folder / "pause"
        self._paused = folder / "paused"
        self._log = os.open(folder / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._interval = threads / rate if rate > 0 else 0.0
        self._offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._lock = threading.Lock()
        self._idle = 0
        self._next = 0
        self.stop = threading.Event()
        self.acknowledged = self.errors = 0

    def run(self) -> None:
        """Write until ``stop`` or the last record; reports every second."""
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self._threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) and not self.stop.wait(1):
            self._report()
        for worker in workers:
            worker.join(timeout=5)  # one that hangs in a write is left: it acknowledges nothing
        self._report()

    def _report(self) -> None:
        counts = {"acknowledged": self.acknowledged, "errors": self.errors, "time_ns": self._now()}
        print(json.dumps(counts), flush=True)

    def _now(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._offset

    def _note(self, line: str) -> None:
        os.write(self._log, f"{line} {self._now()}\n".encode())

    def _work(self) -> None:
        buffer = mmap.mmap(-1, RECORD_BYTES)
        target: int | None = None
        due = time.monotonic()
        while not self.stop.is_set():
            self._wait_while_paused()
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= self._records:
                return
            record = make_record(number)
            buffer[:] = record
            try:
                if target is None:
                    target = open_direct(self._target, os.O_WRONLY | os.O_CREAT)
                written = os.pwritev(target, [buffer], number * RECORD_BYTES)
                if written != RECORD_BYTES:
                    raise OSError(errno.ENOSPC, f"{written} of {RECORD_BYTES} bytes written")
                os.fsync(target)
            except OSError as error:
                self._failed(number, error, target)
                target = None
                continue
            digest = hashlib.sha256(record).hexdigest()
            with self._lock:
                self._note(f"A {number} {digest}")
                self.acknowledged += 1
            due = max(due + self._interval, time.monotonic())
            self.stop.wait(due - time.monotonic())

    def _failed(self, number: int, error: OSError, target: int | None) -> None:
        """An I/O error: nothing is promised of this record; go on with the next one, on a new descriptor."""
        with self._lock:
            self._note(f"E {number} {error.errno or 0}")
            self.errors += 1
        if target is not None:
            with suppress(OSError):  # it was said already
                os.close(target)
        self.stop.wait(0.5)

    def _wait_while_paused(self) -> None:
        if not self._pause.exists():
            return
        with self._lock:
            self._idle += 1
            if self._idle == self._threads:
                self._note("P")
                self._paused.touch()
        while self._pause.exists() and not self.stop.wait(0.1):
            pass
        with self._lock:
            if self._idle == self._threads:
                self._paused.unlink(missing_ok=True)
                self._note("R")
            self._idle -= 1


def open_direct(path: Path, flags: int) -> int:
    """Open past the page cache where the file system can; elsewhere plainly (fsync is what counts)."""
    try:
        return os.open(path, flags | os.O_DIRECT, 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o644)


# --- reading back ----------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What became of the acknowledged records."""

    checked: int = 0
    lost: int = 0
    """Nothing there: end of file, zeros, or the read failed."""
    wrong: int = 0
    """Something there, but not what was acknowledged."""
    examples: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.lost and not self.wrong

    def judge(self, number: int, digest: str, data: bytes, problem: str = "") -> None:
        """Count acknowledged record ``number`` as good, lost or wrong by the ``data`` read in its place."""
        self.checked += 1
        if len(data) == RECORD_BYTES and hashlib.sha256(data).hexdigest() == digest:
            return
        if len(data) < RECORD_BYTES or not any(data):
            self.lost += 1
            said = problem or ("end of file" if len(data) < RECORD_BYTES else "zeros")
            self._example(f"record {number} is lost: {said}")
        else:
            self.wrong += 1
            self._example(f"record {number} is wrong: {_what(data)}")

    def _example(self, text: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)


def _what(data: bytes) -> str:
    magic, number = _HEAD.unpack_from(data)
    if magic != MAGIC:
        return "bytes that are no record"
    sound = hashlib.sha256(data[:-32]).digest() == data[-32:]
    return f"record {number}, " + ("its checksum right, but not what was acknowledged" if sound else "checksum wrong")


def verify(target: Path, acks: Acks) -> Verdict:
    """Read every acknowledged record back, past the page cache, and judge it."""
    verdict = Verdict()
    descriptor = open_direct(target, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for first, numbers in _chunks(sorted(acks.digests)):
            data, problem = _read(descriptor, first * RECORD_BYTES, CHUNK_BYTES)
            for number in numbers:
                at = (number - first) * RECORD_BYTES
                piece, why = data[at : at + RECORD_BYTES], ""
                if problem:  # one bad block must not take its neighbours' names
                    piece, why = _read(descriptor, number * RECORD_BYTES, RECORD_BYTES)
                verdict.judge(number, acks.digests[number], piece, why)
    finally:
        os.close(descriptor)
    return verdict


def _chunks(numbers: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Sorted record numbers by the chunk of the target in which they lie: (first number of it, those wanted)."""
    per_chunk = CHUNK_BYTES // RECORD_BYTES
    group: list[int] = []
    for number in numbers:
        if group and group[0] // per_chunk != number // per_chunk:
            yield group[0] // per_chunk * per_chunk, group
            group = []
        group.append(number)
    if group:
        yield group[0] // per_chunk * per_chunk, group


def _read(descriptor: int, offset: int, size: int) -> tuple[bytes, str]:
    """The bytes there (fewer at the end), and what went wrong."""
    buffer = mmap.mmap(-1, size)
    done = 0
    while done < size:
        try:
            count = os.preadv(descriptor, [memoryview(buffer)[done:]], offset + done)
        except OSError as error:
            return buffer[:done], f"reading failed ({error.strerror})"
        done += count
        if count == 0 or done % RECORD_BYTES:
            break
    return buffer[:done], ""


# --- command line ----------------------------------------------------------------------------------------------------


def _write(arguments: argparse.Namespace) -> int:
    target: Path = arguments.target
    arguments.acks.mkdir(parents=True, exist_ok=True)
    records = arguments.records
    if target.exists() and stat.S_ISBLK(target.stat().st_mode):
        with target.open("rb") as device:
            records = min(records, device.seek(0, os.SEEK_END) // RECORD_BYTES)
    writer = Writer(target, arguments.acks, threads=arguments.threads, rate=arguments.rate, records=records)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: writer.stop.set())
    writer.run()
    if not writer.stop.is_set():
        print(json.dumps({"full": records}), flush=True)
        writer.stop.wait()  # the pod stays, so that it can verify
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.acks
    (folder / "pause").touch()
    return _until((folder / "paused").exists, "the writer has not become still")


def _resume(arguments: argparse.Namespace) -> int:
    (arguments.acks / "pause").unlink(missing_ok=True)
    return _until(lambda: not (arguments.acks / "paused").exists(), "the writer has not gone on")


def _until(done: Callable[[], bool], otherwise: str) -> int:
    deadline = time.monotonic() + PAUSE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            print(f"{otherwise} after {PAUSE_SECONDS:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.05)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    verdict = verify(arguments.target, Acks.parse(sys.stdin))
    print(json.dumps(vars(verdict)))
    return 0 if verdict.good else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    write = commands.add_parser("write")
    write.add_argument("target", type=Path)
    write.add_argument("--threads", type=int, default=4, help="writes in flight at the same time")
    write.add_argument("--rate", type=float, default=0, help="records a second at most, 0: no limit")
    write.add_argument("--records", type=int, default=1 << 40, help="stop after so many")
    write.set_defaults(run=_write)
    for name, run in (("pause", _pause), ("resume", _resume)):
        commands.add_parser(name).set_defaults(run=run)
    for name in ("write", "pause", "resume"):
        commands.choices[name].add_argument("--acks", type=Path, required=True, help="folder, not on the volume")
    check = commands.add_parser("verify")
    check.add_argument("target", type=Path)
    check.set_defaults(run=_verify)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
