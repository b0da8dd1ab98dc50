"""The fault suite's own parts: what it draws, and what it takes for lost and wrong."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from faults import blocks, plan
from faults.kinds import KINDS
from faults.ledger import Ledger
from faults.phases import PHASES, rebuilt, short_of
from faults.report import Outcome
from faults.suite import Suite, interrupted
from lab.errors import LabError

VOLUME = bytes(range(16))


@pytest.fixture
def ledger() -> Ledger:
    """Block 1: write 5 acknowledged, 9 begun. Block 2: 6 begun. Block 3: 7 acknowledged."""
    made = Ledger(VOLUME, 8)
    _, hear = made.hear()
    for cut in (b"W 1 5\nA 1 5\nW 1 9\nW 2 6\nW 3 7\nE 3 7 5\nW 3 11\nA 3 ", b"11\nA 1 "):
        hear(cut)
    return made


def content(*sequences: int) -> bytes:
    return b"".join(
        blocks.make(VOLUME, block, sequence) if sequence else bytes(blocks.BLOCK)
        for block, sequence in enumerate(sequences)
    )


@pytest.mark.parametrize(
    ("sequences", "told"),
    [
        pytest.param((0, 5, 0, 11), [], id="what was acknowledged"),
        pytest.param((0, 9, 6, 11), [], id="what was begun may be there"),
        pytest.param((0, 0, 0, 11), ["lost: block 1"], id="nothing there"),
        pytest.param((0, 5, 0, 7), ["lost: block 3"], id="an older write, that of an error"),
        pytest.param((0, 10, 0, 11), ["wrong: block 1"], id="never begun"),
        pytest.param((4, 5, 0, 11), ["wrong: block 0"], id="where nothing was written"),
    ],
)
def test_a_leg_must_have_what_was_acknowledged(ledger: Ledger, sequences: tuple[int, ...], told: list[str]) -> None:
    found = list(ledger.faults(0, content(*sequences)))
    assert [each.partition(" has")[0].partition(" is")[0] for each in found] == told


def test_a_torn_or_misplaced_block_is_wrong(ledger: Ledger) -> None:
    good = content(0, 5, 0, 11)
    torn = good[: blocks.BLOCK + 2048] + bytes(2048) + good[2 * blocks.BLOCK :]
    assert next(ledger.faults(0, torn)).startswith("wrong: block 1")
    assert next(ledger.faults(1, good[3 * blocks.BLOCK :])).startswith("wrong: block 1")
    assert next(ledger.faults(1, os.urandom(blocks.BLOCK))).startswith("wrong: block 1")


def test_a_later_acknowledgement_settles_what_was_begun(ledger: Ledger) -> None:
    _, hear = ledger.hear()
    hear(b"W 1 13\nA 1 13\n")
    assert list(ledger.faults(1, content(0, 9)[blocks.BLOCK :])) == ["lost: block 1 has write 9, acknowledged was 13"]
    assert (ledger.count, ledger.errors) == (3, 1)


def test_a_writer_that_is_heard_late_takes_nothing_back(ledger: Ledger) -> None:
    early, late = ledger.hear()
    first, hear = ledger.hear()
    hear(f"W 1 {first}\nA 1 {first}\n".encode())
    late(f"W 1 {early}\nA 1 {early}\n".encode())
    assert first > early
    assert list(ledger.faults(1, content(0, first)[blocks.BLOCK :])) == []
    assert next(ledger.faults(1, content(0, early)[blocks.BLOCK :])).startswith("lost: block 1")


def test_what_a_writer_was_told_unheard_counts_as_well(ledger: Ledger) -> None:
    """Its own list has all lines, the last one perhaps cut; those that were heard count once."""
    unheard = ledger.read("W 1 5\nA 1 5\nW 1 9\nW 2 6\nW 3 7\nE 3 7 5\nW 3 11\nA 3 11\nA 1 9\nW 2 10\nA 2 1")
    assert (unheard, ledger.count, ledger.errors) == (1, 3, 1)
    assert list(ledger.faults(0, content(0, 9, 10, 11))) == []
    assert next(ledger.faults(0, content(0, 5, 0, 11))).startswith("lost: block 1")


def test_what_a_writer_without_power_began_last_may_be_heard_of_nowhere(ledger: Ledger) -> None:
    """Its lines go the same way as its power; one write of each thread is on its way to the disks."""
    first, hear = ledger.hear()
    hear(f"W 1 {first + 1}\nA 1 {first + 1}\nW 5 {first + 5}\nA 5 {first + 5}\nW 1 {first + 9}".encode())

    def wrong(block: int, sequence: int) -> bool:
        [*told] = ledger.faults(block, blocks.make(VOLUME, block, sequence))
        return [each.partition(" has")[0] for each in told] == [f"wrong: block {block}"]

    assert wrong(1, first + 9), "it has not ended"
    ledger.cut_short(first)
    assert not wrong(1, first + 9)
    assert not wrong(5, first + 13)
    assert wrong(1, first + 5), "that was begun elsewhere"
    assert wrong(1, first + 10), "that is another thread's"
    assert wrong(1, first + 1_000_009), "that is another writer's"


def test_nobody_knows_when_that_came(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.gap()
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)
    ledger.read("A 1 9\n")
    assert ledger.gap() == 0


def test_the_lines_of_a_writer_that_was_cut_off_may_come_after_the_list(ledger: Ledger) -> None:
    _, hear = ledger.hear()
    ledger.read("W 2 20\nA 2 20\n")
    hear(b"W 2 20\nA 2 20\n")
    assert (ledger.count, ledger.begun[2]) == (3, set())


def test_a_writer_says_everything_to_its_own_list_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, heard = tmp_path / "own", tmp_path / "heard"
    with own.open("wb") as first, heard.open("wb") as second:
        monkeypatch.setattr(blocks, "outputs", [first.fileno(), second.fileno()])
        blocks.say("W 1 5")
        blocks.say("A 1 5")
    assert own.read_text() == heard.read_text() == "W 1 5\nA 1 5\n"


def disk(*contents: bytes) -> Callable[[int, int], bytes]:
    """What a leg has each time that it is read; the last for ever."""
    left = list(contents)

    def read(start: int, count: int) -> bytes:
        now = left.pop(0) if len(left) > 1 else left[0]
        return now[start * blocks.BLOCK : (start + count) * blocks.BLOCK]

    return read


TORN = content(0, 5, 0, 11)[: blocks.BLOCK + 2048] + os.urandom(2048) + content(0, 5, 0, 11)[2 * blocks.BLOCK :]
"""Block 1 is."""


@pytest.mark.parametrize(
    ("sequences", "told"),
    [
        pytest.param((0, 5, 0, 11), [], id="what was acknowledged"),
        pytest.param((0, 9, 6, 15), [], id="newer writes, heard of or not"),
        pytest.param((4, 5, 0, 11), [], id="where nothing was acknowledged"),
        pytest.param((0, 4, 0, 11), ["write 5 of block 1: it has write 4"], id="an older write"),
        pytest.param((0, 5, 0, 0), ["write 11 of block 3: it has write 0"], id="nothing there"),
    ],
)
def test_while_a_fault_lasts_a_leg_in_sync_lacks_nothing_acknowledged(
    ledger: Ledger, sequences: tuple[int, ...], told: list[str]
) -> None:
    assert list(ledger.lacks(ledger.promised(), disk(content(*sequences)))) == told


def test_what_is_acknowledged_after_the_record_was_asked_is_not_looked_for(ledger: Ledger) -> None:
    promised = ledger.promised()
    _, hear = ledger.hear()
    hear(b"W 1 13\nA 1 13\n")
    assert list(ledger.lacks(promised, disk(content(0, 5, 0, 11)))) == []
    assert len(list(ledger.lacks(ledger.promised(), disk(content(0, 5, 0, 11))))) == 1


def test_a_block_read_while_it_is_written_is_read_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.ledger.PAUSE_SECONDS", 0.0)
    assert list(ledger.lacks(ledger.promised(), disk(TORN, TORN, content(0, 9, 0, 11)))) == []
    (told,) = ledger.lacks(ledger.promised(), disk(TORN, TORN, content(0, 4, 0, 11)))
    assert told.endswith("it has write 4")


def test_a_block_may_stay_torn_where_a_write_was_never_answered(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faults.ledger.PAUSE_SECONDS", 0.0)
    assert list(ledger.lacks(ledger.promised(), disk(TORN))) == []
    _, hear = ledger.hear()
    hear(b"A 1 9\n")
    (told,) = ledger.lacks(ledger.promised(), disk(TORN))
    assert told == "write 9 of block 1: what is there no write left there"


def test_a_fault_is_watched_until_nobody_answers_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, at growing distances, and at its end; what was found ends the looks and not the fault."""
    held: Answer = (2, [])
    stories: list[tuple[list[Answer], float, int, list[str]]] = [
        ([held] * 9, 8.0, 10, []),  # after 0.5, 1.5, 3.5, 7.5 and 8 seconds
        ([held] * 9, 0.0, 2, []),
        ([held, LabError("no answer")], 8.0, 2, []),
        ([(2, ["lost"])], 8.0, 2, ["lost"]),
    ]
    for answers, seconds, looked_at, found in stories:
        suite = watched(answers, monkeypatch)
        outcome, began = Outcome("", "", ""), time.monotonic()
        suite.watch(seconds, outcome)
        assert (outcome.legs_looked_at, outcome.violations) == (looked_at, found)
        assert time.monotonic() - began == seconds


Answer = tuple[int, list[str]] | LabError


def watched(answers: list[Answer], monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite without a field; its time is simulated."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def lacking() -> tuple[int, list[str]]:
        answer = answers.pop(0)
        if isinstance(answer, LabError):
            raise answer
        return answer

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    made = Suite.__new__(Suite)
    made.volume = SimpleNamespace(lacking=lacking)  # type: ignore[assignment]
    return made


def test_the_same_seed_draws_the_same_cases() -> None:
    first, again = plan.cases(7, 200), plan.cases(7, 200)
    assert list(map(str, first)) == list(map(str, again))
    assert list(map(str, plan.cases(8, 200))) != list(map(str, first))
    assert list(map(str, plan.cases(7, 30))) == list(map(str, first[:30]))


SEED_1 = "684de7458400ea8b5e17d608d04fc1bcea562295b62fb9e2d6a9971a8eb2fac0"
"""SHA-256 of its first 300 cases, as lines: those of docs/reliability.md."""


def test_a_seeds_cases_never_change() -> None:
    """What is added takes part from a later seed on: give it a ``since`` instead of changing this number."""
    assert hashlib.sha256("\n".join(map(str, plan.cases(1, 300))).encode()).hexdigest() == SEED_1


def test_every_kind_and_phase_has_its_turn() -> None:
    drawn = plan.cases(2, len(KINDS))
    assert {case.kind.name for case in drawn} == {kind.name for kind in KINDS}
    assert {case.phase.name for case in drawn} == {phase.name for phase in PHASES}
    assert len(KINDS) >= 20


@pytest.mark.parametrize(
    ("kind", "phase", "struck", "may"),
    [
        pytest.param("node without power", "writing", "n1", True, id="its own node"),
        pytest.param("node without power", "writing", "n2", False, id="another node"),
        pytest.param("disk pulled", "writing", "n1", False, id="the other copy serves it"),
        pytest.param("disk pulled", "degraded", "n2", True, id="there is no other copy"),
        pytest.param("operator killed", "writing", "", False, id="no node"),
    ],
)
def test_only_who_is_struck_may_notice(kind: str, phase: str, struck: str, may: bool) -> None:
    role = "plane" if not struck else "leg" if struck == "n2" else "attach"
    assert plan.one(kind, phase, role, 1.0).may_end_pods(struck, home="n1") is may


def test_what_was_noticed_is_told() -> None:
    assert interrupted(Outcome("", "", "")) == []
    told = interrupted(Outcome("", "", "", errors=3, pods_ended=1))
    assert [each.split()[1:3] for each in told] == [["1", "pods"], ["3", "errors"]]


def test_a_case_is_found_by_its_names() -> None:
    case = plan.one("disk pulled", "writing", "leg", 3)
    assert str(case) == "1. disk pulled (leg node) for 3 s while writing"
    with pytest.raises(KeyError, match="kinds: disk pulled"):
        plan.one("meteor", "writing", "leg", 3)
    with pytest.raises(KeyError, match="strikes leg, not 'attach'"):
        plan.one("host refused", "writing", "attach", 3)


@pytest.mark.parametrize(
    ("progress", "part"),
    [([], -1), ([{"leg": "c", "totalBytes": 100}], 0), ([{"leg": "c", "totalBytes": 100, "doneBytes": 50}], 0.5)],
)
def test_how_far_a_rebuild_is(progress: list[dict[str, object]], part: float) -> None:
    """A rebuild that has just begun has no ``doneBytes``: nought is left out of an object."""
    assert rebuilt({"nodes": [{"node": "n1"}, {"node": "n2", "progress": progress}]}) == part


@pytest.mark.parametrize(
    ("generation", "states", "done", "missing"),
    [
        pytest.param(4, ("InSync", "InSync"), None, "not dealt with", id="nobody has noticed the loss"),
        pytest.param(4, ("InSync", "Stale"), 50, "not dealt with", id="a report of the rebuild before"),
        pytest.param(5, ("InSync", "Rebuilding"), None, "too little", id="about to begin"),
        pytest.param(5, ("InSync", "Rebuilding"), 49, "too little", id="short of it"),
        pytest.param(5, ("InSync", "Rebuilding"), 50, "", id="there"),
        pytest.param(5, ("InSync", "InSync"), None, "", id="over before anybody saw it"),
    ],
)
def test_how_far_it_is_from_half_way(generation: int, states: tuple[str, str], done: int | None, missing: str) -> None:
    """Two legs in sync before anybody has noticed the loss are no rebuild that is over."""
    progress = [] if done is None else [{"leg": "c", "doneBytes": done, "totalBytes": 100}]
    legs = [{"id": "a", "state": "Failed", "releasing": True}]
    legs += [{"id": "b", "state": states[0]}, {"id": "c", "state": states[1]}]
    status = {"mapping": {"generation": generation, "legs": legs}, "nodes": [{"node": "n1", "progress": progress}]}
    said = short_of(status, 0.5, 4)
    assert missing in said
    assert bool(said) == bool(missing)
