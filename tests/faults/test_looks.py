"""Legs looked at while a fault lasts: through the record and the disks' own bytes, as they are at that moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faults import blocks
from faults.ledger import Ledger
from faults.volume import Volume
from lab.errors import LabError
from millpond_core.units import BITMAP_BYTES, LABEL_BYTES, UNIT_BYTES

IDENTITY = bytes(range(16))


def leg(name: str, state: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "node": name, "state": state, "extents": [{"device": "d", "start": 0, "length": 1}], **more}


def volume(tmp_path: Path, record: Callable[[], list[dict[str, Any]]], **legs: int) -> Volume:
    """Block 0 of each leg has that write; write 7 was acknowledged. ``record``: the mapping's legs when asked."""
    for name, sequence in legs.items():
        data = bytearray(LABEL_BYTES + UNIT_BYTES)
        at = LABEL_BYTES + BITMAP_BYTES
        data[at : at + blocks.BLOCK] = blocks.make(IDENTITY, 0, sequence)
        (tmp_path / name).write_bytes(data)
    made = Volume.__new__(Volume)
    made.name, made.ledger = "v1", Ledger(IDENTITY, 8)
    made.ledger.hear()[1](b"W 0 7\nA 0 7\n")
    made.field = SimpleNamespace(  # type: ignore[assignment]
        get=lambda *_, **__: {"status": {"mapping": {"legs": record()}}}, image=lambda node, _: tmp_path / node
    )
    return made


def test_a_leg_in_sync_has_what_was_acknowledged_and_others_need_not(tmp_path: Path) -> None:
    legs = [leg("a", "InSync"), leg("b", "Stale"), leg("c", "InSync", releasing=True)]
    assert volume(tmp_path, lambda: legs, a=7, b=5, c=5).lacking() == (1, [])


def test_one_that_was_not_recorded_as_lost_in_time_is_told(tmp_path: Path) -> None:
    looked_at, told = volume(tmp_path, lambda: [leg("a", "InSync"), leg("b", "InSync")], a=7, b=5).lacking()
    words = "lost: leg b, recorded InSync during the fault, lacks write 7 of block 0: it has write 5"
    assert (looked_at, told) == (2, [words])


def test_what_is_acknowledged_while_the_record_is_asked_the_leg_may_lack(tmp_path: Path) -> None:
    """It may be recorded as lost just after it was asked, and the write acknowledged after that."""

    def record() -> list[dict[str, Any]]:
        made.ledger.hear()[1](b"W 0 9\nA 0 9\n")
        return [leg("a", "InSync")]

    made = volume(tmp_path, record, a=7)
    assert made.lacking() == (1, [])


def test_a_leg_recorded_as_lost_only_after_it_lacked_a_write_is_told(tmp_path: Path) -> None:
    answers = [[leg("a", "InSync")], [leg("a", "Stale")]]
    assert len(volume(tmp_path, lambda: answers.pop(0), a=5).lacking()[1]) == 1


def test_a_leg_that_is_given_back_meanwhile_may_have_anothers_bytes(tmp_path: Path) -> None:
    answers = [[leg("a", "InSync")], [leg("b", "InSync")]]
    assert volume(tmp_path, lambda: answers.pop(0), a=5).lacking() == (1, [])


def test_what_was_found_is_told_also_when_nobody_answers_a_second_time(tmp_path: Path) -> None:
    answers = [[leg("a", "InSync")]]

    def record() -> list[dict[str, Any]]:
        if not answers:
            raise LabError("no answer")
        return answers.pop()

    assert len(volume(tmp_path, record, a=5).lacking()[1]) == 1
