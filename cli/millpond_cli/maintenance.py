"""``kubectl millpond maintain``: say what is about to be done with a node, and wait until it may be taken away. And a
plan of it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import click

from millpond_cli import emptying, planned, terminal
from millpond_cli.devices import Command, plan_, rate_
from millpond_cli.follow import versions
from millpond_cli.shown import Format, formatted
from millpond_core.errors import DeadlineExceeded, NotFound
from millpond_core.instants import seconds_stamp
from millpond_core.master import foresight
from millpond_core.master.conditions import find
from millpond_core.master.foresight import Work
from millpond_core.master.maintenance import READY, STAYS
from millpond_core.model import Condition, StorageNode
from millpond_core.ports import Kube

DONE, NOT_POSSIBLE, TIME_UP = 0, 3, 4
"""Exit statuses."""

BEGIN_SECONDS = 30.0
"""The operator has said something of the intent by then, or it does not run."""

INTENTS: dict[str, Work] = {"reboot": "Reboot", "replace": "Replace", "retire": "Retire"}

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Tell = Callable[[str], None]


def duration(text: str) -> float:
    """Seconds, from what kubectl takes for a duration, such as 90s, 30m or 1h30m; days as well."""
    if not re.fullmatch(r"(\d+[smhd])+", text):
        raise click.BadParameter(f"{text!r} is no duration: say 90s, 30m, 1h30m or 2d")
    return float(sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)([smhd])", text)))


def wanted(intent: str | None, until: float) -> dict[str, Any]:
    """The merge patch that says it; ``until``: seconds since the epoch, 0: none. No ``intent``: that there is none."""
    if not intent:
        return {"spec": {"maintenance": None}}
    return {"spec": {"maintenance": {"intent": INTENTS[intent], "until": seconds_stamp(until) if until else None}}}


async def may_go(kube: Kube, node: StorageNode, patience: float, tell: Tell) -> tuple[Condition, int]:
    """Wait until a node may be taken away, for ``patience`` seconds; each new sentence is told. What the master says in
    the end, and the exit status. Raises NotFound, and DeadlineExceeded when the master says nothing.
    """
    name = node.metadata.name
    said: Condition | None = None
    try:
        async with asyncio.timeout(BEGIN_SECONDS) as limit, aclosing(versions(kube, StorageNode, name)) as seen:
            begun = asyncio.get_running_loop().time()
            async for now in seen:
                verdict = find(now.status.conditions, READY)
                if verdict is None or verdict.observed_generation < node.metadata.generation:
                    continue  # said of another intent
                limit.reschedule(begun + patience)
                if verdict.status == "True" or verdict.reason in STAYS:
                    return verdict, DONE if verdict.status == "True" else NOT_POSSIBLE
                if said is None or said.message != verdict.message:
                    tell(verdict.message)
                said = verdict
            raise NotFound(f"StorageNode {name} was deleted")
    except TimeoutError:
        pass
    if said is None:
        silence = f"nothing is said of {name} in {BEGIN_SECONDS:.0f} s"
        raise DeadlineExceeded(f"{silence}: does the operator run? The intent stands all the same")
    return said, TIME_UP


_for = click.option(
    "--for", "seconds", type=duration, metavar="DURATION", help="Reboot: how long its legs are waited for."
)


def _intent(*, required: bool) -> Callable[[Command], Command]:
    said = "What is about to be done with NODE."
    return click.option("--intent", type=click.Choice(list(INTENTS)), required=required, help=said)


def _until(intent: str | None, seconds: float | None) -> float:
    """When a node is to be back from a reboot (seconds since the epoch); 0: it is none. Raises UsageError."""
    if (intent == "reboot") != (seconds is not None):
        raise click.UsageError("say --for with --intent reboot, and with no other")
    return time.time() + seconds if seconds is not None else 0.0


@plan_.command("maintain")
@click.argument("node")
@_intent(required=True)
@_for
@rate_
@terminal.form
@click.pass_obj
def plan_maintain(
    kubeconfig: str, /, *, node: str, intent: str, seconds: float | None, rate: int, form: Format
) -> None:
    """What `maintain NODE` would lead to; nothing is done.

    \b
    kubectl millpond plan maintain n2 --intent reboot --for 30m
    kubectl millpond plan maintain n2 --intent retire -o json
    """
    until = _until(intent, seconds)

    async def show(kube: Kube) -> None:
        world = await emptying.look(kube)
        made = foresight.plan_node(world, INTENTS[intent], node, time.time(), until=until, rate=rate)
        plan = await emptying.users(kube, made)
        terminal.answer(formatted(plan, form) or "\n".join(planned.lines(plan)))

    terminal.run(kubeconfig, show)


@click.command()
@click.argument("node")
@_intent(required=False)
@_for
@click.option("--done", is_flag=True, help="It is over: NODE is as any other again.")
@click.option(
    "--wait", "patience", type=duration, default="10m", show_default=True, metavar="DURATION", help="0s: do not wait."
)
@terminal.form
@click.pass_obj
def maintain(
    kubeconfig: str,
    /,
    *,
    node: str,
    intent: str | None,
    seconds: float | None,
    done: bool,
    patience: float,
    form: Format,
) -> None:
    """Say that NODE is about to be worked on; returns when it may be taken away, and tells what is in the way.

    reboot: it comes back with its disks, and catches up with what it missed. replace: it does not, its copies move to
    other nodes first. retire: the same, and it is forgotten in the end. Pods are moved by kubectl drain.

    The intent stands until it is taken back, also when this gives up waiting: 3: what is in the way stays; 4: it is not
    out of the way yet.

    \b
    kubectl millpond maintain n2 --intent reboot --for 30m && kubectl drain n2 --ignore-daemonsets
    kubectl millpond maintain n2 --done
    """
    if bool(intent) == done:
        raise click.UsageError("say --intent, or --done")
    until = _until(intent, seconds)

    async def say(kube: Kube) -> int:
        made = await kube.merge(StorageNode, node, wanted(intent, until))
        status, message = DONE, f"{node} is as any other node again" if done else f"{intent} of {node} is noted"
        if intent and patience:
            verdict, status = await may_go(kube, made, patience, terminal.told)
            message = f"{node}: {verdict.message}"
            if status != DONE:
                terminal.told(f"the intent stands, to take it back: kubectl millpond maintain {node} --done")
            made = await kube.get(StorageNode, node)
        terminal.answer(formatted(made, form) or message)
        return status

    terminal.run(kubeconfig, say)
