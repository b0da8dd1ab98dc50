"""``kubectl millpond vdb``: the database's two places compared, and the objects made anew from the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import msgspec

from millpond_cli import collected, database
from millpond_cli.shown import Format, document
from millpond_cli.terminal import answer, run, told
from millpond_cli.terminal import form as form_
from millpond_core.ports import Kube
from millpond_core.vdb.rebuild import Choices
from millpond_core.vdb.seen import NodeSeen

DIFFERENT = 3
"""Exit status of a check that finds something, and of an import that refuses something."""

Options = Callable[[Callable[..., None]], Callable[..., None]]


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where labels come from."""
    options: Sequence[Options] = (
        click.option(
            "-n", "--namespace", default=collected.NAMESPACE, show_default=True, help="Of the chart's release."
        ),
        click.option(
            "--from",
            "files",
            multiple=True,
            metavar="FILE",
            help="What millpond-labels has printed on one node; with it, no pod is asked.",
        ),
    )
    for option in options:
        command = option(command)
    return command


@click.group("vdb")
def commands() -> None:
    """The virtualization database: objects in etcd, labels on the disks.

    \b
    kubectl millpond vdb check
    kubectl millpond vdb import --yes
    """


@commands.command("check")
@_where
@form_
@click.pass_obj
def check_(kubeconfig: str, namespace: str, files: tuple[str, ...], form: Format) -> None:
    """Compare objects, labels and kernels; name every difference, and what to do.

    Exit status: 0 they agree; 1 an error; 3 they differ.

    \b
    kubectl millpond vdb check
    kubectl millpond vdb check --from n1.json --from n2.json -o json
    """

    async def compare(kube: Kube) -> int:
        findings = await database.compared(kube, await _seen(kube, kubeconfig, namespace, files))
        text = document([msgspec.to_builtins(finding) for finding in findings], form)
        lines = [finding.sentence() for finding in findings] or ["objects, labels and kernels agree"]
        answer(text or "\n".join(lines))
        return DIFFERENT if findings else 0

    run(kubeconfig, compare)


@commands.command("import")
@_where
@click.option("--yes", is_flag=True, help="Do it. Without this the plan is shown, and nothing is changed.")
@click.option(
    "--from-cluster", "clusters", multiple=True, metavar="UID", help="Take over labels of a cluster that is no more."
)
@click.option(
    "--without-missing", "without", multiple=True, metavar="VOLUME", help="Its legs that are not found are no more."
)
@click.pass_obj
def import_(
    kubeconfig: str,
    namespace: str,
    files: tuple[str, ...],
    *,
    yes: bool,
    clusters: tuple[str, ...],
    without: tuple[str, ...],
) -> None:
    """Make StorageDevices and VirtualVolumes anew from the labels on the disks.

    What is there and not older than the labels stays as it is. Exit status: 0 done, or nothing to do; 1 an error; 3
    something is refused.

    \b
    kubectl millpond vdb import
    kubectl millpond vdb import --yes --without-missing pvc-4f1c
    """
    choices = Choices(from_clusters=frozenset(clusters), without=frozenset(without))

    async def make(kube: Kube) -> int:
        plan = await database.planned(kube, await _seen(kube, kubeconfig, namespace, files), choices)
        for part in plan.parts:
            answer("\n  ".join((part.about, *part.says)))
        for finding in plan.refused:
            answer(f"REFUSED {finding.sentence()}")
        status = DIFFERENT if plan.refused else 0
        if not plan.parts:
            told("nothing is to be done")
        elif not yes:
            told(f"nothing was changed: {len(plan.parts)} objects would be, with --yes")
        else:
            status = await database.carried_out(kube, plan, told) or status
        return status

    run(kubeconfig, make)


async def _seen(kube: Kube, kubeconfig: str, namespace: str, files: Sequence[str]) -> list[NodeSeen]:
    if files:
        return collected.from_files(files)
    return await collected.from_pods(kube, namespace, collected.Kubectl(kubeconfig))
