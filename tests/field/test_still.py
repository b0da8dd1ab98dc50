"""A state manager that is killed or stopped: the kernel carries on, and no hold outlives its deadline."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from demo.reality import look
from faults.by_hand import BOUND_SECONDS, by_hand
from faults.suite import Suite
from lab.api import wait_for
from millpond_core import names, quiesce
from millpond_node.watchdog import LEAK_SECONDS

pytestmark = pytest.mark.timeout(1200)

DEADLINE_SECONDS = 12
BEYOND_SECONDS = LEAK_SECONDS + 1
"""A node cut off for longer would be taken for failed soon."""


def kernels(suite: Suite) -> dict[str, object]:
    """Tables and numbers of every device of ours, and each array's members, on every node."""
    found = {node: look(suite.field, node) for node in suite.field.nodes}
    return {
        node: (kernel["dm"], {name: (array["number"], array["members"]) for name, array in kernel["md"].items()})
        for node, kernel in found.items()
    }


def lives(suite: Suite, node: str) -> int:
    """How often the node's state manager has started since the node did."""
    return int(suite.field.run(node, "grep", "-c", "state manager .* started", "/out/state-manager.log"))


def test_state_managers_that_begin_anew_adopt_what_runs(suite: Suite) -> None:
    before = kernels(suite)
    starts = {node: lives(suite, node) for node in suite.field.nodes}
    for node in suite.field.nodes:
        suite.field.signal_program(node, "state-manager", signal.SIGKILL)
    suite.volume.writes(seconds=BOUND_SECONDS)
    for node in suite.field.nodes:
        wait_for(lambda node=node: lives(suite, node) > starts[node], f"{node} begins anew", seconds=BOUND_SECONDS)
    suite.make_whole()
    assert kernels(suite) == before
    assert suite.look() == []


def kill_pod(suite: Suite, node: str) -> None:
    for program in ("state-manager", "watchdog"):
        suite.field.signal_program(node, program, signal.SIGKILL)


Take = Callable[[Suite, str], object]

GONE: dict[str, tuple[Take, Take]] = {
    "operator": (lambda s, _: s.field.end_operator(), lambda s, _: s.field.start_operator()),
    "API server": (
        lambda s, _: s.field.signal_process("kube-apiserver", signal.SIGSTOP),
        lambda s, _: s.field.signal_process("kube-apiserver", signal.SIGCONT),
    ),
    "state manager": (
        lambda s, node: s.field.signal_program(node, "state-manager", signal.SIGSTOP),
        lambda s, node: s.field.signal_program(node, "state-manager", signal.SIGCONT),
    ),
    "pod": (kill_pod, lambda s, node: None),
    "network": (lambda s, node: s.field.link(node, wan=False), lambda s, node: s.field.link(node, wan=True)),
}
"""What is taken away, and given back; the pod comes again by itself. The network last: commands need it."""


@contextmanager
def without(suite: Suite, node: str, *gone: str) -> Iterator[None]:
    with ExitStack() as stack:
        for what in gone:
            take, give_back = GONE[what]
            stack.callback(give_back, suite, node)
            take(suite, node)
        yield


def leaks(suite: Suite) -> list[int]:
    return [node["status"].get("leakedHolds", 0) for node in suite.field.items("storagenodes")]


@pytest.mark.parametrize("gone", [*((what,) for what in GONE), (*GONE,)], ids=", ".join)
def test_a_hold_ends_at_its_deadline_whoever_is_gone(suite: Suite, gone: tuple[str, ...]) -> None:
    volume = suite.volume
    attach = volume.node()
    with by_hand(volume, "by-hand", seconds=DEADLINE_SECONDS) as asked:
        wait_for(
            lambda: bool(asked.status().get("acknowledgements")), f"{attach} holds", seconds=BOUND_SECONDS, every=0.1
        )
        with without(suite, attach, *gone):
            held = volume.ledger.count
            time.sleep(2)
            assert volume.ledger.count == held, "a write was acknowledged while everything was to be still"
            if "network" in gone:
                time.sleep(DEADLINE_SECONDS + BEYOND_SECONDS - 2)  # nor are its writes heard of: the watchdog counts
            else:
                volume.writes(seconds=BOUND_SECONDS, more=1)
                assert not look(suite.field, attach)["dm"][names.front(volume.uuid)]["suspended"]
        wait_for(lambda: asked.phase() in quiesce.OVER, "the quiescence is over", seconds=BOUND_SECONDS)
        assert asked.phase() == "Expired"
    suite.make_whole()
    assert suite.look() == []
    assert leaks(suite) == [0, 0, 0]


def test_nothing_stays_held_when_everyone_goes_while_it_begins(suite: Suite) -> None:
    volume = suite.volume
    attach = volume.node()
    with by_hand(volume, "begins", seconds=DEADLINE_SECONDS) as asked:
        wait_for(lambda: asked.phase() != "Pending", "it has begun", seconds=BOUND_SECONDS, every=0.05)
        with without(suite, attach, *GONE):
            time.sleep(DEADLINE_SECONDS + BEYOND_SECONDS)
        wait_for(lambda: asked.phase() in quiesce.OVER, "the quiescence is over", seconds=BOUND_SECONDS)
    suite.make_whole()
    assert suite.look() == []
    assert leaks(suite) == [0, 0, 0]
