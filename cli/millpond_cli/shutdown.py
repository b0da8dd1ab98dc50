"""``kubectl millpond shutdown``: every volume goes down in order, so that all nodes may be switched off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click
import msgspec

from millpond_cli import terminal
from millpond_cli.maintenance import duration
from millpond_cli.shown import Format, document
from millpond_cli.stillness import Tell
from millpond_core import names
from millpond_core.errors import Conflict, DeadlineExceeded, NotFound
from millpond_core.instants import span
from millpond_core.master import workloads as w
from millpond_core.master.conditions import find
from millpond_core.master.maintenance import READY, volume_title
from millpond_core.model import StorageNode, VirtualVolume
from millpond_core.ports import Kube

DOWN, REFUSED, TIME_UP = 0, 3, 4
"""Exit statuses."""

BEGIN_SECONDS = 60.0
"""By then the operator has seen to it that no pod is started any more, or it does not run."""

LOOK_SECONDS = 2.0

NO_WAY_BACK = {
    "": "no controller would start it again",
    "Node": "it is a static pod, which its kubelet alone can end",
}
"""Pods that are not ended unasked, by the kind of their controller."""


class User(NamedTuple):
    """A pod that uses volumes of ours."""

    namespace: str
    name: str
    uid: str
    node: str
    controller: str
    """Its kind; empty: none."""
    claims: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Survey(NamedTuple):
    """What a shutdown meets."""

    nodes: Sequence[StorageNode]
    attached: Mapping[str, str]
    """Volumes that are attached, as people know them → the node."""
    pods: Sequence[User]
    rebuilding: Sequence[str]
    """Volumes with a leg that is not in sync."""

    def lines(self) -> list[str]:
        """For a person, before anything is done."""
        said = [f"{len(self.nodes)} nodes: {', '.join(node.metadata.name for node in self.nodes)}"]
        said += [f"  {volume} is in use on {node}" for volume, node in self.attached.items()]
        said += [f"  pod {pod} on {pod.node} is ended, and started again after power-on" for pod in self.pods]
        said += [f"  {volume} is being rebuilt: it goes on after power-on" for volume in self.rebuilding]
        return said

    def refusals(self, *, force: bool) -> Iterator[str]:
        """Why it is not begun."""
        if not self.nodes:
            yield "there is no StorageNode: is Millpond installed in this cluster?"
        for node in self.nodes:
            name, intent = node.metadata.name, node.intent()
            if intent not in ("None", "Shutdown"):
                yield f"{name} is in maintenance ({intent}): end that first, kubectl millpond maintain {name} --done"
            if not node.status.boot_id:
                yield f"{name} has not reported: its state manager does not run"
        for pod in self.pods:
            if pod.controller == "Node" or (pod.controller == "" and not force):
                option = "; --force ends it all the same, for good" if not pod.controller else ""
                yield f"pod {pod} uses {', '.join(pod.claims)}, and {NO_WAY_BACK[pod.controller]}{option}"


async def survey(kube: Kube) -> Survey:
    """Read what is in use, and by whom."""
    nodes = await kube.list(StorageNode)
    volumes = [volume for volume in await kube.list(VirtualVolume) if volume.status.attachment.node]
    by_claim = {volume.metadata.annotations.get(names.ANNOTATION_CLAIM, ""): volume for volume in volumes}
    pods = []
    for namespace in sorted({claim.partition("/")[0] for claim in by_claim if claim}):
        found = await kube.raw("GET", f"/api/v1/namespaces/{namespace}/pods")
        pods += [user for pod in found.get("items", ()) if (user := _user(pod, by_claim))]
    return Survey(
        nodes=sorted(nodes, key=lambda node: node.metadata.name),
        attached={volume_title(volume): volume.status.attachment.node for volume in volumes},
        pods=pods,
        rebuilding=[volume_title(one) for one in volumes if _is_rebuilt(one)],
    )


async def go(kube: Kube, found: Survey, patience: float, tell: Tell) -> tuple[list[StorageNode], int]:
    """Say it to every node, end the pods, and wait until each may be switched off. The nodes as they are then, and the
    exit status. Raises DeadlineExceeded when the operator does nothing about it; the intent stands all the same.
    """
    for node in found.nodes:
        wanted = {"intent": "Shutdown", "bootId": node.status.boot_id, "until": None}
        await kube.merge(StorageNode, node.metadata.name, {"spec": {"maintenance": wanted}})
    loop = asyncio.get_running_loop()
    deadline, told, ended = loop.time() + patience, "", set[str]()
    await _no_more_pods(kube, found.nodes)
    while True:
        for pod in (await survey(kube)).pods:
            if pod.uid not in ended:
                ended.add(pod.uid)
                tell(f"pod {pod} on {pod.node} is told to end")
                await _end(kube, pod)
        nodes = [await kube.get(StorageNode, node.metadata.name) for node in found.nodes]
        waits = sorted({why for node in nodes if (why := _not_down(node))})
        if not waits:
            return nodes, DOWN
        if (said := "; ".join(waits)) != told:
            tell(said)
            told = said
        if loop.time() > deadline:
            return nodes, TIME_UP
        await asyncio.sleep(LOOK_SECONDS)


async def cancel(kube: Kube) -> list[StorageNode]:
    """Take it back; the nodes that it was said of."""
    nodes = [node for node in await kube.list(StorageNode) if node.spec.maintenance.intent == "Shutdown"]
    return [await kube.merge(StorageNode, node.metadata.name, {"spec": {"maintenance": None}}) for node in nodes]


async def _no_more_pods(kube: Kube, nodes: Sequence[StorageNode]) -> None:
    """Wait until Kubernetes starts no pod anywhere: one that is ended before would come back at once."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BEGIN_SECONDS
    mine = {node.metadata.name for node in nodes}
    while True:
        hosts = (await kube.raw("GET", "/api/v1/nodes")).get("items", ())
        open_ = sorted({host["metadata"]["name"] for host in hosts if not w.host(host).avoided} & mine)
        if not open_:
            return
        if loop.time() > deadline:
            raise DeadlineExceeded(
                f"{', '.join(open_)} do not bear the taint {names.TAINT} after {span(BEGIN_SECONDS)}: does the "
                f"operator run, with failover: Pods? Without it say kubectl cordon {' '.join(open_)}, and this again"
            )
        await asyncio.sleep(LOOK_SECONDS / 4)


async def _end(kube: Kube, pod: User) -> None:
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": pod.uid}}
    try:
        await kube.raw("DELETE", path, body)
    except (NotFound, Conflict):
        return  # it has ended


def _is_rebuilt(volume: VirtualVolume) -> bool:
    return any(leg.state != "InSync" for leg in volume.status.mapping.legs)


def _not_down(node: StorageNode) -> str:
    said = find(node.status.conditions, READY)
    if said is None or said.observed_generation < node.metadata.generation:
        return f"{node.metadata.name} is not looked at yet"
    return "" if said.status == "True" else said.message


def _user(pod: Mapping[str, Any], volumes: Mapping[str, VirtualVolume]) -> User | None:
    meta = pod["metadata"]
    claims = tuple(claim for claim in w.claims(pod) if f"{meta['namespace']}/{claim}" in volumes)
    if not claims or w.ended(pod) or not pod["spec"].get("nodeName"):
        return None
    owners = [owner["kind"] for owner in meta.get("ownerReferences", ()) if owner.get("controller")]
    controller = "Node" if w.MIRROR in meta.get("annotations", {}) else next(iter(owners), "")
    return User(meta["namespace"], meta["name"], meta["uid"], pod["spec"]["nodeName"], controller, claims)


@click.command()
@click.option("--cancel", "undo", is_flag=True, help="Take it back: pods start again, volumes are attached again.")
@click.option("--dry-run", is_flag=True, help="Show what would be ended, and do nothing.")
@click.option("--force", is_flag=True, help="End pods too that nobody starts again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", "patience", type=duration, default="15m", show_default=True, metavar="DURATION")
@terminal.form
@click.pass_obj
def shutdown(
    kubeconfig: str, /, *, undo: bool, dry_run: bool, force: bool, yes: bool, patience: float, form: Format
) -> None:
    """Take every volume down in order, so that all nodes may be switched off; returns when they may be.

    No pod is started any more, pods that use volumes are ended, and each volume is taken down with its copies equal.
    After power-on nothing has to be copied, and everything starts by itself. 3: refused; 4: something is still in use.

    \b
    kubectl millpond shutdown --dry-run
    kubectl millpond shutdown --yes --wait 30m && poweroff-all-my-machines
    kubectl millpond shutdown --cancel
    """

    async def do(kube: Kube) -> int:
        if undo:
            nodes = await cancel(kube)
            where = ", ".join(node.metadata.name for node in nodes)
            terminal.answer(_nodes(nodes, form) or (f"taken back: {where}" if nodes else "there was no shutdown"))
            return DOWN
        found = await survey(kube)
        for line in found.lines():
            terminal.told(line)
        if refused := [*found.refusals(force=force)]:
            for why in refused:
                terminal.told(f"refused: {why}")
            return REFUSED
        if dry_run or not (yes or click.confirm("Take all volumes down?", err=True)):
            terminal.told("nothing was done")
            return DOWN if dry_run else REFUSED
        nodes, status = await go(kube, found, patience, terminal.told)
        after = "every volume is down: switch the nodes off, in any order; after power-on everything starts by itself"
        if status != DOWN:
            after = "not everything is down; it goes on by itself. To take it back: kubectl millpond shutdown --cancel"
        terminal.answer(_nodes(nodes, form) or after)
        return status

    terminal.run(kubeconfig, do)


def _nodes(nodes: Sequence[StorageNode], form: Format) -> str:
    return document([msgspec.to_builtins(node) for node in nodes], form)
