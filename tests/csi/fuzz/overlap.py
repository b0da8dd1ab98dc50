"""Calls that overlap, are cut off, and come again in any order; processes that are killed half-way.

Three phases, each from a state that is known: only calls that build up, then any, then only calls that take down. After
each of them what was asked last is asked again, by callers who are patient and in order, and must come to its end: the
volumes are there once and published once, or nothing at all is left.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio

from fuzz import plan, rules, words
from fuzz.plan import Step
from fuzz.run import send
from fuzz.world import FolderMounts, Records, World
from millpond_core.model import VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.observed import Contents
from millpond_core.testing.kube import MemoryKube
from millpond_csi.interceptors import UNLOCKED, lock_key
from millpond_csi.server import snake_case
from millpond_csi.validation import name_to_id

CALLS = 40
"""In one phase."""

LONGEST_PAUSE = 0.004
"""Seconds that a request to the API server or a tool takes at most."""

PATIENT_SECONDS = 30.0
UP = ("CreateVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume")
DOWN = ("NodeUnpublishVolume", "NodeUnstageVolume", "ControllerUnpublishVolume", "DeleteVolume")
MEANT = {"OK", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
OUT_OF_ORDER = {"NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT"}
"""INVALID_ARGUMENT: the context is of a volume that was deleted and made again meanwhile."""

VOLUMES = ("pvc-a", "pvc-b", "Raw Ä")
RAW = VOLUMES[2]


class SlowKube(MemoryKube):
    """Takes a while for each request, and knows who took an attachment away."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self.taken: list[str] = []

    async def _reach(self, verb: str, target: type[Wire] | str) -> None:
        await asyncio.sleep(self._random.uniform(0, LONGEST_PAUSE))
        await super()._reach(verb, target)

    async def patch(
        self, kind: Any, name: str, operations: Sequence[Mapping[str, Any]], *, status: bool = False
    ) -> Any:
        self.taken += [name for each in operations if each["op"] == "replace" and each["value"] == ""]
        return await super().patch(kind, name, operations, status=status)


class SlowMounts(FolderMounts):
    """Takes a while for each thing, and a format that ends half-way leaves what no filesystem explains."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0, LONGEST_PAUSE))

    async def format(self, device: str, fs_type: str) -> None:
        self._at(device).contents = Contents(kind="Other", detail="half a filesystem")
        await self._pause()
        await super().format(device, fs_type)

    async def mount(self, device: str, target: str, fs_type: str, options: Any) -> None:
        await self._pause()
        await super().mount(device, target, fs_type, options)
        await self._pause()

    async def bind(self, source: str, target: str, *, readonly: bool) -> None:
        await self._pause()
        await super().bind(source, target, readonly=readonly)
        await self._pause()

    async def unmount(self, target: str) -> None:
        await self._pause()
        await super().unmount(target)
        await self._pause()


class Watched:
    """A service, and a fault for each call that begins while another one for the same volume runs."""

    def __init__(self, service: Any, faults: list[str], running: dict[str, str]) -> None:
        self._service, self._faults, self._running = service, faults, running

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)
        if name in {snake_case(each) for each in UNLOCKED} or name.startswith("_"):
            return method

        async def watched(request: Any, deadline: Any) -> Any:
            key = f"{type(self._service).__name__} {lock_key(request)}"
            if key in self._running:
                self._faults.append(f"{name} of {key} began while {self._running[key]} ran")
            self._running[key] = name
            try:
                return await method(request, deadline)
            finally:
                self._running.pop(key, None)

        return watched


def step(method: str, name: str, seconds: float) -> Step:
    """The call, sane, for the volume called ``name``."""
    volume, maps = name_to_id(name), words.sane_maps(name)
    kind: dict[str, Any] = {"block": {}} if name == RAW else {"mount": {}}
    capability = {**kind, "access_mode": {"mode": 1}}
    fields = {
        "name": name,
        "volume_id": volume,
        "node_id": words.NODE,
        "volume_capability": capability,
        "volume_capabilities": [capability],
        "staging_target_path": words.staging(volume),
        "target_path": words.target(volume),
        "volume_context": maps["volume_context"][0],
        "publish_context": maps["publish_context"][0],
        "secrets": {"key": words.MARKER},
    }
    service = "Node" if method.startswith("Node") else "Controller"
    known = plan.SERVICES[service].methods_by_name[method].input_type.fields_by_name
    return Step(service, method, {key: value for key, value in fields.items() if key in known}, seconds)


async def scenarios(seeds: Sequence[int], tell: Callable[[str], None]) -> list[str]:
    """Run them; what did not hold, each with the command that repeats it."""
    faults, codes = list[str](), Counter[str]()
    for seed in seeds:
        one = Overlap(seed)
        await one.run()
        codes += one.codes
        faults += [f"FAILED {fault}\n  again: make fuzz-csi SCENARIO={seed}" for fault in one.faults]
    told = ", ".join(f"{code} {count}" for code, count in codes.most_common())
    tell(f"{len(seeds)} scenarios of calls that overlap, {len(faults)} failures: {told}")
    return faults


class Overlap:
    """One scenario, drawn from ``seed``. ``faults``: what did not hold; ``codes``: how the calls ended."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._kube, self._mounts = SlowKube(Random(seed + 1)), SlowMounts(Random(seed + 2))
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        """Calls by method that succeeded while others were under way."""
        self.codes: Counter[str] = Counter()
        self.refused_at_once = 0

    async def run(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        running: dict[str, str] = {}
        self._world = World(
            folder,
            real=True,
            kube=self._kube,
            mounts=self._mounts,
            around=lambda service: Watched(service, self.faults, running),
        )
        records = Records()
        await self._world.start()
        try:
            with records.kept():
                await self._phases()
            self.faults += [*rules.touched(self._world, self._mounts.calls), *rules.logged(records.taken())]
        finally:
            await self._world.stop()
            shutil.rmtree(folder)

    async def _phases(self) -> None:
        await self._phase(UP)
        self._nothing_undone()
        await self._again(UP)
        self._published_once()
        await self._phase((*UP, *DOWN))
        await self._again(DOWN)
        self._nothing_left()
        await self._again(UP)
        self._published_once()
        await self._phase(DOWN)
        await self._again(DOWN)
        self._nothing_left()

    async def _phase(self, methods: Sequence[str]) -> None:
        """Many calls at about the same time. In the midst of it the processes may be killed."""
        killed = self._random.random() < 0.5
        calls = [asyncio.ensure_future(self._one(methods)) for _ in range(CALLS)]
        if killed:
            await asyncio.sleep(self._random.uniform(0, 0.4))
            await self._world.kill()
        await asyncio.gather(*calls)
        await self._world.settle()

    async def _one(self, methods: Sequence[str]) -> None:
        random = self._random
        method = random.choice(methods)
        name = random.choice(VOLUMES)
        one = step(method, name, random.choice((0.02, 0.5, 0.5, 0.5)))
        one.cut = random.choice((-1.0, -1.0, random.uniform(0, 0.02)))
        # Roughly in order, or nothing would ever get far.
        await asyncio.sleep(random.uniform(0, 0.15) + 0.06 * methods.index(method))
        if "publish_context" in one.fields and self._world.meaning("epoch", name_to_id(name)) == "0":
            return  # nobody has a publish context before the volume is attached
        try:
            answer = await send(self._world, one, plan.message(one, self._world.meaning))
        except (asyncio.CancelledError, grpc.aio.UsageError):  # its channel was closed
            self.codes["CANCELLED"] += 1
            return
        self.codes[answer.code] += 1
        self.done[one.method] += answer.code == "OK"
        self.refused_at_once += "is still running" in answer.details
        if answer.code not in MEANT | OUT_OF_ORDER:
            self.faults.append(f"{one.method}: {answer.code} {answer.details}")

    async def _again(self, methods: Sequence[str]) -> None:
        """By patient callers in order: each must succeed."""
        for name in VOLUMES:
            for method in methods:
                one = step(method, name, PATIENT_SECONDS)
                answer = await send(self._world, one, plan.message(one, self._world.meaning))
                if answer.code != "OK":
                    self.faults.append(f"{method} of {name} in the end: {answer.code} {answer.details}")
                await self._world.settle()

    def _nothing_undone(self) -> None:
        """A call that was cut off has gone on, or stopped; it has taken nothing back."""
        self.faults += [f"undone: {call}" for call in self._mounts.calls if call[0] in ("unmount", "remove")]
        self.faults += [f"undone: {call}" for call in self._kube.calls if call[0] == "delete"]
        self.faults += [f"undone: the attachment of {name}" for name in self._kube.taken]

    def _published_once(self) -> None:
        shown = Counter(mount.target for mount in self._mounts.mounts)
        for name in VOLUMES:
            volume = name_to_id(name)
            wanted = [words.target(volume)] + ([] if name == RAW else [words.staging(volume)])
            for path in wanted:
                if (count := shown.pop(plan.resolve(path, self._world.meaning), 0)) != 1:
                    self.faults.append(f"{count} mounts at {path}")
        self.faults += [f"a mount too many at {path}" for path in shown]

    def _nothing_left(self) -> None:
        world = self._world
        left = [f"mount {mount}" for mount in self._mounts.mounts]
        left += [f"device {name}" for name in self._mounts.devices]
        left += [f"volume {each['metadata']['name']}" for each in self._kube._listed(VirtualVolume, "", "")]
        left += [f"target {path}" for path in world.root.glob("pods/*/volumes/kubernetes.io~csi/*/mount")]
        left += [f"lock {key}" for server in world.servers.values() for key in server._locks._running]
        if (watches := len(self._kube._store.feeds)) > 1:  # the master's
            left.append(f"{watches - 1} watches")
        self.faults += [f"left: {each}" for each in left]
