"""What is copied or compared, why, how far, and who halts it, as a volume's record shows it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from master_world import NOW, SPARE, STALE, degraded, device, leg, legs, lost, mapped, quiescence, report, world

from millpond_core.instants import parse
from millpond_core.master import conditions, operations
from millpond_core.master.world import Health, Object, RebuildLimits
from millpond_core.model import VirtualVolume
from millpond_core.model.operation import LongOperation
from millpond_core.model.virtualvolume import Attachment, PathReport, Progress, ScrubInstruction
from millpond_core.model.volumespec import Rebuild
from millpond_core.units import KIB, MIB

JOINED = legs(leg("a", "n1"), msgspec.structs.replace(leg("b", "n2", "Rebuilding"), complete=True))


def copying(done: int, *, halted: bool = False, rate: int = MIB, leg: str = "b") -> list[Any]:
    one = Progress(leg=leg, kind="Delta", done_bytes=done * MIB, total_bytes=16 * MIB, rate=rate, halted=halted)
    return [report("n1", "a", front="Active", progress=[one]), report("n2", "b"), report("n3", "c")]


def only(volume: VirtualVolume, *objects: Object, now: float = NOW) -> LongOperation:
    [one] = operations.of(world(volume, *objects), volume, now)
    return one


def test_a_volume_at_rest_has_none() -> None:
    volume = mapped()
    assert operations.of(world(volume), volume, NOW) == []


def test_a_leg_that_came_back_catches_up() -> None:
    one = only(mapped(mapping=JOINED, nodes=copying(4)))
    assert (one.id, one.kind, one.state) == ("rebuild-b", "Rebuild", "Running")
    assert one.why == "it lacks what was written while it was out of reach"
    assert (one.sources, one.target, one.replaces, one.delta) == (["a"], "b", "", True)
    assert (one.done_bytes, one.left_bytes, one.rate) == (4 * MIB, 12 * MIB, MIB)
    assert parse(one.expected_end) == NOW + 12
    assert one.checkpoint_bytes is None


def test_the_end_is_reckoned_anew_with_new_figures_only() -> None:
    """A status that changed at every look would never be at rest."""
    volume = mapped(mapping=JOINED, nodes=copying(4))
    first = only(volume)
    after = msgspec.structs.replace(volume, status=msgspec.structs.replace(volume.status, operations=[first]))
    assert only(after, now=NOW + 5) == first
    status = msgspec.structs.replace(after.status, nodes=copying(8))
    assert parse(only(msgspec.structs.replace(after, status=status), now=NOW + 5).expected_end) == NOW + 13


def test_their_order_says_nothing() -> None:
    """The API server keeps what is there where it stands: what was applied would never be found again."""
    first = only(mapped(mapping=JOINED, nodes=copying(4)))
    second = msgspec.structs.replace(first, id="rebuild-c", target="c")
    status = mapped(operations=[second, first]).status
    assert conditions.applied(status, {"operations": [first, second]})
    assert not conditions.applied(status, {"operations": [first]})


def test_a_halted_one_says_by_whom_and_from_where_it_goes_on() -> None:
    one = only(mapped(mapping=JOINED, nodes=copying(4, halted=True, rate=0)), quiescence("pause", "Quiesced"))
    assert (one.state, one.halted_by, one.checkpoint_bytes) == ("Halted", ["pause"], 4 * MIB)
    assert one.expected_end == ""


@pytest.mark.parametrize(
    ("objects", "kind", "replaces", "why"),
    [
        pytest.param([device("n2-d1", "n2", desired_state="Drained")], "Move", "b", "is to be emptied", id="emptied"),
        pytest.param([lost("n2", since=NOW - 5000)], "Rebuild", "b", "n2-d1 on n2 failed", id="lost"),
        pytest.param([], "Rebuild", "", "fewer copies than asked for", id="one more"),
    ],
)
def test_why_a_spare_is_made_outlives_what_brought_it_about(
    objects: list[Object], kind: str, replaces: str, why: str
) -> None:
    volume = mapped(spares=[SPARE], nodes=[*mapped().status.nodes, report("n3", "c")])
    first = only(volume, *objects)
    assert (first.kind, first.state, first.target, first.replaces) == (kind, "Waiting", "c", replaces)
    assert why in first.why
    assert first.message == "begins with the next generation of the mapping"
    joined = legs(leg("a", "n1"), SPARE, generation=2)
    later = mapped(mapping=joined, operations=[first], nodes=copying(4, leg="c"))
    after = only(later)
    assert (after.id, after.why, after.since, after.replaces) == (first.id, first.why, first.since, first.replaces)
    assert after.state == "Running"


def test_two_spares_do_not_take_the_same_place() -> None:
    other = msgspec.structs.replace(SPARE, id="d", extents=leg("d", "n3", disk="d2").extents)
    volume = mapped(
        mapping=legs(leg("a", "n1"), leg("b", "n2", "Stale"), leg("e", "n2", "Stale", disk="d2")),
        spares=[SPARE, other],
        nodes=[*mapped().status.nodes, report("n3", "c", "d")],
        copies_wanted=3,
    )
    there = world(volume, lost("n2", since=NOW - 5000), device("n2-d2", "n2", "Failed", since=NOW - 5000))
    assert [(one.target, one.replaces) for one in operations.of(there, volume, NOW)] == [("c", "b"), ("d", "e")]


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        pytest.param(mapped(mapping=JOINED, wanted="", attachment=Attachment(epoch=1)), "attached", id="down"),
        pytest.param(mapped(mapping=JOINED), "is about to begin", id="not begun"),
        pytest.param(
            mapped(
                mapping=JOINED,
                nodes=[
                    report("n1", "a", front="Active", paths=[PathReport(id="b", path="Up", member="Stopped")]),
                    report("n2", "b"),
                ],
            ),
            operations.CANNOT_COPY,
            id="its source cannot be read",
        ),
        pytest.param(mapped(spares=[SPARE]), "its extents are being zeroed", id="being zeroed"),
    ],
)
def test_one_that_waits_says_for_what(volume: VirtualVolume, message: str) -> None:
    one = only(volume)
    assert one.state == "Waiting"
    assert message in one.message
    assert one.left_bytes == volume.status.size_bytes


def test_one_that_waits_for_its_turn_says_so() -> None:
    volume = mapped(spares=[SPARE], copies_wanted=3, nodes=[*mapped().status.nodes, report("n3", "c")])
    busy = mapped(mapping=JOINED, nodes=copying(4))
    other = msgspec.structs.replace(
        busy,
        metadata=msgspec.structs.replace(busy.metadata, name="v0", uid="uid-v0"),
        spec=msgspec.structs.replace(busy.spec, uuid="4f1c0000-0000-4000-8000-000000000002"),
    )
    there = world(volume, other)
    there.rebuild_limits = RebuildLimits(per_node=1, per_cluster=0)
    [one] = operations.of(there, volume, NOW)
    assert "waits for its turn to be rebuilt" in one.message


def copied(name: str, attach: str, to: str, *, kib: int = 0) -> VirtualVolume:
    """One that is attached on a node and copied to a leg on another."""
    there = legs(leg("a", attach), leg("b", to, "Rebuilding"))
    volume = mapped(mapping=there, attachment=Attachment(node=attach, epoch=1))
    number = int(name[1:])
    return msgspec.structs.replace(
        volume,
        metadata=msgspec.structs.replace(volume.metadata, name=name, uid=f"uid-{name}"),
        spec=msgspec.structs.replace(
            volume.spec,
            uuid=f"4f1c0000-0000-4000-8000-{number:012}",
            rebuild=Rebuild(max_rate=kib),
        ),
    )


@pytest.mark.parametrize(
    ("others", "limits", "kib"),
    [
        pytest.param([], RebuildLimits(), 0, id="no limit"),
        pytest.param([], RebuildLimits(rate_per_node=900), 900, id="alone on its nodes"),
        pytest.param(
            [copied("v2", "n2", "n3")], RebuildLimits(rate_per_node=900), 450, id="shared where it is written"
        ),
        pytest.param([copied("v2", "n1", "n3")], RebuildLimits(rate_per_node=900), 450, id="shared where it is read"),
        pytest.param([copied("v2", "n3", "n4")], RebuildLimits(rate_per_node=900), 900, id="others elsewhere"),
        pytest.param([copied("v2", "n3", "n4")], RebuildLimits(rate_per_cluster=900), 450, id="the cluster's"),
        pytest.param(
            [copied("v2", "n3", "n2"), copied("v3", "n1", "n4"), copied("v4", "n1", "n4")],
            RebuildLimits(rate_per_node=900, rate_per_cluster=1600),
            300,
            id="the least of all",
        ),
        pytest.param([copied("v2", "n1", "n2")], RebuildLimits(rate_per_cluster=1), 1, id="never none at all"),
    ],
)
def test_a_limit_is_shared_by_those_that_copy(others: list[VirtualVolume], limits: RebuildLimits, kib: int) -> None:
    volume = copied("v1", "n1", "n2")
    there = world(volume, *others)
    there.rebuild_limits = limits
    [one] = operations.of(there, volume, NOW)
    assert one.max_rate == kib * KIB
    there.put(copied("v1", "n1", "n2", kib=200))
    [own] = operations.of(there, there.volumes["v1"], NOW)
    assert own.max_rate == min(kib or 200, 200) * KIB


def test_whose_rate_depends_on_it_is_known() -> None:
    volume, at_node, elsewhere = copied("v1", "n1", "n2"), copied("v2", "n2", "n3"), copied("v3", "n3", "n4")
    there = world(volume, at_node, elsewhere)
    assert there.slowed_by(volume) == set()
    there.rebuild_limits = RebuildLimits(rate_per_node=1)
    assert there.slowed_by(volume) == {"v2"}
    there.rebuild_limits = RebuildLimits(rate_per_cluster=1)
    assert there.slowed_by(volume) == {"v2", "v3"}
    there.remove(at_node)
    assert there.slowed_by(volume) == {"v3"}


def test_a_comparison_is_one_as_well() -> None:
    told = Progress(kind="Scrub", done_bytes=8 * MIB, total_bytes=16 * MIB, rate=MIB, halted=True)
    wanted = ScrubInstruction(number=3, reason="Request", begun_at="2027-01-15T08:00:00Z")
    nodes = [report("n1", "a", front="Active", progress=[told]), report("n2", "b")]
    one = only(mapped(scrub=wanted, nodes=nodes), quiescence("pause", "Quiesced"))
    assert (one.id, one.kind, one.state, one.target) == ("scrub-3", "Scrub", "Halted", "")
    assert (one.sources, one.since, one.why) == (["a", "b"], wanted.begun_at, "somebody asked for it")
    assert (one.checkpoint_bytes, one.halted_by) == (8 * MIB, ["pause"])


def test_a_leg_that_is_back_waits_to_be_taken_in_again() -> None:
    volume = mapped(mapping=STALE, conditions=degraded(NOW - 100))
    [one] = operations.of(world(volume, n2=Health("Ready", heard=NOW)), volume, NOW)
    assert (one.id, one.message) == ("rebuild-b", "begins with the next generation of the mapping")


def test_a_leg_that_is_away_is_not_being_rebuilt() -> None:
    volume = mapped(mapping=STALE)
    assert operations.of(world(volume, lost("n2", since=NOW - 5)), volume, NOW) == []
