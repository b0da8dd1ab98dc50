"""The stack on the attach node: built, kept, losing legs and taking them back. Leaving it is ``leave``'s.

The rules of ``docs/safety.md``, as they are kept here:

* A gate holds if and only if its leg is recorded InSync. The one exception is a leg that md has just completed: its
  gate holds a moment before the record says so, and a second look lies between.
* Losing a leg: record Stale → gate fails → md is told → md's wait is answered → gate, path and connection go.
* The last good InSync leg is never recorded otherwise and its gate never opened.
* The array is assembled from InSync legs alone; others are added, by a delta only where it is provably right.
* A path is reinstated in the same incarnation only.
"""

from __future__ import annotations

from millpond_core import layout, names
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan import stack as look_at
from millpond_core.nodeplan.stack import Source, Stack, blocked, faulty, in_sync
from millpond_core.nodeplan.steps import (
    Acknowledge,
    AcknowledgeFailure,
    Add,
    Assemble,
    Connect,
    CreateDm,
    Disconnect,
    Flush,
    Freeze,
    GateFail,
    GateFailPath,
    GateHold,
    GateReinstate,
    MdFail,
    Record,
    Remember,
    RemoveDm,
    Resume,
    SetSpeed,
    Step,
    Stop,
    Suspend,
    SwapDm,
    Unfreeze,
)
from millpond_core.nodeplan.view import Around, Kernel, LegMemory, Memory, begun, leg_report, node_report, volume_bytes

CUT_OFF_SECONDS = 5.0
"""All connections of a node lost at once are its own network's fault for this long (design 4.8)."""

ATTACH_SECONDS = 60.0
"""For so long an attachment waits for a leg in sync at least: nobody's writes are held yet."""


UNRECORDED_SECONDS = 60.0
"""With ``onFailure.unrecorded: Fail``: writes fail when the loss of a leg could not be recorded for so long."""


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
        self.bytes = volume_bytes(volume)
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
            and layout.same_table(path.table, layout.path_table(found.major_minor, self.bytes))
        )

    def up(self, leg: str) -> bool:
        """I/O reaches the leg: gate and path stand, lead to it and are active."""
        status = self.kernel.gates.get(self.gate_name(leg))
        return status is not None and status.path_up and self.path_fits(leg)

    def good(self, leg: Leg) -> bool:
        """A leg that the volume can live on: InSync on record, reachable, and md's where there is an array."""
        if leg.state != "InSync" or leg.releasing or not self.up(leg.id):
            return False
        return self.stack.array is None or in_sync(self.stack.member(leg.id))

    def gone_for_good(self, leg: Leg) -> bool:
        """What the path led to will never come back: the leg is in a new life, or without its disk.

        A disk that appears again begins a new life (``claim``), so there is nothing to wait for.
        """
        known, found = self.memory.legs.get(leg.id, _NOTHING), self.sources[leg.id]
        if not known.incarnation:
            return False
        return found.state == "Lost" or (bool(found.incarnation) and found.incarnation != known.incarnation)

    def begins_anew(self, leg: Leg) -> bool:
        """The leg is in a new life of which nothing is expected: what leads to the old one goes, then it is connected.

        One that is rebuilt starts from the beginning; and before the array was assembled nobody has written under this
        epoch, so what the leg's disk has kept is all that there ever was to keep.
        """
        found, known = self.sources[leg.id], self.memory.legs.get(leg.id, _NOTHING)
        if not found.incarnation or self.same_life(leg.id):
            return False
        return leg.state == "Rebuilding" or (bool(known.incarnation) and not self.memory.assembled)

    # --- rungs ---

    def give_up(self, *, back: bool) -> bool:
        """Nothing is left to go on with, and a new epoch could: this stack is broken, reads and writes shall fail.

        Going on in a leg's new life could lose what its disk's cache had, unseen by whoever had it acknowledged.
        ``back``: only when a leg is to be had again, for what is nowhere is better waited for.
        """
        legs = self.insync()
        if not self.memory.assembled or not legs or not all(self.gone_for_good(leg) for leg in legs):
            return False
        if back and not any(self.sources[leg.id].state != "Lost" for leg in legs):
            return False
        self.steps.append(
            Remember(
                changes={"broken": True},
                why="every leg in sync has lost its disk's power: reads and writes fail, end the volume's pods",
            )
        )
        return True

    def leave(self) -> bool:
        """What the record has dropped leaves the array and the node."""
        for leg in self.stack.legs():
            known = self.legs.get(leg)
            if known is None:
                self.waits.append(f"leg {leg} stands here but the record does not know it: kept")
            elif known.state in ("Stale", "Failed") or known.releasing:
                self._part_with(leg)
        return bool(self.steps)

    def _part_with(self, leg: str) -> None:
        member = self.stack.member(leg)
        others = [other for other in self.insync() if other.id != leg and self.good(other)]
        if in_sync(member) and not others:
            self.waits.append(f"leg {leg} is dropped on record, but no other leg in sync is reachable: kept")
            return
        if member is not None:
            self.steps += self._out_of_array(leg)
            return
        if self.holding(leg):
            self.steps.append(GateFail(name=self.gate_name(leg)))
        self._dismantle(leg)

    def _out_of_array(self, leg: str) -> list[Step]:
        """Its gate first: what it holds would keep the leg a member. Nothing when only time can take it out."""
        member = self.stack.member(leg)
        elsewhere = [other for other in self.queued() if other != leg]
        if elsewhere and faulty(member) and not blocked(member) and not self.holding(leg):
            # A write that failed here counts as in flight here until it is done everywhere: md does not let go before.
            self.waits.append(f"leg {leg} leaves the array when what waits for leg {', '.join(elsewhere)} is done")
            return []
        number, steps = self.stack.gates[leg].major_minor, list[Step]()
        if self.holding(leg):
            steps.append(GateFail(name=self.gate_name(leg), why=f"leg {leg}: its gate lets errors pass now"))
        if not faulty(member):
            steps.append(MdFail(name=self.array_name, major_minor=number))
        why = f"leg {leg} left the array: reads and writes go on"
        return [*steps, AcknowledgeFailure(name=self.array_name, major_minor=number, why=why)]

    def _dismantle(self, leg: str) -> None:
        """Gate, path and connections of a leg that is no member."""
        if leg in self.stack.gates:
            self.steps.append(RemoveDm(name=self.gate_name(leg)))
        if leg in self.stack.paths:
            self.steps.append(RemoveDm(name=self.path_name(leg)))
        self._disconnect(leg, keep="")
        if leg in self.memory.legs and self.memory.legs[leg].incarnation:
            self.steps.append(Remember(legs={leg: {"incarnation": ""}}))

    def _disconnect(self, leg: str, *, keep: str) -> None:
        for nqn in sorted(self.stack.controllers):
            parsed = names.parse_nqn(nqn)
            if parsed and parsed[1] == leg and nqn != keep:
                self.steps.append(Disconnect(nqn=nqn, why=f"leg {leg} disconnected"))

    def begin(self) -> bool:
        """Remember whose stack this is before its first device stands."""
        if self.memory.epoch != self.epoch:
            slots = {leg.id: LegMemory(slot=slot) for slot, leg in enumerate(sorted(self.kept(), key=_by_id))}
            self.steps.append(Remember(changes=begun(self.epoch, slots), why=f"attaching under epoch {self.epoch}"))
        return bool(self.steps)

    def connect(self) -> bool:
        """Every leg's path and gate; a path that came back in the same life is taken up again."""
        for leg in self.wanted():
            found = self.sources[leg.id]
            if leg.id not in self.stack.paths or leg.id not in self.stack.gates:
                self._build(leg, found)
            elif self.begins_anew(leg):
                if self.stack.member(leg.id) is None:
                    self._dismantle(leg.id)
                elif self.memory.assembled:
                    self.steps += self._out_of_array(leg.id)
                continue
            elif self.same_life(leg.id):
                self._take_up(leg, found)
            if leg.id in self.down:
                self._let_go(leg, found)
        return bool(self.steps)

    def _build(self, leg: Leg, found: Source) -> None:
        if leg.id in self.stack.gates and leg.id not in self.stack.paths:
            self.steps.append(RemoveDm(name=self.gate_name(leg.id)))
        if found.state == "Connectable":
            self._disconnect(leg.id, keep=found.nqn)
            self._connect(leg, found)
        elif found.state == "Ready":
            if not self.same_life(leg.id):
                # A path of another life may be left of an interrupted dismantling: its table is made right below.
                known = self.memory.legs.get(leg.id)
                slot = known.slot if known else self._free_slot(leg.id)
                self.slots[leg.id] = slot
                self.steps.append(Remember(legs={leg.id: {"slot": slot, "incarnation": found.incarnation}}))
            path = self.stack.paths.get(leg.id)
            table = layout.path_table(found.major_minor, self.bytes)
            if path is None:
                self.steps.append(CreateDm(name=self.path_name(leg.id), table=table))
            elif not layout.same_table(path.table, table):
                self.steps.append(SwapDm(name=self.path_name(leg.id), table=table))
            else:
                holding = leg.state == "InSync"
                mode = "holds" if holding else "lets errors pass"
                self.steps.append(
                    CreateDm(
                        name=self.gate_name(leg.id),
                        table=layout.gate_table(path.major_minor, self.bytes, holding=holding),
                        why=f"leg {leg.id} on {leg.node} is reachable; its gate {mode}",
                    )
                )
        else:
            self.waits.append(f"leg {leg.id}: {found.why}")

    def _connect(self, leg: Leg, found: Source) -> None:
        if found.nqn in self.around.connecting:
            self.waits.append(f"leg {leg.id}: connecting to {leg.node}")
            return
        self.steps.append(
            Connect(
                nqn=found.nqn,
                address=found.address,
                host_nqn=self.around.host_nqn,
                host_id=self.around.host_id,
                namespace_uuid=names.namespace_uuid(self.uuid, leg.id, self.epoch, found.incarnation),
                why=f"connecting leg {leg.id} on {leg.node}",
            )
        )

    def _free_slot(self, leg: str) -> int:
        """The first place that no leg of the volume has, or may come back to."""
        kept = {other.id for other in self.kept()} - {leg}
        standing = {m.slot for m in self.stack.array.members} if self.stack.array else set()
        taken = {slot for other, slot in self.slots.items() if other in kept} | standing
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def _take_up(self, leg: Leg, found: Source) -> None:
        """The same life, so the same bytes: swap what the path leads to if that has another number, and go on."""
        path, status = self.stack.paths[leg.id], self.kernel.gates.get(self.gate_name(leg.id))
        if found.state == "Connectable":
            self._connect(leg, found)
        if found.state != "Ready" or status is None:
            return
        if not self.path_fits(leg.id):
            # Then another look: numbers are used again, and held writes go wherever the path leads once it is taken up.
            self.steps.append(
                SwapDm(name=self.path_name(leg.id), table=layout.path_table(found.major_minor, self.bytes))
            )
        elif not status.path_up and not faulty(self.stack.member(leg.id)):
            self.steps.append(
                GateReinstate(
                    name=self.gate_name(leg.id),
                    major_minor=path.major_minor,
                    why=f"leg {leg.id} is back in the same life: held reads and writes go on",
                )
            )

    def _let_go(self, leg: Leg, found: Source) -> None:
        """A path whose device is gone for good leads nowhere, so that what lay under it can be taken away."""
        path = self.stack.paths.get(leg.id)
        if path is None or path.table.split()[2:3] == ["error"]:
            return
        gone = found.state == "Lost" or (bool(found.incarnation) and not self.same_life(leg.id))
        if not gone or leg.node != self.around.node:
            return
        # First: a path that leads nowhere has no cache, so it calls a flush done (tests/kernel, test_sever.py).
        self.fail_path(leg.id)
        why = f"leg {leg.id}: {found.why or 'lost'}"
        self.steps.append(SwapDm(name=path.name, table=layout.error_table(self.bytes), why=why))

    def fail_path(self, leg: str, why: str = "") -> None:
        """Have the leg's gate take its path for down, if there is one that it takes for up."""
        path, status = self.stack.paths.get(leg), self.kernel.gates.get(self.gate_name(leg))
        if path is not None and status is not None and status.path_up:
            self.steps.append(GateFailPath(name=self.gate_name(leg), major_minor=path.major_minor, why=why))

    def connect_back(self) -> bool:
        """Only what stands already is taken up again."""
        for leg in self.wanted():
            if leg.id in self.stack.paths and leg.id in self.stack.gates:
                if self.same_life(leg.id):
                    self._take_up(leg, self.sources[leg.id])
                if leg.id in self.down:
                    self._let_go(leg, self.sources[leg.id])
        return bool(self.steps)

    def demote(self) -> bool:
        """The first leg that is due is recorded Stale, then leaves: in this order, and never the last good one."""
        for leg in sorted(self.wanted(), key=lambda leg: leg.state != "InSync"):
            why = self._due(leg)
            if not why:
                continue
            if leg.state == "InSync" and not self.may_lose(leg):
                least = self.volume.spec.on_failure.min_in_sync
                hint = f" (spec.onFailure.minInSync is {least}; 1 lets them go on)" if least > 1 else ""
                self.waits.append(
                    f"leg {leg.id}: {why}; writes wait, too few other legs are in sync to go on without it{hint}"
                )
                continue
            if leg.state == "InSync" and self._ends_unrecorded(why):
                return True
            stale = Record(leg=leg.id, old=leg.state, new="Stale", why=f"leg {leg.id} of {leg.node} is lost: {why}")
            leaves: list[Step] = []
            if self.stack.member(leg.id) is not None:
                leaves = self._out_of_array(leg.id)
            elif self.holding(leg.id):
                leaves = [GateFail(name=self.gate_name(leg.id))]
            # Nobody relies on a leg that is being rebuilt: writes need not wait for its record.
            self.steps += [stale, *leaves] if leg.state == "InSync" else [*leaves, stale]
            return True
        return False

    def _ends_unrecorded(self, why: str) -> bool:
        """Whoever would rather have errors than wait gets them; still nothing is acknowledged that is not recorded."""
        since = self.around.unrecorded_since
        if self.volume.spec.on_failure.unrecorded != "Fail" or since is None or not self.memory.assembled:
            return False
        left = UNRECORDED_SECONDS - (self.around.now - since)
        if left > 0:
            self.waits.append(f"its loss cannot be recorded; reads and writes fail in {left:.0f} s if that stays so")
            return False
        said = f"{why}, and for {UNRECORDED_SECONDS:.0f} s that could not be recorded (onFailure.unrecorded is Fail)"
        self.steps.append(Remember(changes={"broken": True, "broken_why": said}, why=f"{said}: reads and writes fail"))
        return True

    def may_lose(self, leg: Leg) -> bool:
        """Enough other legs are good to go on without this one; never the last."""
        good = [other for other in self.insync() if other.id != leg.id and self.good(other)]
        return len(good) >= max(1, self.volume.spec.on_failure.min_in_sync)

    def _due(self, leg: Leg) -> str:
        """Why the leg is given up now; empty: it is not."""
        member, found = self.stack.member(leg.id), self.sources[leg.id]
        if self.begins_anew(leg):
            return ""
        if faulty(member):
            return "md saw an error"
        standing = self.memory.assembled and self.stack.array is not None
        if standing and member is None and leg.state == "InSync" and leg.id in self.stack.gates:
            return "it is not in the array"
        if leg.id not in self.down:
            return ""
        connected = leg.id in self.stack.gates and bool(self.memory.legs.get(leg.id, _NOTHING).incarnation)
        failed = sorted({e.device for e in leg.extents} & self.around.failed_devices)
        offered = not connected and found.state in ("Ready", "Connectable")
        if failed and not offered:
            return f"device {', '.join(failed)} has failed"
        if connected:
            if found.state == "Lost":
                return found.why
            if found.incarnation and not self.same_life(leg.id):
                return "it came back in a new life, its disk's cache may be lost"
        elif leg.state == "Rebuilding":
            return ""  # nothing waits for it
        since = self.around.now - self.around.down_since.get(leg.id, self.around.now)
        patience = float(self.volume.spec.on_failure.hold_seconds)
        if not self.memory.assembled:
            patience = max(patience, ATTACH_SECONDS)
        if self.around.cut_off and leg.node != self.around.node:
            patience = max(patience, CUT_OFF_SECONDS)
        if since >= patience:
            return f"unreachable for {since:.0f} s"
        self.wake = min(self.wake or patience, patience - since)
        self.waits.append(f"leg {leg.id}: {found.why or 'its path is down'}; given up in {patience - since:.0f} s")
        return ""

    def assemble(self) -> bool:
        """The array from the legs in sync, once each of them is there."""
        if self.stack.array is not None:
            if not self.memory.assembled:
                # Killed while assembling: nobody has used it yet, its dirty chunks are remembered.
                self.steps.append(Stop(name=self.array_name, why="the array is half made: made again"))
            return bool(self.steps)
        if self.memory.assembled:
            self.waits.append("the array is gone although nobody stopped it: detach the volume and attach it again")
            return True
        own = node_report(self.volume, self.around.node)
        if own is None or own.epoch != self.epoch or self.memory.confirmed != self.epoch:
            self.waits.append(f"epoch {self.epoch} is not confirmed here yet")
            return True
        missing = [leg.id for leg in self.insync() if not (self.up(leg.id) and self.holding(leg.id))]
        if missing or not self.insync():
            self.waits.append(f"waiting for leg {', '.join(missing) or 'in sync: there is none'}")
            return True
        returning = [leg for leg in self.kept() if leg.state != "InSync"]
        synced = {leg.id: {"synced": True} for leg in self.insync()}
        self.steps.append(
            Assemble(
                name=self.array_name,
                raid_disks=max(slot for leg, slot in self.slots.items() if leg in self.legs) + 1,
                component_sectors=layout.component_sectors(self.bytes),
                members=tuple(
                    (self.slots[leg.id], self.stack.gates[leg.id].major_minor, leg.node != self.around.node)
                    for leg in self.insync()
                ),
                dirty_from=tuple(self.path_name(leg.id) for leg in self.insync()) if returning else (),
                after=Remember(changes={"assembled": True, "dirty": ()}, legs=synced),
                why=f"assembling from leg {', '.join(sorted(leg.id for leg in self.insync()))}",
            )
        )
        return True

    def take_back(self) -> bool:
        """Rebuilding legs are added; those that md has completed are promoted."""
        array = self.stack.array
        assert array is not None
        for leg in sorted(self.wanted(), key=_by_id):
            member = self.stack.member(leg.id)
            known = self.memory.legs.get(leg.id)
            if leg.state == "InSync":
                if not self.holding(leg.id) and leg.id in self.stack.gates:
                    self.steps.append(GateHold(name=self.gate_name(leg.id)))
                if in_sync(member) and known is not None and not known.synced:
                    self.steps.append(Remember(legs={leg.id: {"synced": True}}))
            elif in_sync(member):
                self._promote(leg)
            else:
                if self.holding(leg.id):
                    self.steps.append(GateFail(name=self.gate_name(leg.id), why=f"leg {leg.id} is not complete"))
                if self.up(leg.id) and (member is None or member.slot is None):
                    self._add(leg)
        return bool(self.steps)

    def _add(self, leg: Leg) -> None:
        if not any(self.good(other) for other in self.insync()):
            self.waits.append(f"leg {leg.id} waits for a leg in sync to copy from")
            return
        delta = self._delta(leg)
        self.steps += [
            Remember(legs={leg.id: {"synced": False, "copied": True, "delta": delta}}),
            Add(
                name=self.array_name,
                slot=self.slots[leg.id],
                major_minor=self.stack.gates[leg.id].major_minor,
                delta=delta,
                write_mostly=leg.node != self.around.node,
                dirty_from=self.path_name(leg.id) if delta else "",
                why=f"leg {leg.id} on {leg.node} is rebuilt, {'what it missed' if delta else 'from the start'}",
            ),
        ]

    def _delta(self, leg: Leg) -> bool:
        """Whether the bitmaps are known to tell all that the leg lacks.

        It left this very array in sync and its place stayed empty; or it was recorded InSync in the epoch under which
        the volume was last assembled, and this array was told that epoch's dirty chunks. In doubt: no.
        """
        known = self.memory.legs.get(leg.id)
        if known is None:
            return False
        report = leg_report(self.volume, leg)
        last = self.volume.status.attachment.previous or self.epoch - 1
        before = report is not None and report.synced_epoch > 0 and report.synced_epoch == last
        return known.synced or (before and not known.copied)

    def delta_of(self, leg: str) -> bool:
        """Whether the running rebuild of a leg is a delta."""
        return self.memory.legs.get(leg, _NOTHING).delta

    def _promote(self, leg: Leg) -> None:
        """md is done: hold, look again (in the next plan), flush, record, answer."""
        if not self.up(leg.id):
            self.waits.append(f"leg {leg.id} is complete but not reachable")
            return
        if not self.holding(leg.id):
            self.steps.append(GateHold(name=self.gate_name(leg.id), why=f"leg {leg.id} is complete: its gate holds"))
            return
        self.steps += [
            Flush(name=self.path_name(leg.id)),
            Record(leg=leg.id, old=leg.state, new="InSync", why=f"leg {leg.id} on {leg.node} is in sync"),
            Acknowledge(name=self.array_name),
        ]

    def answer(self) -> bool:
        """Writes wait for the array to become active, and no failure has to be recorded first."""
        array = self.stack.array
        if array is None or array.array_state != "write-pending" or any(faulty(m) for m in array.members):
            return False
        self.steps.append(Acknowledge(name=array.name))
        return True

    def front(self) -> bool:
        """What the pod uses, and what a quiescence wants of it."""
        array, front = self.stack.array, self.stack.front
        assert array is not None
        self.answer()
        if front is None:
            self.steps.append(
                CreateDm(
                    name=names.front(self.uuid),
                    table=layout.front_table(array.major_minor, self.bytes),
                    why=f"{self.volume.metadata.name} is ready at /dev/mapper/{names.front(self.uuid)}",
                )
            )
        rate = self.volume.spec.rebuild.max_rate
        if rate != self.memory.max_rate:
            self.steps += [SetSpeed(name=array.name, max_kib=rate), Remember(changes={"max_rate": rate})]
        frozen = array.sync_action == "frozen"
        if self.around.halted and not frozen:
            if all(self.up(leg.id) for leg in self.insync()):
                self.steps.append(Freeze(name=array.name, why="long operations halt"))
            else:
                self.waits.append("long operations cannot halt while a leg holds")  # kernel-facts 20
        elif not self.around.halted and frozen:
            self.steps.append(Unfreeze(name=array.name, why="long operations go on"))
        if front is not None and self.around.hold and not front.suspended:
            if self.queued():
                self.waits.append("reads and writes cannot drain while a leg holds them")
            else:
                self.steps.append(Suspend(name=front.name, why="reads and writes are held"))
        elif front is not None and front.suspended and not self.around.hold:
            self.steps.append(Resume(name=front.name, why="reads and writes go on"))
        return bool(self.steps)


_NOTHING = LegMemory(slot=-1)


def _by_id(leg: Leg) -> tuple[int, str]:
    """In the order of allocation."""
    return len(leg.id), leg.id


def maintain(plan: Attaching) -> None:
    """The volume is wanted here: the first rung with something to do ends the plan.

    Giving a leg up comes first: reads and writes wait for it.
    """
    own = node_report(plan.volume, plan.around.node)
    ended = max(plan.memory.ended_epoch, own.ended_epoch if own else 0)
    if plan.epoch <= ended:
        plan.waits.append(f"epoch {plan.epoch} has ended here: a new one is needed")
        return
    if plan.begin() or plan.give_up(back=True):
        return
    rungs = (plan.demote, plan.leave, plan.connect, plan.assemble, plan.take_back, plan.front)
    for rung in rungs:
        if rung():
            return
