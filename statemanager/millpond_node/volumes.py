"""Volumes: each is observed, planned, brought a few steps on, and reported, in a worker of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from millpond_adapters.herald import Herald
from millpond_core import names, telling
from millpond_core.errors import Busy, MillpondError
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import Leg
from millpond_core.nodeplan import node as plans
from millpond_core.nodeplan.steps import SEVERING, Add, KillPods, Plan, Record, Remember, Step
from millpond_core.nodeplan.view import Around, Kernel, Memory
from millpond_node.devices import Devices
from millpond_node.execute import Executor, Silence
from millpond_node.host import Config, Ports
from millpond_node.look import Looker
from millpond_node.reports import Reports, Told
from millpond_node.rundir import RunDir
from millpond_node.still import Still
from millpond_node.turns import Turns
from millpond_node.work import Work
from millpond_node.writer import Writer

log = logging.getLogger(__name__)

_ROUNDS = 60
"""Looks and plans in one go; a volume that needs more waits its turn."""

_ASK_SECONDS = 1.0
"""For so long a plan waits for what the API server knows of others."""
_COMING_SECONDS = 3.0
"""For so long nobody is asked about a leg that an attachment waits for: as a rule it just comes."""
_RETRY_SECONDS = 0.5
"""After a step that failed."""

_BUILT_AT_ONCE = 4
"""So many stacks are built at the same time. Fifty at once kept each other waiting until steps ran into their deadlines
(decision 26)."""

_UP_AGAIN_SECONDS = 5.0
"""A path counts as down until it was up for so long: one that flutters is down."""


class Volume:
    """One volume on this node: its newest object, its memory, its clocks."""

    def __init__(self, keeper: Volumes, volume: VirtualVolume) -> None:
        self._keeper = keeper
        self.volume = volume
        self.memory = keeper.remembered(volume.spec.uuid)
        self.down_since: dict[str, float] = {}
        self.nearness: dict[str, int] = {}
        """How near a leg that is down has come: then its clock began anew."""
        self.building_since: float | None = None
        """Since when its stack is to be built here (CLOCK_BOOTTIME): its place among all that are."""
        self.up_since: dict[str, float] = {}
        self.was_up: set[tuple[int, str]] = set()
        self.held_since: dict[str, float] = {}
        self.unrecorded_since: float | None = None
        """Since when the loss of a leg waits for its record (CLOCK_BOOTTIME)."""
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.begun: dict[str, float] = {}
        """Since when a task runs (CLOCK_BOOTTIME)."""
        self.paused: dict[str, float] = {}
        """Until when work that failed is not begun again (CLOCK_BOOTTIME)."""
        self.told = Told()
        self.planned: Plan = Plan()
        self.kernel: Kernel | None = None
        self.gone = False
        """The API server has it no more; it is kept for what stands here."""
        self.doubted = False
        """The API server told of an older record than the one known: a late event, or the database went back."""
        self.said: set[str] = set()
        """What was logged and still holds: said once."""

    @property
    def name(self) -> str:
        return self.volume.metadata.name

    @property
    def waits(self) -> bool:
        """For something that time or somebody else may bring."""
        return bool(self.planned.waits or self.planned.down or self.down_since)

    def see(self, volume: VirtualVolume) -> None:
        """Keep the newest of what is known and what was just read or delivered."""
        if _age(volume) >= _age(self.volume):
            self.volume = volume

    def remember(self, memory: Memory) -> None:
        self._keeper.store.save(self.volume.spec.uuid, memory)
        self.memory = memory

    def background(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        running = self.tasks.get(key)
        if running is not None and not running.done():
            work.close()
            return
        self.begun[key] = self._keeper.boottime()
        self.tasks[key] = asyncio.get_running_loop().create_task(self._beside(key, work), name=f"{self.name} {key}")

    async def _beside(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        delay = 0.0
        try:
            await work
        except MillpondError as error:
            log.warning("volume %s: %s: %s", self.name, key, error, extra={"volume": self.name})
            delay = 1.0
        except Exception:
            log.exception("volume %s: %s failed in a way that nobody foresaw", self.name, key)
            delay = 5.0
        finally:
            self.tasks.pop(key, None)
            self.begun.pop(key, None)
        if delay:
            # A bit less than until the next look, which two clocks might put before it.
            self.paused[key] = self._keeper.boottime() + 0.9 * delay
            self._keeper.work.later(self.name, delay)
        else:
            self._keeper.work.ask(self.name)

    def busy_with(self, what: str) -> frozenset[str]:
        """What of a kind of work is being done, or was tried just now: whoever refuses at once is not asked at once."""
        now = self._keeper.boottime()
        self.paused = {key: until for key, until in self.paused.items() if until > now}
        return frozenset(key.removeprefix(what) for key in (*self.tasks, *self.paused) if key.startswith(what))

    def begin_hold(self) -> None:
        self._keeper.still.begin_hold(self.name, names.front(self.volume.spec.uuid))

    def end_hold(self) -> None:
        self._keeper.still.end_hold(self.name, names.front(self.volume.spec.uuid))


class Volumes:
    """All volumes that concern this node."""

    def __init__(
        self,
        ports: Ports,
        config: Config,
        *,
        devices: Devices,
        looker: Looker,
        writer: Writer,
        herald: Herald,
        still: Still,
        silence: Silence,
    ) -> None:
        self._ports, self._config, self._devices, self._looker = ports, config, devices, looker
        self._writer, self.herald, self.still = writer, herald, still
        self._executor = Executor(ports, devices, silence)
        self.store = RunDir(config.run_dir / "volumes")
        self.reports = Reports(config, ports.clock, writer)
        self.work = Work("volume", self._reconcile)
        self.volumes: dict[str, Volume] = {}
        self.reconciled: Callable[[str], None] = lambda name: None
        """Called after each round of a volume."""
        self._watched: dict[str, Callable[[], None]] = {}
        self._turns = Turns(_BUILT_AT_ONCE)
        self.ending = False
        """The node is shutting down."""

    def boottime(self) -> float:
        return self._ports.clock.boottime()

    def remembered(self, uuid: str) -> Memory:
        return self.store.load(uuid, Memory) or Memory()

    # --- what happens ---

    def seen(self, volume: VirtualVolume) -> None:
        """The API server has this of a volume."""
        if not volume.spec.uuid:
            return
        known = self.volumes.get(volume.metadata.name)
        if known is None and self._copied(volume):
            return
        if known is None or known.volume.spec.uuid != volume.spec.uuid:
            self.volumes[volume.metadata.name] = Volume(self, volume)
            self._writer.again(VirtualVolume, volume.metadata.name)
        else:
            if known.volume.metadata.uid != volume.metadata.uid:
                self._writer.again(VirtualVolume, volume.metadata.name)
                known.told = Told()
            before, back = known.volume, known.gone
            known.gone = False
            known.doubted = known.doubted or _age(volume)[:3] < _age(known.volume)[:3]
            known.see(volume)
            if not (back or known.doubted or telling.concerns(before, known.volume)):
                return
        self.work.ask(volume.metadata.name)

    def _copied(self, volume: VirtualVolume) -> bool:
        """Whether a volume without a mapping has another's uuid, and with it what stands here and is remembered."""
        for name, other in list(self.volumes.items()):
            if other.volume.spec.uuid != volume.spec.uuid:
                continue
            if not volume.status.mapping.generation:
                log.warning("volume %s has the uuid of volume %s: left alone", volume.metadata.name, name)
                return True
            if not other.volume.status.mapping.generation:
                del self.volumes[name]  # the copy was seen first
        return False

    def gone(self, name: str) -> None:
        """The API server has it no more, or it concerns this node no more. Absence is never an instruction."""
        known = self.volumes.get(name)
        if known is None:
            return
        if known.kernel is not None and _stands(known):
            log.warning("volume %s is gone from the record but stands here: kept", name, extra={"volume": name})
            known.gone = True
            return
        del self.volumes[name]
        self.store.forget(known.volume.spec.uuid)
        self.reports.forget(name)

    def devices_changed(self, changed: set[str]) -> None:
        """Ask for every volume with a leg on one of these devices."""
        for name, known in self.volumes.items():
            status = known.volume.status
            if any(e.device in changed for leg in (*status.mapping.legs, *status.spares) for e in leg.extents):
                self.work.ask(name)

    def disturbed(self, dm: str) -> None:
        """The kernel tells of a device of this dm name."""
        ours = names.parse_dm(dm)
        for name, known in self.volumes.items():
            if ours and known.volume.spec.uuid == ours[0]:
                self.work.ask(name)

    def ask_all(self) -> None:
        for name in self.volumes:
            self.work.ask(name)

    def in_use(self) -> list[str]:
        """Volumes of which a stack stands here, or an export that shall not be."""
        return sorted(name for name, known in self.volumes.items() if known.kernel is not None and _in_use(known))

    # --- one volume ---

    async def _reconcile(self, name: str) -> float | None:
        known = self.volumes.get(name)
        if known is None or not self._devices.ready:
            return None
        if known.doubted:
            await self._ask_record(known)
        if not self._builds(known):
            known.building_since = None
            return await self._settle(known)
        if known.building_since is None:
            known.building_since = self.boottime()
            if self._turns.taken:
                self._report(known, f"{self._config.node} attaches other volumes first")
        async with self._turns.turn(known.building_since):
            return await self._settle(known)

    def _builds(self, known: Volume) -> bool:
        """Whether what is to be done here is to build the stack, for which nothing waits that is urgent."""
        volume, node = known.volume, self._config.node
        here = volume.spec.attachment.node == volume.status.attachment.node == node
        return here and not known.memory.assembled and not any(self.still.wants(known.name))

    async def _settle(self, known: Volume) -> float | None:
        """Look, plan and act until nothing is left to do now; the seconds after which to look again."""
        error: MillpondError | None = None
        for _ in range(_ROUNDS):
            down = known.planned.down
            await self._plan(known)
            if not known.planned.steps:
                if known.planned.down.keys() - down.keys():
                    continue  # a path was just lost: look what its node says of its devices
                break
            if known.planned.report and known.told.takes_back(known.planned.report):
                self._report(known, "")  # those who wait for a leg are told before it is cleared away
            error = await self._do(known, known.planned)
            if error is not None:
                # What stands now is what is reported, with what went wrong.
                await self._plan(known)
                break
        self._report(known, str(error) if error else "")
        self._watch_array(known)
        self.reconciled(known.name)
        known.said &= {telling.gist(what) for what in (*known.planned.waits, str(error or ""))}
        if error is not None:
            return _RETRY_SECONDS
        if known.planned.steps:
            return 0.1
        asked_at = [seconds for leg in known.planned.down if (seconds := self._coming(known, leg)) > 0]
        return min(asked_at if known.planned.wake is None else [known.planned.wake, *asked_at], default=None)

    async def _ask_record(self, known: Volume) -> None:
        """Read the record. None of its numbers ever falls, unless the database was restored from a backup."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                found = await self._ports.kube.get(VirtualVolume, known.name)
        except (MillpondError, TimeoutError):
            return
        known.doubted = False
        if _age(found)[:3] < _age(known.volume)[:3] and found.spec.uuid == known.volume.spec.uuid:
            log.warning("volume %s: its record is older than it was", known.name, extra={"volume": known.name})
            known.volume = found
        else:
            known.see(found)

    async def _plan(self, known: Volume) -> None:
        volume = known.volume
        known.kernel = await self._looker.kernel(volume.spec.uuid, dict(self._devices.seen))
        around = await self._around(known)
        known.planned = plans.plan(volume, known.kernel, around, known.memory)
        if not any(_loss(step) for part in known.planned.parts for step in part):
            known.unrecorded_since = None
        elif known.unrecorded_since is None:
            known.unrecorded_since = around.now
        self._clocks(known, around.now)
        for wait in known.planned.waits:
            self._say(known, logging.INFO, wait)

    async def _around(self, known: Volume) -> Around:
        volume = known.volume
        halted, hold = self.still.wants(known.name)
        return Around(
            node=self._config.node,
            address=self._config.address,
            host_nqn=self.host_nqn(self._config.node),
            host_id=self.host_id(),
            attach_host_nqn=self.host_nqn(volume.status.attachment.node),
            now=self._ports.clock.boottime(),
            down_since=known.down_since,
            failed_devices=await self._failed(known),
            gone_nodes=await self._gone_nodes(known),
            cut_off=await self._cut_off(known),
            zeroing=known.busy_with("zero "),
            connecting=known.busy_with("connect "),
            unrecorded_since=known.unrecorded_since,
            severing_since=known.begun.get(SEVERING),
            halted=halted,
            hold=hold,
            ending=self.ending,
        )

    def host_nqn(self, node: str) -> str:
        """NQN under which a node connects, this one or another; empty: not known yet. It is made of what every node
        knows, since one that was read from another node could still be of a database that is gone.
        """
        cluster = self._devices.cluster
        return names.host_nqn(cluster, node) if cluster and node else ""

    def host_id(self) -> str:
        cluster = self._devices.cluster
        return names.host_id(cluster, self._config.node) if cluster else ""

    def _away(self, known: Volume, *, long: bool = False) -> list[Leg]:
        """Legs that cannot be reached from here; ``long``: without those that an attachment may be about to get."""
        down = [leg for leg in known.volume.status.mapping.legs if leg.id in known.planned.down]
        return [leg for leg in down if not (long and self._coming(known, leg.id) > 0)]

    def _coming(self, known: Volume, leg: str) -> float:
        """For how many seconds more nobody is asked about a leg that cannot be reached."""
        now = self._ports.clock.boottime()
        return 0.0 if known.memory.assembled else known.down_since.get(leg, now) + _COMING_SECONDS - now

    async def _failed(self, known: Volume) -> frozenset[str]:
        """Devices that their nodes report as failed, under legs that cannot be reached from here."""
        seen = self._devices.seen
        own = {e.device for leg in self._away(known) for e in leg.extents if e.device in seen}
        others = {e.device for leg in self._away(known, long=True) for e in leg.extents} - own
        told = await _told(self._says_failed(device) for device in sorted(others))
        return frozenset({name for name in own if not seen[name].present}) | told

    async def _says_failed(self, device: str) -> str:
        """The device's name if its node says that it has failed; empty: it does not, or nobody answers."""
        try:
            found = await self._ports.kube.get(StorageDevice, device)
        except MillpondError:
            return ""
        return device if found.status.observation.state == "Failed" else ""

    async def _gone_nodes(self, known: Volume) -> frozenset[str]:
        """Those that are known to be, of legs that are missing where nothing is assembled yet."""
        away = [] if known.memory.assembled else self._away(known, long=True)
        missing = {leg.node for leg in away} - {self._config.node}
        return await _told(self._is_gone(node) for node in sorted(missing))

    async def _is_gone(self, node: str) -> str:
        """The node's name if it is shutting down or the master has judged it Failed; empty: no, or nobody answers."""
        try:
            found = await self._ports.kube.get(StorageNode, node)
        except MillpondError:
            return ""
        return node if found.status.phase == "Failed" or found.status.shutting_down else ""

    async def _cut_off(self, known: Volume) -> bool:
        """Whether a leg is missing and with it all that this node is connected to."""
        assert known.kernel is not None
        dead = any(controller.state != "live" for controller in known.kernel.controllers.values())
        if not (dead or self._away(known, long=True)):
            return False
        states = (await self._ports.nvme.states()).values()
        return bool(states) and "live" not in states

    def _clocks(self, known: Volume, now: float) -> None:
        for leg, near in known.planned.down.items():
            if leg not in known.down_since or near > known.nearness[leg]:
                known.down_since[leg], known.nearness[leg] = now, near
            known.up_since.pop(leg, None)
        for leg in known.down_since.keys() - known.planned.down.keys():
            first = (known.memory.epoch, leg) not in known.was_up
            known.was_up.add((known.memory.epoch, leg))
            if first or now - known.up_since.setdefault(leg, now) >= _UP_AGAIN_SECONDS:
                del known.down_since[leg]
        held = {
            name.rpartition("-")[2]
            for name, gate in (known.kernel.gates if known.kernel else {}).items()
            if gate.queued
        }
        for leg in held - set(known.held_since):
            known.held_since[leg] = now
            what = f"reads and writes wait for leg {leg}, which cannot be reached from {self._config.node}"
            self._say(known, logging.WARNING, what)
            self.herald.tell(known.volume, "Holding", what, warning=True)
        for leg in set(known.held_since) - held:
            milliseconds = int((now - known.held_since.pop(leg)) * 1000)
            self.held(known, milliseconds)
            self.herald.tell(known.volume, "HoldEnded", f"nothing waits any more; it took {milliseconds} ms")

    def held(self, known: Volume, milliseconds: int) -> None:
        """A hold of reads and writes has ended."""
        if milliseconds > known.memory.longest_hold_ms:
            known.remember(msgspec.structs.replace(known.memory, longest_hold_ms=milliseconds))

    async def _do(self, known: Volume, plan: Plan) -> MillpondError | None:
        """Carry out a plan's parts; the first error of any, after the other parts were done too."""
        failed: MillpondError | None = None
        for part in plan.parts:
            for step in part:
                try:
                    await self._executor.do(known, step)
                except MillpondError as error:
                    level = logging.INFO if isinstance(error, Busy) else logging.WARNING
                    self._say(known, level, str(error))
                    failed = failed or error
                    break
                self._tell(known, step)
                level = logging.INFO if step.why else logging.DEBUG
                log.log(level, "volume %s: %s", known.name, step.why or step, extra=_fields(known, step))
        return failed

    def _tell(self, known: Volume, step: Step) -> None:
        """An Event for what people should know without reading logs."""
        if isinstance(step, Record):
            reason = {"Stale": "LegLost", "InSync": "LegInSync"}.get(step.new, step.new)
            self.herald.tell(known.volume, reason, step.why, warning=step.new == "Stale")
        elif isinstance(step, Add):
            self.herald.tell(known.volume, "LegRebuilding", step.why)
        elif isinstance(step, KillPods):
            self.herald.tell(known.volume, "PodsKilled", step.why, warning=True)
        elif isinstance(step, Remember) and step.changes.get("broken"):
            reason = "LossUnrecorded" if step.changes.get("broken_why") else "EveryLegLost"
            self.herald.tell(known.volume, reason, step.why, warning=True)

    def _say(self, known: Volume, level: int, what: str) -> None:
        """Log what holds on, once."""
        if telling.gist(what) not in known.said:
            known.said.add(telling.gist(what))
            log.log(level, "volume %s: %s", known.name, what, extra={"volume": known.name})

    def _report(self, known: Volume, error: str) -> None:
        if known.planned.report is None:
            return
        again = self.reports.tell(known.volume, known.told, known.planned.report, known.held_since, error)
        if again is not None:
            self.work.later(known.name, again)

    # --- the kernel's own news ---

    def _watch_array(self, known: Volume) -> None:
        """Answer md's harmless waits at once, and look when its state changes."""
        name = names.array(known.volume.spec.uuid)
        there = known.kernel is not None and known.kernel.array is not None
        if there and name not in self._watched:

            def changed() -> None:
                known.background("answer", self._answer(name))

            self._watched[name] = self._ports.md.watch(name, changed)
        elif not there and name in self._watched:
            self._watched.pop(name)()

    async def _answer(self, array: str) -> None:
        await self._ports.md.acknowledge(array)

    async def stop(self) -> None:
        """End what runs; the kernel goes on as it is."""
        for end in self._watched.values():
            end()
        self._watched.clear()
        await self.work.stop()
        running = [task for known in self.volumes.values() for task in known.tasks.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _told(asked: Iterable[Coroutine[Any, Any, str]]) -> frozenset[str]:
    """What is answered within a moment, without the empty answers: reads and writes may wait for who asks.

    What nobody knows is not taken for failed.
    """
    tasks = [asyncio.ensure_future(each) for each in asked]
    if tasks:
        _, slow = await asyncio.wait(tasks, timeout=_ASK_SECONDS)
        for task in slow:
            task.cancel()
    return frozenset(task.result() for task in tasks if task.done() and not task.cancelled()) - {""}


def _loss(step: Step) -> bool:
    """Whether it records that a leg is lost for which writes wait, or ends the epoch because nobody can."""
    ends = isinstance(step, Remember) and bool(step.changes.get("broken"))
    return ends or (isinstance(step, Record) and step.old == "InSync")


def _age(volume: VirtualVolume) -> tuple[int, int, int, int]:
    """Orders the states of one volume's object: none of these numbers ever falls."""
    version = volume.metadata.resource_version
    return (
        volume.status.attachment.epoch,
        volume.status.mapping.generation,
        volume.status.mapping.record_seq,
        int(version) if version.isdecimal() else 0,
    )


def _stands(known: Volume) -> bool:
    kernel = known.kernel
    assert kernel is not None
    uuid = known.volume.spec.uuid
    return bool(kernel.dm or kernel.array or any(uuid in nqn for nqn in (*kernel.exports, *kernel.controllers)))


def _in_use(known: Volume) -> bool:
    kernel, report = known.kernel, known.planned.report
    assert kernel is not None
    if report is None:
        return False
    wanted = {leg.nqn for leg in report.legs}
    exported = any(known.volume.spec.uuid in nqn and nqn not in wanted for nqn in kernel.exports)
    stands = any((path.gate, path.path) != ("None", "None") for path in report.paths)
    return exported or stands or kernel.array is not None


def _fields(known: Volume, step: Step) -> dict[str, object]:
    return {"volume": known.name, "step": type(step).__name__}
