"""From a state to what ``core`` takes for one look at a node: ``Kernel``, ``Around``, ``Memory``."""

from __future__ import annotations

from typing import Any

from record import SIZE_BYTES, UUID, device, device_uuid
from state import (
    ABSENT,
    DELTA,
    ERROR,
    FAULTY,
    FROZEN,
    FULL,
    HOLDING,
    IN,
    LEGS,
    LIVES,
    NODES,
    NOTHING,
    OUT,
    SUSPENDED,
    UP,
    WALLED,
    Interned,
    Life,
    Size,
    State,
)

from millpond_core import layout, names
from millpond_core.model import VirtualVolume
from millpond_core.nodeplan.view import Around, DeviceSeen, Kernel, Memory
from millpond_core.observed import Array, Controller, DmDevice, Export, GateStatus, Label, Member, Namespace

EARLY, LATE = 0.0, 1_000_000.0
"""CLOCK_BOOTTIME before and after every patience; deadlines of quiescences lie between."""

WALL_NUMBER = "253:101"

FLAGS = {
    IN: frozenset({"in_sync"}),
    FULL: frozenset({"spare"}),
    DELTA: frozenset({"spare"}),
    FAULTY: frozenset({"faulty", "blocked"}),
}


def boot_id(node: int, boot: int) -> str:
    return f"{NODES[node]}-boot-{boot}"


def host_nqn(node: int) -> str:
    return names.host_nqn("c", NODES[node])


def life_name(size: Size, leg: int, life: int) -> str:
    """The incarnation by which ``core`` knows a life."""
    return names.incarnation(boot_id(size.places[leg], life // LIVES), [(device_uuid(leg), life)])


def nqn(size: Size, leg: int, target: Life) -> str:
    return names.subsystem_nqn(UUID, LEGS[leg], target[0], life_name(size, leg, target[1]))


def namespace(size: Size, leg: int, target: Life) -> str:
    return names.namespace_uuid(UUID, LEGS[leg], target[0], life_name(size, leg, target[1]))


def number(leg: int, target: Life) -> str:
    """``major:minor`` of a leg's dm on its own node, or of its namespace elsewhere."""
    epoch, life = target
    return f"{254 + bool(epoch)}:{leg * 4096 + epoch * 64 + life}"


def gate_number(leg: int) -> str:
    return f"253:{leg * 2 + 1}"


def path_number(leg: int) -> str:
    return f"253:{leg * 2}"


def target_of(table: str) -> Life:
    """Where the table of a path leads."""
    if table.split()[2] == "error":
        return ERROR
    major, minor = (int(part) for part in table.split()[3].split(":"))
    rest = minor % 4096
    return (rest // 64 if major == 255 else 0, rest % 64)


def path_table(leg: int, target: Life) -> str:
    if target == ERROR:
        return layout.error_table(SIZE_BYTES)
    return layout.path_table(number(leg, target), SIZE_BYTES)


def kernel(size: Size, objects: Interned, state: State, n: int) -> Kernel:
    """What the state manager of node ``n`` finds."""
    node, memory = state.nodes[n], objects[state.nodes[n].memory]
    dm: dict[str, DmDevice] = {}
    gates: dict[str, GateStatus] = {}
    controllers: dict[str, Controller] = {}

    def add(name: str, major_minor: str, table: str, **more: Any) -> None:
        dm[name] = DmDevice(name=name, uuid=names.dm_uuid(name), major_minor=major_minor, table=table, **more)

    for leg, stack in enumerate(node.legs):
        if node.mapped[leg] >= 0:
            add(names.leg(UUID, LEGS[leg]), number(leg, (0, node.mapped[leg])), "0 16384 linear 8:0 8192")
        if stack.target is not None:
            add(names.path(UUID, LEGS[leg]), path_number(leg), path_table(leg, stack.target))
        if stack.gate:
            name = names.gate(UUID, LEGS[leg])
            holding = stack.gate == HOLDING
            add(name, gate_number(leg), layout.gate_table(path_number(leg), SIZE_BYTES, holding=holding))
            flight = state.flights[n]
            queued = holding and not stack.up and flight is not None and leg in flight.waiting
            gates[name] = GateStatus(holding=holding, path_up=stack.up, queued=int(queued))
        if stack.connected is not None:
            known = nqn(size, leg, stack.connected)
            live = state.link and state.nodes[size.places[leg]].up
            space = namespace(size, leg, stack.connected)
            controllers[known] = Controller(
                name=f"nvme{leg}",
                nqn=known,
                address="10.0.0.1:4420",
                state="live" if live else "connecting",
                namespaces=(
                    Namespace(
                        major_minor=number(leg, stack.connected),
                        name=f"nvme{leg}n1",
                        uuid=space,
                        sectors=layout.leg_sectors(SIZE_BYTES),
                    ),
                )
                if live
                else (),
            )
    if node.front != ABSENT:
        add(
            names.front(UUID),
            "253:100",
            layout.front_table(WALL_NUMBER if node.front == WALLED else "9:127", SIZE_BYTES),
            suspended=node.front == SUSPENDED,
            # Whoever waits for an answer has it open, killed or not.
            open_count=int(node.open or state.flights[n] is not None),
        )
    if node.wall:
        name = names.wall(UUID)
        add(name, WALL_NUMBER, layout.wall_table("9:127", SIZE_BYTES))
        gates[name] = GateStatus(holding=False, path_up=node.wall == UP, queued=0)
    return Kernel(
        boot_id=boot_id(n, node.boot),
        dm=dm,
        gates=gates,
        array=_array(state, n, memory) if node.array != NOTHING else None,
        controllers=controllers,
        exports=_exports(size, state, n),
        devices={device(leg): _device(objects, state, leg) for leg, place in enumerate(size.places) if place == n},
    )


def _array(state: State, n: int, memory: Memory) -> Array:
    node = state.nodes[n]
    members = tuple(
        Member(
            major_minor=gate_number(leg),
            slot=memory.legs[LEGS[leg]].slot if LEGS[leg] in memory.legs else leg,
            flags=FLAGS[stack.member],
            recovery_start=0 if stack.member in (FULL, DELTA) else None,
        )
        for leg, stack in enumerate(node.legs)
        if stack.member != OUT
    )
    failed = any(stack.member == FAULTY for stack in node.legs)
    copying = any(stack.member in (FULL, DELTA) for stack in node.legs)
    name = names.array(UUID)
    return Array(
        name=name,
        device=f"/dev/md_{name}",
        major_minor="9:127",
        array_state="write-pending" if failed else "active",
        raid_disks=len(node.legs),
        component_sectors=layout.component_sectors(SIZE_BYTES),
        degraded=0,
        sync_action="frozen" if node.array == FROZEN else "recover" if copying else "idle",
        sync_done_sectors=0,
        sync_total_sectors=0,
        mismatch_count=0,
        members=members,
    )


def _exports(size: Size, state: State, n: int) -> dict[str, Export]:
    found = {}
    for leg, exports in enumerate(state.nodes[n].exports):
        for export in exports:
            target = (export.epoch, export.life)
            found[nqn(size, leg, target)] = Export(
                nqn=nqn(size, leg, target),
                device=names.dm_path(names.leg(UUID, LEGS[leg])),
                namespace_uuid=namespace(size, leg, target),
                enabled=True,
                linked=True,
                allowed_hosts=(host_nqn(export.host),),
            )
    return found


def _device(objects: Interned, state: State, leg: int) -> DeviceSeen:
    disk = state.disks[leg]
    entry = objects[disk.label]
    label = Label(
        cluster="c",
        device_uuid=device_uuid(leg),
        device_name=device(leg),
        sequence=1,
        attach_count=disk.life,
        legs=(entry,) if entry else (),
    )
    return DeviceSeen(
        name=device(leg), device_uuid=device_uuid(leg), present=disk.present, major_minor=f"8:{leg}", label=label
    )


def around(size: Size, state: State, n: int, volume: VirtualVolume, *, late: bool, halted: bool, hold: bool) -> Around:
    """What else the plan depends on. ``late``: whatever is down has been so for longer than anyone waits."""
    at = volume.status.attachment.node
    failed = [
        device(leg)
        for leg, place in enumerate(size.places)
        if not state.disks[leg].present and (place == n or (state.nodes[place].up and state.nodes[n].reaches))
    ]
    return Around(
        node=NODES[n],
        address=f"10.0.0.{n + 1}",
        host_nqn=host_nqn(n),
        host_id=NODES[n],
        attach_host_nqn=host_nqn(NODES.index(at)) if at else "",
        now=LATE if late else EARLY,
        down_since=dict.fromkeys(LEGS, EARLY) if late else {},
        failed_devices=frozenset(failed),
        # Long ago: what comes out by itself has come out.
        severing_since=EARLY - 10 if state.nodes[n].severing else None,
        halted=halted,
        hold=hold,
    )
