"""What every node tells of its disks and its kernel: asked of the state managers' pods, or read from files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from millpond_core.errors import CommandFailed, DeadlineExceeded, Invalid, MillpondError, NotFound
from millpond_core.ports import Kube
from millpond_core.vdb.seen import NodeSeen

NAMESPACE = "millpond-system"
PODS = "app.kubernetes.io%2Fname%3Dmillpond%2Capp.kubernetes.io%2Fcomponent%3Dnode"
AT_ONCE = 8
"""Pods that are asked side by side."""

Ask = Callable[[str, str], Awaitable[bytes]]
"""(namespace, pod) → what ``millpond-labels`` prints there. Raises MillpondError."""


ASK_SECONDS = 60.0
"""A pod that has not told by then does not tell; it gives up earlier by itself."""


class Kubectl:
    """``Ask`` by ``kubectl exec``, which every person who has this plugin has, with the rights and proxies it knows."""

    def __init__(self, kubeconfig: str) -> None:
        self._first = ("kubectl", *((f"--kubeconfig={kubeconfig}",) if kubeconfig else ()))

    async def __call__(self, namespace: str, pod: str) -> bytes:
        argv = (*self._first, "exec", "-n", namespace, pod, "-c", "state-manager", "--", "millpond-labels")
        try:
            child = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CommandFailed(argv, 127, f"cannot start kubectl: {error.strerror}") from error
        try:
            output, complaint = await asyncio.wait_for(child.communicate(), ASK_SECONDS)
        except TimeoutError:
            raise DeadlineExceeded(f"it has not answered within {ASK_SECONDS:.0f} s") from None
        finally:
            if child.returncode is None:
                child.kill()
        if child.returncode:
            raise CommandFailed(argv, child.returncode, complaint.decode(errors="replace"))
        return output


async def from_pods(kube: Kube, namespace: str, ask: Ask) -> list[NodeSeen]:
    """One each; a node whose pod does not answer is there with a problem. NotFound when there is no pod at all."""
    answer = await kube.raw("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={PODS}")
    pods = {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in answer["items"] if pod["spec"].get("nodeName")}
    if not pods:
        raise NotFound(
            f"no state manager's pod in namespace {namespace}: say --namespace, install the chart, or run "
            "millpond-labels on each node and pass what it prints with --from"
        )
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(node: str, pod: str) -> NodeSeen:
        async with gate:
            try:
                return parsed(await ask(namespace, pod), f"pod {pod} on {node}")
            except MillpondError as error:
                return NodeSeen(node=node, problems=(f"its pod {pod} does not tell: {error}",))

    return list(await asyncio.gather(*(one(node, pod) for node, pod in sorted(pods.items()))))


def from_files(paths: Sequence[str]) -> list[NodeSeen]:
    """What was printed on each node. Raises Invalid, also when two are of one node."""
    found: dict[str, NodeSeen] = {}
    for path in paths:
        seen = parsed(Path(path).read_bytes(), path)
        if seen.node in found:
            raise Invalid(f"{path}: node {seen.node} was given already; pass one look of each node")
        found[seen.node] = seen
    return list(found.values())


def parsed(output: bytes, where: str) -> NodeSeen:
    """Raises Invalid."""
    try:
        return msgspec.json.decode(output, type=NodeSeen)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{where}: not what millpond-labels prints: {error}") from error
