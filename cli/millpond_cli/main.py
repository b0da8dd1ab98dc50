"""The command line, and where its parts are put together."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from millpond_adapters.kube import ApiKube, load
from millpond_cli import report
from millpond_core.errors import MillpondError
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.ports import Kube


async def show(kube: Kube, arguments: argparse.Namespace) -> list[str]:
    """The lines that answer one command."""
    devices, volumes = await kube.list(StorageDevice), await kube.list(VirtualVolume)
    if arguments.command == "tree":
        return report.tree(devices, volumes, arguments.device)
    return report.status(await kube.list(StorageNode), devices, volumes, await kube.list(Quiescence))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="kubectl millpond", description="What Millpond is doing, in sentences.")
    result.add_argument("--kubeconfig", default="", help="default: KUBECONFIG, then ~/.kube/config")
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="one verdict, and everything that is not as it should be")
    tree = commands.add_parser("tree", help="which claims lie on which device")
    tree.add_argument("device", nargs="?", default="", help="only this StorageDevice")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        print("\n".join(asyncio.run(_run(arguments))))
    except MillpondError as error:
        print(f"kubectl millpond: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(arguments: argparse.Namespace) -> list[str]:
    async with ApiKube(load(arguments.kubeconfig), component="kubectl-millpond") as kube:
        return await show(kube, arguments)
