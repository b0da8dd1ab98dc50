"""``kubectl millpond explain vvol/NAME``: what is copied or compared, why, how far it is, and who halts it."""

from __future__ import annotations

import pytest

from millpond_cli import explain
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.operation import LongOperation
from millpond_core.model.virtualvolume import VirtualVolumeStatus
from millpond_core.units import MIB

MOVE = LongOperation(
    id="move-c",
    kind="Move",
    state="Running",
    why="n2-d1 on n2 is to be emptied",
    since="2026-11-28T14:02:11Z",
    sources=["a", "b"],
    target="c",
    replaces="b",
    done_bytes=140 * MIB,
    left_bytes=260 * MIB,
    rate=20 * MIB,
    expected_end="2026-11-28T14:02:35Z",
)
WAITING = LongOperation(
    id="rebuild-b",
    kind="Rebuild",
    state="Waiting",
    why="it lacks what was written while it was out of reach",
    since="2026-11-28T14:02:11Z",
    sources=["a"],
    target="b",
    left_bytes=400 * MIB,
    message="begins when the volume is attached",
)
HALTED = LongOperation(
    id="scrub-3",
    kind="Scrub",
    state="Halted",
    why="it is on its schedule",
    since="2026-11-28T03:00:00Z",
    sources=["a", "b"],
    done_bytes=100 * MIB,
    left_bytes=300 * MIB,
    checkpoint_bytes=100 * MIB,
    halted_by=["copy"],
)


@pytest.mark.parametrize(
    ("operation", "lines"),
    [
        pytest.param(
            MOVE,
            [
                "  move-c: Running, 140Mi of 400Mi at 20Mi/s, until about 14:02:35",
                "    leg c from leg a, b, in place of leg b; n2-d1 on n2 is to be emptied, 2026-11-28T14:02:11Z",
            ],
            id="running",
        ),
        pytest.param(
            WAITING,
            [
                "  rebuild-b: Waiting (begins when the volume is attached)",
                "    leg b from leg a; it lacks what was written while it was out of reach, 2026-11-28T14:02:11Z",
            ],
            id="waiting",
        ),
        pytest.param(
            HALTED,
            [
                "  scrub-3: Halted by copy, 100Mi of 400Mi",
                "    legs a, b; it is on its schedule, 2026-11-28T03:00:00Z",
            ],
            id="halted",
        ),
    ],
)
def test_each_long_operation_is_explained(operation: LongOperation, lines: list[str]) -> None:
    status = VirtualVolumeStatus(phase="Ready", operations=[operation])
    assert explain.explain(VirtualVolume(metadata=ObjectMeta(name="v1"), status=status)) == ["v1: Ready", *lines]
