"""What dmsetup 1.02.185 printed on Debian's 6.12 (names shortened), and what is read from it."""

from __future__ import annotations

import pytest

from millpond_adapters.dm import DeviceMapper, lines_by_name, parse_devices, parse_path_up
from millpond_core import layout
from millpond_core.errors import Invalid

INFO = """\
millpond-c26|MILLPOND-c26|253|9|1|Suspended
millpond-c26-gate-b|MILLPOND-c26-gate-b|253|7|1|Active
vg0-root||253|20|1|Active
millpond-c26-leg-a|MILLPOND-c26-leg-a|253|0|0|Active
"""
TABLE = """\
millpond-c26: 0 57344 linear 9:512 0
millpond-c26-gate-b: 0 65536 multipath 3 retain_attached_hw_handler queue_mode bio 0 1 1 round-robin 0 1 1 253:4 1 \n\
vg0-root: 0 2048 linear 8:2 0
millpond-c26-leg-a: 0 65536 linear 1:0 8192
millpond-c26-leg-a: 65536 8192 linear 1:1 8192
"""
UP = "0 65536 multipath 2 0 0 0 1 1 A 0 1 0 253:3 A 0 \n"
DOWN = "0 65536 multipath 2 0 0 0 1 1 E 0 1 0 253:4 F 1 \n"


def test_devices_are_ours_alone_with_number_state_and_table() -> None:
    found = parse_devices(INFO, TABLE)
    assert sorted(found) == ["millpond-c26", "millpond-c26-gate-b", "millpond-c26-leg-a"]
    front, leg = found["millpond-c26"], found["millpond-c26-leg-a"]
    assert (front.major_minor, front.suspended, front.open_count, front.uuid) == ("253:9", True, 1, "MILLPOND-c26")
    assert leg.table == "0 65536 linear 1:0 8192\n65536 8192 linear 1:1 8192"
    assert not leg.suspended


def test_a_device_without_a_table_has_an_empty_one() -> None:
    assert parse_devices(INFO, "No devices found\n")["millpond-c26"].table == ""
    assert parse_devices("No devices found\n", "No devices found\n") == {}


def test_lines_of_foreign_devices_are_dropped() -> None:
    assert list(lines_by_name(TABLE)) == ["millpond-c26", "millpond-c26-gate-b", "millpond-c26-leg-a"]


def test_the_one_path_of_a_gate() -> None:
    assert parse_path_up("gate", UP)
    assert not parse_path_up("gate", DOWN)


@pytest.mark.parametrize(
    "status",
    ["0 65536 linear \n", "", "0 65536 multipath 2 0 0 0 2 1 A 0 1 0 253:3 A 0 E 0 1 0 253:4 A 0 \n"],
)
def test_what_is_no_gate_of_one_path_is_refused(status: str) -> None:
    with pytest.raises(Invalid, match="the-gate"):
        parse_path_up("the-gate", status)


def test_what_the_kernel_prints_of_a_gate_is_the_table_that_was_asked_for() -> None:
    shown = parse_devices(INFO, TABLE)["millpond-c26-gate-b"].table
    assert not layout.gate_holds(shown)
    for holding in (True, False):
        assert layout.same_table(shown, layout.gate_table("253:4", 28 * 2**20, holding=holding))


async def test_foreign_names_are_refused_before_anything_runs() -> None:
    with pytest.raises(Invalid, match="millpond-"):
        await DeviceMapper().remove("vg0-root")
