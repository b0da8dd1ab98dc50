"""A plan in the making for the attach node: what the record wants of the stack, and what of it stands."""

from __future__ import annotations

from millpond_core import layout, names
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan import stack as look_at
from millpond_core.nodeplan.stack import Source, Stack, in_sync
from millpond_core.nodeplan.steps import Step
from millpond_core.nodeplan.view import Around, Kernel, LegMemory, Memory, node_report, volume_bytes

NOTHING = LegMemory(slot=-1)
"""What is remembered of a leg of which nothing is."""


class Attaching:
    """One plan in the making: a ladder whose rungs each add steps; the first that adds any ends the plan.

    ``steps`` of one plan are done in order without another look, so a rung adds only what stays right together.
    """

    def __init__(self, volume: VirtualVolume, kernel: Kernel, around: Around, memory: Memory) -> None:
        self.volume, self.kernel, self.around, self.memory = volume, kernel, around, memory
        self.uuid = volume.spec.uuid
        self.epoch = volume.status.attachment.epoch
        self.stack: Stack = look_at.look(volume, kernel)
        self.legs = {leg.id: leg for leg in volume.status.mapping.legs}
        self.sources = {leg.id: self._source(leg) for leg in self.wanted()}
        self.wanted_bytes = volume_bytes(volume)
        """Usable bytes by the record."""
        array = self.stack.array
        self.bytes = layout.volume_bytes(array.component_sectors) if array else self.wanted_bytes
        """Usable bytes of what stands here: an array that was assembled before the volume grew has less."""
        self.array_name = names.array(self.uuid)
        self.slots = {leg: known.slot for leg, known in memory.legs.items()}
        self.steps: list[Step] = []
        self.waits: list[str] = []
        self.down = {leg.id for leg in self.wanted() if not self.up(leg.id)}
        self.wake: float | None = None

    # --- what the record wants ---

    def wanted(self) -> list[Leg]:
        """Legs that belong into the array now or soon."""
        return [leg for leg in self.legs.values() if leg.state in ("InSync", "Rebuilding") and not leg.releasing]

    def insync(self) -> list[Leg]:
        return [leg for leg in self.wanted() if leg.state == "InSync"]

    def kept(self) -> list[Leg]:
        """Legs that have a place in the array, also while they are away."""
        return [leg for leg in self.legs.values() if leg.state != "Failed" and not leg.releasing]

    def _source(self, leg: Leg) -> Source:
        return look_at.source(self.volume, leg, self.kernel, self.around, self.memory)

    # --- what stands ---

    def gate_name(self, leg: str) -> str:
        return names.gate(self.uuid, leg)

    def path_name(self, leg: str) -> str:
        return names.path(self.uuid, leg)

    def holding(self, leg: str) -> bool:
        status = self.kernel.gates.get(self.gate_name(leg))
        return status is not None and status.holding

    def queued(self) -> list[str]:
        """Legs whose gate holds reads or writes right now."""
        gates = self.kernel.gates
        return [leg for leg in sorted(self.stack.gates) if (s := gates.get(self.gate_name(leg))) and s.queued]

    def same_life(self, leg: str) -> bool:
        """The leg's present life is the one that the path was built for."""
        known = self.memory.legs.get(leg)
        return known is not None and self.sources[leg].incarnation == known.incarnation

    def path_fits(self, leg: str) -> bool:
        """The path leads to where the leg is now, in the same life."""
        path, found = self.stack.paths.get(leg), self.sources.get(leg)
        return (
            path is not None
            and found is not None
            and found.state == "Ready"
            and self.same_life(leg)
            and layout.leads_to(path.table, found.major_minor, layout.leg_sectors(self.bytes))
        )

    def gate_fits(self, leg: str) -> bool:
        """The gate is as large as the array needs it."""
        gate = self.stack.gates.get(leg)
        return gate is not None and layout.table_sectors(gate.table) >= layout.leg_sectors(self.bytes)

    def up(self, leg: str) -> bool:
        """I/O reaches the leg: gate and path stand, lead to it and are active."""
        status = self.kernel.gates.get(self.gate_name(leg))
        return status is not None and status.path_up and self.path_fits(leg) and self.gate_fits(leg)

    @property
    def confirmed(self) -> bool:
        """This node has confirmed the epoch, and has said so."""
        own = node_report(self.volume, self.around.node)
        return own is not None and own.epoch == self.memory.confirmed == self.epoch

    def nearness(self, leg: str) -> int:
        """How near a leg is that an attachment waits for; each stage has a patience of its own.

        0: this node is not ready for it. 1: its node does not offer it. 2: it is offered. 3: it is connected, or the
        array stands, which is used from then on: no stage is before the array.
        """
        if self.memory.assembled:
            return 3
        if not self.confirmed:
            return 0
        found = self.sources[leg]
        return 3 if found.state == "Ready" else 2 if found.nqn else 1

    def good(self, leg: Leg) -> bool:
        """A leg that the volume can live on: InSync on record, reachable, and md's where there is an array."""
        if leg.state != "InSync" or leg.releasing or not self.up(leg.id):
            return False
        return self.stack.array is None or in_sync(self.stack.member(leg.id))

    def gone_for_good(self, leg: Leg) -> bool:
        """What the path led to will never come back: the leg is in a new life, or without its disk.

        A disk that appears again begins a new life (``claim``), so there is nothing to wait for.
        """
        known, found = self.memory.legs.get(leg.id, NOTHING), self.sources[leg.id]
        if not known.incarnation:
            return False
        return found.state == "Lost" or (bool(found.incarnation) and found.incarnation != known.incarnation)

    def begins_anew(self, leg: Leg) -> bool:
        """The leg is in a new life of which nothing is expected: what leads to the old one goes, then it is connected.

        One that is rebuilt starts from the beginning; and before the array was assembled nobody has written under this
        epoch, so what the leg's disk has kept is all that there ever was to keep.
        """
        found, known = self.sources[leg.id], self.memory.legs.get(leg.id, NOTHING)
        if not found.incarnation or self.same_life(leg.id):
            return False
        return leg.state == "Rebuilding" or (bool(known.incarnation) and not self.memory.assembled)

    def delta_of(self, leg: str) -> bool:
        """Whether the running rebuild of a leg is a delta."""
        return self.memory.legs.get(leg, NOTHING).delta
