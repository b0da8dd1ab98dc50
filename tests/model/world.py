"""One size of the model: where it begins, and everything that may happen next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kernel
from kernel import Event
from manager import Manager
from master import Master
from record import Api, allocated
from state import (
    ACTIVE,
    LEGS,
    NODES,
    SUSPENDED,
    Data,
    Disk,
    Interned,
    LegStack,
    Node,
    Size,
    State,
    on_node,
    put,
)

from millpond_core import names
from millpond_core.errors import Invalid
from millpond_core.model import VirtualVolume
from millpond_core.nodeplan import label as labels
from millpond_core.observed import Label, LabelLeg


class Model:
    """One size of the model, and what in it is broken on purpose: the mutations set these."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.objects = Interned()
        self.api = Api(self.objects)
        self.manager = Manager(size, self.objects, self.api)
        self.master = Master(size, self.objects, self.api)
        self.watchdog = True
        self._others: dict[Any, list[tuple[str, dict[str, Any]]]] = {}

    # --- where it begins ---

    def initial(self) -> State:
        """Attached to n1, its front open: led there by the very code, each in turn, with nothing going wrong."""
        legs = len(self.size.places)
        node = Node(legs=(LegStack(),) * legs, mapped=(-1,) * legs, exports=((),) * legs)
        state = State(
            volume=self.objects(allocated(self.size)),
            nodes=(node,) * len(NODES),
            disks=tuple(Disk(label=self._zeroed(leg)) for leg in range(legs)),
            data=(Data(),) * legs,
            flights=(None,) * len(NODES),
            dirty=(False,) * len(NODES),
            faults=0,
            kinds=self.size.kinds,
            moves=0,
        )
        for _ in range(400):
            after = self._quiet(state)
            if state.nodes[0].open and state == after:
                return state._replace(faults=self.size.faults, moves=self.size.moves)
            state = after
        raise AssertionError("the volume is not attached in the end")

    def _zeroed(self, leg: int) -> int:
        there: VirtualVolume = self.objects[self.objects(allocated(self.size))]
        known = [*there.status.mapping.legs, *there.status.spares][leg]
        entry = LabelLeg(
            volume=there.spec.uuid,
            volume_name=there.metadata.name,
            leg=known.id,
            size_bytes=there.status.size_bytes,
            extents=((0, 0, 2),),
            generation=1,
            record_seq=1,
            state=known.state,
            zeroed=True,
        )
        return self.objects(entry)

    def _quiet(self, state: State) -> State:
        for n in range(len(NODES)):
            state = self.manager.turn(state, n, late=False)
            while state.nodes[n].pending:
                _, state = self.manager.advance(state, n)
        for _, after in self._elsewhere(state):
            return after
        return state

    # --- what may happen ---

    def successors(self, state: State) -> Iterator[Event]:
        """Every state that one event leads to, with the event's name."""
        yield from kernel.events(self.size, state, [self.manager.slots(node) for node in state.nodes])
        for n, node in enumerate(state.nodes):
            if not node.up:
                continue
            if node.pending:
                yield self.manager.advance(state, n)
            else:
                yield f"{NODES[n]} looks", self.manager.turn(state, n, late=False)
                if self.size.late:
                    yield f"{NODES[n]} has waited long enough", self.manager.turn(state, n, late=True)
            if node.front == SUSPENDED and state.time_up and self.watchdog:
                there = put(state.nodes, n, node._replace(front=ACTIVE))
                yield f"the watchdog of {NODES[n]} ends the hold", state._replace(nodes=there)
        yield from self._killed(state)
        yield from self._elsewhere(state)

    def _elsewhere(self, state: State) -> list[Event]:
        """What the master and people do: whatever is on the legs and on its way does not matter to it."""
        key = (state[:3], state.faults, state.kinds, state.moves, state.master, *state[-4:-1])
        known = self._others.get(key)
        if known is None:
            found = [*self.master.events(state), *self._people(state)]
            known = self._others[key] = [(event, _changes(state, after)) for event, after in found]
        return [(event, state._replace(**changes)) for event, changes in known]

    def _killed(self, state: State) -> Iterator[Event]:
        """A pod ends when it is not wanted there any more, or when nothing it asks for can go on."""
        volume: VirtualVolume = self.objects[state.volume]
        for n, node in enumerate(state.nodes):
            broken = node.memory and self.objects[node.memory].broken
            if node.open and (broken or volume.spec.attachment.node != NODES[n]):
                flight = state.flights[n]
                left = flight._replace(owned=False) if flight else None
                nodes = put(state.nodes, n, node._replace(open=False))
                yield (
                    f"the pod on {NODES[n]} is killed",
                    state._replace(nodes=nodes, flights=put(state.flights, n, left)),
                )

    def _people(self, state: State) -> Iterator[Event]:
        """Pods, whoever moves them, and whoever restores an old backup."""
        volume: VirtualVolume = self.objects[state.volume]
        at, wanted = volume.status.attachment, volume.spec.attachment.node
        reports = {entry.node: entry for entry in volume.status.nodes}
        for n, node in enumerate(state.nodes):
            said = reports.get(NODES[n])
            # ControllerPublish answers when the front is reported, under this epoch (csidriver).
            answers = said is not None and said.front == "Active" and said.epoch == at.epoch
            if answers and not node.open and node.front == ACTIVE and wanted == at.node == NODES[n]:
                yield f"a pod on {NODES[n]} opens it", on_node(state, n, open=True)
        if state.moves:
            other = NODES[1 - NODES.index(wanted)] if wanted else NODES[0]
            moved = self.api.wanted(state.volume, other)
            yield f"it is wanted on {other}", state._replace(volume=moved, moves=state.moves - 1)
        if state.faults and "lose record" in state.kinds and volume.status.mapping.generation:
            lost = self.api.lost(state.volume)
            yield "the record is lost", kernel.spent(self.size, state, "lose record")._replace(volume=lost)
        yield from self._given_away(state, volume)

    def _given_away(self, state: State, volume: VirtualVolume) -> Iterator[Event]:
        """Extents that no record names are free to the allocator; the label has the last word (``label.put``)."""
        named = {leg.id for leg in (*volume.status.mapping.legs, *volume.status.spares)}
        for leg, disk in enumerate(state.disks):
            if LEGS[leg] in named or leg in state.given_away or not disk.present:
                continue
            entry = self.objects[disk.label]
            there = Label(cluster="c", device_uuid="", device_name="", sequence=1, legs=(entry,) if entry else ())
            other = LabelLeg(volume=names.NQN_PREFIX, volume_name="w", leg="a", size_bytes=1, extents=((0, 0, 2),))
            try:
                labels.put(there, other)
            except Invalid:
                continue
            given = state.given_away | {leg}
            yield f"the extents of {LEGS[leg]} go to another volume", state._replace(given_away=given)


def _changes(before: State, after: State) -> dict[str, Any]:
    return {
        name: new for name, old, new in zip(State._fields, before, after, strict=True) if new is not old and new != old
    }
