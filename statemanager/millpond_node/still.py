"""Quiescence on this node: hears the doorbell, halts, holds, acknowledges, and lets everything go on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from millpond_core import names
from millpond_core.errors import MillpondError, NotFound
from millpond_core.model import Quiescence, StorageNode
from millpond_core.model.storagenode import NodeQuiescence
from millpond_core.nodeplan import still
from millpond_core.nodeplan.still import Instruction, Standing
from millpond_core.quiesce import OVER
from millpond_node import holds
from millpond_node.host import Config, Ports
from millpond_node.rundir import RunDir
from millpond_node.work import Work

log = logging.getLogger(__name__)

_KEY = "doorbell"
_LOOK_AGAIN_SECONDS = 5.0


class Still:
    """All instructions of this node. ``standing`` and ``ask`` are the volumes'; ``changed`` is told of new answers."""

    def __init__(self, ports: Ports, config: Config) -> None:
        self._ports, self._config = ports, config
        self._boot_id = config.boot_id()
        self._store = RunDir(config.run_dir / "quiescences")
        self._holds = str(config.run_dir / "holds")
        self._bell: frozenset[str] | None = None
        self._read_bell: frozenset[str] | None = None
        self._read_at = 0.0
        self._whole = True
        self._rung: dict[str, Quiescence] = {}
        self._unread: set[str] = set()
        self.work = Work("quiescence", self._answer)
        self.instructions: dict[str, Instruction] = {}
        for uid in self._store.names():
            known = self._store.load(uid, Instruction)
            if known is not None and known.boot_id == self._boot_id:
                self.instructions[uid] = known
            else:
                self._store.forget(uid)
        self.standings: Callable[[str], dict[str, Standing | None]] = lambda uid: {}
        """Each volume of an instruction that is attached here, as it stands."""
        self.generations: Callable[[], dict[str, int]] = dict
        self.ask: Callable[[str], None] = lambda volume: None
        self.changed: Callable[[], None] = lambda: None

    # --- what others ask ---

    def wants(self, volume: str) -> tuple[bool, bool]:
        """(halted, hold) for a volume, now."""
        return still.wants(self.instructions.values(), volume, self._ports.clock.boottime())

    def answers(self) -> list[NodeQuiescence]:
        """For StorageNode.status."""
        return [instruction.answer for instruction in self.instructions.values()]

    def heard(self, node: StorageNode) -> None:
        """The StorageNode is like this now."""
        text = node.metadata.annotations.get(names.ANNOTATION_QUIESCE, "")
        self._bell = frozenset(name.strip() for name in text.split(",") if name.strip())
        self.work.ask(_KEY)

    def reconciled(self, volume: str) -> None:
        """A volume was looked at: perhaps it is still now."""
        if any(not i.over and volume in i.volumes for i in self.instructions.values()):
            self.work.ask(_KEY)

    def poll(self) -> None:
        """Time goes by."""
        if any(not instruction.over for instruction in self.instructions.values()):
            self.work.ask(_KEY)

    # --- holds ---

    def begin_hold(self, volume: str, front: str) -> None:
        """Write the deadline before the front is suspended."""
        now = self._ports.clock.boottime()
        deadline = still.hold_deadline(self.instructions.values(), volume, now)
        holds.write(self._holds, holds.Hold(front, deadline, self._boot_id, began=now))

    def end_hold(self, volume: str, front: str) -> None:
        """The front goes on: note for how long it was held."""
        now = self._ports.clock.boottime()
        for hold in holds.read(self._holds):
            if hold.front == front and hold.boot_id == self._boot_id:
                self._held(volume, int((min(now, hold.deadline) - hold.began) * 1000))
        holds.forget(self._holds, front)

    def _held(self, volume: str, milliseconds: int) -> None:
        for uid, known in list(self.instructions.items()):
            if known.hold_io and volume in known.volumes and milliseconds > known.answer.held_ms:
                answer = msgspec.structs.replace(known.answer, held_ms=milliseconds)
                self._keep(msgspec.structs.replace(known, answer=answer))
                log.info("quiescence %s: %s was held for %d ms", known.name, volume, milliseconds, extra={"uid": uid})
                self.changed()

    # --- the work ---

    async def _answer(self, key: str) -> float | None:
        if self._bell is None:
            return None  # not read yet: what was under way goes on until its deadline
        now, wall = self._ports.clock.boottime(), self._ports.clock.now()
        if self._bell != self._read_bell or now - self._read_at >= _LOOK_AGAIN_SECONDS:
            await self._read(self._bell)
        rung = self._rung
        active = {i.uid for i in self.instructions.values() if not i.over}
        for uid, quiescence in rung.items():
            if uid in self.instructions or self._config.node not in quiescence.status.participants:
                continue
            self._keep(
                still.instructed(quiescence, boot_id=self._boot_id, now=now, wall=wall, generations=self.generations())
            )
            active.add(uid)
            log.info(
                "quiescence %s (%s): halting %s",
                quiescence.metadata.name,
                quiescence.spec.reason,
                ", ".join(quiescence.status.volumes),
                extra={"uid": uid},
            )
            for volume in quiescence.status.volumes:
                self.ask(volume)
            self.changed()
        for uid in sorted(active):
            known = self.instructions[uid]
            released = uid not in rung and known.name not in self._unread
            self._judge(known, released=released, now=now, wall=wall)
        self._prune()
        waiting = [i.deadline - now for i in self.instructions.values() if not i.over]
        return max(0.05, min([*waiting, _LOOK_AGAIN_SECONDS])) if waiting else None

    async def _read(self, bell: frozenset[str]) -> None:
        """Keep those on the doorbell that are under way, by uid. From one that cannot be read nothing is concluded."""
        found: dict[str, Quiescence] = {}
        before = {quiescence.metadata.name: quiescence for quiescence in self._rung.values()}
        whole = True
        for name in sorted(bell):
            try:
                quiescence = await self._ports.kube.get(Quiescence, name)
            except NotFound:
                continue
            except MillpondError as error:
                whole = False
                log.log(
                    logging.WARNING if self._whole else logging.DEBUG, "quiescence %s cannot be read: %s", name, error
                )
                if name not in before:
                    continue
                quiescence = before[name]
            if quiescence.status.phase not in (*OVER, "Pending") and not quiescence.spec.release:
                found[quiescence.metadata.uid] = quiescence
        self._rung, self._read_at, self._whole = found, self._ports.clock.boottime(), whole
        self._read_bell = bell if whole else None
        self._unread = set() if whole else set(bell) - {q.metadata.name for q in found.values()}

    def _judge(self, known: Instruction, *, released: bool, now: float, wall: float) -> None:
        new = still.judged(known, self.standings(known.uid), released=released, now=now, wall=wall)
        if new == known:
            return
        self._keep(new)
        if new.answer.phase != known.answer.phase:
            log.info("quiescence %s: %s, %s", new.name, new.answer.phase, new.answer.message, extra={"uid": new.uid})
        if new.over:
            for volume in new.volumes:
                self.ask(volume)
        self.changed()

    def _keep(self, instruction: Instruction) -> None:
        self._store.save(instruction.uid, instruction)
        self.instructions[instruction.uid] = instruction

    def _prune(self) -> None:
        # Forgotten while the doorbell names it, it would be taken for a new one and hold anew after its deadline.
        rings = self._bell or frozenset()
        over = [i for i in self.instructions.values() if i.over and i.name not in rings]
        for instruction in sorted(over, key=lambda i: i.deadline)[: max(0, len(over) - still.KEPT)]:
            del self.instructions[instruction.uid]
            self._store.forget(instruction.uid)
