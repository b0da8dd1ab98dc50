"""``make bench-datapath``: reads and writes through Millpond's stack and its peers', side by side, into docs.

Two guests on a LAN. Every stack stands on partitions of the same disks, all at once. One run of fio takes each load
round them all, in another order each time, before the next load goes, so that a host whose speed changes within minutes
changes it for all. fio's own reports are kept in build/bench.

Under software emulation the processor is ten times slower than the disks are in relation to it: what a layer costs is
its processor time, which a real disk would hide in part. ``--disks ssd`` makes the disks slower by as much.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import described, host, number, replace_section

from lab import kernels
from lab.guest import Guest
from lab.ports import free_lan
from lab.progress import say, step

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mdadm", "lvm2", "drbd-utils", "fdisk")
MODULES = ("nvme-tcp", "nvmet-tcp", "dm-multipath", "dm-raid", "raid1")
DISK_MIB = 2560
PART_MIB = 160
SIZE_MIB = 96

STACKS = {
    "raw": "raw partition",
    "linear": "dm-linear",
    "mdadm": "md raid1 (mdadm)",
    "gated": "md raid1 behind gates",
    "dm-raid": "dm-raid",
    "lvm": "LVM raid1",
    "local": "Millpond, two local legs",
    "remote": "Millpond, local and remote leg",
    "drbd": "DRBD, protocol C",
    "open": "two local legs without gates",
    "fine": "a bitmap 16 times finer",
    "none": "no bitmap",
    "queue": "one NVMe queue",
    "inline": "data within the command, up to 256 KiB",
    "uncounted": "no statistics of the layers within",
}
TRIED = {
    "open": "local",
    "uncounted": "local",
    "fine": "remote",
    "none": "remote",
    "queue": "remote",
    "inline": "remote",
}
"""Ours, but for one thing → the stack that it is compared with."""
SINGLE = ("raw", "linear")
OVER_BOTH = ("remote", "drbd", "fine", "none", "queue", "inline")


@dataclass(frozen=True)
class Load:
    """One job of fio."""

    write: bool
    block: str
    depth: int
    sync: bool = False

    def __str__(self) -> str:
        how = "random" if self.block == "4k" else "sequential"
        what = f"{'write' if self.write else 'read'}{' + fsync' if self.sync else ''}"
        return f"{how} {what}, {self.block}, QD {self.depth}"

    @property
    def rw(self) -> str:
        return ("rand" if self.block == "4k" else "") + ("write" if self.write else "read")


LOADS = [
    Load(write, block, depth, sync)
    for write, sync in ((False, False), (True, False), (True, True))
    for block in ("4k", "128k")
    for depth in (1, 8, 64)
]


@dataclass(frozen=True)
class Goal:
    """``of`` does at least ``least`` of what ``against`` does."""

    of: str
    against: str
    least: float
    reads_only: bool = False

    def loads(self) -> list[Load]:
        return [load for load in LOADS if not (self.reads_only and load.write)]


GOALS = (
    Goal("local", "mdadm", 0.95),
    Goal("gated", "mdadm", 0.97),
    Goal("local", "open", 0.97),
    Goal("remote", "drbd", 1.0),
    Goal("remote", "raw", 0.95, reads_only=True),
)

SSD_IOPS, SSD_MIB = 10_000, 60
"""What a SATA SSD does in a second (90,000 operations of 4 KiB, 520 MiB), divided by what emulation takes from a
processor.
"""

Rounds = list[dict[str, list[float]]]
"""For each round and stack: operations a second, by load."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written, whatever it says."""
    parser = argparse.ArgumentParser(prog="bench.datapath", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1, help="of each load in each round")
    parser.add_argument("--disks", choices=("fast", "ssd"), default="fast", help="as fast as they are, or limited")
    arguments = parser.parse_args(argv)
    slow = arguments.disks == "ssd"
    rounds, release = measure(arguments.kernel, arguments.rounds, arguments.seconds, slow=slow)
    machine = {
        "kernel": release,
        "host": host(),
        "rounds": f"{arguments.rounds} of {arguments.seconds:g} s for each load",
        **({"disks": f"limited to {SSD_IOPS:,} operations and {SSD_MIB} MiB a second"} if slow else {}),
    }
    command = f"make bench-datapath KERNEL={arguments.kernel}{' DISKS=ssd' if slow else ''}"
    told = "\n\n".join([described(machine, command), goals(rounds), table(rounds), tried(rounds)])
    path, title = ROOT / "docs" / "performance.md", f"## The data path, kernel {arguments.kernel}"
    title += ", on disks as slow in relation to the processor as real ones" if slow else ""
    name = f"datapath-{arguments.kernel}{'-ssd' if slow else ''}"
    replace_section(path, name, f"{title}\n\n{told}", "")
    print(f"\n{told}\n\nwritten to {path}")
    return 0


# --- measuring ----------------------------------------------------------------------------------------------------


def measure(kernel: str, rounds: int, seconds: int, *, slow: bool) -> tuple[Rounds, str]:
    """Boot, build every stack, and go round them; also the kernel's release."""
    out = ROOT / "build" / "bench" / f"datapath-{kernel}{'-ssd' if slow else ''}"
    out.mkdir(parents=True, exist_ok=True)
    lan = free_lan()
    first, second = (
        Guest(
            kernel=kernel,
            name=f"n{number}",
            disks=2,
            disk_mib=DISK_MIB,
            lan=lan,
            number=number,
            packages=PACKAGES,
        )
        for number in (1, 2)
    )
    try:
        with step(f"Booting two guests with kernel {kernel}", usually=40):
            for guest in (first, second):
                guest.create()
                guest.start()
            for guest in (first, second):
                guest.wait()
        with step(f"Building {len(STACKS)} stacks", usually=90):
            devices = _build(first, second)
        for guest in (first, second) if slow else ():
            for disk in guest.disks:
                guest.machine.throttle(disk, SSD_IOPS, SSD_MIB)
        found: Rounds = []
        order, chance = list(STACKS), random.Random(1)
        for turn in range(1, rounds + 1):
            results: dict[str, list[float]] = {name: [] for name in STACKS}
            with step(f"Round {turn} of {rounds}", usually=len(LOADS) * (len(STACKS) * (seconds + 0.3) + 3)):
                for at, load in enumerate(LOADS):
                    chance.shuffle(order)
                    report = _fio(first, load, {name: devices[name] for name in order}, seconds)
                    (out / f"round-{turn}-{at}.json").write_text(json.dumps(report, indent=1))
                    for job in report["jobs"]:
                        results[job["jobname"]].append(_rate(load, job))
            found.append(results)
        return found, first.agent.run(["uname", "-r"]).stdout.strip()
    finally:
        first.close()
        second.close()


def _fio(guest: Guest, load: Load, devices: Mapping[str, str], seconds: int) -> dict[str, Any]:
    """fio's report on one load, on one device after another, each as a job of its stack's name."""
    argv = ["fio", "--output-format=json", "--ioengine=libaio", "--direct=1", "--time_based", f"--runtime={seconds}"]
    argv += [f"--size={SIZE_MIB}M", "--randrepeat=0", "--norandommap", f"--rw={load.rw}", f"--bs={load.block}"]
    argv += [f"--iodepth={load.depth}", *(["--fsync=1"] if load.sync else [])]
    for name, device in devices.items():
        argv += [f"--name={name}", f"--filename={device}", "--stonewall"]
    said = guest.agent.run(argv, seconds=len(devices) * (seconds + 10) + 60).stdout
    report: dict[str, Any] = json.loads(said[said.index("{") :])
    return report


def _rate(load: Load, job: dict[str, dict[str, float]]) -> float:
    return job["write" if load.write else "read"]["iops"]


def _build(first: Guest, second: Guest) -> dict[str, str]:
    """Device node of each stack on the first guest, filled with data."""
    for guest in (first, second):
        for disk in guest.disks:
            parts = "".join(f"size={PART_MIB}MiB\n" for _ in STACKS)
            guest.agent.run(["sh", "-c", f"printf 'label: gpt\\n{parts}' | sfdisk -q {_disk(guest, disk.name)}"])
        guest.agent.run(["udevadm", "settle"], seconds=60)
        guest.agent.run(["modprobe", "-a", *MODULES], seconds=60)
    # It answers md's harmless waits, as on every node.
    env = first.environment()
    first.agent.run(["sh", "-c", "mkdir -p /run/millpond; setsid python3 -m millpond_node.watchdog "
                     "</dev/null >/out/watchdog.log 2>&1 &"], env=env)  # fmt: skip
    devices = {}
    for position, name in enumerate(STACKS, start=1):
        one, other = _part(first, "disk1", position), _part(first, "disk2", position)
        arguments = [one] if name in SINGLE else [one, other]
        if name in OVER_BOTH:
            arguments = [one, first.address, second.address]
            _stack(second, "serve", name, _part(second, "disk1", position), *arguments[1:])
        devices[name] = _stack(first, name, *arguments)
        # What was never written reads without a disk being asked.
        fill = ["dd", "if=/dev/zero", f"of={devices[name]}", "bs=1M", f"count={SIZE_MIB}", "oflag=direct"]
        first.agent.run(fill, seconds=300)
        say(f"  {STACKS[name]}: {devices[name]}")
    return devices


def _stack(guest: Guest, *argv: str) -> str:
    command = ["sh", "-c", 'cd /repo && exec python3 -m bench.stacks "$@"', "bench", *argv]
    return guest.agent.run(command, seconds=300, env=guest.environment()).stdout.strip()


def _disk(guest: Guest, disk: str) -> str:
    return f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{guest.name}-{disk}"


def _part(guest: Guest, disk: str, position: int) -> str:
    return f"{_disk(guest, disk)}-part{position}"


# --- telling ------------------------------------------------------------------------------------------------------


def ratios(rounds: Rounds, of: str, against: str, load: Load) -> list[float]:
    """Of each round."""
    at = LOADS.index(load)
    return [each[of][at] / each[against][at] for each in rounds]


def goals(rounds: Rounds) -> str:
    """A Markdown table: each goal, over all its loads."""
    lines = ["| goal | median of all loads | worst load | best load | kept |", "| --- | --- | --- | --- | --- |"]
    for goal in GOALS:
        by_load = {load: statistics.median(ratios(rounds, goal.of, goal.against, load)) for load in goal.loads()}
        median = statistics.median(by_load.values())
        worst, best = min(by_load, key=lambda each: by_load[each]), max(by_load, key=lambda each: by_load[each])
        what = f"{STACKS[goal.of]} ≥ {goal.least:g} of {STACKS[goal.against]}{' (reads)' if goal.reads_only else ''}"
        ends = f"{by_load[worst]:.2f} ({worst}) | {by_load[best]:.2f} ({best})"
        lines.append(f"| {what} | {median:.2f} | {ends} | {'yes' if median >= goal.least else 'no'} |")
    return "\n".join(lines)


def table(rounds: Rounds) -> str:
    """A Markdown table: operations a second of the raw partition, and each stack's part of that."""
    others = [name for name in STACKS if name != "raw" and name not in TRIED]
    lines = [
        "Operations a second of the raw partition (median), and what part of that each stack does: the median of the "
        "rounds' ratios, and how far they lie apart.",
        "",
        f"| load | raw | {' | '.join(STACKS[name] for name in others)} |",
        f"| --- | --- |{' --- |' * len(others)}",
    ]
    for at, load in enumerate(LOADS):
        raw = number(statistics.median(each["raw"][at] for each in rounds))
        cells = (_cell(ratios(rounds, name, "raw", load)) for name in others)
        lines.append(f"| {load} | {raw} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tried(rounds: Rounds) -> str:
    """A Markdown table: what our own stacks would do with one thing changed, as a part of what they do."""
    lines = [
        "Our own stacks but for one thing, as a part of what they do without it: two local legs in the first two "
        "columns, a local and a remote one in the others. In the last line the median of all loads.",
        "",
        f"| load | {' | '.join(STACKS[name] for name in TRIED)} |",
        f"| --- |{' --- |' * len(TRIED)}",
    ]
    for load in LOADS:
        cells = (_cell(ratios(rounds, name, against, load)) for name, against in TRIED.items())
        lines.append(f"| {load} | {' | '.join(cells)} |")
    whole = (
        statistics.median(statistics.median(ratios(rounds, name, against, load)) for load in LOADS)
        for name, against in TRIED.items()
    )
    return "\n".join([*lines, f"| all | {' | '.join(f'{each:.2f}' for each in whole)} |"])


def _cell(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
