"""The two tables: what they say, and what no path through them can do."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond_core import machine, quiesce
from millpond_core.machine import VolumeFacts
from millpond_core.model.quiescence import QuiescencePhase
from millpond_core.model.virtualvolume import VolumePhase

PHASES: tuple[VolumePhase, ...] = typing.get_args(VolumePhase)
FACTS = st.builds(
    VolumeFacts,
    deleting=st.booleans(),
    mapped=st.booleans(),
    mapping_lost=st.booleans(),
    legs=st.integers(0, 4),
    prepared=st.integers(-1, 4),
    in_sync=st.integers(0, 4),
    copies=st.integers(1, 4),
)


def facts(**changes: int) -> VolumeFacts:
    known = VolumeFacts(deleting=False, mapped=True, mapping_lost=False, legs=2, prepared=2, in_sync=2, copies=2)
    return known._replace(**changes)


@pytest.mark.parametrize(
    ("phase", "seen", "then"),
    [
        pytest.param("Pending", facts(mapped=False), "Pending", id="waits-for-room"),
        pytest.param("Pending", facts(prepared=0), "Preparing", id="mapped"),
        pytest.param("Pending", facts(mapped=False, mapping_lost=True), "Faulted", id="never-allocated-twice"),
        pytest.param("Preparing", facts(prepared=1), "Preparing", id="one-leg-is-still-zeroed"),
        pytest.param("Preparing", facts(prepared=-1), "Preparing", id="not-noted-as-allocated-yet"),
        pytest.param("Preparing", facts(), "Ready", id="all-prepared"),
        pytest.param("Preparing", facts(in_sync=1), "Degraded", id="one-was-lost-before-it-was-prepared"),
        pytest.param("Preparing", facts(in_sync=0), "Preparing", id="all-were-lost-before"),
        pytest.param("Ready", facts(prepared=0), "Ready", id="usable-does-not-go-back-to-preparing"),
        pytest.param("Ready", facts(in_sync=1), "Degraded", id="a-leg-is-lost"),
        pytest.param("Degraded", facts(in_sync=0), "Faulted", id="the-last-one-is-out-of-reach"),
        pytest.param("Faulted", facts(in_sync=1), "Degraded", id="it-is-back"),
        pytest.param("Degraded", facts(), "Ready", id="whole-again"),
        pytest.param("Ready", facts(in_sync=3), "Ready", id="more-than-asked-for"),
        pytest.param("Ready", facts(deleting=True), "Deleting", id="deleted"),
        pytest.param("Deleting", facts(), "Deleting", id="nothing-leads-out"),
    ],
)
def test_the_life_of_a_volume(phase: VolumePhase, seen: VolumeFacts, then: VolumePhase) -> None:
    assert machine.step(phase, seen) == then


@given(st.sampled_from(PHASES), FACTS)
def test_no_volume_is_allocated_again_or_leaves_deletion(phase: VolumePhase, seen: VolumeFacts) -> None:
    then = machine.step(phase, seen)
    assert phase == "Pending" or then != "Pending"
    assert phase in ("Pending", "Preparing") or then != "Preparing"
    assert phase != "Deleting" or then == "Deleting"
    assert machine.step(then, seen) == then or phase == "Pending", "once looked at, it stands still"


def test_every_phase_of_a_volume_can_be_reached_and_deleted() -> None:
    reached = {"Pending"} | set(machine.TABLE.values())
    assert reached == set(PHASES)
    assert {phase for phase, event in machine.TABLE if event == "deleted"} == set(PHASES) - {"Deleting"}


def test_every_quiescence_ends_and_what_is_over_stays_over() -> None:
    phases = set(typing.get_args(QuiescencePhase))
    ends: dict[str, set[str]] = {
        phase: {then for (p, _), then in quiesce.TABLE.items() if p == phase} for phase in phases
    }
    assert all(not ends[phase] for phase in quiesce.OVER)
    assert phases == set(quiesce.OVER) | set(quiesce.RUNNING) | {"Pending"}
    for phase in phases - quiesce.OVER:
        assert ends[phase] & quiesce.OVER, f"{phase} must have a way out by itself"


def test_nothing_is_committed_but_when_all_are_still() -> None:
    assert {phase for phase, event in quiesce.TABLE if event == "committed"} == {"Quiesced"}
    assert {p for (p, _), then in quiesce.TABLE.items() if then == "Quiesced"} == {"Instructed", "Draining"}


@pytest.mark.parametrize(
    ("left", "now", "allowed"),
    [(5000, 100.0, True), (5000, 103.0, True), (5000, 103.6, False), (0, 100.0, False)],
)
def test_a_commit_needs_what_is_left_of_every_hold(left: int, now: float, allowed: bool) -> None:
    assert quiesce.hold_allows([(100.0, 60_000), (100.0, left)], now) is allowed
    assert quiesce.hold_allows([], now), "no I/O is held, nothing can run out"


def test_pauses_grow_and_stop_growing() -> None:
    pauses = [quiesce.backoff_seconds(failures) for failures in range(12)]
    assert pauses[:4] == [0.0, 5.0, 10.0, 20.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300.0
