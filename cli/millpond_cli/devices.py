"""The commands about devices: a plan, and the acts that begin with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from millpond_adapters.clock import SystemClock
from millpond_cli import emptying, planned
from millpond_cli.shown import Format, formatted
from millpond_cli.stillness import ABORTED, DONE
from millpond_cli.terminal import answer, form, run, told
from millpond_core.master import foresight
from millpond_core.master.foresight import RATE, Deed, Plan
from millpond_core.master.world import World
from millpond_core.ports import Kube
from millpond_core.units import format_bytes, parse_quantity

Command = Callable[..., None]


def _bytes(context: click.Context, parameter: click.Parameter, said: str) -> int:
    try:
        return parse_quantity(said)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_device = click.argument("device")
rate_ = click.option(
    "--rate",
    default=format_bytes(RATE),
    show_default=True,
    metavar="SIZE",
    callback=_bytes,
    help="Copied in a second, to reckon the time with; a volume's own spec.rebuild.maxRate where that is lower.",
)
_with = click.option("--with", "new", default="", metavar="NEW_DEVICE", help="The StorageDevice that takes its place.")


def _acts(command: Command) -> Command:
    """The options that acts have in common."""
    for option in (
        click.option(
            "--accept-data-loss",
            "accepted",
            multiple=True,
            metavar="VOLUME",
            help="This VirtualVolume may be left without a copy. Once for each that the plan names.",
        ),
        click.option("--no-wait", is_flag=True, help="Return when it is asked for; the operator does the rest."),
        rate_,
        form,
        _device,
        click.pass_obj,
    ):
        command = option(command)
    return command


@click.group("plan")
def plan_() -> None:
    """What an act would do: steps, bytes, time, copies at each step, what is at risk and what is in the way.

    \b
    kubectl millpond plan drain n2-disk1
    kubectl millpond plan replace n2-disk1 --with n2-disk3 -o yaml
    kubectl millpond plan maintain n2 --intent reboot --for 30m
    kubectl millpond plan expand shop/db-0 80Gi
    """


def _plans(deed: Deed) -> Command:
    @form
    @rate_
    @_device
    @click.pass_obj
    def command(kubeconfig: str, device: str, rate: int, form: Format, new: str = "") -> None:
        async def show(kube: Kube) -> None:
            world, plan = await _foreseen(kube, deed, device, rate)
            text = formatted(plan, form)
            answer(text or "\n".join([*planned.lines(plan), *_placed(world, plan, new)]))

        run(kubeconfig, show)

    return command


def _help(act: str, options: str) -> str:
    example = f"kubectl millpond plan {act} n2-disk1 {options}"
    return f"What `{act} DEVICE` would do; nothing is done.\n\n\b\n{example}"


plan_.command("drain", help=_help("drain", "--rate 40Mi"))(_plans("Drain"))
plan_.command("retire", help=_help("retire", "-o json"))(_plans("Retire"))
plan_.command("replace", help=_help("replace", "--with n2-disk3"))(_with(_plans("Replace")))


@click.command()
@_acts
def drain(kubeconfig: str, /, **wanted: Any) -> None:
    """Move all legs off DEVICE; the disk stays, and `undrain` takes it into service again.

    A leg is given up only once another copy is in sync. Exit status 4: what is left waits for what the plan names.

    \b
    kubectl millpond drain n2-disk1
    kubectl millpond drain n2-disk1 --no-wait
    """
    _act(kubeconfig, "Drain", **wanted)


@click.command()
@_acts
def retire(kubeconfig: str, /, **wanted: Any) -> None:
    """Move all legs off DEVICE, which is to hold none any more.

    A leg is given up only once another copy is in sync. Exit status 4: what is left waits for what the plan names.

    \b
    kubectl millpond retire n2-disk1
    """
    _act(kubeconfig, "Retire", **wanted)


@click.command()
@_with
@_acts
def replace(kubeconfig: str, /, **wanted: Any) -> None:
    """Have other devices take over what lies on DEVICE, dead or alive, and delete it. There is no way back.

    \b
    kubectl millpond replace n2-disk1
    kubectl millpond replace n2-disk1 --with n2-disk3
    """
    if wanted["accepted"] and wanted["no_wait"]:
        raise click.UsageError("--accept-data-loss needs someone who waits until all else has left: without --no-wait")
    _act(kubeconfig, "Replace", **wanted)


@click.command()
@_device
@click.pass_obj
def undrain(kubeconfig: str, device: str) -> None:
    """Take DEVICE, drained, retired or on its way there, into service again.

    \b
    kubectl millpond undrain n2-disk1
    """

    async def undo(kube: Kube) -> None:
        answer(await emptying.undo(kube, device))

    run(kubeconfig, undo)


COMMANDS: tuple[click.Command, ...] = (plan_, drain, retire, replace, undrain)


def _act(
    kubeconfig: str,
    deed: Deed,
    *,
    device: str,
    accepted: tuple[str, ...],
    no_wait: bool,
    rate: int,
    form: Format,
    new: str = "",
) -> None:
    """Plan, refuse or ask, follow, compare."""

    async def go(kube: Kube) -> int:
        world, plan = await _foreseen(kube, deed, device, rate)
        for line in [*planned.lines(plan), *_placed(world, plan, new)]:
            told(line)
        if refused := planned.refusal(plan, accepted):
            told(refused)
            return ABORTED
        await emptying.ask(kube, deed, device)
        if no_wait:
            answer(formatted(plan, form) or f"{device}: asked for; kubectl get sdev {device} shows how far it is")
            return DONE
        outcome = await emptying.follow(kube, world, plan, accepted, told)
        answer(formatted(outcome, form) or "\n".join(outcome.lines()))
        return outcome.status

    run(kubeconfig, go)


async def _foreseen(kube: Kube, deed: Deed, device: str, rate: int) -> tuple[World, Plan]:
    world = await emptying.look(kube)
    plan = foresight.plan(world, deed, device, SystemClock().now(), rate=rate)
    return world, await emptying.users(kube, plan)


def _placed(world: World, plan: Plan, new: str) -> list[str]:
    return [planned.successor(world, plan, new)] if new else []
