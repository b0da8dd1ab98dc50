"""What kinds and phases ask of the field; whether that does what it says only real kernels show."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from faults.kinds import KINDS, Kind, Strike
from faults.phases import PHASES, Phase

LEGS = [
    {"id": "a", "node": "n1", "extents": [{"device": "n1-disk1"}]},
    {"id": "b", "node": "n3", "extents": [{"device": "n3-disk1"}]},
]


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def strike() -> Any:
    """On n1, where the volume is attached; its other leg is on n3."""
    field, volume = MagicMock(), MagicMock(uuid="11111111-2222-3333-4444-555555555555")
    field.items.return_value, field.nodes = [], {"n1": None, "n2": None, "n3": None}
    volume.field, volume.name = field, "v1"
    volume.legs.return_value = LEGS
    return Strike(field, volume, "n1", "n1-disk1")


def named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def phase(name: str) -> Phase:
    return next(phase for phase in PHASES if phase.name == name)


def scripts(field: Any) -> Iterator[str]:
    for call in field.run.call_args_list:
        if call.args[1] == "sh":
            yield call.args[3]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_kind_runs_on_a_node_is_what_a_shell_reads(kind: Kind, strike: Any) -> None:
    kind.begin(strike)
    kind.undo(strike)
    kind.undo(strike)
    for script in scripts(strike.field):
        read = subprocess.run(["sh", "-n", "-c", script], check=False, capture_output=True, text=True, timeout=20)
        assert read.stderr == "", script
    assert strike.field.method_calls


def test_a_late_leg_is_late_by_milliseconds(strike: Any) -> None:
    named("leg late by 0.1 s").begin(strike)
    (script,) = scripts(strike.field)
    assert """awk '{print $1, $2, "delay", $4, $5, 100}'""" in script


def test_the_attach_node_and_one_that_has_a_leg_lose_their_power_and_the_third_does_not(strike: Any) -> None:
    named("attach node and a leg node without power").begin(strike)
    strike.field.power_off.assert_called_once_with("n1", "n3")


def test_a_leg_that_the_fault_does_not_strike_is_lost_when_it_strikes(strike: Any) -> None:
    phase("losing a leg").begin(strike.volume, "n1")
    strike.field.unplug.assert_called_once_with("n3", "n3-disk1")
    strike.volume.wait.assert_not_called()


def test_a_hold_by_hand_is_held_when_the_fault_strikes_and_let_go_afterwards(strike: Any) -> None:
    """Others' quiescences are left alone."""
    volume = strike.volume
    phase("held by hand").begin(volume, "n1")
    made = volume.field.cluster.apply.call_args.args[0]
    name = made["metadata"]["name"]
    assert made["spec"]["holdIo"]
    missing = volume.wait.call_args.args[0]
    volume.field.get.return_value = {"status": {"phase": "Draining"}}
    assert missing() == f"{name} is Draining"
    volume.field.get.return_value = {"status": {"phase": "Draining", "acknowledgements": [{}]}}
    assert missing() == ""
    volume.field.items.return_value = [{"metadata": {"name": each}} for each in ("q-1", name)]
    phase("held by hand").after(volume)
    volume.field.delete.assert_called_once_with("quiescences", name)
