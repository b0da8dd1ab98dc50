"""The state manager: what it watches, what it polls, its heartbeat, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from millpond_adapters.herald import Herald
from millpond_core import names
from millpond_core.errors import Conflict, DeadlineExceeded, MillpondError, NotFound
from millpond_core.instants import stamp
from millpond_core.model import ObjectMeta, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.nodeplan.still import Standing
from millpond_node import holds
from millpond_node.devices import Devices
from millpond_node.host import Config, Ports
from millpond_node.look import Looker
from millpond_node.polls import Polls
from millpond_node.still import Still
from millpond_node.volumes import Volumes
from millpond_node.work import Work
from millpond_node.writer import Writer

log = logging.getLogger(__name__)

API_LEVEL = 1
_RESTART_SECONDS = 60.0
_DISKS, _STACKS = "disks", "stacks"


class StateManager:
    """One node's. ``start`` and ``stop``; ``run`` until cancelled."""

    def __init__(self, ports: Ports, config: Config) -> None:
        self._ports, self._config = ports, config
        boot_id = config.boot_id()
        self._boot_id = boot_id
        self._manager = names.node_manager(config.node)
        self.writer = Writer(ports.kube, self._manager)
        self.still = Still(ports, config)
        self.herald = Herald(ports.kube)
        self.devices = Devices(ports, config, writer=self.writer, herald=self.herald, changed=self._devices_changed)
        looker = Looker(ports, boot_id)
        self.volumes = Volumes(
            ports,
            config,
            devices=self.devices,
            looker=looker,
            writer=self.writer,
            herald=self.herald,
            still=self.still,
            silence=self._silence,
        )
        self.polls = Polls(ports, looker, self.volumes)
        self.scan = Work("scan", self._scan)
        self.volumes.reconciled = self.still.reconciled
        self.still.standings = self._standings
        self.still.generations = lambda: {n: v.memory.generation for n, v in self.volumes.volumes.items()}
        self.still.ask = self.volumes.work.ask
        self.still.changed = self._report
        self.writer.applied = self._applied
        self._node: StorageNode | None = None
        self._synced: set[type[Wire]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._end_watch: Callable[[], None] = lambda: None
        self._restarting_until: str | None = None
        self._connected: list[str] = []
        self._scanned = float("-inf")

    # --- life ---

    async def start(self) -> None:
        """Make the StorageNode known, then watch and poll. Returns at once; what is missing is tried again."""
        loop = asyncio.get_running_loop()
        self._end_watch = self._ports.block.watch(self._uevent)
        self._tasks.append(loop.create_task(self._begin(), name="begin"))

    async def run(self) -> None:
        """Until cancelled."""
        await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(self.stop())

    def end_with_node(self) -> None:
        """The node is shutting down: legs are taken back, and what is attached here goes when its last user has gone.

        ``volumes.in_use()`` is empty when that is done.
        """
        self.volumes.ending = True
        self.volumes.ask_all()
        self._report()

    async def stop(self, *, on_purpose: bool = True) -> None:
        """End everything of ours; the kernel goes on as it is. ``on_purpose``: a successor is on its way."""
        self._end_watch()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for work in (self.still.work, self.scan):
            await work.stop()
        await self.volumes.stop()
        if on_purpose and self._node is not None:
            self._restarting_until = stamp(self._ports.clock.now() + _RESTART_SECONDS)
            self._report()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.writer.settle(), 3.0)
        await self.writer.stop()
        await self.herald.stop()

    async def _begin(self) -> None:
        await self._until_done("node", self._introduce)
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self._every("heartbeat", self._config.heartbeat_seconds, self._beat), name="heartbeat"),
            loop.create_task(self._follow(StorageNode, fields=f"metadata.name={self._config.node}"), name="node"),
            loop.create_task(self._follow(StorageDevice, fields=f"spec.nodeName={self._config.node}"), name="devices"),
            loop.create_task(self._follow(VirtualVolume, labels=names.node_label(self._config.node)), name="volumes"),
            loop.create_task(self._every("poll", self._config.poll_seconds, self._poll), name="poll"),
        ]

    async def _until_done(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        delay = 0.2
        while True:
            try:
                return await attempt()
            except MillpondError as error:
                log.warning("%s: %s; tried again in %.1f s", what, error, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)

    async def _every(self, what: str, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again. What stands in the way is told once, however often it is tried."""
        told = ""
        while True:
            try:
                await do()
                if told:
                    log.info("%s: goes on", what)
                told = ""
            except MillpondError as error:
                if str(error) != told:
                    log.warning("%s: %s", what, error)
                told = str(error)
            except Exception:
                log.exception("%s failed in a way that nobody foresaw", what)
            await asyncio.sleep(seconds)

    # --- the node itself ---

    async def _introduce(self) -> None:
        kube, name = self._ports.kube, self._config.node
        namespace = await kube.raw("GET", "/api/v1/namespaces/kube-system")
        self.devices.cluster = namespace["metadata"]["uid"]
        try:
            node = await kube.get(StorageNode, name)
        except NotFound:
            try:
                node = await kube.create(StorageNode(metadata=ObjectMeta(name=name)))
                log.info("StorageNode %s made", name)
            except Conflict:
                node = await kube.get(StorageNode, name)
        self._know(node)

    def _know(self, node: StorageNode) -> None:
        if self._node is None or self._node.metadata.uid != node.metadata.uid:
            self.writer.again(StorageNode, node.metadata.name)
            self.volumes.ask_all()  # the cluster may be another, and with it every host's name
        self._node = node
        self._report()

    async def _beat(self) -> None:
        await self._ports.kube.renew_lease(self._manager, self._config.node, self._config.lease_seconds)

    def _report(self) -> None:
        node = self._node
        if node is None:
            return
        claimed = [seen for seen in self.devices.seen.values() if seen.present]
        free = self.devices.free
        status = StorageNodeStatus(
            observed_generation=node.metadata.generation,
            api_level=API_LEVEL,
            version=self._config.version,
            addresses=[self._config.address],
            host_nqn=self.volumes.host_nqn(self._config.node),
            host_id=self.volumes.host_id(),
            connected=self._connected,
            boot_id=self._boot_id,
            kernel=self._config.kernel,
            features=dict(self._config.features),
            unclaimed_disks=free[:256],
            disks=f"{len(claimed)} claimed, {len(free)} unclaimed" if self.devices.ready else "",
            orphaned_legs=self._orphans(),
            quiescences=self.still.answers(),
            leaked_holds=holds.leaks(str(self._config.run_dir / "leaks")),
            restarting_until=self._restarting_until,
            shutting_down=self.volumes.ending,
            message=self._message(),
        )
        self.writer.write(StorageNode, node.metadata.name, msgspec.to_builtins(status))

    def _message(self) -> str:
        gone = sorted(seen.name for seen in self.devices.seen.values() if not seen.present)
        said = ["the node is shutting down: volumes that are attached to it leave"] if self.volumes.ending else []
        return "; ".join([*said, f"{', '.join(gone)} cannot be reached"] if gone else said)

    def _orphans(self) -> list[str]:
        """Legs on labels that no mapping knows; only once all volumes are known."""
        if VirtualVolume not in self._synced:
            return self._node.status.orphaned_legs if self._node else []
        known = {
            (volume.spec.uuid, leg.id)
            for volume in (v.volume for v in self.volumes.volumes.values() if not v.gone)
            for leg in (*volume.status.mapping.legs, *volume.status.spares)
        }
        return sorted(
            f"{entry.volume}/{entry.leg} on {seen.name}"
            for seen in self.devices.seen.values()
            for entry in (seen.label.legs if seen.label else ())
            if (entry.volume, entry.leg) not in known
        )

    # --- watches ---

    async def _follow(self, kind: type[Wire], *, labels: str = "", fields: str = "") -> None:
        """Take in a kind's events for ever."""
        while True:
            try:
                events: AsyncIterator[tuple[str, Wire]] = self._ports.kube.watch(kind, labels=labels, fields=fields)
                async for event, obj in events:
                    self._event(event, obj)
            except MillpondError as error:
                log.warning("the watch of %s broke: %s", kind.__name__, error)
            except Exception:
                log.exception("the watch of %s broke in a way that nobody foresaw", kind.__name__)
            await asyncio.sleep(1.0)

    def _event(self, event: str, obj: Wire) -> None:
        if event == "SYNCED":
            self._synced.add(type(obj))
            self.scan.ask(_DISKS)
            self._report()
        elif isinstance(obj, StorageNode):
            if event == "DELETED":
                self._tasks.append(asyncio.get_running_loop().create_task(self._introduce_again(), name="again"))
            else:
                self._know(obj)
                self.still.heard(obj)
        elif isinstance(obj, StorageDevice):
            if event == "DELETED":
                self.devices.objects.pop(obj.metadata.name, None)
            else:
                known = self.devices.objects.get(obj.metadata.name)
                if known is None or known.metadata.uid != obj.metadata.uid:
                    self.writer.again(StorageDevice, obj.metadata.name)
                self.devices.objects[obj.metadata.name] = obj
            if StorageDevice in self._synced:
                self.scan.ask(_DISKS)
        elif isinstance(obj, VirtualVolume):
            if event == "DELETED":
                self.volumes.gone(obj.metadata.name)
            else:
                self.volumes.seen(obj)

    async def _introduce_again(self) -> None:
        await self._until_done("node", self._introduce)

    def _applied(self, obj: Wire) -> None:
        """What the API server has after a report of ours is newer than what the watch has delivered."""
        if isinstance(obj, VirtualVolume) and obj.metadata.name in self.volumes.volumes:
            self.volumes.seen(obj)

    # --- the kernel ---

    def _uevent(self, action: str, name: str) -> None:
        if name.startswith(names.DM_PREFIX):
            self.volumes.disturbed(name)  # a gate has lost its path: I/O may wait for us
            return
        if name.startswith(("dm-", "md")):
            return  # as a rule of our own doing; arrays are watched, what others do is polled
        if action != "remove":
            self.devices.changed(name)
        self.scan.ask(_DISKS)

    async def _scan(self, key: str) -> float | None:
        if StorageDevice not in self._synced:
            return None
        if key == _DISKS:
            await self.devices.refresh()
            self._connected = [*await self._ports.nvmet.connected(names.NVME_PORT)]
            self._report()
        elif self.devices.ready and self.volumes.volumes:
            await self.polls.everything()
        return None

    def _devices_changed(self, changed: set[str]) -> None:
        self.volumes.devices_changed(changed)

    async def _poll(self) -> None:
        now = self._ports.clock.boottime()
        if not self.devices.ready or now - self._scanned >= self._config.scan_seconds:
            self._scanned = now
            self.scan.ask(_DISKS)
        self.still.poll()
        if self.devices.ready:
            await self.polls.connections()
            self.polls.some_that_wait()
        if self.polls.rested:
            self.scan.ask(_STACKS)

    @contextlib.asynccontextmanager
    async def _silence(self, array: str) -> AsyncIterator[None]:
        """Nobody answers the array meanwhile."""
        for _ in range(100):
            with holds.Answering(str(self._config.run_dir / "arrays"), array) as mine:
                if mine.taken:
                    yield
                    return
            await asyncio.sleep(0.02)
        raise DeadlineExceeded(f"the watchdog did not let go of array {array} within 2 s: does it hang?")

    # --- quiescence ---

    def _standings(self, uid: str) -> dict[str, Standing | None]:
        """Each volume of an instruction that is attached here."""
        found: dict[str, Standing | None] = {}
        for name in self.still.instructions[uid].volumes:
            known = self.volumes.volumes.get(name)
            if known is None or known.volume.status.attachment.node != self._config.node:
                continue
            kernel, report = known.kernel, known.planned.report
            if kernel is None or report is None:
                found[name] = None
                continue
            array = kernel.array
            action = array.sync_action if array else ""
            copying = next(iter(report.progress), None)
            found[name] = Standing(
                settled=not known.planned.steps,
                frozen=array is None or action == "frozen",
                suspended=report.front in ("Suspended", "None"),
                generation=known.memory.generation,
                checkpoint=f"{name}/{copying.leg or 'scrub'}@{copying.done_bytes // 512}" if copying else "",
                message="; ".join(known.planned.waits) or f"long operations: {action or 'none'}",
            )
        return found
