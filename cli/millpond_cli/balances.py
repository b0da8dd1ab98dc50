"""``kubectl millpond balance``: legs from full devices to empty ones, from the plan to the last leg's move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing

import click

from millpond_cli import emptying, planned, terminal
from millpond_cli.devices import plan_
from millpond_cli.follow import versions
from millpond_cli.shown import Format, formatted
from millpond_cli.stillness import Tell
from millpond_core.errors import DeadlineExceeded, NotFound
from millpond_core.instants import span
from millpond_core.master import balance
from millpond_core.master.balance import TOLERANCE, Balance, Fullness, Transfer
from millpond_core.master.moves import sentence, steps
from millpond_core.model import VirtualVolume
from millpond_core.ports import Kube
from millpond_core.units import format_bytes

SILENT_SECONDS = 600.0
"""When nothing has become of a volume for so long, it is followed no more."""


def lines(plan: Balance) -> Iterator[str]:
    """The plan for a person."""
    far = balance.spread(plan.before)
    if not plan.transfers and far <= plan.tolerance:
        yield f"pool {plan.pool}: its devices are within {far:.0%} of each other: nothing is to be moved"
    else:
        number = len(plan.transfers)
        yield f"pool {plan.pool}: {number} leg{'' if number == 1 else 's'} to move, {format_bytes(plan.bytes)} to copy"
    for one in plan.transfers:
        where = f"from {', '.join(one.source)} to {', '.join(one.target)} on {one.node}"
        yield f"  {planned.title(one)}: leg {one.leg}, {format_bytes(one.bytes)}, {where}"
    yield from (f"  {line}" for line in _levels(plan.before, plan.after))
    if balance.spread(plan.after) > plan.tolerance:
        idle = f"; of {plan.unattached} volumes nothing is copied, no pod uses them" if plan.unattached else ""
        yield f"more cannot be evened out: no other leg may lie on an emptier device{idle}"


def _levels(before: Fullness, after: Fullness) -> Iterator[str]:
    for device, part in before.items():
        then = f" → {after[device]:.0%}" if device in after and round(after[device], 2) != round(part, 2) else ""
        yield f"{device}: {part:.0%} full{then}"


async def ask(kube: Kube, plan: Balance) -> list[VirtualVolume]:
    """All that is asked for; the rest is the operator's, which keeps to the limits of rebuilds. Returns each volume as
    it was before.
    """
    before = []
    for name, legs in _by_volume(plan.transfers).items():
        volume = await kube.get(VirtualVolume, name)
        before.append(volume)
        await kube.merge(VirtualVolume, name, _moving(balance.asked_to_move(volume, *legs)))
    return before


async def follow(kube: Kube, plan: Balance, before: list[VirtualVolume], tell: Tell) -> None:
    """Until every leg has left. Raises NotFound when a volume is deleted, and DeadlineExceeded when nothing becomes of
    one.
    """
    legs = _by_volume(plan.transfers)
    try:
        await asyncio.gather(*(_left(kube, volume, legs[volume.metadata.name], tell) for volume in before))
    except asyncio.CancelledError:
        tell("the operator goes on with what was asked for all the same")
        raise


async def _left(kube: Kube, last: VirtualVolume, legs: set[str], tell: Tell) -> None:
    name = last.metadata.name
    try:
        async with aclosing(versions(kube, VirtualVolume, name, lambda _: SILENT_SECONDS)) as seen:
            async for now in seen:
                for step in steps(last, now):
                    tell(sentence(step.what))
                last = now
                if not legs & {leg.id for leg in (*now.status.mapping.legs, *now.status.spares)}:
                    # What is left there means nothing any more: a leg's id is never given again.
                    await kube.merge(VirtualVolume, name, _moving(balance.asked_to_move(now)))
                    return
    except TimeoutError:
        says = last.status.message or last.status.phase
        raise DeadlineExceeded(
            f"nothing has become of {name} in {span(SILENT_SECONDS)}, it is: {says}. What was asked for stands"
        ) from None
    raise NotFound(f"volume {name} was deleted meanwhile")


def _by_volume(transfers: list[Transfer]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in transfers:
        found.setdefault(one.volume, set()).add(one.leg)
    return found


def _moving(legs: list[str]) -> dict[str, object]:
    return {"spec": {"placement": {"moving": legs or None}}}


def _part(context: click.Context, parameter: click.Parameter, said: int) -> float:
    return said / 100


_pool = click.option("--pool", default="default", show_default=True, help="Its devices.")
_tolerance = click.option(
    "--tolerance",
    type=click.IntRange(1, 100),
    default=round(TOLERANCE * 100),
    show_default=True,
    callback=_part,
    metavar="PERCENT",
    help="How far apart the fullest and the emptiest device may be.",
)


@plan_.command("balance")
@_pool
@_tolerance
@terminal.form
@click.pass_obj
def plan_balance(kubeconfig: str, /, *, pool: str, tolerance: float, form: Format) -> None:
    """What `balance` would move; nothing is done.

    \b
    kubectl millpond plan balance --pool nvme
    """

    async def show(kube: Kube) -> None:
        plan = await _planned(kube, pool, tolerance)
        terminal.answer(formatted(plan, form) or "\n".join(lines(plan)))

    terminal.run(kubeconfig, show)


@click.command("balance")
@_pool
@_tolerance
@click.option("--no-wait", is_flag=True, help="Return when it is asked for; the operator does the rest.")
@terminal.form
@click.pass_obj
def balance_(kubeconfig: str, /, *, pool: str, tolerance: float, no_wait: bool, form: Format) -> None:
    """Move legs from full devices of a pool to emptier ones, each given up only once another copy is in sync.

    \b
    kubectl millpond balance
    kubectl millpond balance --pool nvme --tolerance 5
    """

    async def go(kube: Kube) -> None:
        plan = await _planned(kube, pool, tolerance)
        for line in lines(plan):
            terminal.told(line)
        before = await ask(kube, plan)
        if not no_wait:
            await follow(kube, plan, before, terminal.told)
        done = "asked for" if no_wait else "done"
        terminal.answer(formatted(plan, form) or f"pool {pool}: {done}, {len(plan.transfers)} legs")

    terminal.run(kubeconfig, go)


async def _planned(kube: Kube, pool: str, tolerance: float) -> Balance:
    """Raises NotFound when the pool has no device."""
    world = await emptying.look(kube)
    plan = balance.plan(world, pool, time.time(), tolerance=tolerance)
    if not plan.before:
        pools = sorted({device.spec.pool for device in world.devices.values()})
        raise NotFound(f"pool {pool} has no device that legs may be placed on; there are: {', '.join(pools) or 'none'}")
    return plan
