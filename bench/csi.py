"""``make bench-csi``: what a claim and its pod take, beside a driver that replicates nothing, into docs.

That is csi-driver-host-path, built from checkouts of its sources (``bench.peer``).

One lab of three nodes. For each measure the drivers take turns, another one first each time, so that a host whose speed
changes within minutes changes it for all. What is measured is kept in build/bench after each turn: ``--report`` tells
of a run that was broken off.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from bench import csisamples, peer, trials
from bench.csisamples import DRIVERS, OURS, PEER, Run, Sample
from bench.figures import described, host, replace_section
from bench.trials import Trials

from demo import diagnostics
from demo.cli import versions
from demo.cluster import Object
from demo.errors import DemoError
from demo.job import compare_in_sync
from demo.session import Session, own
from lab import kernels
from lab.errors import LabError
from lab.progress import step

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "bench"
DISKS = 2
DISK_MIB = 8192
"""Sparse; 50 volumes in two copies fit many times."""
NODE_MIB = 3072
"""50 pods on one node, each with a shim and a sandbox, and 50 arrays."""
COUNT = 100
IDLE_SECONDS = 60.0
NOTES = (
    "",
    "* The drivers take turns in one cluster; but for many at once, a first turn is not counted. All pods are on the",
    "  node of the peer, which has no other; both drivers have the same sidecars and flags. Claims of {size},",
    "  two zeroed copies with ext4 against a folder.",
    "* By the clock of who asks and watches, from before the first request. p99 is the nearest rank: of fewer than 100",
    "  samples the worst. A claim alone is of a class that binds at once, all others wait for their pod.",
    "* Of ours that were made at once the legs are compared, byte by byte, before they go.",
    "* *larger size*: the kubelet is made to look once the PersistentVolume has it; by itself it does within minutes.",
    "* *all gone*: pod, claim, PersistentVolume and VirtualVolume. The pod heeds no signal and has a second to end.",
    "* *another node*: both are asked for at once. The peer's volumes are on its node and cannot be had elsewhere.",
    "* *requests of one life*: a claim and a pod that become ready and are deleted. What the API server counts of all",
    "  its clients, the asker's four included, less what an idle cluster asks in that time; no watches, no Leases.",
)
PINNED = ("csi-driver-host-path v1.18.0", "node-driver-registrar v2.17.0")
"""What was measured with."""


def main(argv: Sequence[str] | None = None) -> int:
    """0 once docs/performance.md is written, whatever it says; 1 when the measuring broke off, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="bench.csi", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument(
        "--count",
        type=int,
        default=COUNT,
        help=f"claims; a twentieth of it pods, half at once ({COUNT})",
    )
    parser.add_argument(
        "--hostpath", nargs=2, type=Path, metavar=("PLUGIN", "REGISTRAR"), help=f"checkouts of {' and '.join(PINNED)}"
    )
    parser.add_argument("--name", default="", help="of the lab; one that is up is used (default: one of our own)")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--report", action="store_true", help="tell of what an earlier run has kept, measure nothing")
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    given = parser.parse_args(argv)
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = FOLDER / f"csi-{given.kernel}.json"
    if not given.report and not given.hostpath:
        print(
            f"bench.csi: the peer is missing; check out {' and '.join(PINNED)} of github.com/kubernetes-csi, and give "
            'HOSTPATH="path/to/csi-driver-host-path path/to/node-driver-registrar"',
            file=sys.stderr,
        )
        return 2
    if not given.report:
        try:
            measured(given, kept)
        except (LabError, DemoError) as error:
            print(f"bench.csi: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("bench.csi: interrupted", file=sys.stderr)
            return 130
    if not kept.exists():
        print(f"bench.csi: there is no {kept}", file=sys.stderr)
        return 1
    told = report(msgspec.json.decode(kept.read_bytes(), type=Run))
    print(f"\n{told}")
    if not given.dry:
        path = ROOT / "docs" / "performance.md"
        replace_section(path, f"csi-{given.kernel}", told, "# Performance\n")
        print(f"\nwritten to {path}")
    return 0


def measured(given: argparse.Namespace, kept: Path) -> None:
    """Bring a cluster up, measure, and take it down; ``kept`` always holds what there is so far."""
    plugin, registrar = (path.resolve() for path in given.hostpath)
    archives = peer.built(plugin, registrar, FOLDER)
    name = given.name or f"bench-csi-{os.getpid()}"
    size = {"disks": DISKS, "disk_mib": DISK_MIB, "mib": NODE_MIB}
    with own(name, given.kernel, archives=archives, keep=given.keep, **size) as session:
        here, there = (node.name for node in session.lab.nodes[:2])
        try:
            with step(f"Installing {peer.DRIVER} on {here}", usually=60):
                peer.install(session.cluster, here)
            run = begun(session, given)
            api, compare = session.lab.control_plane.api, functools.partial(compared, session)
            with trials.trials(session.cluster, api, here, there, compare) as trial:
                rounds(trial, run, given.count, lambda: _keep(run, kept))
        except (DemoError, LabError):
            diagnostics.collect(session.cluster, session.faults, FOLDER / "csi-cluster")
            raise


def compared(session: Session, volume: Object) -> None:
    """DemoError when legs of a volume, byte by byte in the disks' images, are not the same."""
    if differences := compare_in_sync(session.cluster, volume, session.faults)[1]:
        raise DemoError(f"the legs of {volume['metadata']['name']} differ in {', '.join(map(str, differences))}")


class Measure(NamedTuple):
    """``usually``: seconds of one turn of all its drivers. ``warm``: a turn before the first is not counted."""

    what: str
    turns: int
    drivers: Sequence[str]
    take: Callable[[str], list[Sample]]
    usually: float
    warm: bool = True


def rounds(trial: Trials, run: Run, count: int, keep: Callable[[], None]) -> None:
    """Everything; ``keep`` is called when there is more."""
    few = max(1, count // 20)
    with step("Asking for nothing", usually=IDLE_SECONDS):
        idle = trial.idle(IDLE_SECONDS)
    for measure in (
        Measure("A claim alone", count, (OURS, PEER), trial.bound, 15),
        Measure("A pod from start to end", few, DRIVERS, trial.life, 60),
        Measure("A pod that moves", -(-few // 2), (OURS,), lambda _driver: trial.move(), 40),
        Measure(
            f"{run.at_once} at once",
            max(1, count // 100),
            DRIVERS,
            lambda driver: trial.many(driver, run.at_once),
            20 + 20 * run.at_once,
            warm=False,
        ),
    ):
        for turn in range(0 if measure.warm else 1, measure.turns + 1):
            told = f"{measure.what}: turn {turn} of {measure.turns}{'' if turn else ', not counted'}"
            with step(told, usually=measure.usually):
                for driver in turned(measure.drivers, turn):
                    found = measure.take(driver)
                    if turn:
                        run.samples.extend(found)
                        keep()
    lives = -(-few // 3)
    for driver in DRIVERS:
        with step(f"Counting the requests of {lives} lives: {run.told(driver)}", usually=40.0 * lives):
            run.requests[driver] = trial.requests(driver, lives, idle)
            keep()


def turned(drivers: Sequence[str], turn: int) -> list[str]:
    """Another one first each time."""
    at = turn % len(drivers)
    return [*drivers[at:], *drivers[:at]]


def begun(session: Session, given: argparse.Namespace) -> Run:
    """A run without samples."""
    kubernetes, release = versions(session.cluster)
    options = f" COUNT={given.count}" if given.count != COUNT else ""
    options += f' HOSTPATH="{" ".join(path.name for path in given.hostpath)}"'
    return Run(
        kernel=given.kernel,
        release=release,
        kubernetes=kubernetes,
        machine=host(),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command=f"make bench-csi KERNEL={given.kernel}{options}",
        peer=f"{peer.DRIVER} {peer.version(given.hostpath[0])}",
        at_once=max(1, given.count // 2),
    )


def report(run: Run) -> str:
    """The section of docs/performance.md."""
    machine = {"Kubernetes": run.kubernetes, "kernel": run.release, "host": run.machine, "on": run.date}
    notes = [line.format(size=trials.SIZE) for line in NOTES]
    tables = [csisamples.goals(run), csisamples.table(run), csisamples.requests_table(run)]
    return "\n\n".join([f"## Claims and pods, kernel {run.kernel}", described(machine, run.command, notes), *tables])


def _keep(run: Run, path: Path) -> None:
    """Whole or not at all, whenever this is broken off."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    new.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
