"""Where legs go: properties that hold for any cluster, and the reasons that people read."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond_core import layout
from millpond_core.allocator import (
    MAX_EXTENTS,
    Need,
    Place,
    Refusal,
    Space,
    allocate,
    cut,
    free_runs,
    largest,
    refused,
    topology_value,
)
from millpond_core.model.virtualvolume import Extent

RUNS = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=12)


@st.composite
def spaces(draw: st.DrawFn) -> list[Space]:
    found = []
    for number in range(draw(st.integers(1, 10))):
        node = f"n{draw(st.integers(1, 4))}"
        found.append(
            Space(
                name=f"d{number}",
                uuid=f"u{number}",
                node=node,
                pool=draw(st.sampled_from(["default", "default", "fast"])),
                free=free_runs(draw(st.integers(0, 400)), draw(RUNS)),
                legs=draw(st.integers(0, 5)),
                unfit=draw(st.sampled_from(["", "", "", "its node is unschedulable"])),
                labels={"zone": f"z{int(node[1:]) % 3}"},
            )
        )
    return found


NEEDS = st.builds(
    Need,
    units=st.integers(1, 300),
    stripes=st.sampled_from([1, 1, 1, 2, 3]),
    topology=st.sampled_from(["kubernetes.io/hostname", "zone"]),
    preferred=st.sampled_from(["", "n1", "n3"]),
    selector=st.sampled_from([{}, {}, {"zone": "z1"}]),
)


def units(place: Place, device: str) -> list[int]:
    """Every unit of a device that a place takes."""
    return [unit for p in place.pieces if p.device == device for unit in range(p.start, p.start + p.length)]


@given(spaces(), NEEDS, st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_what_is_placed_fits_is_spread_and_can_be_mapped(spaces: list[Space], need: Need, count: int) -> None:
    by_name = {space.name: space for space in spaces}
    places = allocate(spaces, need, count)
    if isinstance(places, Refusal):
        assert places.found < count
        assert len(places.reasons) == len(spaces)
        assert all(reason.partition(": ")[2] for reason in places.reasons), "each device gets its reason"
        return
    assert len(places) == count
    assert len({place.node for place in places}) == count, "no two legs on one node"
    values = [topology_value(by_name[place.pieces[0].device], need.topology) for place in places]
    assert len(set(values)) == count, "no two legs in one domain"
    for place in places:
        devices = {piece.device for piece in place.pieces}
        assert len(devices) == need.stripes
        assert len(place.pieces) <= MAX_EXTENTS
        for device in devices:
            space, taken = by_name[device], units(place, device)
            free = {unit for start, length in space.free for unit in range(start, start + length)}
            assert len(taken) == len(set(taken)) == need.units, "as many as needed, none twice"
            assert set(taken) <= free, "only what is free"
            assert (space.node, space.pool, space.unfit) == (place.node, need.pool, "")
        extents = [Extent(device=p.device, device_uuid=p.uuid, start=p.start, length=p.length) for p in place.pieces]
        table = layout.leg_table(extents, {p.uuid: "8:0" for p in place.pieces}, stripes=need.stripes)
        assert layout.table_sectors(table) == need.units * need.stripes * layout.UNIT_SECTORS


@given(spaces(), NEEDS, st.integers(1, 3), st.randoms())
@settings(deadline=None)
def test_the_same_devices_in_any_order_give_the_same_answer(
    spaces: list[Space], need: Need, count: int, random: st.DataObject
) -> None:
    shuffled = list(spaces)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert allocate(spaces, need, count) == allocate(shuffled, need, count)


@given(spaces(), NEEDS, st.integers(1, 3))
@settings(deadline=None)
def test_the_largest_leg_fits_and_a_unit_more_does_not(spaces: list[Space], need: Need, count: int) -> None:
    most = largest(spaces, need, count)
    assert isinstance(allocate(spaces, replace(need, units=most + 1), count), Refusal)
    assert most == 0 or not isinstance(allocate(spaces, replace(need, units=most), count), Refusal)


@given(st.integers(0, 300), RUNS)
def test_gaps_and_what_is_used_make_the_whole(capacity: int, used: list[tuple[int, int]]) -> None:
    taken = {unit for start, length in used for unit in range(start, start + length)}
    gaps = [unit for start, length in free_runs(capacity, used) for unit in range(start, start + length)]
    assert len(gaps) == len(set(gaps))
    assert set(gaps) == set(range(capacity)) - taken


def test_first_fit_gives_way_where_it_would_need_too_many_extents() -> None:
    scattered = tuple((2 * number, 1) for number in range(500))
    runs = (*scattered, (2000, 400))
    assert cut(runs, 100) == scattered[:100]
    taken = cut(runs, 401)
    assert len(taken) <= MAX_EXTENTS
    assert taken[0] == (2000, 400)
    space = Space("d", "u", "n1", "default", scattered)
    assert "too many pieces" in refused(space, Need(units=300))


def space(name: str, node: str, free: int = 100, **fields: object) -> Space:
    return Space(name, f"u-{name}", node, **{"pool": "default", "free": ((0, free),), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spaces", "need", "chosen"),
    [
        pytest.param([space("a", "n1", 50), space("b", "n2", 90)], Need(units=10), "b", id="most-free-first"),
        pytest.param(
            [space("a", "n1", 50), space("b", "n2", 90)],
            Need(units=10, preferred="n1"),
            "a",
            id="the-preferred-node-before-the-freest",
        ),
        pytest.param(
            [space("a", "n1", 5), space("b", "n2", 90)],
            Need(units=10, preferred="n1"),
            "b",
            id="a-preferred-node-without-room-is-no-reason-to-refuse",
        ),
        pytest.param([space("a", "n1", legs=3), space("b", "n2", legs=1)], Need(units=10), "b", id="fewest-legs"),
        pytest.param([space("b", "n1"), space("a", "n2")], Need(units=10), "a", id="then-by-name"),
        pytest.param(
            [space("a", "n1", 90), space("b", "n2", 50)],
            Need(units=10, doubted=frozenset({"n1"})),
            "b",
            id="where-nothing-was-just-lost",
        ),
    ],
)
def test_what_is_preferred(spaces: list[Space], need: Need, chosen: str) -> None:
    places = allocate(spaces, need)
    assert not isinstance(places, Refusal)
    assert places[0].pieces[0].device == chosen


@pytest.mark.parametrize(
    ("space", "need", "reason"),
    [
        (space("a", "n1", unfit="its node is unschedulable"), Need(units=1), "unschedulable"),
        (space("a", "n1", pool="slow"), Need(units=1), "belongs to pool slow, not default"),
        (space("a", "n1"), Need(units=1, selector={"ssd": "yes"}), "lacks the label ssd=yes"),
        (space("a", "n1"), Need(units=1, taken_nodes=frozenset({"n1"})), "has a leg of this volume already"),
        (space("a", "n1"), Need(units=1, topology="zone"), "lacks the label zone"),
        (
            space("a", "n1", labels={"zone": "z1"}),
            Need(units=1, topology="zone", taken_values=frozenset({"z1"})),
            "zone=z1 already",
        ),
        (space("a", "n1", 10), Need(units=12), "40Mi free, 8Mi short"),
    ],
)
def test_each_predicate_says_why(space: Space, need: Need, reason: str) -> None:
    assert reason in refused(space, need)
    refusal = allocate([space], need)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.sentence()
    assert "a (n1)" in refusal.sentence()


def test_without_any_device_it_says_what_to_do() -> None:
    refusal = allocate([], Need(units=1))
    assert isinstance(refusal, Refusal)
    assert "create one" in refusal.sentence()


def test_a_thousand_devices_are_fast() -> None:
    many = [space(f"d{n}", f"n{n % 200}", 1000 + n) for n in range(1000)]
    began = time.perf_counter()
    assert not isinstance(allocate(many, Need(units=500), 3), Refusal)
    assert time.perf_counter() - began < 1.0
