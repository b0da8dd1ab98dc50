"""One node of a cluster, and the faults that tests cause on it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lab.agent import Agent
from lab.errors import LabError
from lab.noderecord import NodeRecord
from lab.qemu import Disk, Machine, Spec

BOOT_SECONDS = 240.0

# In one go, and with one start of ctr, which takes a while under TCG. The cgroup tells a pid that was reused.
_KILL = """for id in $(ctr -n k8s.io containers ls -q "$1"); do
    pid=$(cat /run/containerd/io.containerd.runtime.v2.task/k8s.io/$id/init.pid) || continue
    grep -q "$id" /proc/$pid/cgroup && kill -KILL $pid && echo $pid
done 2>/dev/null; true"""


class Node:
    """A node. Disks are named ``disk1`` and on; their serials are ``<node>-disk1`` and on."""

    def __init__(self, folder: Path, record: NodeRecord, spec: Spec) -> None:
        self.record = record
        self.spec = spec
        self.name = record.name
        self.address = record.address
        self.agent = Agent(record.name, record.agent_port, record.token)
        self.machine = Machine(folder, record.name, self.agent)

    @property
    def disks(self) -> Sequence[Disk]:
        return self.record.disks

    def disk(self, name: str) -> Disk:
        """The disk ``name`` (or with that serial); a LabError that names the disks when there is none."""
        for disk in self.disks:
            if name in (disk.name, disk.serial):
                return disk
        raise LabError(f"{self.name} has no disk {name!r}: it has {', '.join(disk.name for disk in self.disks)}")

    def run(
        self, *argv: str, seconds: float = 60, check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root on the node, outside of any container; LabError after ``seconds`` or on failure."""
        return self.agent.run(argv, seconds=seconds, check=check, stdin=stdin)

    # -- faults

    def unplug(self, disk: str) -> None:
        """Pull a disk out of the running node; its content stays. Returns when the kernel has let go of it."""
        self.machine.unplug(self.disk(disk))

    def plug(self, disk: str) -> None:
        """Put a pulled disk back."""
        self.machine.plug(self.disk(disk))

    def link(self, *, legs: bool | None = None, api: bool | None = None) -> None:
        """Cut or restore its links: to the other nodes, over which legs are reached, and to the API server, as over a
        management network. The lab comes over the second: without it :meth:`run` does not work.
        """
        if legs is not None:
            self.machine.set_link("nic-lan", up=legs)
        if api is not None:
            self.machine.set_link("nic-wan", up=api)

    def power_off(self) -> None:
        """Cut the power: whatever the node had not written to its disks is lost."""
        self.machine.power_off()

    def shut_down(self, *, seconds: float, cut_off: bool = False) -> None:
        """As an administrator does it: returns when the machine is off, LabError if it is not within ``seconds``.

        ``cut_off``: every link goes first, as where the network's services end before others do.
        """
        self.run("systemd-run", "--quiet", f"--on-active={3 if cut_off else 0}", "systemctl", "poweroff", "--no-block")
        if cut_off:
            self.link(legs=False, api=False)
        deadline = time.monotonic() + seconds
        while self.machine.alive():
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name} is still shutting down after {seconds:.0f} s",
                    next_step="look at the end of its console for the job that does not stop",
                    log=self.machine.console,
                )
            time.sleep(0.5)
        self.machine.power_off()

    def power_on(self) -> None:
        """Switch it on again with the disks that are plugged; returns when it runs commands (Ready comes later)."""
        self.machine.start(self.spec)
        self.wait()

    def wait(self) -> None:
        """Until it runs commands."""
        self.machine.wait(self.spec, seconds=BOOT_SECONDS)

    def kill_process(self, namespace: str, pod: str, container: str) -> None:
        """SIGKILL to the first process of a pod's container on this node; the kubelet starts it anew."""
        labels = {"pod.namespace": namespace, "pod.name": pod, "container.name": container}
        query = ",".join(f'labels."io.kubernetes.{label}"=={value}' for label, value in labels.items())
        if not self.run("sh", "-c", _KILL, "kill", query).stdout:
            raise LabError(f"no container {container!r} of pod {namespace}/{pod} runs on {self.name}")

    def read_disk(self, disk: str) -> Path:
        """The raw image of a disk on the host, after the node has flushed its caches."""
        found = self.disk(disk)
        if self.machine.alive() and self.machine.plugged(found):
            self.run("sync")
        return self.machine.data(found)
