"""Which tests would run, found out without a node: on an API server whose nodes are only objects.

A test that skips itself does so there, too, with its message; any other fails within seconds, as no pod is ever let in.
A few minutes, and one core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from demo.cluster import Cluster, Object
from demo.workload import class_of
from external import definition, images, known, outcome, run
from external.parts import GRACE_SECONDS, Part
from lab import command, components
from lab.controlplane import ControlPlane
from lab.errors import LabError
from lab.progress import step
from millpond_core import names

NODES = 3
MINUTES = 15.0
_OWN = ("--e2e-verify-service-account=false", "--delete-namespace=false", "--dump-logs-on-failure=false")
"""What only a controller-manager would do is not waited for."""


@contextmanager
def cluster() -> Iterator[Cluster]:
    """An API server with nodes that look ready, and the classes that definitions name."""
    with ControlPlane() as plane:
        made = Cluster(plane.kubeconfig, components.ensure("kubectl"))
        made.kubectl("create", "namespace", "kube-system", check=False)
        for number in range(1, NODES + 1):
            node = _node(f"n{number}")
            made.apply(node)
            path = f"/api/v1/nodes/n{number}"
            # admission gives each new node a taint, and status is not written by apply
            plane.api.merge(path, {"spec": {"taints": []}})
            plane.api.merge(f"{path}/status", {"status": _STATUS})
        made.apply(*definition.objects(), class_of(definition.CLASS))
        yield made


def rehearse(made: Cluster, part: Part, folder: Path) -> outcome.Outcome:
    """What would come of the part: what its ``failed`` and ``passed`` name would run."""
    junit, log, key = folder / f"rehearsal-{part.name}.xml", folder / f"rehearsal-{part.name}.log", folder / "any.key"
    for left in (junit, log):
        left.unlink(missing_ok=True)
    quick = replace(part, minutes=MINUTES)
    argv = [*run.arguments(made, quick, folder, junit, timeouts=dict.fromkeys(definition.TIMEOUTS, "1s")), *_OWN]
    command.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], seconds=30
    )  # some skip themselves without
    env = {**images.registries(folder), "KUBE_SSH_KEY_PATH": str(key), "USER": os.environ.get("USER", "root")}
    with step(f"Rehearsing part {part.name}", usually=240):
        try:
            command.run(command.isolated(argv), seconds=MINUTES * 60 + GRACE_SECONDS, log=log, env=env)
        except LabError:
            if not junit.exists():
                raise
    return outcome.read(junit.read_bytes(), part)


def told(found: outcome.Outcome) -> str:
    """For people: each test that would run, and how many would not, by reason."""
    would = sorted([*found.failed, *found.passed])
    lines = [f"part {found.part.name}: {len(would)} would run"]
    lines += [f"  {name.removeprefix(known.BEGIN).partition('] ')[2]}" for name in would]
    lines += ["  would not run:", *outcome.reasons(found)]
    return "\n".join([*lines, *known.unexplained(found.skipped, found.part.capabilities)])


_READY: Object = {"type": "Ready", "status": "True", "reason": "Rehearsal", "message": "an object alone"}
_ROOM = {"cpu": "2", "memory": "2Gi", "pods": "110"}
_STATUS: Mapping[str, object] = {"capacity": _ROOM, "allocatable": _ROOM, "conditions": [_READY]}


def _node(name: str) -> Object:
    labels = {names.TOPOLOGY_KEY: name, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
