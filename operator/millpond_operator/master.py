"""Asks for the next step, takes it, puts what came back into the world, and asks again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from millpond_adapters.herald import Herald
from millpond_core import names
from millpond_core.errors import Conflict, Invalid, MillpondError, NotFound
from millpond_core.master import changes, health, planner, scope
from millpond_core.master.adoption import Policy
from millpond_core.master.steps import (
    Act,
    Apply,
    Conditions,
    Create,
    Decision,
    Delete,
    Find,
    Merge,
    Notice,
    Patch,
    Refuse,
    Step,
)
from millpond_core.master.world import KINDS, PROTECTED, UNLIMITED, Health, Object, RebuildLimits, World
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.ports import Clock, Kube, Reference
from millpond_core.telling import WORDS_SECONDS
from millpond_operator import claims
from millpond_operator.agenda import Agenda, Key

log = logging.getLogger(__name__)

STEPS_AT_ONCE = 50
"""After so many steps for one object others have their turn: a planner that never ends must not stop the rest."""

RESYNC_SECONDS = 300.0
"""Everything is read and looked at again after this, whatever was missed."""

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the next try after failures in a row."""

_STARVING = ("NoRoom", "TooManyLegs", "RebuildsLimited")
"""What the next step of any other volume may end."""


class Master:
    """One at a time: what is decided is decided from a world that has all that was written before."""

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        rebuilds: RebuildLimits = UNLIMITED,
        protected: frozenset[str] = PROTECTED,
        *,
        adoption: Sequence[Policy] = (),
    ) -> None:
        self.world = World(rebuilds=rebuilds, protected=protected, adoption=adoption)
        self.agenda = Agenda()
        self.counts: Counter[str] = Counter()
        self._kube = kube
        self._clock = clock
        self._herald = Herald(kube)
        self._failures: Counter[Key] = Counter()
        self._doubted: set[Key] = set()
        """Objects of which a write's outcome is not known: read before anything is decided from them."""
        self._unreadable: set[Key] = set()
        """Objects that could not be decoded when they were read last."""
        self._starving: set[Key] = set()
        """Volumes that wait for room, or for their turn."""
        self._untold: set[Key] = set()
        """Volumes whose claim could not be told how they are."""
        self._told_at: dict[Key, float] = {}
        """When a status was written last (CLOCK_BOOTTIME)."""

    # --- what is known ---

    async def load(self) -> None:
        """Read everything: nothing is allocated from half a world. What is missing may be newer than the list: it is
        asked for before anything is decided.
        """
        for kind in KINDS:
            there: set[str] = set()
            async for obj in self._kube.scan(kind):
                there.add(obj.metadata.name)
                self.put(obj)
            known = [obj for obj in self.world.all() if type(obj) is kind]
            self._doubted |= {_key(obj) for obj in known if obj.metadata.name not in there}
        for obj in self.world.all():
            self._look(obj)

    async def follow(self, kind: type[Object]) -> None:
        """Take in all that is seen of a kind, for ever."""
        async for event, obj in self._kube.watch(kind):
            if event == "DELETED":
                self.remove(obj)
            elif event != "SYNCED":
                self.put(obj)

    def put(self, obj: Object) -> None:
        """A version of an object was seen."""
        self._unreadable.discard(_key(obj))
        before = self.world.get(type(obj), obj.metadata.name)
        if not self.world.put(obj):
            return
        self._look(obj)
        if before is not None and _facts(before) == _facts(obj):
            return
        for version in (before, obj) if before is not None else (obj,):
            self._touch(version)
        if not isinstance(obj, Quiescence):
            self._feed_starving()

    def remove(self, obj: Object) -> None:
        """An object is gone; ``obj`` has its name and its uid."""
        self._unreadable.discard(_key(obj))
        last = self.world.get(type(obj), obj.metadata.name)
        if self.world.remove(obj) and last is not None:
            self.agenda.drop(_key(obj))
            self._starving.discard(_key(obj))
            self._untold.discard(_key(obj))
            self._told_at.pop(_key(obj), None)
            self._touch(last)
            self._feed_starving()

    def judge(self, health: dict[str, Health]) -> None:
        """What was made of the nodes' silence."""
        before, self.world.health = self.world.health, health
        for name, verdict in health.items():
            node = self.world.nodes.get(name)
            known = before.get(name)
            if node is not None and (known is None or known.verdict() != verdict.verdict()):
                self._look(node)
                self._touch(node)

    # --- what is done ---

    async def run(self) -> None:
        """Look at what is due, for ever; and now and then at everything, since a watch may miss a deletion."""
        try:
            await self._run()
        finally:
            await self._herald.stop()

    async def _run(self) -> None:
        loaded = self._clock.boottime()
        while True:
            if self._clock.boottime() - loaded >= RESYNC_SECONDS:
                loaded = self._clock.boottime()
                await self._reload()
            key = self.agenda.pop(self._clock.boottime())
            if key is not None:
                await self.look(key)
                await asyncio.sleep(0)  # a look that writes nothing waits for nothing: the Lease is to be renewed, too
                continue
            at = self.agenda.next_at()
            wait = 1.0 if at is None else min(max(at - self._clock.boottime(), 0.0), 1.0)
            await self.agenda.changed(wait)

    async def _reload(self) -> None:
        try:
            await self.load()
        except MillpondError as error:
            log.warning("cannot read everything again: %s", error)
            for obj in self.world.all():
                self._look(obj)

    async def look(self, key: Key) -> None:
        """Bring one object as far as it goes now."""
        self.counts["looks"] += 1
        try:
            await self._settle(key)
            self._failures.pop(key, None)
        except Conflict as error:
            self.counts["conflicts"] += 1
            log.info("%s: %s; reading it again", key, error)
            self._doubted.add(key)
            self._again(key)
        except MillpondError as error:
            self.counts["errors"] += 1
            log.log(logging.WARNING if error.retryable else logging.ERROR, "%s: %s", key, error)
            self._doubted.add(key)
            self._again(key)
        except Exception:
            self.counts["errors"] += 1
            log.exception("%s: unexpected", key)
            self._again(key)

    async def _settle(self, key: Key) -> None:
        await self._read_again(key)
        for _ in range(STEPS_AT_ONCE):
            obj = self.world.get(key.kind, key.name)
            if obj is None:
                return
            now = self._clock.now()
            decision = planner.decide(self.world, obj, now)
            if not isinstance(decision, Act):
                self._wait(key, decision, now)
                if key in self._untold and isinstance(obj, VirtualVolume):
                    await self._claim(obj, health.of(obj))
                return
            if decision.words and self._told_at.get(key, float("-inf")) + WORDS_SECONDS > self._clock.boottime():
                self.agenda.add(key, self._told_at[key] + WORDS_SECONDS)
                return
            if decision.why:
                log.info("%s: %s", key, decision.why)
            # First: a master that dies between the two leaves the difference for its successor to find.
            claim = await self._told(obj, decision)
            await self._take(decision.step)
            self._announce(obj, decision.notices)
            if claim is not None:
                self._announce(claim, (notice for notice in decision.notices if notice.claim))
        self.agenda.add(key, self._clock.boottime())

    async def _take(self, step: Step) -> None:
        """One write, or one question. What comes back is known from here on."""
        self.counts[f"steps.{type(step).__name__}"] += 1
        if isinstance(step, Find):
            self.world.found[step.uid] = await claims.find(self._kube, step, self._clock.now())
            return
        target = _target(step)
        try:
            match step:
                case Patch(kind, name, operations, status):
                    self.put(await self._kube.patch(kind, name, operations, status=status))  # type: ignore[arg-type]
                case Merge(kind, name, patch):
                    self._merged(await self._kube.merge(kind, name, patch))  # type: ignore[arg-type]
                case Apply(kind, name, status):
                    applied = await self._kube.apply_status(kind, name, status, manager=names.MASTER)
                    self._told_at[target] = self._clock.boottime()
                    self.put(applied)  # type: ignore[arg-type]
                case Create(obj):
                    self.put(await self._kube.create(obj))  # type: ignore[arg-type]
                case Delete(kind, name):
                    await self._kube.delete(kind, name)
                    self._doubted.add(target)
        except MillpondError:
            self._doubted.add(target)
            raise

    def _merged(self, obj: Object) -> None:
        """A merge that takes the last finalizer off ends a deleted object."""
        if obj.metadata.deletion_timestamp and not obj.metadata.finalizers:
            self.remove(obj)
        else:
            self.put(obj)

    async def _read_again(self, key: Key) -> None:
        """Read what is in doubt. Raises Invalid when that of ``key`` cannot be decoded: nothing is decided for it; all
        others go on with what is known of it.
        """
        if key in self._unreadable:
            self._doubted.add(key)
        for doubted in [*self._doubted]:
            known = self.world.get(doubted.kind, doubted.name)
            try:
                self.put(await self._kube.get(doubted.kind, doubted.name))
            except NotFound:
                if known is not None:
                    self.remove(known)
            except Invalid as error:
                self.counts["unreadable"] += 1
                self._unreadable.add(doubted)
                if doubted == key:
                    raise
                log.error("%s: %s; the others go on", doubted, error)
            self._doubted.discard(doubted)

    async def _told(self, obj: Object, decision: Act) -> Reference | None:
        """The claim of a volume, which says already what it is to say; None: it is not to hear of this."""
        heard = decision.claim is not None or any(notice.claim for notice in decision.notices)
        return await self._claim(obj, decision.claim) if heard and isinstance(obj, VirtualVolume) else None

    async def _claim(self, volume: VirtualVolume, conditions: Conditions | None) -> Reference | None:
        """Find the claim of a volume, if it is its still, and have it say ``conditions``. What goes wrong keeps nobody
        from anything: it is done when the volume is looked at next, or not at all where it is forbidden.
        """
        key, found = _key(volume), None
        self._untold.discard(key)
        try:
            if claim := await claims.bound(self._kube, volume):
                found = claims.reference(claim)
                if conditions is not None:
                    await claims.tell(self._kube, claim, conditions)
        except MillpondError as error:
            log.warning("%s: its claim could not be told: %s", key, error)
            if error.retryable:
                self._untold.add(key)
        return found

    def _announce(self, about: Object | Reference, notices: Iterable[Notice]) -> None:
        for notice in notices:
            self._herald.tell(about, notice.reason, notice.message, warning=notice.warning)

    # --- what is to be looked at ---

    def _wait(self, key: Key, decision: Decision, now: float) -> None:
        until = None if isinstance(decision, Act) else decision.until
        category = decision.category if isinstance(decision, Refuse) else getattr(decision, "reason", "")
        if category in _STARVING:
            self._starving.add(key)
        else:
            self._starving.discard(key)
        if until is not None:  # else it changes with another object, or is looked at with all
            self.agenda.add(key, self._clock.boottime() + min(max(until - now, 0.05), RESYNC_SECONDS))

    def _again(self, key: Key) -> None:
        self._failures[key] += 1
        pause = PAUSES[min(self._failures[key], len(PAUSES)) - 1]
        self.agenda.add(key, self._clock.boottime() + (0.0 if self._failures[key] == 1 else pause))

    def _look(self, obj: Object) -> None:
        self.agenda.add(_key(obj), self._clock.boottime())

    def _touch(self, obj: Object) -> None:
        """Look at all whose next step may depend on an object."""
        for other in self._dependents(obj):
            self._look(other)

    def _feed_starving(self) -> None:
        """There may be room now: for those first that have most to lose."""
        for volume in self._volumes({key.name for key in self._starving}):
            self._look(volume)

    def _dependents(self, obj: Object) -> Iterator[Object]:
        world = self.world
        match obj:
            case VirtualVolume():
                for leg in (*obj.status.mapping.legs, *obj.status.spares):
                    yield from world.devices_of(leg)
                yield from self._volumes(world.namesakes(obj) | world.slowed_by(obj))
                for q in world.quiescences.values():
                    if obj.metadata.name in q.status.volumes or obj.metadata.name in q.spec.scope.volumes:
                        yield q
            case StorageDevice():
                yield from self._volumes(world.volumes_on(obj.status.observation.device_uuid))
            case StorageNode():
                name = obj.metadata.name
                yield from self._volumes(world.volumes_at(name))
                yield from (device for device in world.devices.values() if device.spec.node_name == name)
                yield from (q for q in world.quiescences.values() if name in q.status.participants)
            case Quiescence():
                yield from (node for name in obj.status.participants if (node := world.nodes.get(name)))
                yield from self._volumes({*scope.volumes(world, obj), *obj.status.volumes})
                yield from (q for q in world.quiescences.values() if q.status.phase == "Pending")

    def _volumes(self, names_: set[str]) -> Iterator[VirtualVolume]:
        """Those first that have most to lose: whoever is looked at first gets what room there is."""
        there = [volume for name in names_ if (volume := self.world.volumes.get(name)) is not None]
        yield from sorted(there, key=lambda one: changes.endangered(self.world, one))


def _key(obj: Object) -> Key:
    return Key(type(obj), obj.metadata.name)


def _facts(obj: Object) -> object:
    """What others' next steps depend on. Without this each allocation would have every volume of its devices looked at,
    because the devices say how much is free.
    """
    match obj:
        case VirtualVolume():
            status, waited_for = obj.status, [(q.node, q.generation, q.front) for q in obj.status.nodes]
            return status.mapping, status.spares, status.attachment, waited_for, obj.metadata.deletion_timestamp
        case StorageDevice():
            return obj.spec, obj.status.observation, obj.metadata.deletion_timestamp
        case StorageNode():
            status_ = obj.status
            return obj.spec, obj.metadata.labels, status_.boot_id, status_.quiescences, status_.orphaned_legs
        case Quiescence():
            return obj.spec, obj.status.phase, obj.status.participants, obj.status.volumes


def _target(step: Step) -> Key:
    obj = step.obj if isinstance(step, Create) else None
    if obj is not None:
        return Key(type(obj), obj.metadata.name)  # type: ignore[arg-type,attr-defined]
    return Key(step.kind, step.name)  # type: ignore[arg-type,union-attr]
