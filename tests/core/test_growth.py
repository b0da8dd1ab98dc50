"""When a larger size counts, what of it a leg takes along that leaves, and when the attach node takes it up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import test_nodeplan as attach
from master_world import NOW, legs, lost, mapped, patched, report, world
from master_world import leg as at
from test_nodeplan import SIZE, kinds, namespace, planned, standing

from millpond_core import layout, names
from millpond_core.allocator import Space, extend
from millpond_core.master import changes, growth
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Extent, Growth, LegGrowth
from millpond_core.nodeplan import steps as s
from millpond_core.nodeplan.view import Kernel
from millpond_core.patches import json_patch
from millpond_core.units import MIB

LARGER = 32 * MIB


def extent(node: str) -> Extent:
    return Extent(device=f"{node}-d1", device_uuid=f"u-{node}-d1", start=5, length=4)


GROWTH = Growth(
    size_bytes=LARGER, legs=[LegGrowth(id="a", extents=[extent("n1")]), LegGrowth(id="b", extents=[extent("n2")])]
)


def said(node: str, leg: str, ready: int, **more: Any) -> Any:
    entry = report(node, leg, **more)
    return msgspec.structs.replace(entry, legs=[msgspec.structs.replace(entry.legs[0], prepared_bytes=ready)])


def growing(a: int = LARGER, b: int = LARGER, **status: Any) -> VirtualVolume:
    """The volume of ``master_world``, attached to n1, with its extents for more; legs ready for so many bytes."""
    nodes = [said("n1", "a", a, front="Active"), said("n2", "b", b)]
    volume = mapped(
        **{"growth": GROWTH, "nodes": nodes, "wanted": "", "attachment": mapped().status.attachment} | status
    )
    return msgspec.structs.replace(volume, spec=msgspec.structs.replace(volume.spec, size="32Mi"))


def detached(**status: Any) -> VirtualVolume:
    """Nothing of it stands anywhere, so no path has to be up."""
    nowhere = msgspec.structs.replace(mapped().status.attachment, node="", clean=True)
    return growing(**{"attachment": nowhere, **status})


@pytest.mark.parametrize(("a", "b"), [(LARGER, 16 * MIB), (0, LARGER), (28 * MIB, 28 * MIB)])
def test_it_is_not_committed_before_every_leg_is_prepared(a: int, b: int) -> None:
    volume = detached(a=a, b=b)
    assert changes.ready(world(volume), volume, NOW) is None
    assert "waits for leg" in growth.progress(volume)


def test_the_commit() -> None:
    volume = detached()
    change = changes.ready(world(volume), volume, NOW)
    assert change is not None
    assert change.grow
    after = committed(volume, change)
    assert (after.status.mapping.size_bytes, after.status.mapping.generation, after.status.growth) == (LARGER, 2, None)
    assert [leg.extents[1] for leg in after.status.mapping.legs] == [extent("n1"), extent("n2")]


@pytest.mark.parametrize("state", ["Stale", "Rebuilding"])
def test_it_is_not_committed_while_a_copy_is_missing(state: str) -> None:
    volume = detached(mapping=legs(at("a", "n1"), at("b", "n2", state)))
    there = world(volume)
    assert not growth.ready(there, volume)


def test_a_leg_that_leaves_takes_along_what_it_was_being_given() -> None:
    """Its label has it: nobody else may have it before the leg is given back."""
    volume = growing(
        mapping=legs(at("a", "n1"), at("b", "n2"), at("c", "n3")),
        nodes=[*growing().status.nodes, report("n3", "c")],
        next_leg=3,
    )
    change = changes.Change(reason="DeviceFailed", retire=("b",))
    after = committed(volume, change)
    _, b, _ = after.status.mapping.legs
    assert (b.releasing, b.extents[1]) == (True, extent("n2"))
    assert after.status.growth is not None
    assert [one.id for one in after.status.growth.legs] == ["a"]
    there = world(after)
    assert sorted(there.used("u-n2-d1")) == [(0, 5), (5, 4)]


def committed(volume: VirtualVolume, change: changes.Change) -> VirtualVolume:
    return msgspec.convert(json_patch(msgspec.to_builtins(volume), changes.operations(volume, change)), VirtualVolume)


def test_extents_are_accounted_before_they_are_anybodys() -> None:
    volume = detached(growth=None)
    asked = patched(world(volume))
    assert asked.status.growth == GROWTH
    assert world(asked).used("u-n1-d1") == [(0, 5), (5, 4)]
    assert growth.target(asked) == LARGER


def test_a_lost_leg_that_was_replaced_gets_its_own_extents() -> None:
    """The spare was made for the size that the volume has."""
    one = Growth(size_bytes=LARGER, legs=[LegGrowth(id="a", extents=[extent("n1")])])
    volume = detached(growth=one, b=16 * MIB)
    after = patched(world(volume))
    assert after.status.growth == GROWTH


def test_a_device_that_failed_gives_nothing() -> None:
    volume = detached(growth=None)
    there = world(volume, lost("n2", since=NOW - 1))
    assert growth.says(there, volume, NOW).reason == "Degraded"  # type: ignore[union-attr]


def test_extents_of_a_row_are_equally_long() -> None:
    row = [
        Space(name="d1", uuid="u1", node="n", pool="p", free=((0, 2), (9, 9))),
        Space(name="d2", uuid="u2", node="n", pool="p", free=((3, 4),)),
    ]
    pieces = extend(row, 4, 256)
    assert not isinstance(pieces, str)
    assert [(p.device, p.start, p.length) for p in pieces] == [("d1", 0, 2), ("d2", 3, 2), ("d1", 9, 2), ("d2", 5, 2)]
    assert extend(row, 5, 256) == "d2 has 16Mi free, 4Mi short"
    assert "in too many pieces" in str(extend(row, 4, 1))


# --- the attach node ---


def larger_record(*, a: str = "InSync", b: str = "InSync") -> VirtualVolume:
    """Committed: the legs have nine units."""
    volume = attach.volume(attach.leg("a", a), attach.leg("b", b))
    mapping = volume.status.mapping
    more = {"a": ("dev-a", "d1"), "b": ("dev-b", "d2")}
    grown = [
        msgspec.structs.replace(
            leg,
            extents=[*leg.extents, Extent(device=more[leg.id][0], device_uuid=more[leg.id][1], start=5, length=4)],
        )
        for leg in mapping.legs
    ]
    mapping = msgspec.structs.replace(mapping, size_bytes=LARGER, legs=grown)
    return msgspec.structs.replace(volume, status=msgspec.structs.replace(volume.status, mapping=mapping))


def below(kernel: Kernel, *, paths: bool = False, gates: bool = False, b: int = LARGER) -> Kernel:
    """What stands, with leg a and the namespace of leg b as large as the record wants them."""
    uuid, dm = attach.UUID, dict(kernel.dm)

    def table(name: str, text: str) -> None:
        dm[name] = msgspec.structs.replace(dm[name], table=text)

    table(names.leg(uuid, "a"), "0 40960 linear 259:0 8192\n40960 32768 linear 259:0 49152")
    for leg, number, path in (("a", "253:0", "253:1"), ("b", "259:9", "253:3")):
        if paths:
            table(names.path(uuid, leg), layout.path_table(number, LARGER))
        if gates:
            table(names.gate(uuid, leg), layout.gate_table(path, LARGER, holding=True))
    live = kernel.controllers[attach.NQN_B]
    controllers = {attach.NQN_B: msgspec.structs.replace(live, namespaces=(namespace("259:9", b),))}
    device = kernel.devices["dev-a"]
    assert device.label is not None
    entry = msgspec.structs.replace(device.label.legs[0], size_bytes=LARGER, extents=((0, 0, 5), (1, 5, 4)))
    label = msgspec.structs.replace(device.label, legs=(entry,))
    devices = {"dev-a": msgspec.structs.replace(device, label=label)}
    return msgspec.structs.replace(kernel, dm=dm, controllers=controllers, devices=devices)


def swaps(steps: list[s.Step]) -> list[str]:
    return [step.name.rsplit("-", 2)[-2] for step in steps if isinstance(step, s.SwapDm)]


def test_first_the_paths_then_the_gates_then_the_array_then_the_front() -> None:
    record = larger_record()
    assert swaps(planned(record, below(standing()))) == ["path", "path"]
    assert swaps(planned(record, below(standing(), paths=True))) == ["gate", "gate"]
    (grow,) = [step for step in planned(record, below(standing(), paths=True, gates=True)) if isinstance(step, s.Grow)]
    assert (grow.component_sectors, grow.front) == (layout.component_sectors(LARGER), names.front(attach.UUID))


def test_a_gate_keeps_its_mode() -> None:
    steps = planned(larger_record(), below(standing(), paths=True))
    assert all(layout.gate_holds(step.table) for step in steps if isinstance(step, s.SwapDm))


@pytest.mark.parametrize(
    "kernel",
    [
        below(standing(up=False)),
        below(standing(flags_b=("faulty", "blocked"))),
        below(standing(), b=SIZE),
    ],
    ids=["path down", "faulty", "namespace not grown"],
)
def test_nothing_grows_while_a_leg_is_not_as_it_should_be(kernel: Kernel) -> None:
    """A swapped gate takes its path for up: one that is down must not be taken up that way."""
    steps = planned(larger_record(), kernel)
    assert "Grow" not in kinds(steps)
    assert swaps(steps) == []


def test_nothing_grows_while_a_leg_is_copied() -> None:
    kernel = below(standing(flags_b=("spare",), holding_b=False))
    steps = planned(larger_record(b="Rebuilding"), kernel)
    assert swaps(steps) == []
    assert "Grow" not in kinds(steps)


def test_a_front_that_is_held_is_left_alone() -> None:
    kernel = below(standing(), paths=True, gates=True)
    front = names.front(attach.UUID)
    held = {**kernel.dm, front: msgspec.structs.replace(kernel.dm[front], suspended=True)}
    assert "Grow" not in kinds(planned(larger_record(), msgspec.structs.replace(kernel, dm=held), hold=True))


def test_whoever_died_after_the_array_grew_goes_on_with_the_front() -> None:
    kernel = below(standing(), paths=True, gates=True)
    assert kernel.array is not None
    array = msgspec.structs.replace(kernel.array, component_sectors=layout.component_sectors(LARGER))
    (step,) = [
        one
        for one in planned(larger_record(), msgspec.structs.replace(kernel, array=array))
        if isinstance(one, s.SwapDm)
    ]
    assert (step.name, step.table) == (names.front(attach.UUID), layout.front_table("9:0", LARGER))
