"""``kubectl millpond adopt``: which disks nobody has handed over yet, and handing some of them over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click
import msgspec

from millpond_cli import terminal
from millpond_cli.maintenance import duration
from millpond_cli.shown import Format, document
from millpond_cli.stillness import Tell
from millpond_core.errors import Conflict, Invalid, NotFound
from millpond_core.master import adoption
from millpond_core.model import StorageDevice, StorageNode
from millpond_core.model.storagenode import Disk
from millpond_core.ports import Kube

DONE, REFUSED, TIME_UP = 0, 3, 4
"""Exit statuses."""

LOOK_SECONDS = 1.0


class Found(NamedTuple):
    """A disk that no StorageDevice names."""

    node: str
    disk: Disk

    def __str__(self) -> str:
        return f"{self.node}/{self.disk.serial or self.disk.wwn or self.disk.path.rpartition('/')[2]}"

    def line(self) -> str:
        """For a person."""
        what = self.disk.state + (f" ({', '.join(self.disk.contents)})" if self.disk.contents else "")
        return f"{self}  {self.disk.size}  {self.disk.path}  {what}{f'  {self.disk.model}' if self.disk.model else ''}"

    def called(self, name: str) -> bool:
        """Whether a person means it by ``NODE/`` and its serial number, its WWN, its path or the end of that."""
        node, _, disk = name.partition("/")
        known = {self.disk.serial, self.disk.wwn, self.disk.path, self.disk.path.rpartition("/")[2]} - {""}
        return node == self.node and disk in known


def found(nodes: Sequence[StorageNode]) -> list[Found]:
    """All of them, node by node."""
    ordered = sorted(nodes, key=lambda node: node.metadata.name)
    return [Found(node.metadata.name, disk) for node in ordered for disk in node.status.unclaimed_disks]


def chosen(there: Sequence[Found], names: Sequence[str], *, every: bool) -> list[Found]:
    """Those that are meant; ``every``: all that are empty. Raises NotFound for a name that no disk has, Invalid for one
    that several have.
    """
    if every:
        return [one for one in there if one.disk.state == "Empty"]
    wanted = []
    for name in names:
        hits = [one for one in there if one.called(name)]
        if not hits:
            known = "\n  ".join(one.line() for one in there) or "none"
            raise NotFound(f"no disk is called {name} that could be handed over. There are:\n  {known}")
        if len(hits) > 1:
            raise Invalid(f"{len(hits)} disks are called {name}: say {' or '.join(one.disk.path for one in hits)}")
        wanted += hits
    return wanted


def refusals(wanted: Sequence[Found], *, erase: bool) -> Iterator[str]:
    """Why some of them are not handed over."""
    for one in wanted:
        what = ", ".join(one.disk.contents)
        match one.disk.state:
            case "InUse":
                yield f"{one} is in use: {what}"
            case "Foreign" if not one.disk.fingerprint:
                yield f"{one} holds {what} and has neither serial number nor WWN to be sure of it: erase it by hand"
            case "Foreign" if not erase:
                yield f"{one} holds {what}: with --erase that is erased"


def device(one: Found, there: Sequence[Found], *, pool: str, erase: bool) -> StorageDevice:
    """What hands it over."""
    others = [other.disk for other in there if other.node == one.node and other is not one]
    return adoption.device(one.node, one.disk, others, pool=pool, erase=erase)


async def hand_over(
    kube: Kube, devices: Sequence[StorageDevice], patience: float, tell: Tell
) -> tuple[list[StorageDevice], int]:
    """Create them, and wait until each is Online or refused. They as they are then, and the exit status. Raises Invalid
    when one of them has the name of another disk's.
    """
    for one in devices:
        try:
            await kube.create(one)
        except Conflict:
            known = await kube.get(StorageDevice, one.metadata.name)
            if (known.spec.node_name, known.spec.identity) != (one.spec.node_name, one.spec.identity):
                raise Invalid(f"StorageDevice {one.metadata.name} is there already, for another disk") from None
            tell(f"{one.metadata.name} is there already")
    loop = asyncio.get_running_loop()
    deadline, said = loop.time() + patience, dict[str, str]()
    while True:
        now = [await kube.get(StorageDevice, one.metadata.name) for one in devices]
        for one in now:
            name, what = one.metadata.name, _said(one)
            if said.get(name) != what:
                said[name] = what
                tell(f"{name}: {what}")
        if all(one.status.phase == "Online" or one.status.observation.state == "Refused" for one in now):
            return now, DONE if all(one.status.phase == "Online" for one in now) else REFUSED
        if loop.time() > deadline:
            return now, TIME_UP
        await asyncio.sleep(LOOK_SECONDS)


def _said(one: StorageDevice) -> str:
    message = one.status.message or one.status.observation.message
    return f"{one.status.phase}{f': {message}' if message else ''}"


@click.command()
@click.argument("disks", nargs=-1, metavar="[NODE/DISK…]")
@click.option("--all", "every", is_flag=True, help="Every disk that is empty.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Of these nodes only.")
@click.option("--pool", default="default", show_default=True, help="Pool that they belong to.")
@click.option("--erase", is_flag=True, help="Erase what is on those that are named; never one in use.")
@click.option("--wait", "patience", type=duration, default="5m", show_default=True, metavar="DURATION")
@terminal.form
@click.pass_obj
def adopt(
    kubeconfig: str,
    /,
    *,
    disks: tuple[str, ...],
    every: bool,
    nodes: tuple[str, ...],
    pool: str,
    erase: bool,
    patience: float,
    form: Format,
) -> None:
    """Hand disks over to Millpond; without any, show those that could be.

    A disk is named by its node and its serial number, its WWN, its path or the end of that. 3: refused; 4: not taken in
    in time, which goes on by itself.

    \b
    kubectl millpond adopt
    kubectl millpond adopt --all
    kubectl millpond adopt n1/S4EVNX0M123456 n2/S4EVNX0M123457 --pool fast
    """
    if every and disks:
        raise click.UsageError("say --all, or name disks")
    if every and erase:
        raise click.UsageError("--erase is for disks that are named: what is erased is to be looked at one by one")

    async def do(kube: Kube) -> int:
        known = await kube.list(StorageNode)
        if unknown := sorted({*nodes} - {node.metadata.name for node in known}):
            raise NotFound(f"there is no StorageNode {', '.join(unknown)}")
        there = [one for one in found(known) if not nodes or one.node in nodes]
        if not (every or disks):
            listed = [{"node": one.node, **msgspec.to_builtins(one.disk)} for one in there]
            terminal.answer(document(listed, form) or "\n".join(one.line() for one in there) or "no disk is left")
            return DONE
        wanted = chosen(there, disks, every=every)
        if refused := [*refusals(wanted, erase=erase)]:
            for why in refused:
                terminal.told(f"refused: {why}")
            return REFUSED
        if not wanted:
            terminal.told("no disk is empty: `kubectl millpond adopt` shows what there is")
            return REFUSED
        made = [device(one, there, pool=pool, erase=erase) for one in wanted]
        after, status = await hand_over(kube, made, patience, terminal.told)
        online = sum(one.status.phase == "Online" for one in after)
        text = document([msgspec.to_builtins(one) for one in after], form)
        terminal.answer(text or f"{online} of {len(after)} disks are taken in")
        return status

    terminal.run(kubeconfig, do)
