"""Has volumes go still and pulls devices in a cluster that stands, and notes what each took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from bench import fleet
from bench.cluster import Nodes, traffic, until_quiet
from bench.metrics import Traffic
from bench.samples import Failure, Stillness

from lab.controlplane import ControlPlane
from millpond_adapters.kube import ApiKube
from millpond_core import names
from millpond_core.instants import parse
from millpond_core.model import ObjectMeta, Quiescence, StorageDevice, VirtualVolume
from millpond_core.model.quiescence import QuiescenceSpec, Scope
from millpond_core.model.virtualvolume import Leg

DEADLINE_SECONDS = 240
OVER = ("Released", "Expired", "Aborted")
SECONDS = 300.0
"""After which something is amiss."""
Kind = TypeVar("Kind", Quiescence, StorageDevice)


class Seen(Generic[Kind]):
    """What a watch has brought: the newest version of each object, by name."""

    def __init__(self) -> None:
        self.objects: dict[str, Kind] = {}
        self._news = asyncio.Condition()

    async def follow(self, events: AsyncIterator[tuple[str, Kind]]) -> None:
        """For ever."""
        async for event, obj in events:
            async with self._news:
                if event == "DELETED":
                    self.objects.pop(obj.metadata.name, None)
                elif event != "SYNCED":
                    self.objects[obj.metadata.name] = obj
                self._news.notify_all()

    async def until(self, said: Callable[[dict[str, Kind]], bool]) -> float:
        """When it was seen so (Unix time); TimeoutError when it does not come about."""
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(lambda: said(self.objects))
            return time.time()


class Asker:
    """Whoever asks for quiescences, as an administrator. ``async with asking(...) as asker``."""

    def __init__(self, plane: ControlPlane, kube: ApiKube, idle: Traffic) -> None:
        self._plane, self._kube = plane, kube
        self._idle = idle
        """A second."""
        self._count = 0
        self.quiescences: Seen[Quiescence] = Seen()

    async def still(self, volumes: int, *, hold_io: bool) -> Stillness:
        """The first so many volumes go still and are let go; RuntimeError when they were not all still in time."""
        self._count += 1
        name = f"bench-{self._count}"
        scope = Scope(volumes=[fleet.volume(number) for number in range(volumes)])
        spec = QuiescenceSpec(scope=scope, hold_io=hold_io, deadline_seconds=DEADLINE_SECONDS)
        before, began = await traffic(self._plane), time.monotonic()
        asked = time.time()
        await self._kube.create(Quiescence(metadata=ObjectMeta(name=name), spec=spec))
        seen = await self._phase(name, "Quiesced")
        await self._kube.merge(Quiescence, name, {"spec": {"release": True}})
        await self._phase(name, "Released")
        after = await until_quiet(self._plane, seconds=SECONDS)
        passed = time.monotonic() - began
        there = self.quiescences.objects[name]
        await self._kube.delete(Quiescence, name)
        await until_quiet(self._plane, seconds=SECONDS, least=0.5)
        asked_for = after.since(before)
        return Stillness(
            volumes=volumes,
            hold_io=hold_io,
            participants=len(there.status.participants),
            answered=answered(there),
            seen=seen - asked,
            requests=asked_for.requests - self._idle.requests * passed,
            kib=asked_for.kib - self._idle.kib * passed,
        )

    async def _phase(self, name: str, wanted: str) -> float:
        def said(there: dict[str, Quiescence]) -> bool:
            return name in there and there[name].status.phase in (wanted, *OVER)

        at = await self.quiescences.until(said)
        status = self.quiescences.objects[name].status
        if status.phase != wanted:
            raise RuntimeError(f"{name} is {status.phase}: {status.message}")
        return at

    async def fail(self, nodes: Nodes, node: str, slot: str) -> Failure:
        """A disk is pulled, and put back once its legs are replaced and all copies are in sync again."""
        device, known = fleet.device(node, slot), {*self.quiescences.objects}
        before = await self._kube.list(VirtualVolume, labels=names.node_label(node))
        devices: Seen[StorageDevice] = Seen()
        events = self._kube.watch(StorageDevice, fields=f"metadata.name={device}")
        watching = asyncio.create_task(devices.follow(events))
        try:
            await devices.until(lambda there: device in there)
            pulled = await nodes.do("pull", node, slot)
            failed, quiescence = await asyncio.gather(
                devices.until(lambda there: there[device].status.observation.state == "Failed"),
                self.quiescences.until(lambda there: any(_for_device(q) for n, q in there.items() if n not in known)),
            )
        finally:
            watching.cancel()
        for volume in before:
            await until_whole(self._kube, volume.metadata.name)
        await nodes.do("plug", node, slot)
        await until_quiet(self._plane, seconds=SECONDS)
        return Failure(
            failed=failed - pulled,
            quiescence=quiescence - pulled,
            volumes=sum(any(_lies_on(leg, device) for leg in v.status.mapping.legs) for v in before),
        )


@asynccontextmanager
async def asking(plane: ControlPlane, kube: ApiKube, idle: Traffic) -> AsyncIterator[Asker]:
    """With a watch of all quiescences."""
    asker = Asker(plane, kube, idle)
    watching = asyncio.create_task(asker.quiescences.follow(kube.watch(Quiescence)))
    try:
        yield asker
    finally:
        watching.cancel()


async def until_whole(kube: ApiKube, name: str, seconds: float = SECONDS) -> None:
    """Until a volume is attached, with every leg in sync; TimeoutError when that does not come about."""
    async with asyncio.timeout(seconds):
        while True:
            if whole(await kube.get(VirtualVolume, name)):
                return
            await asyncio.sleep(0.5)


def whole(volume: VirtualVolume) -> bool:
    """Attached where it is wanted, used there, and every leg in sync in the record and in its array."""
    status = volume.status
    at = next((each for each in status.nodes if each.node == status.attachment.node), None)
    if at is None or at.front != "Active" or at.epoch != status.attachment.epoch or status.phase != "Ready":
        return False
    legs = {leg.id: leg.state for leg in status.mapping.legs if not leg.releasing}
    members = {path.id: path.member for path in at.paths}
    return len(legs) == volume.spec.layout.copies and all(
        legs[leg] == "InSync" and members.get(leg) == "InSync" for leg in legs
    )


def answered(q: Quiescence) -> float:
    """Seconds from the instruction to the last acknowledgement."""
    instructed = next(entry.at for entry in q.status.timeline if entry.phase == "Instructed")
    return max(_at(ack.at) for ack in q.status.acknowledgements) - _at(instructed)


def _at(text: str) -> float:
    found = parse(text)
    assert found is not None, text
    return found


def _lies_on(leg: Leg, device: str) -> bool:
    return not leg.releasing and any(extent.device == device for extent in leg.extents)


def _for_device(q: Quiescence) -> bool:
    return q.spec.reason == "DeviceFailed"
