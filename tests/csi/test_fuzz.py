"""Of ``make fuzz-csi`` as many requests as a tier of two minutes has room for, and that its rules can fail."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import plan, rules, words
from fuzz.__main__ import summary
from fuzz.draw import methods
from fuzz.overlap import Overlap
from fuzz.plan import Step
from fuzz.run import LENGTH, Failure, Report, drawn, run

from millpond_core.errors import Invalid
from millpond_csi.interceptors import VolumeLocks
from millpond_csi.node import NodeService

SEEDS = (1, 20261128)
COUNT = 500
"""Of each seed."""


@pytest.fixture(autouse=True)
def path_of_the_fuzzer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What draws is a process of its own."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:{here}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
async def test_generated_requests_run_clean(seed: int) -> None:
    report = await run(drawn(seed, 0, COUNT), 0, print)
    print(report.table())
    assert report.requests == COUNT
    assert not report.failures, summary(report, seed)
    # Else the rules have seen nothing but refusals.
    changing = {"CreateVolume", "DeleteVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume"}
    assert not changing & set(report.never_ok()), report.table()


@pytest.mark.timeout(120)
def test_a_seed_says_everything() -> None:
    first, later = list(drawn(5, 0, 110)), list(drawn(5, 100, 10))
    assert first[100:] == later
    assert all(plan.read(step.json()) == step for step in later)


def test_each_call_of_the_interface_is_drawn() -> None:
    described = {(name, method.name) for name, service in plan.SERVICES.items() for method in service.methods}
    assert set(methods()) == described
    assert Counter(methods())["Controller", "CreateVolume"] > 1, "what is served comes more often"


def taken_down() -> Iterator[Step]:
    """Sane steps."""
    volume = words.VOLUMES[0]
    for method in ("NodeUnpublishVolume", "NodeUnstageVolume"):
        fields = {
            "volume_id": volume,
            "target_path": words.target(volume),
            "staging_target_path": words.staging(volume),
        }
        known = {field.name for field in plan.SERVICES["Node"].methods_by_name[method].input_type.fields}
        yield Step("Node", method, {k: v for k, v in fields.items() if k in known}, repeat=True)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("crash", "INTERNAL"),
        ("outside", "remove '/"),
        ("lost", "has changed"),
        ("alternates", "and again"),
        ("task", "left behind"),
        ("mute", "without a message"),
    ],
)
async def test_each_rule_can_fail(fault: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services with a fault; the fuzzer names it."""
    right, calls, kept = NodeService.node_unpublish_volume, [0], set[Any]()

    async def wrong(self: Any, request: Any, deadline: Any) -> Any:
        calls[0] += 1
        if fault == "crash":
            raise KeyError("x")
        if fault == "mute":
            raise Invalid("")
        if fault == "alternates" and calls[0] % 2:
            raise Invalid("not now")
        if fault == "outside":
            self._mounts.calls.append(("remove", "/etc/passwd"))
        if fault == "lost":
            Path(self._root).with_name("outside").joinpath("file").write_text("changed")
        if fault == "task":
            kept.add(asyncio.ensure_future(asyncio.sleep(60)))
        return await right(self, request, deadline)

    monkeypatch.setattr(NodeService, "node_unpublish_volume", wrong)
    report = await run(taken_down(), 0, print)
    for task in kept:
        task.cancel()
    assert any(found in failure.rule for failure in report.failures), report.failures


@pytest.mark.parametrize("seed", range(6))
async def test_calls_that_overlap_and_are_cut_off_come_to_their_end(seed: int) -> None:
    overlap = Overlap(seed)
    await overlap.run()
    assert not overlap.faults, overlap.faults
    assert overlap.refused_at_once, "ABORTED for the second call of a volume"
    assert {"OK", "CANCELLED", "ABORTED"} <= overlap.codes.keys()
    assert len(+overlap.done) >= 4, overlap.done


async def test_two_calls_of_one_volume_at_a_time_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VolumeLocks, "wrap", lambda self, name, method: method)
    overlap = Overlap(0)
    await overlap.run()
    assert any(" began while " in fault for fault in overlap.faults), overlap.faults


async def test_what_a_cancelled_call_takes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NodeService.node_stage_volume

    async def wrong(self: Any, request: Any, deadline: Any) -> Any:
        try:
            return await right(self, request, deadline)
        finally:
            await self.node_unstage_volume(request, deadline)

    monkeypatch.setattr(NodeService, "node_stage_volume", wrong)
    overlap = Overlap(0)
    await overlap.run()
    assert any("undone" in fault for fault in overlap.faults), overlap.faults


def test_what_a_message_may_not_be() -> None:
    for bad in ("", " ", "a\nb", "\x1b[2J", "\u2028", "\u202e", "a" * 5000, f"the key {words.MARKER}"):
        assert [*rules.message(bad)], bad
    assert not [*rules.message("there is no volume 'pvc-ä' at /var/lib/kubelet")]
    assert [*rules.logged([(10, f"key={words.MARKER}")])]
    assert [*rules.logged([(40, "unexpected")])]
    assert [*rules.logged([(40, f"{rules.CALLER_GONE} {words.MARKER}")])]
    assert not [*rules.logged([(40, rules.CALLER_GONE)])]


def test_a_failure_names_the_command_that_repeats_it() -> None:
    report = Report(requests=1, failures=[Failure(7, "Probe INTERNAL", "")])
    assert f"make fuzz-csi SEED=3 FIRST=7 COUNT={LENGTH}" in summary(report, 3)
