"""The master: it decides from what the API server shows, and writes what it decided some time later.

The decisions are ``core``'s: ``attaching.decide`` (with ``choose_source``), ``changes.ready`` and ``operations``,
``deleting.drop_released``, ``volume.allocated`` for a record that is gone, and ``quiescence.decide`` (with the table of
``quiesce`` and ``hold_allows``). Which nodes it takes for failed is free, as long as they are silent. Time has two
values for it: before and after every grace period, before and after a quiescence's deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import look
import msgspec
from kernel import Event
from record import NAME, Api, device, device_uuid
from state import FROZEN, NODES, NOTHING, SUSPENDED, Interned, Size, State, put

from millpond_core import quiesce
from millpond_core.instants import stamp
from millpond_core.master import attaching, changes, deleting, quiescence, volume
from millpond_core.master.steps import Act, Delete, Patch
from millpond_core.master.world import Health, World
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.storagedevice import DeviceObservation, Identity, StorageDeviceSpec, StorageDeviceStatus
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.names import LABEL_MADE_BY, MASTER
from millpond_core.patches import json_patch
from millpond_core.units import UNIT_BYTES

LOST_AT, GRACE_OVER, DEADLINE_OVER = 1000.0, 2000.0, 3000.0
"""When things were lost; when every grace period is over, and quiescences begin; when their deadlines have passed."""


class Decided(NamedTuple):
    """A patch to be written. ``commit``: it belongs to the quiescence that is under way."""

    what: str
    operations: str
    commit: bool


class Master:
    def __init__(self, size: Size, objects: Interned, api: Api) -> None:
        self.size, self.objects, self.api = size, objects, api
        self._worlds: dict[Any, World] = {}
        self._decisions: dict[Any, Any] = {}
        self._operations: dict[str, list[dict[str, Any]]] = {}

    def world(self, state: State) -> tuple[Any, World]:
        """All that it knows, with a key that says the same."""
        nodes = tuple((node.boot, node.failed, node.instruction) for node in state.nodes)
        disks = tuple(
            disk.present or not state.nodes[place].up for place, disk in zip(self.size.places, state.disks, strict=True)
        )
        key = (state.volume, nodes, disks, state.quiescence)
        found = self._worlds.get(key)
        if found is None:
            objects = [self.objects[state.volume], *self._nodes(state), *self._devices(disks)]
            objects += [self.objects[state.quiescence]] if state.quiescence else []
            found = self._worlds[key] = World(objects)
            found.health = {
                NODES[n]: Health("Failed", since=LOST_AT) for n, node in enumerate(state.nodes) if node.failed
            }
        return key, found

    def _nodes(self, state: State) -> Iterator[StorageNode]:
        for n, node in enumerate(state.nodes):
            known = self.objects[node.instruction]
            yield StorageNode(
                metadata=ObjectMeta(name=NODES[n]),
                status=StorageNodeStatus(
                    boot_id=look.boot_id(n, node.boot), quiescences=[known.answer] if known else []
                ),
            )

    def _devices(self, there: tuple[bool, ...]) -> Iterator[StorageDevice]:
        for leg, place in enumerate(self.size.places):
            yield StorageDevice(
                metadata=ObjectMeta(name=device(leg)),
                spec=StorageDeviceSpec(node_name=NODES[place], identity=Identity(device_uuid=device_uuid(leg))),
                status=StorageDeviceStatus(
                    observation=DeviceObservation(
                        state="Claimed" if there[leg] else "Failed",
                        device_uuid=device_uuid(leg),
                        capacity_bytes=2 * UNIT_BYTES,
                        since=stamp(LOST_AT),
                    )
                ),
            )

    # --- events ---

    def events(self, state: State) -> Iterator[Event]:
        yield from self._judges(state)
        if state.quiescence and not state.time_up:
            running = self.objects[state.quiescence].status.phase in quiesce.RUNNING
            # COMMIT_MARGIN_MS is what a commit has left when it is decided: its write comes before the deadline.
            if running and not (state.master and self.objects[state.master].commit):
                yield "the quiescence's deadline passes", state._replace(time_up=True)
        if state.master:
            yield self._writes(state)
            return
        for what, decided in self._decides(state):
            yield f"the master decides: {what}", state._replace(master=self.objects(decided))
        if self.size.barrier:
            yield from self._quiesces(state)

    def _judges(self, state: State) -> Iterator[Event]:
        for n, node in enumerate(state.nodes):
            if not node.failed and not (node.up and node.reaches):
                there = node._replace(failed=True)
                yield f"the master takes {NODES[n]} for failed", state._replace(nodes=put(state.nodes, n, there))

    def _decides(self, state: State) -> list[tuple[str, Decided]]:
        key, world = self.world(state)
        if key not in self._decisions:
            self._decisions[key] = list(self._decided(world))
        found: list[tuple[str, Decided]] = self._decisions[key]
        return found

    def _decided(self, world: World) -> Iterator[tuple[str, Decided]]:
        there = world.volumes[NAME]
        if not there.status.mapping.generation:
            refused = volume.valid(world, there, GRACE_OVER)
            act = volume.allocated(world, there, GRACE_OVER) if refused is None else None
            if isinstance(act, Act):
                yield self._patch("allocated anew", act)
            return
        for what, act in (
            ("attachment", attaching.decide(world, there, GRACE_OVER)),
            ("release", deleting.drop_released(world, there)),
        ):
            if isinstance(act, Act):
                yield self._patch(what, act)
        if not self.size.barrier and there.status.mapping.generation <= self.size.commits:
            for now in (LOST_AT, GRACE_OVER):
                if change := changes.ready(world, there, now):
                    step = Patch(VirtualVolume, NAME, changes.operations(there, change))
                    yield self._patch(_told(change), Act(step, ""))

    def _patch(self, what: str, act: Act, *, commit: bool = False) -> tuple[str, Decided]:
        assert isinstance(act.step, Patch)
        operations = [dict(one) for one in act.step.operations]
        text = repr(operations)
        self._operations[text] = operations
        said = act.why.split(";")[0] if act.why else what
        return said, Decided(said, text, commit)

    def _writes(self, state: State) -> Event:
        decided: Decided = self.objects[state.master]
        after = self.api.patch(state.volume, self._operations[decided.operations])
        state = state._replace(master=0)
        if not after:
            return f"the master's write is refused: {decided.what}", state
        if decided.commit:
            state = state._replace(wrong=state.wrong or self._moving(state))
        return f"the master writes: {decided.what}", state._replace(volume=after)

    # --- quiescences ---

    def _quiesces(self, state: State) -> Iterator[Event]:
        key, world = self.world(state)
        there, known = world.volumes[NAME], self.objects[state.quiescence]
        if known is None or known.status.phase in quiesce.OVER:
            count = int(known.metadata.uid) if known else 0
            change = changes.ready(world, there, GRACE_OVER) if there.status.mapping.generation else None
            if change and count < self.size.commits:
                made = self.objects(self._made(count + 1, change))
                yield f"the master goes still: {_told(change)}", state._replace(quiescence=made, time_up=False)
            return
        at = (key, "quiescence", state.time_up)
        if at not in self._decisions:
            now = DEADLINE_OVER if state.time_up else GRACE_OVER
            self._decisions[at] = quiescence.decide(world, known, now)
        decision = self._decisions[at]
        if not isinstance(decision, Act) or isinstance(decision.step, Delete):
            return
        assert isinstance(decision.step, Patch)
        if decision.step.kind is Quiescence:
            after = self._said(known, decision.step)
            if after != state.quiescence:
                phase = self.objects[after].status.phase
                yield f"the quiescence is {phase}", state._replace(quiescence=after)
        else:
            what, decided = self._patch("commit", decision, commit=True)
            yield f"the master decides: {what}", state._replace(master=self.objects(decided))

    def _made(self, count: int, change: changes.Change) -> Quiescence:
        return Quiescence(
            metadata=ObjectMeta(name=f"q{count}", uid=str(count), resource_version="1", labels={LABEL_MADE_BY: MASTER}),
            spec=QuiescenceSpec(
                reason=change.reason, scope=Scope(volumes=[NAME]), hold_io=self.size.hold_io, deadline_seconds=30
            ),
        )

    def _said(self, known: Quiescence, step: Patch) -> int:
        """The quiescence as it is patched; all that happened, happened when it began."""
        patched = json_patch(msgspec.to_builtins(known), step.operations)
        status = msgspec.convert(patched["status"], type(known.status))
        entered = [msgspec.structs.replace(one, at=stamp(GRACE_OVER), message="") for one in status.timeline]
        status = msgspec.structs.replace(status, timeline=entered, message="", conditions=[], longest_hold_ms=0)
        return self.objects(msgspec.structs.replace(known, status=status))

    def _moving(self, state: State) -> str:
        """Why a commit is made although not everyone is still; empty: all are."""
        known: Quiescence = self.objects[state.quiescence]
        for n, node in enumerate(state.nodes):
            if not node.up or node.failed or NODES[n] not in known.status.participants or node.array == NOTHING:
                continue
            if node.array != FROZEN:
                return f"a generation is committed while long operations run on {NODES[n]}"
            if known.spec.hold_io and node.front != SUSPENDED:
                return f"a generation is committed while {NODES[n]} does not hold reads and writes"
        return ""


def _told(change: changes.Change) -> str:
    parts = [f"{ids} {what}" for what in ("retire", "adopt", "rejoin") if (ids := ", ".join(getattr(change, what)))]
    return "; ".join(parts)
