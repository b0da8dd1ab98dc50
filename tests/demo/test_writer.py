"""The writer's verdict must be able to fail: each kind of damage is done once and must be named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import writer
from demo.writer import RECORD_BYTES, Acks, verify

SCRIPT = Path(writer.__file__)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Acks]:
    """A target with some hundred records, written by the real program, and its acknowledgements."""
    target = tmp_path / "records"
    process = start(target, tmp_path / "acks", "--records", "300")
    acks = wait_for(tmp_path / "acks", 300)
    finish(process)
    return target, acks


def start(target: Path, acks: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, str(SCRIPT), "write", str(target), "--acks", str(acks), *options]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[dict[str, int]]:
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def read(folder: Path) -> Acks:
    with (folder / "acks").open() as lines:
        return Acks.parse(lines)


def wait_for(folder: Path, count: int) -> Acks:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (folder / "acks").exists() and len((acks := read(folder)).digests) >= count:
            return acks
        time.sleep(0.05)
    raise AssertionError(f"fewer than {count} records after 30 s")


def overwrite(target: Path, number: int, data: bytes) -> None:
    with target.open("r+b") as handle:
        handle.seek(number * RECORD_BYTES)
        handle.write(data)


def test_everything_acknowledged_is_there(written: tuple[Path, Acks]) -> None:
    target, acks = written
    verdict = verify(target, acks)
    assert (verdict.checked, verdict.lost, verdict.wrong) == (300, 0, 0)


def test_one_flipped_bit_is_wrong(written: tuple[Path, Acks]) -> None:
    target, acks = written
    data = bytearray(target.read_bytes()[7 * RECORD_BYTES : 8 * RECORD_BYTES])
    data[2000] ^= 1
    overwrite(target, 7, bytes(data))
    verdict = verify(target, acks)
    assert (verdict.lost, verdict.wrong) == (0, 1)
    assert verdict.examples == ["record 7 is wrong: record 7, checksum wrong"]


def test_a_sound_record_that_was_never_acknowledged_is_wrong(written: tuple[Path, Acks]) -> None:
    """What a stale leg would give back: self-consistent, but not the last word."""
    target, acks = written
    overwrite(target, 9, writer.make_record(9))
    verdict = verify(target, acks)
    assert (verdict.lost, verdict.wrong) == (0, 1)
    assert "not what was acknowledged" in verdict.examples[0]


def test_another_record_in_its_place_is_wrong(written: tuple[Path, Acks]) -> None:
    target, acks = written
    overwrite(target, 9, target.read_bytes()[:RECORD_BYTES])
    assert verify(target, acks).wrong == 1


def test_a_truncated_file_has_lost_its_end(written: tuple[Path, Acks]) -> None:
    target, acks = written
    os.truncate(target, 250 * RECORD_BYTES + 100)
    verdict = verify(target, acks)
    assert (verdict.checked, verdict.lost, verdict.wrong) == (300, 50, 0)
    assert len(verdict.examples) == writer.EXAMPLES


def test_zeros_are_lost(written: tuple[Path, Acks]) -> None:
    target, acks = written
    overwrite(target, 100, bytes(2 * RECORD_BYTES))
    verdict = verify(target, acks)
    assert (verdict.lost, verdict.wrong) == (2, 0)


def test_a_failed_read_is_lost_and_does_not_take_its_neighbours(
    written: tuple[Path, Acks], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, acks = written
    honest = os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= 20 * RECORD_BYTES < offset + len(buffers[0]):
            raise OSError(5, "Input/output error")
        return honest(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    verdict = verify(target, acks)
    assert (verdict.checked, verdict.lost, verdict.wrong) == (300, 1, 0)
    assert verdict.examples == ["record 20 is lost: reading failed (Input/output error)"]


def test_the_command_line_says_so(written: tuple[Path, Acks]) -> None:
    target, _ = written
    lines = (target.parent / "acks" / "acks").read_bytes()
    good = command_line(target, lines)
    assert (good.returncode, json.loads(good.stdout)["checked"]) == (0, 300)
    os.truncate(target, 0)
    bad = command_line(target, lines)
    assert (bad.returncode, json.loads(bad.stdout)["lost"]) == (1, 300)


def command_line(target: Path, acks: bytes) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, str(SCRIPT), "verify", str(target)]
    return subprocess.run(argv, input=acks, capture_output=True, check=False, timeout=30)


def test_errors_are_not_acknowledged(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    process = start(Path("/dev/full"), tmp_path)
    time.sleep(1.5)
    reports = finish(process)
    acks = read(tmp_path)
    assert not acks.digests
    assert acks.errors > 0
    assert reports[-1]["errors"] == acks.errors


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    process = start(tmp_path / "records", tmp_path / "acks", "--rate", "200")
    try:
        wait_for(tmp_path / "acks", 5)
        yield tmp_path
    finally:
        finish(process)


def test_a_pause_means_that_nothing_is_in_flight(running: Path) -> None:
    assert writer.main(["pause", "--acks", str(running / "acks")]) == 0
    before = (running / "records").read_bytes()
    time.sleep(0.5)
    assert (running / "records").read_bytes() == before
    count = len(read(running / "acks").digests)
    assert writer.main(["resume", "--acks", str(running / "acks")]) == 0
    acks = wait_for(running / "acks", count + 20)
    assert [kind for kind, _ in acks.times if kind != "A"] == ["P", "R"]
    assert acks.longest_gap_ms() < 450, "the pause must not count as a gap"


@pytest.mark.parametrize(
    ("lines", "longest"),
    [
        pytest.param(["A 0 x 1000000", "A 1 x 4000000"], 3.0, id="between two acknowledgements"),
        pytest.param(["A 0 x 1000000", "P 2000000", "R 90000000", "A 1 x 91000000"], 1.0, id="a pause does not count"),
        pytest.param(["A 1 x 9000000", "A 0 x 1000000", "A 2 x 9500000"], 8.0, id="whatever the order of the lines"),
        pytest.param([], 0.0, id="nothing"),
    ],
)
def test_longest_gap(lines: list[str], longest: float) -> None:
    assert Acks.parse(f"{line}\n" for line in lines).longest_gap_ms() == longest


def test_longest_gap_within_a_span() -> None:
    acks = Acks.parse(f"A {n} x {when}000000\n" for n, when in enumerate([1, 50, 52, 60, 200]))
    assert acks.longest_gap_ms() == 140
    assert acks.longest_gap_ms(51_000_000, 70_000_000) == 8


def test_a_torn_last_line_is_ignored_and_nonsense_is_not() -> None:
    assert len(Acks.parse(["A 0 x 1\n", "A 1 x"]).digests) == 1
    with pytest.raises(ValueError, match="not a line"):
        Acks.parse(["B 0\n"])
