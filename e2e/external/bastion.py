"""Commands of the tests on the nodes: the disruptive ones stop a node's kubelet, over SSH, which no node serves.

``components/kubernetes-e2e/bastion`` speaks SSH to the tests, and has ``lab exec`` carry out what they want.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import cluster as lab_cluster
from lab import components
from lab.errors import LabError

COMMAND_SECONDS = 120.0
"""For one command on a node."""


@contextmanager
def bastion(lab: lab_cluster.Cluster, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which the tests reach the nodes; over with the block. Its log and key come into ``folder``."""
    key = folder / "bastion.key"
    with (folder / "bastion.log").open("wb") as log:
        process = subprocess.Popen(arguments(lab, key), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().decode().strip()
        if not address:
            raise LabError("the bastion did not start", log=folder / "bastion.log")
        yield {"KUBE_SSH_BASTION": address, "KUBE_SSH_KEY_PATH": str(key), "KUBE_SSH_USER": "root"}
    finally:
        process.stdin.close()  # with which it ends, also when we are killed
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
        process.stdout.close()
        key.unlink(missing_ok=True)


def arguments(lab: lab_cluster.Cluster, key: Path) -> list[str]:
    """The command line. The tests know a node by its external address, where the API server finds its kubelet."""
    argv = [str(components.ensure("bastion")), "-key", str(key)]
    for node in lab.nodes:
        argv += ["-node", f"{node.record.loopback}={node.name}"]
    execute = [sys.executable, "-m", "lab", "exec", "--name", lab.name, "--timeout", f"{COMMAND_SECONDS:.0f}"]
    return [*argv, "--", *execute]
