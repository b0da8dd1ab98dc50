"""Anything may happen, in any order, to quiescences: none is for ever, nothing is held or halted that nobody wants, and
no generation is committed without everyone's word.

Hypothesis makes the stories up. And each rule is needed: one that is broken on purpose is caught, in a story that the
right code passes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test
from quiescence_machine import Quiescences

from millpond_core import names
from millpond_core.master import node, quiescence, steps
from millpond_core.model import Quiescence
from millpond_core.model.quiescence import Scope
from millpond_core.nodeplan import still
from millpond_node import holds
from millpond_node.rundir import RunDir
from millpond_node.watchdog import Watchdog

EXAMPLES = int(os.environ.get("QUIESCENCE_EXAMPLES", "40"))
"""More of them take longer: a thousand about five minutes."""

SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    print_blob=True,
)
V1 = Scope(volumes=["v1"])
Patch = pytest.MonkeyPatch
Story = Callable[[Quiescences], None]


@pytest.mark.timeout(30 + 10 * EXAMPLES)
def test_whatever_happens_every_quiescence_ends_and_nothing_is_forgotten() -> None:
    logging.disable()
    try:
        run_state_machine_as_test(Quiescences, settings=SETTINGS)
    finally:
        logging.disable(logging.NOTSET)


# --- stories ----------------------------------------------------------------------------------------------------------


def a_hold_is_released(story: Quiescences) -> None:
    story.asks(V1, hold=True, deadline=60)
    story.everyone_acts(6, 1.0)
    assert story.held("v1")
    story.ends(0, delete=False, own=False)
    story.everyone_acts(3, 0.0)
    story.everyone_acts(3, 4.0)


def a_hold_outlives_the_master(story: Quiescences) -> None:
    story.asks(V1, hold=True, deadline=30)
    story.everyone_acts(6, 1.0)
    assert story.held("v1")
    story.time_passes(31.0)
    story.holds()
    story.looks("n1")
    story.holds()


def a_hold_outlives_the_state_manager(story: Quiescences) -> None:
    story.asks(V1, hold=True, deadline=30)
    story.everyone_acts(6, 1.0)
    assert story.held("v1")
    story.restarts("n1")
    story.time_passes(2.0)
    story.holds()
    story.looks("n1")
    story.holds()


def a_disk_fails(story: Quiescences) -> None:
    story.pull(story.disk("v1"))
    story.everyone_acts(12, 1.0)
    assert story.cluster.watch.commits


def a_disk_fails_and_a_node_is_slow(story: Quiescences) -> None:
    """It is still when the deadline has passed for the master, and not yet for the node."""
    story.pull(story.disk("v1"))
    while not story.phases("Instructed"):
        story.everyone_acts(1, 0.0) if not story.phases("Pending") else story.master_steps(fresh=True)
        story.time_passes(0.5)
    story.stops("n1", power=False)
    story.time_passes(31.0)
    story.starts("n1")
    for _ in range(4):
        story.looks("n1")
    story.everyone_acts(4, 0.0)


def two_ask_for_one_volume(story: Quiescences) -> None:
    story.asks(V1, hold=True, deadline=60)
    story.asks(Scope(cluster=True), hold=False, deadline=60)
    story.everyone_acts(6, 1.0)


def another_master_has_an_old_view(story: Quiescences) -> None:
    """It was away from when all were still until all was over."""
    story.asks(V1, hold=True, deadline=60)
    story.everyone_acts(6, 1.0)
    story.another_master()
    story.ends(0, delete=False, own=False)
    story.everyone_acts(3, 1.0)
    story.time_passes(70.0)
    story.another_master_decides(Quiescence)
    story.holds()


# --- rules broken on purpose ------------------------------------------------------------------------------------------


def _last_word_not_awaited(patch: Patch) -> None:
    real = quiescence._awaited
    patch.setattr(quiescence, "_awaited", lambda *there: list(real(*there))[1:])


def _master_ignores_the_deadline(patch: Patch) -> None:
    patch.setattr(quiescence, "_deadline", lambda q: float("inf"))


def _nobody_keeps_the_deadline(patch: Patch) -> None:
    """Neither the watchdog nor, as the second line, the state manager."""
    patch.setattr(Watchdog, "_end_holds", lambda dog: None)
    _node_ignores_the_deadline(patch)


def _node_ignores_the_deadline(patch: Patch) -> None:
    wants, until, judged = still.wants, still.hold_deadline, still.judged
    patch.setattr(still, "wants", lambda there, volume, now: wants(there, volume, 0.0))
    patch.setattr(still, "hold_deadline", lambda there, volume, now: until(there, volume, 0.0))
    patch.setattr(still, "judged", lambda one, there, *, now, **more: judged(one, there, now=0.0, **more))


def _release_not_heard(patch: Patch) -> None:
    real = still.judged
    patch.setattr(still, "judged", lambda one, there, *, released, **more: real(one, there, released=False, **more))


def _doorbell_left_ringing(patch: Patch) -> None:
    real = node.doorbell

    def doorbell(world: Any, name: str) -> str:
        there = world.nodes[name].metadata.annotations.get(names.ANNOTATION_QUIESCE, "")
        return real(world, name) or there

    patch.setattr(node, "doorbell", doorbell)


def _held_without_a_record(patch: Patch) -> None:
    patch.setattr(holds, "write", lambda folder, hold: None)


def _instruction_not_kept(patch: Patch) -> None:
    """The node begins anew, with a new deadline, whenever its state manager does."""
    patch.setattr(RunDir, "save", lambda folder, name, thing: None)


def _halted_operations_forgotten(patch: Patch) -> None:
    """What is over halts them still."""
    real = still.wants

    def wants(there: Any, volume: str, now: float) -> tuple[bool, bool]:
        known = list(there)
        return any(volume in one.volumes for one in known), real(known, volume, now)[1]

    patch.setattr(still, "wants", wants)


def _phases_without_compare_and_swap(patch: Patch) -> None:
    real = quiescence._status

    def status(q: Quiescence, fields: dict[str, Any]) -> steps.Patch:
        return dataclasses.replace(real(q, fields), operations=real(q, fields).operations[1:])

    patch.setattr(quiescence, "_status", status)


def _nobody_waits_for_a_turn(patch: Patch) -> None:
    patch.setattr(quiescence, "_ahead", lambda world, q, volumes: [])


MUTATIONS: dict[str, tuple[Callable[[Patch], None], Story, str]] = {
    "commit without the last word": (_last_word_not_awaited, a_disk_fails, "is committed: .* lacks the word of n1"),
    "deadline ignored by the master": (
        _master_ignores_the_deadline,
        a_disk_fails_and_a_node_is_slow,
        "is committed: .* is beyond its deadline",
    ),
    "deadline kept by nobody": (_nobody_keeps_the_deadline, a_hold_outlives_the_master, "n1 holds v1 beyond every"),
    "deadline ignored by the node": (_node_ignores_the_deadline, a_hold_outlives_the_master, "n1 holds v1"),
    "release not heard": (_release_not_heard, a_hold_is_released, "v1 is halted on n1 and nobody wants it"),
    "doorbell left ringing": (_doorbell_left_ringing, a_hold_is_released, "the doorbell of n1 rings for ever"),
    "held without a record": (_held_without_a_record, a_hold_outlives_the_master, "nothing says until when"),
    "instruction not kept over a restart": (
        _instruction_not_kept,
        a_hold_outlives_the_state_manager,
        "n1 begins by-hand-1 anew",
    ),
    "halted operations forgotten": (_halted_operations_forgotten, a_hold_is_released, "is halted on n1 and nobody"),
    "phases without a compare-and-swap": (
        _phases_without_compare_and_swap,
        another_master_has_an_old_view,
        "by-hand-1 was Released and is Expired",
    ),
    "nobody waits for a turn": (_nobody_waits_for_a_turn, two_ask_for_one_volume, "in force for the same volume"),
}


@pytest.fixture
def told() -> Iterator[Callable[[Story], None]]:
    """Tells a story to its end."""

    def tell(story: Story) -> None:
        machine = Quiescences()
        try:
            story(machine)
        except BaseException:
            machine.close()
            raise
        machine.teardown()

    return tell


@pytest.mark.parametrize("story", dict.fromkeys(story for _, story, _ in MUTATIONS.values()))
def test_the_right_one_passes(told: Callable[[Story], None], story: Story) -> None:
    told(story)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_rule_broken_is_caught(told: Callable[[Story], None], monkeypatch: Patch, name: str) -> None:
    mutation, story, says = MUTATIONS[name]
    mutation(monkeypatch)
    with pytest.raises(AssertionError, match=says):
        told(story)
