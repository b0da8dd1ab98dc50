"""The API tier: a real etcd and kube-apiserver, started once for the session on free ports of the loopback.

* ``plane``: the control plane with our CRDs, as ``lab.controlplane.ControlPlane``.
* ``kubectl``: the real one, as an administrator: ``kubectl("get", "vvol")`` gives its output.
* ``kube``: our adapter; each test that uses it begins without any object of ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lab import components
from lab.controlplane import ControlPlane
from millpond_adapters.kube import ApiKube, load
from millpond_core.errors import NotFound
from millpond_core.model import KINDS

ROOT = Path(__file__).parents[2]

Kubectl = Callable[..., str]


class Refused(RuntimeError):
    """kubectl failed; its text is what a person would read."""


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as started:
        run = runner(started)
        run("apply", "-f", str(ROOT / "crds"))
        run("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield started


def runner(plane: ControlPlane) -> Kubectl:
    program = components.ensure("kubectl")

    def run(*arguments: str, stdin: str = "") -> str:
        argv = [str(program), f"--kubeconfig={plane.kubeconfig}", *arguments]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def kubectl(plane: ControlPlane) -> Kubectl:
    return runner(plane)


@pytest.fixture
async def kube(plane: ControlPlane) -> AsyncIterator[ApiKube]:
    async with ApiKube(load(str(plane.kubeconfig)), component="millpond-test") as client:
        await empty(client)
        yield client


async def empty(kube: ApiKube) -> None:
    """Remove every object of ours, whatever holds it."""
    for kind in KINDS:
        for found in await kube.list(kind):
            name = found.metadata.name
            try:
                if found.metadata.finalizers:
                    await kube.merge(kind, name, {"metadata": {"finalizers": None}})
                await kube.delete(kind, name)
            except NotFound:  # it went when its finalizers did
                continue
    lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/contract"
    try:
        await kube.raw("DELETE", lease)
    except NotFound:
        return
