"""``make bench-control``: what a quiescence takes and costs, and the operator, into docs/performance.md.

A real etcd and API server with the chart's rights and policies, the real operator in its own process, real state
managers on kernels in memory (``bench.fleet`` says which). Every size is a cluster of its own. The kinds of quiescences
take turns, so that a host whose speed changes within minutes changes it for all.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from bench import fleet, samples
from bench.cluster import NAMESPACE, Nodes, Operator, install, node_tokens, token, traffic, until_quiet
from bench.figures import host, replace_section
from bench.fleet import Size
from bench.metrics import Traffic
from bench.nodes import Plan
from bench.samples import Series
from bench.stillness import Asker, asking, until_whole

from lab.controlplane import ControlPlane
from lab.progress import say, step
from millpond_adapters.kube import ApiKube, load
from millpond_core.model import StorageDevice
from millpond_core.model.meta import Wire

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "bench" / "control"
SIZES = "100x3,100x50"
NODES_A_PROCESS = 27
"""Worlds of three in one process; one process needs most of a core while so many nodes are busy."""
BEAT_SECONDS, BEAT_GOOD_SECONDS = 20.0, 200
"""Of the nodes that are objects only: at a state manager's own pace 950 of them would take two cores and more of the
control plane (``make bench-heartbeats``)."""
HEADING = "## Quiescence and the size of the cluster"
NOTES = f"""\
etcd, the API server with the chart's rights and policies and the operator are real and in processes of their own. So
are the state managers, on kernels in memory and many in one process: all share this host's cores, and no kernel's own
time is in the figures. At most {fleet.REAL} nodes have one; further nodes and their volumes are objects in their
settled form, whose Leases are renewed every {BEAT_SECONDS:g} s. One and ten volumes are attached to the same one and
three nodes in every cluster, so that only what is around them differs; more are spread over all that have a state
manager.

* *instructed → last acknowledgement*: by the objects' own times. *asked → seen still*: by the clock of who made the
  Quiescence and watches it. p99 is the nearest rank: of fewer than 100 samples the worst.
* *requests* and *KiB*, from its making to its end, whoever asked, the asker's two included: what the API server counts
  for Millpond's kinds and for Events, heartbeats left out, less what an idle cluster asks in that time. KiB are the
  bodies of requests, of answers to reads, and of all watches' events; it does not count the answers to writes.
* *operator*: started again when all is settled; *all looked at* is when it has looked at as many objects as there are.
  Resident memory is the kernel's VmRSS and, over the whole run, VmHWM.
* *pulled → its quiescence*: with no grace period. A spare is allocated, zeroed, exported and connected before."""
AT_ONCE = 16
IDLE_SECONDS = 20.0
SETTLED_SECONDS = 3600.0
"""The master has everything to write for the first time before a volume is attached."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written, whatever it says."""
    parser = argparse.ArgumentParser(prog="bench.control", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help=f"VOLUMESxNODES, by commas ({SIZES})")
    parser.add_argument("--runs", type=int, default=10, help="of each kind of quiescence (10)")
    parser.add_argument("--failures", type=int, default=3, help="devices that are pulled, one after the other (3)")
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    FOLDER.mkdir(parents=True, exist_ok=True)
    for size in [Size.parse(text) for text in arguments.sizes.split(",")]:
        say(f"{size.volumes:,} volumes on {size.nodes:,} nodes")
        series = asyncio.run(measure(size, arguments.runs, arguments.failures))
        (FOLDER / f"{size}.result.json").write_bytes(msgspec.json.format(msgspec.json.encode(series), indent=1))
    told = report([msgspec.json.decode(p.read_bytes(), type=Series) for p in FOLDER.glob("*.result.json")])
    print(f"\n{told}")
    if not arguments.dry:
        path = ROOT / "docs" / "performance.md"
        replace_section(path, "control", told, "# Performance\n")
        print(f"\nwritten to {path}")
    return 0


async def measure(size: Size, runs: int, failures: int) -> Series:
    """Everything about one size, in a control plane of its own."""
    with ControlPlane() as plane:
        install(plane)
        admin = ApiKube(load(str(plane.kubeconfig)), component="bench", namespace=NAMESPACE)
        async with admin as kube, standing(plane, kube, size) as (operator, nodes):
            started, looked = await restart(operator, plane, _objects(size))
            resident, _ = operator.memory_mib()
            idle = await idling(plane)
            found = Series(
                size=str(size),
                volumes=size.volumes,
                nodes=size.nodes,
                date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
                machine=host(),
                command=f"make bench-control SIZE={size}",
                started=started,
                looked=looked,
                resident_mib=resident,
                peak_mib=0.0,
                idle_requests=idle.requests,
                idle_kib=idle.kib,
                stillness=[],
                failures=[],
            )
            async with asking(plane, kube, idle) as asker:
                await rounds(asker, size, runs, found)
                for number in range(failures):
                    node, slot = fleet.node(number % size.real), fleet.SLOTS[0]
                    say(f"  pulling {slot} of {node}")
                    found.failures.append(await asker.fail(nodes, node, slot))
            return msgspec.structs.replace(found, peak_mib=operator.memory_mib()[1])


async def rounds(asker: Asker, size: Size, runs: int, found: Series) -> None:
    """Each kind once in each round; a first one that is not counted, in which everything is read for the first time."""
    for run in range(runs + 1):
        say(f"  round {run} of {runs}" if run else "  a round that is not counted")
        for volumes in size.counts():
            for hold_io in (False, True):
                sample = await asker.still(volumes, hold_io=hold_io)
                if run:
                    found.stillness.append(sample)


@asynccontextmanager
async def standing(plane: ControlPlane, kube: ApiKube, size: Size) -> AsyncIterator[tuple[Operator, Nodes]]:
    """Every volume that can go still is attached and whole, and nothing is asked for any more."""
    real = [fleet.node(number) for number in range(size.real)]
    with step(f"Making {size.nodes:,} nodes and their devices", usually=5 + size.nodes / 20):
        await fill(kube, fleet.node_objects(size))
        await fill(kube, fleet.device_objects(size))
        nodes = Nodes(_plans(plane, size, await node_tokens(kube, real)), plane.folder, FOLDER)
    operator = Operator(plane, await token(kube, "millpond-operator"), FOLDER)
    try:
        with step(f"Starting {size.real} state managers", usually=5 + size.real / 2):
            await asyncio.to_thread(nodes.start)
            uuids = await claimed(kube, size)
        with step(f"Making {size.volumes:,} volumes", usually=5 + size.volumes / 50):
            await fill(kube, fleet.volume_objects(size, uuids))
        with step(f"Attaching {size.still:,} of them", usually=10 + size.still / 5):
            operator.start()
            for number in range(size.still):
                await until_whole(kube, fleet.volume(number), SETTLED_SECONDS)
        with step("Waiting until all is settled", usually=10 + size.volumes / 100):
            await until_quiet(plane, seconds=SETTLED_SECONDS)
        yield operator, nodes
    finally:
        operator.stop()
        nodes.stop()


async def fill(kube: ApiKube, objects: Iterable[Wire]) -> None:
    """Make objects, their status included, a few at a time."""
    left = iter(objects)

    async def work() -> None:
        for obj in left:
            made = await kube.create(obj)
            status = msgspec.to_builtins(obj)["status"]
            if status:
                await kube.merge(type(made), made.metadata.name, {"status": status}, status=True)  # type: ignore[attr-defined]

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def claimed(kube: ApiKube, size: Size) -> dict[str, str]:
    """The uuids of the devices of real nodes, by name, once they all have theirs."""
    real = {fleet.node(number) for number in range(size.real)}
    async with asyncio.timeout(600):
        while True:
            there = [device for device in await kube.list(StorageDevice) if device.spec.node_name in real]
            found = {device.metadata.name: device.status.observation.device_uuid for device in there}
            if all(device.status.observation.state == "Claimed" for device in there):
                return found
            await asyncio.sleep(1.0)


async def restart(operator: Operator, plane: ControlPlane, objects: int) -> tuple[float, float]:
    """Seconds from its exec until it leads and has read everything, and until it has looked at all of it."""
    operator.stop()
    operator.start()
    started = 0.0
    async with asyncio.timeout(1800):
        while (looks := await operator.looks()) < objects:
            if looks and not started:
                started = time.monotonic() - operator.began
            await asyncio.sleep(0.1)
    looked = time.monotonic() - operator.began
    await until_quiet(plane, seconds=1800)
    return started or looked, looked


async def idling(plane: ControlPlane) -> Traffic:
    """What a second costs in which nobody wants anything."""
    before, began = await traffic(plane), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    found, passed = (await traffic(plane)).since(before), time.monotonic() - began
    return Traffic(found.requests / passed, found.kib / passed)


def report(all_series: Sequence[Series]) -> str:
    """The section of docs/performance.md: all sizes whose figures are in build/bench."""
    there = sorted(all_series, key=lambda series: (series.nodes, series.volumes))
    runs = [f"`{each.command}` ({each.date}; host {each.machine})" for each in there]
    measured = f"Measured with {'; '.join(runs)}."
    tables = [samples.goals(there), samples.stillness_table(there), samples.cluster_table(there)]
    return "\n\n".join([HEADING, measured, NOTES, *tables])


def _plans(plane: ControlPlane, size: Size, tokens: dict[str, str]) -> dict[str, Plan]:
    groups = [[fleet.node(number) for number in group] for group in fleet.groups(size.real)]
    most = NODES_A_PROCESS // fleet.GROUP
    beats = [fleet.node(number) for number in range(size.real, size.nodes)]
    plans = {}
    for at in range(0, len(groups), most):
        mine, name = groups[at : at + most], f"{size}-nodes-{at // most + 1}"
        plans[name] = Plan(
            kubeconfig=str(plane.kubeconfig),
            server=f"https://127.0.0.1:{plane.port}",
            authority=(plane.folder / "ca.crt").read_text(),
            namespace=NAMESPACE,
            run_dir=str(plane.folder / "run"),
            groups=mine,
            tokens={node: tokens[node] for group in mine for node in group},
            beats=beats if not at else [],
            beat_seconds=BEAT_SECONDS,
            beat_good_seconds=BEAT_GOOD_SECONDS,
        )
    return plans


def _objects(size: Size) -> int:
    return size.volumes + size.nodes * (1 + len(fleet.SLOTS))


if __name__ == "__main__":
    raise SystemExit(main())
