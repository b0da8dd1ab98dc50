"""What stands on the attach node, read once and asked often: legs' paths and gates, members, the front."""

from __future__ import annotations

from typing import Literal

import msgspec

from millpond_core import names
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan import legs as legs_here
from millpond_core.nodeplan.view import Around, Kernel, Memory, leg_report, node_report
from millpond_core.observed import Array, Controller, DmDevice, Member

LOST_FLAGS = frozenset({"faulty", "blocked"})


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a leg can be had."""

    state: Literal["Ready", "Connectable", "Unknown", "Lost"]
    """Ready: ``major_minor`` leads to it. Connectable: connect first. Unknown: wait. Lost: its node says it is gone."""
    incarnation: str = ""
    """Its present life; empty: not known."""
    major_minor: str = ""
    sectors: int = 0
    """Of what ``major_minor`` leads to."""
    nqn: str = ""
    address: str = ""
    why: str = ""


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The volume's devices on this node."""

    front: DmDevice | None
    wall: DmDevice | None
    gates: dict[str, DmDevice]
    """By leg."""
    paths: dict[str, DmDevice]
    """By leg."""
    array: Array | None
    controllers: dict[str, Controller]
    """By NQN."""

    @property
    def empty(self) -> bool:
        return not (self.front or self.wall or self.gates or self.paths or self.array or self.controllers)

    def legs(self) -> list[str]:
        """Every leg of which something stands."""
        connected = {parsed[1] for nqn in self.controllers if (parsed := names.parse_nqn(nqn))}
        return sorted({*self.gates, *self.paths, *connected})

    def member(self, leg: str) -> Member | None:
        """The leg's place in the array."""
        gate = self.gates.get(leg)
        if gate is None or self.array is None:
            return None
        return next((m for m in self.array.members if m.major_minor == gate.major_minor), None)


def look(volume: VirtualVolume, kernel: Kernel) -> Stack:
    """Pick the volume's devices out of a look at the node."""
    uuid = volume.spec.uuid
    gates, paths = names.gate(uuid, ""), names.path(uuid, "")
    return Stack(
        front=kernel.dm.get(names.front(uuid)),
        wall=kernel.dm.get(names.wall(uuid)),
        gates={name.removeprefix(gates): dm for name, dm in kernel.dm.items() if name.startswith(gates)},
        paths={name.removeprefix(paths): dm for name, dm in kernel.dm.items() if name.startswith(paths)},
        array=kernel.array,
        controllers={
            nqn: controller
            for nqn, controller in kernel.controllers.items()
            if (parsed := names.parse_nqn(nqn)) and parsed[0] == uuid
        },
    )


def in_sync(member: Member | None) -> bool:
    """Whether md calls the member good: in its slot, complete, not faulty."""
    return (
        member is not None and member.slot is not None and "in_sync" in member.flags and not member.flags & LOST_FLAGS
    )


def faulty(member: Member | None) -> bool:
    return member is not None and bool(member.flags & LOST_FLAGS)


def blocked(member: Member | None) -> bool:
    """Whether writes wait for the member's failure to be acknowledged."""
    return member is not None and "blocked" in member.flags


def source(volume: VirtualVolume, leg: Leg, kernel: Kernel, around: Around, memory: Memory) -> Source:
    """Where ``leg`` can be had now."""
    if leg.node == around.node:
        return _local(volume, leg, kernel, memory)
    epoch = volume.status.attachment.epoch
    node = node_report(volume, leg.node)
    if node is None or node.epoch != epoch:
        return Source(state="Unknown", why=f"{leg.node} has not confirmed epoch {epoch} yet")
    report = leg_report(volume, leg)
    if report is None:
        return Source(state="Unknown", why=f"{leg.node} has not reported it yet")
    if not report.nqn:
        return Source(state="Lost", why=report.message or f"{leg.node} does not export it")
    parsed = names.parse_nqn(report.nqn)
    if parsed is None or parsed[:3] != (volume.spec.uuid, leg.id, epoch) or parsed[3] != report.incarnation:
        return Source(state="Unknown", why=f"{leg.node} exports it under another name, {report.nqn}")
    known = Source(state="Unknown", incarnation=report.incarnation, nqn=report.nqn, address=report.address)
    controller = kernel.controllers.get(report.nqn)
    if controller is None:
        return msgspec.structs.replace(known, state="Connectable")
    wanted = names.namespace_uuid(volume.spec.uuid, leg.id, epoch, report.incarnation)
    namespace = next((one for one in controller.namespaces if one.uuid == wanted), None)
    if controller.state != "live":
        return msgspec.structs.replace(known, why=f"its connection is {controller.state}")
    if namespace is None:
        return msgspec.structs.replace(known, state="Connectable", why="its namespace is not there")
    return msgspec.structs.replace(known, state="Ready", major_minor=namespace.major_minor, sectors=namespace.sectors)


def _local(volume: VirtualVolume, leg: Leg, kernel: Kernel, memory: Memory) -> Source:
    state = legs_here.here(volume, leg, kernel, memory)
    if state.ready:
        return Source(
            state="Ready", incarnation=state.incarnation, major_minor=state.major_minor, sectors=state.sectors
        )
    if state.gone:
        return Source(state="Lost", why=state.why)
    return Source(state="Unknown", incarnation=state.incarnation, why=state.why)
