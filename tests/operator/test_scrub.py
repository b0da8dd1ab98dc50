"""Master and state managers together, on kernels in memory: legs are compared, and what differs is found."""

from __future__ import annotations

import pytest
from test_whole import Whole, whole

from millpond_core import layout, names
from millpond_core.instants import stamp
from millpond_core.layout import BITMAP_SECTORS
from millpond_core.model import ObjectMeta, Quiescence, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.virtualvolume import ScrubResult
from millpond_core.nodeplan import scrubbing
from millpond_core.testing.world.array import BLOCK_SECTORS, MdArray
from millpond_core.units import MIB, SECTOR

__all__ = ["whole"]

PER_MIB = MIB // SECTOR // BLOCK_SECTORS


async def mirrored(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    whole.checks.append(whole.scribble)
    await whole.pass_time(5)


async def ask(whole: Whole, *, after: float = 0.0) -> None:
    """As ``kubectl millpond scrub`` does."""
    now = whole.world.ports("n1").clock.now()
    await whole.kube.merge(VirtualVolume, "v1", {"spec": {"scrub": {"requestedAt": stamp(now + after)}}})


def last(whole: Whole) -> ScrubResult | None:
    return whole.vvol("v1").status.last_scrub


def array(whole: Whole) -> MdArray:
    return whole.machine("n1").arrays[names.array(whole.vvol("v1").spec.uuid)]


def alter(whole: Whole, leg: str, *blocks: int) -> None:
    """Other bytes in blocks of one leg, beneath everything."""
    found = whole.leg("v1", leg)
    (extent,) = found.extents
    disk = whole.machine(found.node).slots[extent.device.partition("-")[2]]
    for block in blocks:
        start = layout.LABEL_SECTORS + extent.start * layout.UNIT_SECTORS + BITMAP_SECTORS
        disk.write(start + block * BLOCK_SECTORS, 4711)
        disk.flush()


async def quiet(whole: Whole) -> None:
    """No writes any more."""
    whole.checks.clear()
    await whole.pass_time(3)


async def test_equal_legs_are_compared_while_they_are_written_to(whole: Whole) -> None:
    await mirrored(whole)
    await ask(whole)
    await whole.until(lambda: last(whole) is not None)
    found = last(whole)
    assert found is not None
    assert (found.number, found.reason, found.places) == (1, "Request", [])
    assert array(whole).last_action == "check", "nothing was compared"
    ready = {c.type: (c.status, c.reason) for c in whole.vvol("v1").status.conditions}
    assert ready["LegsEqual"] == ("True", "Compared")
    await whole.pass_time(60)
    assert whole.vvol("v1").status.scrub.number == 1, "one request, one comparison"
    await quiet(whole)
    whole.verify()


async def test_what_differs_is_found_to_the_mebibyte_and_left_as_it_is(whole: Whole) -> None:
    await mirrored(whole)
    await quiet(whole)
    alter(whole, "b", 5 * PER_MIB + 7, 11 * PER_MIB)
    await ask(whole)
    await whole.until(lambda: last(whole) is not None, seconds=200)
    found = last(whole)
    assert found is not None
    assert [(p.start_bytes // MIB, p.length_bytes // MIB) for p in found.places] == [(5, 1), (11, 1)]
    assert not found.more
    status = whole.vvol("v1").status
    assert {c.type: c.status for c in status.conditions}["LegsEqual"] == "False"
    assert "copies differ in 2 place(s)" in status.message
    assert {leg.state for leg in status.mapping.legs} == {"InSync"}, "nobody knows which is right"
    assert whole.data("v1", "a") != whole.data("v1", "b"), "a comparison is not to write"


async def test_a_person_says_which_leg_is_wrong_and_it_is_made_anew_from_the_other(whole: Whole) -> None:
    await mirrored(whole)
    await quiet(whole)
    right = whole.data("v1", "a")
    alter(whole, "b", 300)
    await whole.kube.merge(VirtualVolume, "v1", {"spec": {"scrub": {"distrusted": ["b"]}}})
    await whole.until(lambda: whole.in_sync("v1") == ["a", "c"], seconds=200)
    assert whole.data("v1", "c") == right
    await ask(whole)
    await whole.until(lambda: last(whole) is not None, seconds=200)
    assert last(whole).places == []
    whole.verify()


async def test_the_only_other_leg_is_never_given_up(whole: Whole) -> None:
    await mirrored(whole)
    await quiet(whole)
    await whole.kube.merge(VirtualVolume, "v1", {"spec": {"scrub": {"distrusted": ["a", "b"]}}})
    await whole.pass_time(120)
    assert whole.in_sync("v1"), "a leg in sync stays, whatever a person says"
    whole.verify()


async def test_a_quiescence_halts_it_and_it_goes_on_where_it_stood(whole: Whole) -> None:
    await mirrored(whole)
    await ask(whole)
    await whole.until(lambda: array(whole).checking and array(whole).checked > 4)
    spec = QuiescenceSpec(reason="Manual", scope=Scope(volumes=["v1"]), deadline_seconds=60)
    await whole.kube.create(Quiescence(metadata=ObjectMeta(name="q"), spec=spec))
    await whole.until(lambda: whole.get(Quiescence, "q").status.phase == "Quiesced")
    at = array(whole).checked
    (heard,) = whole.get(Quiescence, "q").status.acknowledgements
    assert heard.halted == [f"v1/scrub@{array(whole).sync_min}"]
    assert array(whole).sync_min >= 4 * MIB // SECTOR, "where it stood is what is told"
    await whole.pass_time(5)
    assert array(whole).checked == at
    await whole.kube.merge(Quiescence, "q", {"spec": {"release": True}})
    await whole.until(lambda: array(whole).checking)
    assert array(whole).checked >= at, "it began anew"
    await whole.until(lambda: last(whole) is not None)
    assert last(whole).places == []


async def test_a_leg_lost_meanwhile_is_taken_back_first(whole: Whole) -> None:
    """The bound of the check that md gave up is not to stop the rebuild."""
    await mirrored(whole)
    await ask(whole)
    await whole.until(lambda: array(whole).checking and array(whole).checked > 4, chunks=1)
    other = whole.leg("v1", "b")
    slot = other.extents[0].device.partition("-")[2]
    whole.machine(other.node).pull(slot)
    await whole.until(lambda: whole.vvol("v1").status.phase == "Degraded")
    whole.machine(other.node).plug(slot)
    await whole.until(lambda: last(whole) is not None, seconds=300)
    assert last(whole).places == []
    assert len(whole.in_sync("v1")) == 2
    await quiet(whole)
    whole.verify()


@pytest.mark.parametrize("away", ["killed", "power cut"])
async def test_what_was_compared_is_not_forgotten(whole: Whole, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state manager, and another node after a power cut, go on from the last region."""
    monkeypatch.setattr(scrubbing, "REGION", 4 * MIB // SECTOR)
    await mirrored(whole)
    await ask(whole)
    await whole.until(lambda: (r := whole.report("v1", "n1").scrub) is not None and r.done_bytes >= 8 * MIB)
    if away == "killed":
        await whole.restart("n1")
        node = "n1"
    else:
        await quiet(whole)
        await whole.want("v1", "")
        await whole.until(lambda: whole.vvol("v1").status.attachment.node == "")
        await whole.use("n2")
        node = "n2"
    machine = whole.machine(node)
    number = names.array(whole.vvol("v1").spec.uuid)
    seen: list[int] = []
    whole.checks.append(lambda: seen.append(a.checked) if (a := machine.arrays.get(number)) and a.checking else None)
    await whole.until(lambda: last(whole) is not None, seconds=200)
    assert min(seen) >= 8, "it began anew"
    assert last(whole).number == 1


@pytest.mark.parametrize("calls", range(1, 12))
async def test_a_state_manager_that_dies_at_any_step_never_calls_compared_what_was_not(
    whole: Whole, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "REGION", 8 * MIB // SECTOR)
    await mirrored(whole)
    await quiet(whole)
    alter(whole, "b", 14 * PER_MIB)
    await ask(whole)
    await whole.until(lambda: array(whole).checking)
    await whole.kill("n1")
    await whole.start("n1", die_before=calls)
    whole.revive("n1")
    await whole.until(lambda: last(whole) is not None, seconds=300)
    assert [p.start_bytes // MIB for p in last(whole).places] == [14]
