"""``kubectl millpond plan expand``, as a person reads it."""

from __future__ import annotations

from millpond_cli import enlarging
from millpond_core.master.enlarging import Enlargement, Part
from millpond_core.units import MIB

GIB = 1024 * MIB

PLAN = Enlargement(
    volume="pvc-4f1c",
    claim="shop/db-0",
    pods=("shop/db-0",),
    from_bytes=50 * GIB,
    to_bytes=80 * GIB,
    wanted=2,
    copies=2,
    parts=[
        Part(leg="a", node="n1", devices=["n1-disk1"], bytes=30 * GIB),
        Part(leg="b", node="n2", devices=["n2-disk1"], bytes=30 * GIB),
    ],
    bytes=60 * GIB,
    seconds=307.2,
    ends="Done",
)


def test_a_plan() -> None:
    assert enlarging.lines(PLAN) == [
        "expand shop/db-0 (pvc-4f1c) from 50Gi to 80Gi: 60Gi to zero, about 5 min; used by shop/db-0",
        "  2/2  as it is, and at every step: reads and writes go on, but for a moment",
        "  leg a on n1: 30Gi of n1-disk1",
        "  leg b on n2: 30Gi of n2-disk1",
    ]
