"""One cluster for a whole session of tests: booted for the first test that asks, taken down after the last.

``MILLPOND_LAB=<name>`` uses a lab that is up and has Millpond installed (``KEEP=1 make demo``), and leaves it up.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo import install
from demo.cluster import Cluster
from demo.errors import DemoError
from demo.faults import Faults, LabFaults
from demo.workload import Workload
from external import images as kubernetes_images
from lab import cluster as lab_cluster
from lab import components, images, kernels, paths
from lab.errors import LabError

MakeWorkload = Callable[..., Workload]

DISKS = 3
ADOPTED = 2
"""Disks of each node that are handed over at once; the others are for tests that need one of their own."""


@dataclass
class Session:
    """What the tests get: a cluster, its faults, and the image that their pods use."""

    lab: lab_cluster.Cluster
    cluster: Cluster
    faults: Faults
    image: str
    """The one that is baked in."""

    def install(self, image: str = "") -> None:
        """Install the chart, or bring it to ``image`` (one that the nodes have); returns before the pods are ready."""
        install.chart(self.cluster, components.ensure("helm"), lab_images(image or self.image))


_shared: list[Session | BaseException] = []


def shared(at_the_end: Callable[[Callable[[], None]], None]) -> Session:
    """The session's cluster; ``at_the_end`` gets what is to be called after the last test (``config.add_cleanup``)."""
    if not _shared:
        try:
            _shared.append(_existing() or _begin(at_the_end))
        except (DemoError, LabError) as error:
            _shared.append(error)  # one that does not come up is not tried again for each test
    if isinstance(_shared[0], BaseException):
        raise _shared[0]
    return _shared[0]


def _existing() -> Session | None:
    name = os.environ.get("MILLPOND_LAB", "")
    return of(lab_cluster.load(name)) if name else None


def _begin(at_the_end: Callable[[Callable[[], None]], None]) -> Session:
    name = f"e2e-{os.getpid()}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is told to end takes its lab down, too
    at_the_end(lambda: lab_cluster.down(name))
    theirs = kubernetes_images.archives(components.ensure("e2e.test"), build_folder("images"))
    kernel = os.environ.get("MILLPOND_KERNEL", kernels.DEFAULT)
    return begin(name, kernel, disks=DISKS, adopted=ADOPTED, archives=theirs)


@contextmanager
def own(
    name: str,
    kernel: str,
    *,
    disks: int,
    disk_mib: int,
    mib: int,
    archives: Sequence[Path],
    keep: bool = False,
) -> Iterator[Session]:
    """A lab with Millpond installed, all disks handed over and those images besides; taken down but with ``keep``.

    A lab of that name that is up is used, and left up: it must have been made by the same caller.
    """
    keep = keep or (paths.lab_folder(name) / lab_cluster.DESCRIPTION).exists()
    assert threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends the lab
    try:
        yield begin(name, kernel, disks=disks, adopted=disks, disk_mib=disk_mib, mib=mib, archives=archives)
    finally:
        if not keep:
            lab_cluster.down(name)


def begin(
    name: str,
    kernel: str,
    *,
    disks: int,
    adopted: int,
    disk_mib: int = 2048,
    mib: int = 1536,
    archives: Sequence[Path] = (),
) -> Session:
    """A lab with Millpond installed and ``adopted`` disks of each node handed over; the caller takes it down."""
    baked = [images.millpond(), *archives]
    session = of(lab_cluster.up(name, kernel=kernel, disks=disks, disk_mib=disk_mib, mib=mib, archives=baked))
    session.install()
    install.ready(session.cluster)
    install.adopt(session.cluster, per_node=adopted)
    return session


def of(lab: lab_cluster.Cluster) -> Session:
    """What tests get of a lab that is up."""
    return Session(lab, Cluster(lab.kubeconfig, components.ensure("kubectl")), LabFaults(lab), images.MILLPOND)


def lab_images(millpond: str = images.MILLPOND) -> install.Images:
    """The images that the lab has baked in, but for ours if another is named."""
    sidecars = (images.SIDECARS[f"csi-{name}"] for name in ("provisioner", "attacher", "resizer"))
    return install.Images(millpond, *sidecars)


def build_folder(name: str) -> Path:
    """Where a test leaves what an engineer wants to see."""
    return Path(__file__).resolve().parents[2] / "build" / "e2e" / name
