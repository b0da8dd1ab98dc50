"""csi-sanity against the installed driver: real sockets, real operator and state managers, real kernel.

It runs on the node of the controller's pod, as it needs both sockets, and makes its mounts in the kubelet's folder,
because the driver makes none anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import csi_sanity
import pytest

from demo.session import Session

NAMESPACE = "millpond-system"
KUBELET = "/var/lib/kubelet"
FOLDER = f"{KUBELET}/csi-sanity"
NODE_SOCKET = f"unix://{KUBELET}/plugins/csi.millpond.io/csi.sock"
MIB = 1 << 20
SECONDS = 2400.0
BUILD = Path(__file__).resolve().parents[2] / "build"

pytestmark = [pytest.mark.timeout(3600)]  # the cluster may have to be booted first


def controller(session: Session) -> tuple[str, str]:
    """(node, socket on that node) of the running controller's pod."""
    found = session.cluster.items("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller")
    running = [
        pod for pod in found if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    assert len(running) == 1, f"one controller pod is to run, {len(running)} do"
    pod = running[0]
    folder = f"{KUBELET}/pods/{pod['metadata']['uid']}/volumes/kubernetes.io~empty-dir/csi"
    return pod["spec"]["nodeName"], f"unix://{folder}/csi.sock"


@contextmanager
def program_on(node: Any, program: Path) -> Iterator[str]:
    """csi-sanity on the node, in a folder that goes with it."""
    node.run("mkdir", "-p", FOLDER)
    try:
        with program.open("rb") as handle:
            node.agent.run(["sh", "-ec", f"cat > {FOLDER}/csi-sanity"], seconds=120, stdin=handle)
        node.run("chmod", "755", f"{FOLDER}/csi-sanity")
        yield f"{FOLDER}/csi-sanity"
    finally:
        node.run("sh", "-c", f"umount -q {FOLDER}/mount/target {FOLDER}/staging; rm -rf {FOLDER}", check=False)


def run_sanity(
    session: Session, program: Path, *, access: str, size: int, parameters: dict[str, str]
) -> csi_sanity.Outcome:
    """Run csi-sanity and return what it found; its JUnit file is kept in ``build/``."""
    name, socket = controller(session)
    node = session.lab.node(name)
    with program_on(node, program) as there:
        text = "".join(f'{key}: "{value}"\n' for key, value in parameters.items())
        node.run("sh", "-ec", f"cat > {FOLDER}/parameters", stdin=text.encode())
        node.run("sh", "-ec", f"cat > {FOLDER}/mutable", stdin=csi_sanity.MUTABLE.encode())
        argv = csi_sanity.arguments(
            node_socket=NODE_SOCKET,
            controller_socket=socket,
            folder=FOLDER,
            junit=f"{FOLDER}/junit.xml",
            size=size,
            mutable=f"{FOLDER}/mutable",
            access=access,
        )
        BUILD.mkdir(exist_ok=True)
        log = BUILD / f"csi-sanity-{access}.log"
        with log.open("wb", buffering=0) as out:  # as it comes: an interrupted run tells how far it was
            done = node.agent.run(
                [there, *argv, f"--csi.testvolumeparameters={FOLDER}/parameters"],
                seconds=SECONDS,
                check=False,
                stdout=out.write,
                stderr=out.write,
            )
        junit = node.run("cat", f"{FOLDER}/junit.xml", check=False).stdout
    assert junit, f"csi-sanity wrote no JUnit file; its output is in {log}"
    (BUILD / f"junit-csi-sanity-{access}.xml").write_text(junit)
    outcome = csi_sanity.read(junit.encode())
    assert bool(outcome.failed) == (done.returncode != 0), f"csi-sanity ended with {done.returncode}: see {log}"
    return outcome


def test_csi_sanity_finds_no_fault(session: Session, csi_sanity_program: Path) -> None:
    """Mounted volumes of two copies. Raw block is csi-sanity's on doubles, and the end-to-end tests' on a cluster."""
    outcome = run_sanity(session, csi_sanity_program, access="mount", size=32 * MIB, parameters={"copies": "2"})
    csi_sanity.check(outcome, csi_sanity.advertised())
    assert len(outcome.passed) >= 40

    left = [volume["metadata"]["name"] for volume in session.cluster.items("virtualvolumes")]
    assert not [name for name in left if name.startswith(("vol-", "sanity"))]
    mounts = session.lab.node(controller(session)[0]).run("cat", "/proc/self/mountinfo").stdout
    assert FOLDER not in mounts
