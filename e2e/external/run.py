"""The cluster, and one part on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo import install
from demo.cluster import Cluster
from demo.session import Session, lab_images, own
from external import definition, images, outcome
from external.bastion import bastion
from external.parts import GRACE_SECONDS, Part
from lab import components
from lab.command import isolated, run
from lab.errors import LabError
from lab.progress import say, step

DISKS = 2
DISK_MIB = 8192
"""Sparse. Two volumes that grow to 2 GiB fit beside each other, with room for the stress tests."""
NODE_MIB = 2048
ROLLOUT_SECONDS = 900.0
GONE_SECONDS = 900.0


@contextmanager
def cluster(name: str, kernel: str, folder: Path, *, keep: bool = False) -> Iterator[Session]:
    """A lab with Millpond installed and the tests' images on its nodes: see ``demo.session.own``."""
    baked = images.archives(components.ensure("e2e.test"), folder)
    with own(name, kernel, disks=DISKS, disk_mib=DISK_MIB, mib=NODE_MIB, archives=baked, keep=keep) as session:
        session.cluster.apply(*definition.objects())
        yield session


def prepare(session: Session, part: Part) -> None:
    """Bring the chart to what the part wants."""
    values = {"controller": {"storageCapacity": part.legs}}
    install.chart(session.cluster, components.ensure("helm"), lab_images(session.image), values)
    argv = ("rollout", "status", "deployment", "-n", install.NAMESPACE, f"--timeout={ROLLOUT_SECONDS:.0f}s")
    session.cluster.kubectl(*argv, seconds=ROLLOUT_SECONDS + 30)
    install.ready(session.cluster)


def make(session: Session, part: Part, folder: Path) -> outcome.Outcome:
    """Run the part's tests against a cluster that is prepared; what it says and its JUnit file come into ``folder``.

    LabError when it wrote no such file, or failed without a test that did.
    """
    junit, log = folder / f"junit-{part.name}.xml", folder / f"{part.name}.log"
    for left in (junit, log):
        left.unlink(missing_ok=True)
    argv = arguments(session.cluster, part, folder, junit)
    trouble: LabError | None = None
    told = f"Running part {part.name} (follow it in {log})"
    with step(told, usually=part.minutes * 60), bastion(session.lab, folder) as reach:
        env = reach | images.registries(folder)
        try:
            run(isolated(argv), seconds=part.minutes * 60 + GRACE_SECONDS, log=log, env=env)
        except LabError as error:
            trouble = error  # a test that fails does that, and is told of in the file
    if not junit.exists():
        raise trouble or LabError("ginkgo wrote no JUnit file", log=log)
    found = outcome.read(junit.read_bytes(), part)
    if trouble is not None and not list(found.problems()):
        raise trouble
    return found


def arguments(
    cluster: Cluster, part: Part, folder: Path, junit: Path, timeouts: Mapping[str, str] = definition.TIMEOUTS
) -> list[str | Path]:
    """The command line. The definition, with those timeouts, is written into ``folder``."""
    driver = folder / f"driver-{part.name}.json"
    driver.write_text(json.dumps(definition.definition(part.of_class, timeouts), indent=1))
    options = [f"--focus={pattern}" for pattern in part.focuses()] + [f"--skip={pattern}" for pattern in part.skips()]
    options += [f"--timeout={part.minutes:g}m", f"--junit-report={junit.name}", f"--output-dir={junit.parent}"]
    options += [f"--procs={part.at_once}", "--grace-period=5m", "-v", "--no-color", "--silence-skips"]
    own = [
        f"--kubeconfig={cluster.kubeconfig}",
        f"--kubectl-path={cluster.kubectl_program}",
        "--provider=skeleton",
        f"--storage.testdriver={driver}",
        f"--e2e-output-dir={folder}",
    ]
    return [components.ensure("ginkgo"), *options, components.ensure("e2e.test"), "--", *own]


def left(cluster: Cluster) -> str:
    """What the tests have left behind, or what does not go; empty: nothing."""
    volumes = [
        f"{each['metadata']['name']} is {each['status'].get('phase')}: {each['status'].get('message', '')}"
        for each in cluster.items("virtualvolumes")
    ]
    return "; ".join(volumes)


def everything_went(cluster: Cluster) -> None:
    """Wait until no volume is left; DemoError when one stays."""
    cluster.wait(lambda: left(cluster), "what the tests made is gone", seconds=GONE_SECONDS, every=2)


def all_parts(session: Session, parts: Sequence[Part], folder: Path) -> list[outcome.Outcome]:
    """Every part, also after one that failed."""
    found = []
    for part in parts:
        prepare(session, part)
        found.append(make(session, part, folder))
        say(outcome.summary(found[-1:]))
        everything_went(session.cluster)
    return found
