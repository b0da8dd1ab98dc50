"""The command line, and where its parts are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from millpond_cli import asked, devices, explain, report, stillness, trees, vdb
from millpond_cli.adopt import adopt
from millpond_cli.balances import balance_
from millpond_cli.enlarging import plan_expand
from millpond_cli.maintenance import maintain
from millpond_cli.scrubs import scrub
from millpond_cli.shown import Format, formatted
from millpond_cli.shutdown import shutdown
from millpond_cli.stillness import REASONS, Outcome
from millpond_cli.terminal import answer, run, told
from millpond_cli.terminal import form as form_
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.ports import Kube


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--kubeconfig", default="", metavar="FILE", help="Default: $KUBECONFIG, then ~/.kube/config.")
@click.pass_context
def cli(context: click.Context, kubeconfig: str) -> None:
    """What Millpond is doing, what it would do, and having it done.

    Exit status: 0 done; 1 an error; 2 a wrong command line; 3 refused, aborted, different or not as it should be; 4 its
    time was up.
    """
    context.obj = kubeconfig


@cli.command()
@form_
@click.pass_obj
def status(kubeconfig: str, form: Format) -> None:
    """One verdict on the copies of all volumes, and everything that is not as it should be.

    Exit status: 0 nothing is listed; 3 something is, be it work that people have asked for.

    \b
    kubectl millpond status
    kubectl millpond status -o json | jq -r '.findings[] | [.kind, .name, .reason] | @tsv'
    """

    async def look(kube: Kube) -> int:
        nodes, devices = await kube.list(StorageNode), await kube.list(StorageDevice)
        found = report.status(nodes, devices, await kube.list(VirtualVolume), await kube.list(Quiescence))
        answer(formatted(found, form) or "\n".join(found.lines()))
        return found.status()

    run(kubeconfig, look)


@cli.command()
@click.argument("name", default="")
@form_
@click.pass_obj
def tree(kubeconfig: str, name: str, form: Format) -> None:
    """What lies on what. NAME is a device, a volume, or a claim as NAMESPACE/NAME; without it, all devices.

    Of a device: the legs on it, their claims, and the pods that have these. Of a volume: its legs, their extents, and
    the devices and nodes below.

    \b
    kubectl millpond tree
    kubectl millpond tree n2-disk1
    kubectl millpond tree shop/db-0 -o yaml
    """

    async def show(kube: Kube) -> None:
        found = await trees.grow(kube, name)
        answer(formatted(found, form) or "\n".join(found.lines()))

    run(kubeconfig, show)


@cli.command("explain")
@click.argument("what", metavar="KIND/NAME")
@form_
@click.pass_obj
def explain_(kubeconfig: str, what: str, form: Format) -> None:
    """Why it is as it is, what happens next, and until when.

    \b
    kubectl millpond explain qui/backup
    kubectl millpond explain vvol/pvc-4f1c
    """

    async def show(kube: Kube) -> None:
        kind, name = explain.parse(what)
        obj = await kube.get(kind, name)
        answer(formatted(obj, form) or "\n".join(explain.explain(obj)))

    run(kubeconfig, show)


@cli.command()
@click.option("--name", default="", help="Of the Quiescence that is made; default: one that nobody has.")
@click.option("--volume", "volumes", multiple=True, metavar="NAME", help="A VirtualVolume.")
@click.option("--claim", "claims", multiple=True, metavar="[NAMESPACE/]NAME", help="A PersistentVolumeClaim.")
@click.option("-n", "--namespace", default="", help="All claims there; or where --claim and --selector look.")
@click.option("-l", "--selector", default="", metavar="KEY=VALUE,…", help="Claims with all of these labels.")
@click.option("--device", "devices", multiple=True, metavar="NAME", help="All volumes with a leg on a StorageDevice.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="All volumes attached on a node.")
@click.option("--cluster", is_flag=True, help="Every volume.")
@click.option("--hold", is_flag=True, help="Reads and writes wait too; without it, rebuilds and the like alone halt.")
@click.option("--for", "seconds", default=30, show_default=True, metavar="SECONDS", help="It ends by itself then.")
@click.option("--reason", type=click.Choice(REASONS), default="Manual", show_default=True)
@click.option("--message", default="", help="One sentence for people: what it is for.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@form_
@click.pass_obj
def quiesce(kubeconfig: str, /, command: tuple[str, ...], form: Format, **wanted: Any) -> None:
    """Have volumes go still; returns when they are, and they stay so until they are released or the time is up.

    With a COMMAND after "--" that runs while they are still; then they are released, and its exit status is ours. When
    the time is up before it has ended it goes on, and the exit status is 4: what it has seen may not be of one moment.

    \b
    kubectl millpond quiesce --name backup -n shop -l app=db --hold --for 60
    kubectl millpond quiesce -n shop --claim db-0 --hold -- ./take-a-copy.sh
    """

    async def go_still(kube: Kube) -> int:
        made = await kube.create(asked.quiescence(**wanted))
        outcome = await stillness.hold(kube, made, command, told)
        answer(formatted(outcome.quiescence, form) or "\n".join(explain.explain(outcome.quiescence)))
        return outcome.status

    run(kubeconfig, go_still)


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@form_
@click.pass_obj
def release(kubeconfig: str, names: tuple[str, ...], form: Format) -> None:
    """End quiescences; returns when everything goes on.

    Exit status: 0 all are over; 3 one had been aborted; 4 one had expired.

    \b
    kubectl millpond release backup
    kubectl millpond release backup copy
    """

    async def let_go(kube: Kube) -> int:
        outcomes: list[Outcome] = [await stillness.release(kube, name, told) for name in names]
        for outcome in outcomes:
            answer(formatted(outcome.quiescence, form) or outcome.quiescence.status.message)
        return max(outcome.status for outcome in outcomes)

    run(kubeconfig, let_go)


devices.plan_.add_command(plan_expand)
for command in (adopt, balance_, *devices.COMMANDS, maintain, scrub, shutdown, vdb.commands):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``kubectl millpond``."""
    cli.main(argv, prog_name="kubectl millpond")


if __name__ == "__main__":
    main()
