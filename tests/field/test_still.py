"""A state manager that is killed or stopped: the kernel carries on, and no hold outlives its deadline."""

from __future__ import annotations

import signal
import time

import pytest

from demo.install import API_VERSION
from demo.reality import look
from faults.field import Object
from faults.suite import Suite
from lab.api import wait_for
from millpond_core import names, quiesce

pytestmark = pytest.mark.timeout(1200)

DEADLINE_SECONDS = 15
BOUND_SECONDS = 180.0


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


def test_a_hold_ends_at_its_deadline_though_its_keeper_has_stopped(suite: Suite) -> None:
    field, volume = suite.field, suite.volume
    attach = volume.node()
    spec = {"scope": {"volumes": [volume.name]}, "holdIo": True, "deadlineSeconds": DEADLINE_SECONDS}
    field.cluster.apply(
        {"apiVersion": API_VERSION, "kind": "Quiescence", "metadata": {"name": "by-hand"}, "spec": spec}
    )

    def still() -> bool:
        acknowledged: list[Object] = field.get("quiescences", "by-hand").get("status", {}).get("acknowledgements", [])
        return [each["node"] for each in acknowledged] == [attach]

    wait_for(still, f"{attach} holds", seconds=BOUND_SECONDS, every=0.1)
    field.signal_program(attach, "state-manager", signal.SIGSTOP)
    try:
        held = volume.ledger.count
        time.sleep(2)
        assert volume.ledger.count == held, "a write was acknowledged while everything was to be still"
        volume.writes(seconds=BOUND_SECONDS)
        assert not look(field, attach)["dm"][names.front(volume.uuid)]["suspended"], "the watchdog ended it"
    finally:
        field.signal_program(attach, "state-manager", signal.SIGCONT)
    wait_for(
        lambda: field.get("quiescences", "by-hand")["status"]["phase"] in quiesce.OVER,
        "the quiescence is over",
        seconds=BOUND_SECONDS,
    )
    suite.make_whole()
    assert suite.look() == []
