"""One volume on its attach node and on its leg nodes: the ladder from what stands to what is wanted, and the record."""

from __future__ import annotations

import msgspec
import pytest

from millpond_core import layout, names
from millpond_core.errors import Conflict
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import (
    Attachment,
    DesiredAttachment,
    Extent,
    Leg,
    LegReport,
    Mapping,
    NodeReport,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.nodeplan import legs, losing, node, record
from millpond_core.nodeplan import steps as s
from millpond_core.nodeplan.view import Around, DeviceSeen, Kernel, LegMemory, Memory
from millpond_core.observed import (
    Array,
    Controller,
    DmDevice,
    Export,
    GateStatus,
    Label,
    LabelLeg,
    Member,
    Namespace,
    PeerLeg,
)
from millpond_core.units import MIB

UUID = "7d3c4b52-53b6-5d0c-9a35-2d1c8d8f7a10"
SIZE = 16 * MIB


EMPTY = Label(cluster="c", device_uuid="d", device_name="n1-nvme1", sequence=1)


# --- one volume on its attach node, legs a (here) and b ---

LIFE_A = names.incarnation("boot", [("d1", 1)])
NQN_B = names.subsystem_nqn(UUID, "b", 5, "lifeb")


def leg(name: str, state: str = "InSync", **fields: object) -> Leg:
    extent = Extent(device=f"dev-{name}", device_uuid="d1" if name == "a" else "d2", start=0, length=5)
    return Leg(id=name, node="n1" if name == "a" else "n2", state=state, extents=[extent], **fields)  # type: ignore[arg-type]


def volume(
    *legs: Leg, wanted: str = "n1", reports: bool = True, epoch: int = 5, b: LegReport | None = None
) -> VirtualVolume:
    said = b or LegReport(id="b", prepared=True, nqn=NQN_B, address="10.0.0.2:4420", incarnation="lifeb")
    return VirtualVolume(
        metadata=ObjectMeta(name="v"),
        spec=VirtualVolumeSpec(uuid=UUID, size="16Mi", attachment=DesiredAttachment(node=wanted)),
        status=VirtualVolumeStatus(
            size_bytes=SIZE,
            mapping=Mapping(generation=3, record_seq=9, legs=list(legs)),
            attachment=Attachment(node="n1", epoch=epoch, clean=False, boot_id="boot"),
            nodes=[NodeReport(node="n1", epoch=epoch), NodeReport(node="n2", epoch=epoch, legs=[said])]
            if reports
            else [],
        ),
    )


def namespace(number: str, size: int = SIZE) -> Namespace:
    identity = names.namespace_uuid(UUID, "b", 5, "lifeb")
    return Namespace(major_minor=number, name="nvme9n1", uuid=identity, sectors=layout.leg_sectors(size))


def noted(name: str, state: str = "InSync") -> LabelLeg:
    """What the label of its device says of a leg under epoch 5."""
    return LabelLeg(
        volume=UUID,
        volume_name="v",
        leg=name,
        size_bytes=SIZE,
        extents=((0, 0, 5),),
        epoch=5,
        generation=3,
        record_seq=9,
        state=state,
        zeroed=True,
        synced_epoch=5,
    )


def standing(
    *, up: bool = True, flags_b: tuple[str, ...] = ("in_sync",), holding_b: bool = True, live: str = "live"
) -> Kernel:
    """Everything stands: legs a and b in the array, the front open."""
    a, b = names.gate(UUID, "a"), names.gate(UUID, "b")
    path_a, path_b, leg_a = names.path(UUID, "a"), names.path(UUID, "b"), names.leg(UUID, "a")
    front, array = names.front(UUID), names.array(UUID)

    def dm(name: str, number: str, table: str, opened: int = 1) -> DmDevice:
        return DmDevice(name=name, uuid=names.dm_uuid(name), major_minor=number, table=table, open_count=opened)

    content = noted("a")
    on_disk = Label(cluster="c", device_uuid="d1", device_name="dev-a", sequence=4, attach_count=1, legs=(content,))
    return Kernel(
        boot_id="boot",
        dm={
            leg_a: dm(leg_a, "253:0", "0 40960 linear 259:0 8192"),
            path_a: dm(path_a, "253:1", layout.path_table("253:0", SIZE)),
            a: dm(a, "253:2", layout.gate_table("253:1", SIZE, holding=True)),
            path_b: dm(path_b, "253:3", layout.path_table("259:9", SIZE)),
            b: dm(b, "253:4", layout.gate_table("253:3", SIZE, holding=holding_b)),
            front: dm(front, "253:5", layout.front_table("9:0", SIZE)),
        },
        gates={
            a: GateStatus(holding=True, path_up=True),
            b: GateStatus(holding=holding_b, path_up=up, queued=0 if up else 3),
        },
        array=Array(
            name=array,
            device=f"/dev/md_{array}",
            major_minor="9:0",
            array_state="active",
            raid_disks=2,
            component_sectors=layout.component_sectors(SIZE),
            degraded=0,
            sync_action="idle",
            sync_done_sectors=0,
            sync_total_sectors=0,
            mismatch_count=0,
            members=(
                Member(major_minor="253:2", slot=0, flags=frozenset({"in_sync"}), recovery_start=None),
                Member(major_minor="253:4", slot=1, flags=frozenset(flags_b), recovery_start=None),
            ),
        ),
        controllers={
            NQN_B: Controller(
                name="nvme9",
                nqn=NQN_B,
                address="10.0.0.2:4420",
                state=live,
                namespaces=(namespace("259:9"),),
            )
        },
        devices={
            "dev-a": DeviceSeen(
                name="dev-a", device_uuid="d1", present=True, major_minor="259:0", path="/dev/x", label=on_disk
            )
        },
    )


REMEMBERED = Memory(
    epoch=5,
    assembled=True,
    confirmed=5,
    generation=3,
    record_seq=9,
    legs={
        "a": LegMemory(slot=0, incarnation=LIFE_A, synced=True),
        "b": LegMemory(slot=1, incarnation="lifeb", synced=True),
    },
    built={"a": LIFE_A},
)
AROUND = Around(node="n1", address="10.0.0.1", host_nqn="h", host_id="i", now=100.0)


def look(v: VirtualVolume, kernel: Kernel, around: Around, memory: Memory) -> s.Plan:
    """The plan of a node whose labels know of the other legs what the record says."""
    mapping, layout_ = v.status.mapping, v.spec.layout
    known: dict[str, object] = {
        "extent_count": 1,
        "stripes": layout_.stripes,
        "stripe_bytes": layout_.stripe_size,
        "next_leg": v.status.next_leg,
        "peers": tuple(PeerLeg(leg=o.id, node=o.node, state=o.state, releasing=o.releasing) for o in mapping.legs),
    }
    devices = {}
    for name, device in kernel.devices.items():
        entries = device.label.legs if device.label else ()
        fresh = tuple(msgspec.structs.replace(entry, **known) for entry in entries)
        label = msgspec.structs.replace(device.label, legs=fresh) if device.label else None
        devices[name] = msgspec.structs.replace(device, label=label)
    return node.plan(v, msgspec.structs.replace(kernel, devices=devices), around, memory)


def planned(v: VirtualVolume, kernel: Kernel, memory: Memory = REMEMBERED, **around: object) -> list[s.Step]:
    return list(look(v, kernel, msgspec.structs.replace(AROUND, **around), memory).steps)


def kinds(steps: list[s.Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


def test_a_label_knows_the_legs_of_a_volume_after_each_change() -> None:
    other = msgspec.structs.replace(noted("a"), volume="another")
    label = msgspec.structs.replace(EMPTY, legs=(other,))
    assert label.of(UUID) == ()
    more = msgspec.structs.replace(label, legs=(other, noted("a"), noted("b")))
    assert more.of(UUID) == (noted("a"), noted("b"))
    assert more.of("another") == (other,)


def test_what_stands_as_it_should_is_left_alone() -> None:
    assert planned(volume(leg("a"), leg("b")), standing()) == []


def test_a_failed_device_is_recorded_first_and_then_let_go() -> None:
    down = standing(up=False, live="connecting")
    steps = planned(volume(leg("a"), leg("b")), down, failed_devices=frozenset({"dev-b"}))
    assert kinds(steps) == ["Record", "GateFail", "MdFail", "AcknowledgeFailure"]
    assert steps[0] == s.Record(leg="b", old="InSync", new="Stale", why=steps[0].why)


def test_an_unreachable_leg_is_held_for_hold_seconds() -> None:
    v, down = volume(leg("a"), leg("b")), standing(up=False, live="connecting")
    assert planned(v, down, down_since={"b": 91.0}) == []
    plan = look(v, down, msgspec.structs.replace(AROUND, down_since={"b": 91.0}), REMEMBERED)
    assert plan.wake == pytest.approx(1.0)
    assert kinds(planned(v, down, down_since={"b": 90.0}))[0] == "Record"


def test_an_attachment_has_patience_with_others_and_takes_its_own_time() -> None:
    v, memory = volume(leg("a"), leg("b")), msgspec.structs.replace(REMEMBERED, assembled=False)
    alone = msgspec.structs.replace(standing(), array=None, controllers={})
    late = {"b": AROUND.now - losing.ATTACH_SECONDS}
    assert kinds(planned(v, alone, memory, down_since=late))[0] == "Record"
    unready = msgspec.structs.replace(memory, confirmed=4)
    assert "Record" not in kinds(planned(v, alone, unready, down_since=late))
    assert kinds(planned(v, alone, unready, down_since={"b": AROUND.now - losing.OWN_SECONDS}))[0] == "Record"

    def near(memory: Memory, kernel: Kernel = alone, said: LegReport | None = None) -> dict[str, int]:
        return dict(look(volume(leg("a"), leg("b"), b=said), kernel, AROUND, memory).down)

    assert near(unready) == {"b": 0}
    assert near(memory, said=LegReport(id="b", prepared=True)) == {"b": 1}
    assert near(memory) == {"b": 2}
    assert near(REMEMBERED, standing(up=False, live="connecting")) == {"b": 3}, "no stage is before an array"


def test_our_own_network_is_suspected_first() -> None:
    hasty = volume(leg("a"), leg("b"))
    spec = msgspec.structs.replace(
        hasty.spec, on_failure=msgspec.structs.replace(hasty.spec.on_failure, hold_seconds=0)
    )
    v, down = msgspec.structs.replace(hasty, spec=spec), standing(up=False, live="connecting")
    assert planned(v, down, down_since={"b": 99.0}, cut_off=True) == []
    assert kinds(planned(v, down, down_since={"b": 99.0}))[0] == "Record"
    assert kinds(planned(v, down, down_since={"b": 94.0}, cut_off=True))[0] == "Record"


def test_min_in_sync_holds() -> None:
    hasty = volume(leg("a"), leg("b"))
    spec = msgspec.structs.replace(hasty.spec, on_failure=msgspec.structs.replace(hasty.spec.on_failure, min_in_sync=2))
    v = msgspec.structs.replace(hasty, spec=spec)
    down = standing(up=False, live="connecting")
    plan = look(v, down, msgspec.structs.replace(AROUND, failed_devices=frozenset({"dev-b"})), REMEMBERED)
    assert plan.steps == ()
    assert "writes wait" in plan.waits[0]


def test_a_path_back_in_the_same_life_is_reinstated() -> None:
    steps = planned(volume(leg("a"), leg("b")), standing(up=False))
    assert kinds(steps) == ["GateReinstate"]


def test_a_path_that_leads_elsewhere_now_is_looked_at_again_before_it_is_taken_up() -> None:
    """Device numbers are used again: the held writes must not follow a swap without a second look."""
    kernel = standing(up=False)
    live = kernel.controllers[NQN_B]
    moved = msgspec.structs.replace(live, namespaces=(namespace("259:77"),))
    kernel = msgspec.structs.replace(kernel, controllers={NQN_B: moved})
    assert kinds(planned(volume(leg("a"), leg("b")), kernel)) == ["SwapDm"]


def test_a_path_back_in_a_new_life_is_recorded_and_never_reinstated() -> None:
    back = LegReport(
        id="b",
        prepared=True,
        nqn=names.subsystem_nqn(UUID, "b", 5, "lifec"),
        address="10.0.0.2:4420",
        incarnation="lifec",
    )
    steps = planned(volume(leg("a"), leg("b"), b=back), standing(up=False))
    assert kinds(steps) == ["Record", "GateFail", "MdFail", "AcknowledgeFailure"]


def test_before_the_array_is_assembled_a_new_life_is_connected_anew() -> None:
    """Nobody has written under this epoch: the last leg in sync may begin a new life, else it would wait for ever."""
    back = LegReport(
        id="b",
        prepared=True,
        nqn=names.subsystem_nqn(UUID, "b", 5, "lifec"),
        address="10.0.0.2:4420",
        incarnation="lifec",
    )
    v, kernel = volume(leg("a", "Rebuilding"), leg("b"), b=back), standing(up=False)
    there = {name: dm for name, dm in kernel.dm.items() if name != names.front(UUID)}
    kernel = msgspec.structs.replace(kernel, dm=there, array=None)
    fresh = msgspec.structs.replace(REMEMBERED, assembled=False)
    half_made = msgspec.structs.replace(kernel, array=standing().array)
    for looked, expected in (
        (half_made, ["Stop"]),
        (kernel, ["RemoveDm", "RemoveDm", "Disconnect", "Remember"]),
    ):
        stack, *_ = look(v, looked, AROUND, fresh).parts
        assert kinds(list(stack)) == expected


def test_a_completed_rebuild_is_looked_at_twice_flushed_and_recorded() -> None:
    v = volume(leg("a"), leg("b", "Rebuilding"))
    assert kinds(planned(v, standing(holding_b=False))) == ["GateHold"]
    assert kinds(planned(v, standing(holding_b=True))) == ["Flush", "Record", "Acknowledge"]


@pytest.mark.parametrize(
    ("synced", "previous", "delta"),
    [
        pytest.param(4, 0, True, id="in sync in the epoch before"),
        pytest.param(3, 0, False, id="not since"),
        pytest.param(3, 3, True, id="an epoch that only fenced a node lies in between"),
        pytest.param(2, 3, False, id="not since the volume was last assembled"),
    ],
)
def test_a_leg_catches_up_when_it_was_in_sync_as_the_volume_was_last_assembled(
    synced: int, previous: int, delta: bool
) -> None:
    said = LegReport(
        id="b", prepared=True, nqn=NQN_B, address="10.0.0.2:4420", incarnation="lifeb", synced_epoch=synced
    )
    there = volume(leg("a"), leg("b", "Rebuilding"), b=said)
    at = msgspec.structs.replace(there.status.attachment, previous=previous)
    there = msgspec.structs.replace(there, status=msgspec.structs.replace(there.status, attachment=at))
    kernel = standing(holding_b=False)
    assert kernel.array is not None
    alone = msgspec.structs.replace(kernel.array, members=kernel.array.members[:1])
    fresh = {**REMEMBERED.legs, "b": LegMemory(slot=1, incarnation="lifeb")}
    memory = msgspec.structs.replace(REMEMBERED, legs=fresh)
    added = [
        step for step in planned(there, msgspec.structs.replace(kernel, array=alone), memory) if isinstance(step, s.Add)
    ]
    assert [step.delta for step in added] == [delta]


def test_the_gate_of_a_leg_that_is_copied_does_not_hold() -> None:
    assert kinds(planned(volume(leg("a"), leg("b", "Rebuilding")), standing(flags_b=("spare",)))) == ["GateFail"]


def test_a_copy_that_md_gave_up_is_begun_again_later_and_later() -> None:
    there = volume(leg("a"), leg("b", "Rebuilding"))
    kernel = standing(holding_b=False)
    assert kernel.array is not None
    good, _ = kernel.array.members
    given_up = Member(major_minor="253:4", slot=None, flags=frozenset({"spare"}), recovery_start=0)
    kernel = msgspec.structs.replace(kernel, array=msgspec.structs.replace(kernel.array, members=(good, given_up)))
    known = LegMemory(slot=1, incarnation="lifeb", copied=True)

    def planned_with(now: float = 100.0) -> s.Plan:
        memory = msgspec.structs.replace(REMEMBERED, legs={**REMEMBERED.legs, "b": known})
        return look(there, kernel, msgspec.structs.replace(AROUND, now=now), memory)

    assert kinds(list(planned_with().steps)) == ["Remember", "Add", "Remember"], "half added: a restart came between"
    pauses = []
    for _ in range(9):
        known = msgspec.structs.replace(known, copying=True)
        (noticed,) = planned_with().steps
        assert isinstance(noticed, s.Remember)
        known = noticed.apply(REMEMBERED).legs["b"]
        waits = planned_with()
        assert not waits.steps
        pauses.append(waits.wake)
        assert "leg a on n1 cannot be read" in waits.report.message
        assert kinds(list(planned_with(now=known.again).steps)) == ["Remember", "Add", "Remember"]
    assert pauses == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]


def test_a_leg_dropped_on_record_leaves_the_array() -> None:
    steps = planned(volume(leg("a"), leg("b", "Failed", releasing=True)), standing())
    assert kinds(steps) == ["GateFail", "MdFail", "AcknowledgeFailure"]


def test_a_generation_is_in_force_once_nothing_that_it_drops_stands() -> None:
    """Leg a is dropped, but b cannot be reached: a is kept, and nobody may hear that the volume goes on without it."""
    v, kernel = volume(leg("a", "Failed", releasing=True), leg("b")), standing(up=False, live="connecting")
    before = msgspec.structs.replace(REMEMBERED, generation=2)
    plan = look(v, kernel, AROUND, before)
    assert not any(isinstance(step, s.Remember) for step in plan.steps), plan.steps
    assert plan.report is not None
    assert plan.report.generation == 2
    assert any("kept" in wait for wait in plan.waits)
    assert not any(isinstance(step, s.RemoveDm | s.DropLeg) for step in plan.steps), "its device is still in use"


def leg_node(
    generation: int, *, host: str = "h1", state: str = "Failed", identity: str = "", device: str = ""
) -> tuple[list[s.Step], str]:
    """(steps, NQN shown) of n2, which exports leg b, while n1 says that ``generation`` is in force.

    ``identity`` and ``device`` of the export; empty: what they should be.
    """
    dropped = leg("b", state, releasing=state == "Failed")
    v = volume(leg("a"), dropped)
    life = names.incarnation("boot", [("d2", 1)])
    nqn = names.subsystem_nqn(UUID, "b", 5, life)
    name = names.leg(UUID, "b")
    content = noted("b", state)
    on_disk = Label(cluster="c", device_uuid="d2", device_name="dev-b", sequence=4, attach_count=1, legs=(content,))
    there = [NodeReport(node="n1", epoch=5, generation=generation), NodeReport(node="n2", epoch=5)]
    v = msgspec.structs.replace(v, status=msgspec.structs.replace(v.status, nodes=there))
    dm = DmDevice(
        name=name, uuid=names.dm_uuid(name), major_minor="253:0", table="0 40960 linear 259:0 8192", open_count=1
    )
    export = Export(
        nqn=nqn,
        device=device or names.dm_path(name),
        namespace_uuid=identity or names.namespace_uuid(UUID, "b", 5, life),
        enabled=True,
        linked=True,
        allowed_hosts=("h1",),
    )
    device = DeviceSeen(name="dev-b", device_uuid="d2", present=True, major_minor="259:0", path="/dev/x", label=on_disk)
    kernel = Kernel(boot_id="boot", dm={name: dm}, exports={nqn: export}, devices={"dev-b": device})
    around = msgspec.structs.replace(AROUND, node="n2", attach_host_nqn=host)
    memory = Memory(confirmed=5, generation=3, record_seq=9, built={"b": life})
    plan = look(v, kernel, around, memory)
    assert plan.report is not None
    return list(plan.steps), plan.report.legs[0].nqn


def test_a_released_leg_stays_until_the_attach_node_goes_on_without_it() -> None:
    steps, nqn = leg_node(generation=2)
    assert steps == []
    assert nqn, "the attach node may still have it in its array"
    steps, nqn = leg_node(generation=3)
    assert kinds(steps) == ["Unexport", "RemoveDm", "Remember", "DropLeg"]
    assert nqn == ""


def test_an_export_stays_while_the_attach_nodes_name_is_not_known() -> None:
    steps, nqn = leg_node(generation=3, host="", state="InSync")
    assert (steps, bool(nqn)) == ([], True)


@pytest.mark.parametrize(
    ("identity", "device", "done"),
    [
        pytest.param("", "", [], id="as it should be"),
        pytest.param("another", "", ["Unexport", "Export"], id="the attach node would not know it"),
        pytest.param("", "/dev/mapper/another", ["Unexport", "Export"], id="others would be written to"),
    ],
)
def test_an_export_of_something_else_is_made_anew(identity: str, device: str, done: list[str]) -> None:
    steps, nqn = leg_node(generation=3, state="InSync", identity=identity, device=device)
    assert (kinds(steps), bool(nqn)) == (done, True)


def test_a_lost_leg_that_is_being_rebuilt_leaves_before_its_record() -> None:
    """Nobody relies on it: an API server that is out must not hold writes for its sake."""
    v = volume(leg("a"), leg("b", "Rebuilding"))
    down = standing(up=False, live="connecting", flags_b=("faulty", "blocked"), holding_b=False)
    assert kinds(planned(v, down)) == ["AcknowledgeFailure", "Record"]


def test_a_complete_leg_in_a_new_life_leaves_with_its_gate_open() -> None:
    """It was about to be promoted: a write that its gate holds would keep it a member for ever."""
    back = LegReport(
        id="b",
        prepared=True,
        nqn=names.subsystem_nqn(UUID, "b", 5, "lifec"),
        address="10.0.0.2:4420",
        incarnation="lifec",
    )
    v = volume(leg("a"), leg("b", "Rebuilding"), b=back)
    assert kinds(planned(v, standing(up=False)))[:3] == ["GateFail", "MdFail", "AcknowledgeFailure"]


def test_a_leg_that_was_in_use_is_never_zeroed() -> None:
    v = volume(leg("a"), leg("b"), reports=False)
    kernel = standing()
    blank = msgspec.structs.replace(kernel.devices["dev-a"], label=msgspec.structs.replace(EMPTY, device_uuid="d1"))
    kernel = Kernel(boot_id="boot", devices={"dev-a": blank})
    plan = look(v, kernel, AROUND, Memory())
    assert not any(isinstance(step, s.PutLeg | s.Zero | s.CreateDm) for step in plan.steps)
    assert any("kept away, not erased" in wait for wait in plan.waits)


def test_an_absent_leg_is_no_instruction() -> None:
    plan = look(volume(leg("a")), standing(), AROUND, REMEMBERED)
    assert plan.steps == ()
    assert plan.waits == ("leg b stands here but the record does not know it: kept",)


def test_a_newer_label_stops_everything() -> None:
    older = volume(leg("a"), leg("b"), epoch=4)
    plan = look(older, standing(), AROUND, REMEMBERED)
    assert plan.steps == ()
    assert "newer than the record" in plan.waits[0]


def test_another_epoch_fences_what_stands() -> None:
    v = volume(leg("a"), leg("b"), epoch=6, reports=False)
    moved = msgspec.structs.replace(v.status.attachment, node="n3")
    v = msgspec.structs.replace(v, status=msgspec.structs.replace(v.status, attachment=moved))
    plan = look(v, standing(), AROUND, REMEMBERED)
    assert kinds(list(plan.parts[0])) == ["GateFailPath", "GateFailPath", "CreateDm"]
    assert plan.report is not None
    assert (plan.report.front, plan.report.epoch) == ("Fenced", 5), "not confirmed while it stands"


def test_a_front_in_use_is_not_taken_down() -> None:
    plan = look(volume(leg("a"), leg("b"), wanted=""), standing(), AROUND, REMEMBERED)
    assert plan.steps == ()
    assert "still in use" in plan.waits[0]


def walled(kernel: Kernel, *, path_up: bool = False, front: bool = False) -> Kernel:
    """With a wall beside the front, or under it."""
    name, number = names.wall(UUID), "253:99"
    wall = DmDevice(name=name, uuid=names.dm_uuid(name), major_minor=number, table="")
    dm = {**kernel.dm, name: wall}
    if front:
        table = layout.front_table(number, SIZE)
        dm[names.front(UUID)] = msgspec.structs.replace(dm[names.front(UUID)], table=table)
    status = GateStatus(holding=False, path_up=path_up, queued=0)
    return msgspec.structs.replace(kernel, dm=dm, gates={**kernel.gates, name: status})


def test_a_broken_stack_reaches_no_leg_and_answers_nobody_who_could_go_on() -> None:
    """A disk that failed without leaving answers again under its old number: it must not be written to any more."""
    kernel = standing()
    assert kernel.array is not None
    waiting = msgspec.structs.replace(kernel.array, array_state="write-pending")
    kernel = msgspec.structs.replace(kernel, array=waiting)
    broken = msgspec.structs.replace(REMEMBERED, broken=True)
    seen, apart = volume(leg("a"), leg("b")), ["GateFailPath", "GateFailPath"]
    assert kinds(planned(seen, kernel, broken)) == [*apart, "CreateDm"]
    fresh = look(seen, walled(kernel, path_up=True), AROUND, broken)
    assert [step.name for step in fresh.parts[0] if isinstance(step, s.GateFailPath)][2:] == [names.wall(UUID)]
    kernel = walled(kernel)
    assert kinds(planned(seen, kernel, broken)) == [*apart, "Sever"]
    opened = GateStatus(holding=False, path_up=False, queued=0)
    tried = msgspec.structs.replace(kernel, gates={**kernel.gates, names.gate(UUID, "b"): opened})
    assert kinds(planned(seen, tried, broken)) == ["GateFailPath", "GateHold", "Sever"]
    begun = msgspec.structs.replace(AROUND, severing_since=AROUND.now)
    early = look(seen, kernel, begun, broken)
    assert kinds(list(early.parts[0])) == apart, "most of it comes out by itself"
    assert early.wake is not None
    late = msgspec.structs.replace(begun, now=AROUND.now + 3)
    answered = [*apart, "KillPods", "GateFail", "GateFail", "Acknowledge"]
    assert kinds(list(look(seen, kernel, late, broken).parts[0])) == answered


@pytest.mark.parametrize("broken", [True, False], ids=["broken", "fenced"])
def test_a_severed_front_is_opened_and_stays_until_its_pods_have_ended(broken: bool) -> None:
    kernel = walled(standing(), front=True)
    memory = msgspec.structs.replace(REMEMBERED, broken=broken)
    seen = volume(leg("a"), leg("b"), epoch=5 if broken else 6)
    plan = look(seen, kernel, AROUND, memory)
    assert kinds(list(plan.parts[0])) == ["GateFailPath", "GateFailPath", "GateFail", "GateFail"]
    assert "end the pods" in " ".join(plan.waits)
    front = msgspec.structs.replace(kernel.dm[names.front(UUID)], open_count=0)
    closed = msgspec.structs.replace(kernel, dm={**kernel.dm, front.name: front})
    plan = look(seen, closed, AROUND, memory)
    assert "RemoveDm" in kinds(list(plan.parts[0]))
    without = {name: dm for name, dm in closed.dm.items() if name != front.name}
    opened = {name: GateStatus(holding=False, path_up=False, queued=0) for name in kernel.gates}
    gone = msgspec.structs.replace(closed, dm=without, gates=opened)
    steps = look(seen, gone, AROUND, memory).parts[0]
    assert [step.name for step in steps if isinstance(step, s.RemoveDm | s.Stop)] == [
        names.wall(UUID),
        names.array(UUID),
    ]


def test_after_a_reboot_nothing_is_assembled_under_the_old_epoch() -> None:
    bare = Kernel(boot_id="boot 2", devices=standing().devices)
    plan = look(volume(leg("a"), leg("b")), bare, AROUND, Memory())
    assert not any(isinstance(step, s.Assemble | s.Connect) for step in plan.steps)
    assert "rebooted" in plan.waits[0]


def test_a_leg_is_released_where_it_can_be_and_tells_which_devices_still_have_it() -> None:
    """Striped over two disks, of which one is dead: the other's units must not wait for it."""
    away = Extent(device="dead", device_uuid="d9", start=0, length=5)
    striped = msgspec.structs.replace(leg("a", "Failed", releasing=True), extents=[*leg("a").extents, away])
    there = msgspec.structs.replace(volume(striped, wanted=""), metadata=ObjectMeta(name="v", deletion_timestamp="now"))
    kernel = msgspec.structs.replace(standing(), array=None, gates={}, controllers={})
    mapped = msgspec.structs.replace(kernel, dm={names.leg(UUID, "a"): kernel.dm[names.leg(UUID, "a")]})
    plan = legs.plan(there, mapped, AROUND, Memory(generation=3))
    assert kinds(list(plan.steps)) == ["RemoveDm", "DropLeg"]
    [said] = plan.reports
    assert (said.released, said.unmapped, said.kept_on) == (False, False, ["dead", "dev-a"])
    device = kernel.devices["dev-a"]
    assert device.label is not None
    dropped = msgspec.structs.replace(device, label=msgspec.structs.replace(device.label, legs=()))
    gone = msgspec.structs.replace(mapped, dm={}, devices={"dev-a": dropped})
    [said] = legs.plan(there, gone, AROUND, Memory()).reports
    assert (said.released, said.unmapped, said.kept_on) == (False, True, ["dead"])
    back = DeviceSeen(name="dead", device_uuid="d9", present=True, major_minor="259:5")
    whole = msgspec.structs.replace(gone, devices={"dev-a": dropped, "dead": back})
    [said] = legs.plan(there, whole, AROUND, Memory()).reports
    assert (said.released, said.unmapped, said.kept_on) == (True, True, [])


# --- the record ---


def test_the_records_patch_tests_all_that_it_relies_on() -> None:
    operations = record.patch(volume(leg("a"), leg("b")), s.Record(leg="b", old="InSync", new="Stale"))
    tested = {op["path"]: op["value"] for op in operations if op["op"] == "test"}
    assert tested == {
        "/status/attachment/epoch": 5,
        "/status/mapping/generation": 3,
        "/status/mapping/recordSeq": 9,
        "/status/mapping/legs/1/id": "b",
        "/status/mapping/legs/1/state": "InSync",
    }
    changed = {op["path"]: op["value"] for op in operations if op["op"] == "replace"}
    assert changed == {"/status/mapping/legs/1/state": "Stale", "/status/mapping/recordSeq": 10}


def test_a_record_that_has_moved_on_is_not_changed() -> None:
    with pytest.raises(Conflict, match="not InSync any more"):
        record.patch(volume(leg("a"), leg("b", "Stale")), s.Record(leg="b", old="InSync", new="Stale"))


# --- the database went back ---


def told_newer(*legs: Leg) -> VirtualVolume:
    """n2 says that its label is newer than the record."""
    v = volume(*legs)
    reports = [
        msgspec.structs.replace(said, newer_label="the label of dev-b is newer") if said.node == "n2" else said
        for said in v.status.nodes
    ]
    return msgspec.structs.replace(v, status=msgspec.structs.replace(v.status, nodes=reports))


def test_nothing_is_begun_by_a_record_that_another_nodes_label_is_newer_than() -> None:
    """Else its leg would be waited for, recorded Stale, and the volume would come up from the others as it once was."""
    bare = msgspec.structs.replace(standing(), dm={}, gates={}, array=None, controllers={})

    def attaches(v: VirtualVolume) -> bool:
        steps = planned(v, bare, Memory())
        return any(isinstance(step, s.Remember) and "epoch" in step.changes for step in steps)

    assert attaches(volume(leg("a"), leg("b")))
    assert not attaches(told_newer(leg("a"), leg("b")))


def test_what_runs_goes_on_whatever_another_node_says_of_its_label() -> None:
    down = standing(up=False, live="connecting")
    steps = planned(told_newer(leg("a"), leg("b")), down, failed_devices=frozenset({"dev-b"}))
    assert "Record" in kinds(steps)


def test_another_record_of_the_same_numbers_is_no_record_of_ours() -> None:
    """The master may have written to an old record before it heard of the label."""
    v = volume(leg("a"), leg("b"))
    kernel = standing()
    entry = msgspec.structs.replace(noted("a"), extent_count=1, peers=(PeerLeg(leg="a", node="n1", state="InSync"),))
    device = kernel.devices["dev-a"]
    assert device.label is not None
    label = msgspec.structs.replace(device.label, legs=(entry,))
    kernel = msgspec.structs.replace(kernel, devices={"dev-a": msgspec.structs.replace(device, label=label)})
    plan = node.plan(v, kernel, AROUND, REMEMBERED)
    assert plan.steps == ()
    assert plan.report is not None
    assert "has another record of the same numbers (epoch 5, generation 3, recordSeq 9)" in plan.report.newer_label
