"""What can be done to a cluster's machines. In the lab it is done through QEMU; elsewhere a BMC could."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from demo.install import NAMESPACE
from lab.cluster import Cluster


class Shell(Protocol):
    """A look below Kubernetes. Nodes by name."""

    def run(self, node: str, *argv: str, seconds: float = 60, check: bool = True) -> str:
        """Standard output of a command as root on the node."""
        ...


class Faults(Shell, Protocol):
    """Faults as well. Disks by serial number."""

    def unplug(self, node: str, serial: str) -> None:
        """Pull a disk; returns when the machine has lost it. What is on it stays."""
        ...

    def plug(self, node: str, serial: str) -> None:
        """Put it back where it was."""
        ...

    def kill(self, node: str, pod: str, container: str) -> None:
        """SIGKILL to a container of Millpond's; the kubelet starts it anew."""
        ...

    def link(self, node: str, *, legs: bool | None = None, api: bool | None = None) -> None:
        """Cut or restore the networks over which it reaches other nodes' legs, and the API server.

        Without the second ``run`` may not work either.
        """
        ...

    def power_off(self, node: str) -> None:
        """Cut a node's power: whatever it had not written to its disks is lost."""
        ...

    def shut_down(self, node: str, *, seconds: float, cut_off: bool) -> None:
        """``systemctl poweroff``; returns when the machine is off, an error if it is not in time.

        ``cut_off``: every network goes first, as where its services end before others do.
        """
        ...

    def power_on(self, node: str) -> None:
        """Switch it on again, with its disks; returns when it runs commands."""
        ...

    def image(self, node: str, serial: str) -> Path:
        """The bytes of a disk, flushed and readable here."""
        ...


class LabFaults:
    """The lab's nodes and disks."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab

    def unplug(self, node: str, serial: str) -> None:
        self._lab.node(node).unplug(serial)

    def plug(self, node: str, serial: str) -> None:
        self._lab.node(node).plug(serial)

    def kill(self, node: str, pod: str, container: str) -> None:
        self._lab.node(node).kill_process(NAMESPACE, pod, container)

    def link(self, node: str, *, legs: bool | None = None, api: bool | None = None) -> None:
        self._lab.node(node).link(legs=legs, api=api)

    def power_off(self, node: str) -> None:
        self._lab.node(node).power_off()

    def shut_down(self, node: str, *, seconds: float, cut_off: bool) -> None:
        self._lab.node(node).shut_down(seconds=seconds, cut_off=cut_off)

    def power_on(self, node: str) -> None:
        self._lab.node(node).power_on()

    def run(self, node: str, *argv: str, seconds: float = 60, check: bool = True) -> str:
        return self._lab.node(node).run(*argv, seconds=seconds, check=check).stdout

    def image(self, node: str, serial: str) -> Path:
        return self._lab.node(node).read_disk(serial)
