"""The demo from nothing to the verdict, and back to nothing."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo import diagnostics, install
from demo.cluster import Cluster
from demo.errors import DemoError
from demo.faults import LabFaults
from demo.job import MainJob
from demo.report import Report
from demo.session import lab_images
from demo.story import Story
from demo.workload import Workload
from lab import cluster as lab_cluster
from lab import components, images, kernels
from lab.errors import LabError

DISKS = 2
HINT = """
The cluster stays up (KEEP=1). Try:

  export KUBECONFIG={kubeconfig} PATH={bin}:$PATH
  kubectl get snode,sdev,vvol,qui
  kubectl explain vvol.status.mapping
  kubectl -n millpond-system logs deploy/millpond-operator
  make lab-shell NODE=n1            then: dmsetup ls --tree; cat /proc/mdstat
  make lab-fault DO="plug {node} {disk}"    the pulled disk comes back

  make lab-down                     when you have seen enough
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0 when nothing was lost or wrong, 1 when something was or did not work, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="demo", description="A disk is pulled under a pod that writes; nothing is lost."
    )
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT, help="of the nodes")
    parser.add_argument("--keep", action="store_true", default=os.environ.get("KEEP", "") not in ("", "0"))
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="for report.json, or logs after a failure")
    parser.add_argument("--name", default=os.environ.get("LAB_NAME", "default"), help="of the lab")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same way out as Ctrl-C
    return Demo(arguments).run()


class Demo:
    """One run of the demo."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._out: Path = arguments.out.absolute()
        self._began = time.monotonic()
        self._story = Story()
        self._report = Report()
        self._mine = False
        self._lab: lab_cluster.Cluster | None = None

    def run(self) -> int:
        """The exit status; the lab is down afterwards, unless it was to be kept."""
        code = 1
        try:
            self._refuse_a_second_one()
            self._mine = True
            self._go()
            code = self._verdict()
        except (DemoError, LabError) as error:
            self._failed(str(error))
        except KeyboardInterrupt:
            self._report.problems.append("interrupted")
            print("\ninterrupted", file=sys.stderr)
            code = 130
        finally:
            self._end(code)
        return code

    def _refuse_a_second_one(self) -> None:
        try:
            lab_cluster.load(self._arguments.name)
        except LabError:
            return
        raise DemoError(
            f"a lab {self._arguments.name!r} is up already, and the demo begins with a fresh one",
            next_step="take it down with `make lab-down`, or choose another with LAB_NAME=other make demo",
        )

    def _go(self) -> None:
        story, report = self._story, self._report
        with story.phase("lab", "Three nodes with a stock kernel, and a Kubernetes on them"):
            archive = images.millpond()
            helm, kubectl = components.ensure("helm"), components.ensure("kubectl")
            lab = lab_cluster.up(self._arguments.name, kernel=self._arguments.kernel, disks=DISKS, archives=[archive])
            self._lab = lab
            cluster = Cluster(lab.kubeconfig, kubectl)
            report.kubernetes, report.kernel = versions(cluster)
            story.say(f"Kubernetes {report.kubernetes} on kernel {report.kernel}")
        with story.phase("install", "Millpond's chart is installed"):
            install.chart(cluster, helm, lab_images())
            install.ready(cluster)
            nodes = cluster.items("storagenodes")
            report.millpond = nodes[0]["status"].get("version", "")
            story.say(f"Millpond {report.millpond} is ready on {', '.join(n['metadata']['name'] for n in nodes)}")
        with story.phase("disks", "Each node's disks are handed over"):
            devices = install.adopt(cluster, per_node=DISKS)
            story.say(f"{len(devices)} disks belong to Millpond: {', '.join(devices)}")
        work = Workload(cluster, images.MILLPOND, namespace="demo")
        with MainJob(cluster, LabFaults(lab), work, story, report) as job:
            job.run()
        diagnostics.save_objects(cluster, self._out)
        print(f"\n== kubectl get snode,sdev,vvol,qui\n{(self._out / 'get.txt').read_text()}", flush=True)

    def _verdict(self) -> int:
        report = self._report
        faults = report.verdict()
        print("== " + ("What was promised was kept" if not faults else "Something is not as it should be"))
        print(f"   {report.records_acknowledged} records acknowledged, {report.records_lost} lost, ", end="")
        print(f"{report.records_wrong} wrong; {report.records_refused} refused")
        print(
            f"   failure seen after {report.detected_ms:.0f} ms, quiesced within {report.quiesced_ms:.0f} ms, ", end=""
        )
        print(f"longest pause between two acknowledgements {report.longest_write_gap_ms:.0f} ms")
        print(f"   rebuilt in {report.rebuild_seconds:.0f} s; mapping generation ", end="")
        print(f"{report.generation_before} -> {report.generation_after}")
        for fault in faults:
            print(f"   NOT GOOD: {fault}")
        if faults and self._lab is not None:
            self._collect()
        return 1 if faults else 0

    def _failed(self, why: str) -> None:
        self._report.problems.append(why)
        print(f"\nThe demo could not go on: {why}", file=sys.stderr, flush=True)
        if self._lab is not None:
            self._collect()

    def _collect(self) -> None:
        assert self._lab is not None
        print(f"  collecting logs and each node's state in {self._out}", file=sys.stderr, flush=True)
        cluster = Cluster(self._lab.kubeconfig, components.ensure("kubectl"))
        diagnostics.collect(cluster, LabFaults(self._lab), self._out)

    def _end(self, code: int) -> None:
        """Write the report and take the lab down, whatever has happened and however often Ctrl-C is pressed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._mine and self._arguments.keep and self._lab is not None:
            self._hint()
        elif self._mine:
            with self._story.phase("down", "The lab is taken down"):
                lab_cluster.down(self._arguments.name)
        if self._mine:
            self._report.phases = {**self._story.phases, "total": round(time.monotonic() - self._began, 1)}
            self._report.write(self._out / "report.json")
            (self._out / "story.txt").write_text("\n".join(self._story.lines) + "\n")
            print(f"\nThe report is in {self._out / 'report.json'} (exit status {code})", flush=True)

    def _hint(self) -> None:
        assert self._lab is not None
        print(
            HINT.format(
                kubeconfig=self._lab.kubeconfig,
                bin=components.ensure("kubectl").parent,
                node=self._lab.nodes[0].name,
                disk="disk1",
            )
        )


def versions(cluster: Cluster) -> tuple[str, str]:
    """Kubernetes' and the nodes' kernel's."""
    info = cluster.items("nodes")[0]["status"]["nodeInfo"]
    return info["kubeletVersion"], info["kernelVersion"]
