"""A StatefulSet of one writer: what it has acknowledged is followed from outside, since its pod may go at any moment.

The pod writes into a new file each time it is started, ``records0``, ``records1`` …: what it wrote before is read back
from another. Acknowledged is what was heard here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.cluster import Object
from demo.workload import Workload
from demo.writer import Acks

POD = "db-0"


def stateful_set(work: Workload) -> Object:
    """One replica of the writer, on the workload's claim."""
    writer = (
        "n=$(ls /data | grep -c '^records'); exec python3 /program/writer.py write /data/records$n --acks /acks/$n "
        f"--rate {work.rate:.0f} --records {work.records}"
    )
    pod = work.pod(POD, ["sh", "-c", writer])
    spec = {**pod["spec"], "restartPolicy": "Always"}
    labels = {"app": "db"}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": work.namespace},
        "spec": {
            "replicas": 1,
            "serviceName": "db",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


@contextmanager
def followed(work: Workload, folder: Path) -> Iterator[Path]:
    """The pod's list of acknowledgements as it grows, copied to a file here."""
    cluster, path = work.cluster, folder / "acks"
    folder.mkdir(parents=True, exist_ok=True)
    argv = [str(cluster.kubectl_program), "--kubeconfig", str(cluster.kubeconfig), "exec", "-n", work.namespace, POD]
    argv += ["--", "tail", "-n", "+1", "-F", "/acks/0/acks"]
    with path.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.DEVNULL) as tail:
        try:
            yield path
        finally:
            tail.kill()


def read_back(work: Workload, file: str, text: str) -> Acks:
    """Every record acknowledged in ``text`` is read from that file of the volume, and is what it was."""
    acks = Acks.parse(text.splitlines(keepends=True))
    verdict = json.loads(work.run_writer(POD, "verify", f"/data/{file}", stdin=text, seconds=300).splitlines()[-1])
    assert (verdict["checked"], verdict["lost"], verdict["wrong"]) == (len(acks.digests), 0, 0), verdict
    return acks


def in_pod(work: Workload, what: str) -> None:
    """``pause`` or ``resume`` the writer of the pod that was started second."""
    program = ("python3", "/program/writer.py", what, "--acks", "/acks/1")
    work.cluster.kubectl("exec", "-n", work.namespace, POD, "--", *program, seconds=90)
