"""One cluster for a whole session of tests: booted for the first test that asks, taken down after the last.

``MILLPOND_LAB=<name>`` uses a lab that is up and has Millpond installed (``KEEP=1 make demo``), and leaves it up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo import install
from demo.cluster import Cluster
from demo.errors import DemoError
from demo.faults import Faults, LabFaults
from demo.workload import Workload
from external import images as kubernetes_images
from lab import cluster as lab_cluster
from lab import components, images, kernels
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
    kernel = os.environ.get("MILLPOND_KERNEL", kernels.DEFAULT)
    theirs = kubernetes_images.archives(components.ensure("e2e.test"), build_folder("images"))
    session = of(lab_cluster.up(name, kernel=kernel, disks=DISKS, archives=[images.millpond(), *theirs]))
    session.install()
    install.ready(session.cluster)
    install.adopt(session.cluster, per_node=ADOPTED)
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
