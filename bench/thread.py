"""``make bench-thread``: how long the main thread's parts take, and what the processes cost, into docs/performance.md.

Several runs of the main job on one cluster, the disks put back in between.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figures, described, host, replace_section

from demo.cli import versions
from demo.cluster import Cluster
from demo.errors import DemoError
from demo.faults import Faults
from demo.job import MIB, MainJob
from demo.report import Report
from demo.session import begin
from demo.story import Story
from demo.workload import Workload
from lab import cluster as lab_cluster
from lab import images, kernels
from lab.progress import say

ROOT = Path(__file__).resolve().parents[1]
PREFACE = """# Performance

Figures of the lab: three nodes in QEMU. They show what the parts of a failure cost against each other, not what a
machine can do: without KVM, programs in the guests run seven to ten times slower than on the host.
"""
PROCESSES = {
    "millpond-operator": "operator",
    "millpond-csi controller": "CSI controller",
    "millpond-node": "state manager",
    "millpond-watchdog": "watchdog",
    "millpond-csi node": "CSI node",
}
BUDGET = "Budget: operator 150 MiB; state manager and CSI node together 120 MiB."


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written."""
    parser = argparse.ArgumentParser(prog="bench.thread", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--name", default=f"bench-{os.getpid()}", help="of the lab")
    arguments = parser.parse_args(argv)
    try:
        figures, machine = measure(arguments.name, arguments.kernel, arguments.runs)
    finally:
        lab_cluster.down(arguments.name)
    command = f"make bench-thread KERNEL={arguments.kernel}"
    content = f"## The main thread, kernel {arguments.kernel}\n\n{described(machine, command)}\n\n{figures.table()}"
    path = ROOT / "docs" / "performance.md"
    replace_section(path, f"thread-{arguments.kernel}", f"{content}\n\n{BUDGET}", PREFACE)
    print(f"\n{figures.table()}\n\nwritten to {path}")
    return 0


def measure(name: str, kernel: str, runs: int) -> tuple[Figures, dict[str, str]]:
    """Bring a cluster up and measure; the caller takes it down."""
    archive = images.millpond()
    session = begin(name, kernel, disks=2, adopted=2)
    lab, cluster, faults = session.lab, session.cluster, session.faults
    figures = Figures()
    for run in range(1, runs + 1):
        say(f"run {run} of {runs}")
        starts(cluster, figures, run)
        failure(cluster, faults, figures, run)
        memory(lab, faults, figures)
        put_back(lab, cluster)
    figures.add(
        "image: all of Millpond's processes (archive, compressed by layer)", archive.stat().st_size / MIB, "MiB"
    )
    kubernetes, release = versions(cluster)
    machine = {
        "Kubernetes": kubernetes,
        "kernel": release,
        "host": host(),
        "runs": str(runs),
    }
    return figures, machine


def starts(cluster: Cluster, figures: Figures, run: int) -> None:
    """A pod without a volume, and one with a new claim in two copies."""
    plain = Workload(cluster, images.MILLPOND, namespace=f"plain-{run}")
    cluster.apply(*plain.claim_objects()[:2])
    pod = plain.pod_without_claim("plain", ["sleep", "infinity"])
    began = time.monotonic()
    cluster.apply(pod)
    plain.running("plain")
    figures.add("pod start without a volume", time.monotonic() - began, "s")
    cluster.kubectl("delete", "namespace", plain.namespace, "--timeout=120s", seconds=130)

    work = Workload(cluster, images.MILLPOND, namespace=f"claim-{run}", storage_class="millpond-mirrored")
    cluster.apply(*work.claim_objects())
    began = time.monotonic()
    work.idle("with-volume")
    work.bound()
    figures.add(f"claim to bound ({work.size}, two copies, zeroed)", time.monotonic() - began, "s")
    work.running("with-volume")
    figures.add("pod start with a new volume", time.monotonic() - began, "s")
    work.delete_pod("with-volume")
    began = time.monotonic()
    work.idle("again")
    work.running("again")
    figures.add("pod start with an existing volume", time.monotonic() - began, "s")
    remove(cluster, work)


def failure(cluster: Cluster, faults: Faults, figures: Figures, run: int) -> None:
    """The main job."""
    report = Report()
    work = Workload(cluster, images.MILLPOND, namespace=f"job-{run}")
    with MainJob(cluster, faults, work, Story(), report) as job:
        job.run()
        size = int(job.see()["status"]["sizeBytes"])
    if report.verdict():
        raise DemoError(f"the main job was not good: {'; '.join(report.verdict())}")
    figures.add("disk pulled to failure seen in the database", report.detected_ms, "ms")
    figures.add("quiescence: instruction to last acknowledgement", report.quiesced_ms, "ms")
    figures.add("longest hold of a write", report.held_ms, "ms")
    figures.add("longest pause between two acknowledged records", report.longest_write_gap_ms, "ms")
    figures.add(f"rebuild of {work.size} under writes", report.rebuild_seconds, "s")
    if report.rebuild_seconds > 0:
        figures.add("rebuild rate", size / MIB / report.rebuild_seconds, "MiB/s")
    remove(cluster, work)


def memory(lab: lab_cluster.Cluster, faults: Faults, figures: Figures) -> None:
    """Resident memory of each of our processes, as the node's kernel counts it."""
    for node in lab.nodes:
        for line in faults.run(node.name, "ps", "-eo", "rss=,args=").splitlines():
            kib, _, command = line.strip().partition(" ")
            for program, told in PROCESSES.items():
                if program in command and "python3" in command:
                    figures.add(f"resident memory: {told}", int(kib) / 1024, "MiB")


def put_back(lab: lab_cluster.Cluster, cluster: Cluster) -> None:
    """Every pulled disk back on its port, and every device Online."""
    for node in lab.nodes:
        for disk in node.disks:
            if not node.machine.plugged(disk):
                node.plug(disk.name)
    cluster.kubectl("wait", "--for=condition=Ready", "sdev", "--all", "--timeout=120s", seconds=130)


def remove(cluster: Cluster, work: Workload) -> None:
    """The namespace, and the volume behind its claim."""
    cluster.kubectl("delete", "namespace", work.namespace, "--timeout=180s", seconds=190)
    cluster.wait(
        lambda: ", ".join(n["metadata"]["name"] for n in cluster.items("vvol")), "its volume is gone", seconds=120
    )


if __name__ == "__main__":
    raise SystemExit(main())
