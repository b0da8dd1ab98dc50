"""The comparison of legs must find one wrong byte, wherever it is, and none where the bitmaps or labels differ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from demo import legs
from demo.errors import DemoError
from millpond_core.layout import leg_table
from millpond_core.model.virtualvolume import Extent
from millpond_core.units import BITMAP_BYTES, LABEL_BYTES, MIB, SECTOR, UNIT_BYTES

VOLUME = 10 * MIB
LEG_A = {"id": "a", "extents": [{"device": "one", "start": 3, "length": 3}]}
LEG_B = {"id": "b", "extents": [{"device": "two", "start": 5, "length": 1}, {"device": "two", "start": 0, "length": 2}]}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two disks with other things on them everywhere but in the two legs, whose data is equal."""
    data = os.urandom(VOLUME)
    found = {}
    for name, leg in (("one", LEG_A), ("two", LEG_B)):
        image = bytearray(os.urandom(LABEL_BYTES + 8 * UNIT_BYTES))
        whole = os.urandom(BITMAP_BYTES) + data + os.urandom(UNIT_BYTES)
        at = 0
        for start, length in places(leg):
            image[start : start + length] = whole[at : at + length]
            at += length
        found[name] = tmp_path / name
        found[name].write_bytes(image)
    return found


def places(leg: dict[str, Any]) -> list[tuple[int, int]]:
    """(offset, length) in bytes of each extent, by the core's own table: the helper must agree with it."""
    extents = [
        Extent(device=e["device"], device_uuid="u", start=e["start"], length=e["length"]) for e in leg["extents"]
    ]
    lines = [line.split() for line in leg_table(extents, {"u": "259:0"}).splitlines()]
    return [(int(offset) * SECTOR, int(size) * SECTOR) for _, size, _, _, offset in lines]


def difference(images: dict[str, Path]) -> list[str]:
    size, found = legs.compare(legs.runs(LEG_A, images), legs.runs(LEG_B, images), VOLUME)
    assert size == VOLUME
    return [str(each) for each in found]


def flip(image: Path, offset: int) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 255]))


def test_equal_legs(images: dict[str, Path]) -> None:
    assert difference(images) == []


@pytest.mark.parametrize(
    ("offset", "volume_byte"),
    [
        pytest.param(LABEL_BYTES + 5 * UNIT_BYTES + BITMAP_BYTES, 0, id="first byte"),
        pytest.param(LABEL_BYTES + 6 * UNIT_BYTES - 1, 3 * MIB - 1, id="last byte of the first extent"),
        pytest.param(LABEL_BYTES, 3 * MIB, id="first byte of the second extent"),
        pytest.param(LABEL_BYTES + 7 * MIB - 1, VOLUME - 1, id="last byte"),
    ],
)
def test_one_byte_differs(images: dict[str, Path], offset: int, volume_byte: int) -> None:
    flip(images["two"], offset)
    assert difference(images) == [f"1 bytes at {volume_byte}"]


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(100, id="label"),
        pytest.param(LABEL_BYTES + 5 * UNIT_BYTES + 4096, id="bitmap"),
        pytest.param(LABEL_BYTES + 7 * MIB, id="behind the volume's end"),
    ],
)
def test_what_may_differ(images: dict[str, Path], offset: int) -> None:
    flip(images["two"], offset)
    assert difference(images) == []


def test_an_image_that_is_too_short(images: dict[str, Path]) -> None:
    os.truncate(images["one"], LABEL_BYTES + 4 * UNIT_BYTES)
    with pytest.raises(DemoError, match="ends before"):
        difference(images)


def test_a_difference_that_stays_is_reported() -> None:
    answers = [[legs.Difference(0, 1)], [legs.Difference(0, 1)], []]

    def again() -> tuple[int, list[legs.Difference]]:
        return 1, answers.pop(0)

    assert legs.settle(again, attempts=2) == (1, [legs.Difference(0, 1)])
    answers[:] = [[legs.Difference(0, 1)], []]
    assert legs.settle(again) == (1, [])
