"""Sequences of steps against worlds of their own, and what came of them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory, text_format

from fuzz import plan, rules, words
from fuzz.plan import Step
from fuzz.rules import Answer
from fuzz.world import TROUBLES, Records, World
from millpond_core.errors import MillpondError
from millpond_csi.validation import name_to_id

LENGTH = 20
"""Steps in a sequence. Each begins in a new world."""

TROUBLED = 8
"""Each so many-th sequence goes on in a world with which something is wrong: calls wait in vain."""

PATIENCE_SECONDS = 30.0
"""After which a call that does not come back is a hang."""

Tell = Callable[[str], None]


@dataclass
class Failure:
    sequence: int
    rule: str
    request: str
    """In text form."""


@dataclass
class Report:
    """What came of a run: answers by (method, code), and the failures."""

    requests: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def never_ok(self) -> list[str]:
        """Methods that are served and had no success."""
        methods = {method for method, _ in self.counts}
        return sorted(m for m in methods if not self.counts[m, "OK"] and not self.counts[m, "UNIMPLEMENTED"])

    def table(self) -> str:
        """Codes by method."""
        rows: dict[str, list[str]] = {}
        for (method, code), count in sorted(self.counts.items(), key=lambda each: -each[1]):
            rows.setdefault(method, []).append(f"{code} {count}")
        return "\n".join(f"  {method:28} {', '.join(rows[method])}" for method in sorted(rows))


def drawn(seed: int, first: int, count: int) -> Iterator[Step]:
    """Steps ``first`` (from 0) and on of a seed, by a process of its own."""
    argv = [sys.executable, "-m", "fuzz.draw", str(seed), str(first), str(count)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield plan.read(line)
    if process.returncode:
        raise RuntimeError(f"fuzz.draw ended with status {process.returncode}")


def prelude(number: int) -> list[Step]:
    """Sane steps with which a sequence begins, so that it starts as deep as its number says."""
    name, capability = words.VOLUMES[number // 2 % 2], {"mount": {}, "access_mode": {"mode": 1}}
    if number % 3 == 2:
        capability = {"block": {}, "access_mode": {"mode": 1}}
    texts, maps = words.sane_texts(name), words.sane_maps(name)
    of, context = {"volume_id": name_to_id(name)}, {"volume_context": maps["volume_context"][0]}
    can, contexts = {"volume_capability": capability}, {**context, "publish_context": maps["publish_context"][0]}
    staging = {"staging_target_path": texts["staging_target_path"][0]}
    target = {"target_path": texts["target_path"][0]}
    every = [
        Step("Controller", "CreateVolume", {"name": name, "volume_capabilities": [capability]}),
        Step("Controller", "ControllerPublishVolume", {**of, **can, "node_id": words.NODE, **context}),
        Step("Node", "NodeStageVolume", {**of, **can, **staging, **contexts}),
        Step("Node", "NodePublishVolume", {**of, **can, **staging, **target, **contexts}),
    ]
    return every[: number % 7]


async def send(world: World, step: Step, request: Any) -> Answer:
    """Send it, cut off where the step says so."""
    kind = message_factory.GetMessageClass(step.descriptor.output_type)
    channel = world.channels[step.service]
    method = channel.unary_unary(step.path, request_serializer=bytes, response_deserializer=kind.FromString)
    began = time.monotonic()
    call = method(plan.wire(step, request), timeout=step.seconds)
    if step.cut >= 0:
        asyncio.get_running_loop().call_later(step.cut, call.cancel)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            response = await call
            return Answer("OK", "", response, time.monotonic() - began)
    except grpc.aio.AioRpcError as error:
        details, code = error.details() or "", error.code().name
        local = code == "DEADLINE_EXCEEDED" and details == "Deadline Exceeded"
        return Answer(code, details, None, time.monotonic() - began, not local)
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
        return Answer("CANCELLED", "", None, time.monotonic() - began, False)
    except TimeoutError:
        return Answer("HANG", "", None, time.monotonic() - began, False)


class Sender:
    """One sequence in its world."""

    def __init__(self, number: int, world: World, records: Records, report: Report) -> None:
        self._number, self._world, self._records, self._report = number, world, records, report
        self._seen = 0

    async def step(self, step: Step, *, counted: bool = True) -> None:
        """Send it, once or twice, and look at everything."""
        request = plan.message(step, self._world.meaning)
        if step.repeat:
            await self._world.settle()
        first = await self.send(step, request)
        faults = [*rules.answered(step, first, self._world)]
        self._count(step, first, counted)
        if step.repeat and not step.mangle:
            await self._world.settle()
            second = await self.send(step, request)
            faults += [*rules.answered(step, second, self._world), *rules.again(step, first, second)]
            self._count(step, second, False)
        if step.cut < 0:
            await self._world.settle()
        faults += rules.touched(self._world, self._world.mounts.calls[self._seen :])
        self._seen = len(self._world.mounts.calls)
        faults += await self._probe(step)
        faults += rules.logged(self._records.taken())
        text = text_format.MessageToString(request, as_one_line=True, as_utf8=True)
        for fault in faults:
            how = f"mangled {step.mangle}" if step.mangle else f"cut after {step.cut:g} s" if step.cut >= 0 else ""
            self._report.failures.append(Failure(self._number, f"{step.method} {fault}", f"{how} {text[:2000]}"))

    async def send(self, step: Step, request: Any) -> Answer:
        return await send(self._world, step, request)

    async def _probe(self, step: Step) -> list[str]:
        probe = Step("Identity", "Probe", {}, 5.0)
        channel = self._world.channels["Node" if step.service == "Node" else "Controller"]
        try:
            await channel.unary_unary(probe.path)(b"", timeout=PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return [f"afterwards Probe answers {error.code().name}: {error.details()}"]
        return []

    def _count(self, step: Step, answer: Answer, counted: bool) -> None:
        self._report.requests += counted
        self._report.counts[step.method, answer.code] += 1


async def sequence(number: int, steps: Iterable[Step], records: Records, report: Report) -> None:
    """Run one, with a look at what it leaves behind."""
    before = asyncio.all_tasks()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    world = World(folder, real=number % 2 == 0)
    faults = []
    try:
        await world.start()
        one = Sender(number, world, records, report)
        for step in prelude(number):
            await one.step(step, counted=False)
        if number % TROUBLED == TROUBLED - 1:
            world.trouble(TROUBLES[number // TROUBLED % len(TROUBLES)])
        for step in steps:
            await one.step(step)
        await world.settle()
    finally:
        try:
            await world.stop()
        except MillpondError as error:
            faults.append(f"an object that the API server refuses: {error}")
        shutil.rmtree(folder)
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if not task.done()]
    faults += [f"left behind: {task!r}"[:500] for task in left]
    faults += [*rules.logged(records.taken())]
    report.failures += [Failure(number, fault, "at its end") for fault in faults]


async def run(steps: Iterable[Step], first: int, tell: Tell) -> Report:
    """All steps in sequences from number ``first`` on."""
    report, records = Report(), Records()
    number, waiting, began, told = first, list[Step](), time.monotonic(), 0
    with records.kept():
        for step in steps:
            waiting.append(step)
            if len(waiting) == LENGTH:
                await sequence(number, waiting, records, report)
                number, waiting = number + 1, []
                if report.requests - told >= 500:
                    told = report.requests
                    tell(f"{told} requests, {len(report.failures)} failures, {time.monotonic() - began:.0f} s")
        if waiting:
            await sequence(number, waiting, records, report)
    return report
