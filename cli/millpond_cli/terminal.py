"""What every command needs: the two streams, the form of an answer, and the API server for as long as it takes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import click
from rich.console import Console

from millpond_adapters.kube import ApiKube, load
from millpond_cli.shown import FORMATS
from millpond_core.errors import MillpondError
from millpond_core.ports import Kube

FAILED = 1
"""Exit status of whatever has no other."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

form = click.option(
    "-o", "--output", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="How it is shown."
)


def answer(text: str) -> None:
    """What was asked for."""
    out.print(text, markup=False)


def told(sentence: str) -> None:
    """Progress, apart from what is asked for."""
    err.print(sentence, markup=False)


def run(kubeconfig: str, work: Callable[[Kube], Awaitable[int | None]]) -> None:
    """Do it with the API server, and end with its exit status."""

    async def with_kube() -> int:
        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        async with ApiKube(load(kubeconfig), component="kubectl-millpond") as kube:
            return await work(kube) or 0

    try:
        sys.exit(asyncio.run(with_kube()))
    except MillpondError as error:
        told(f"kubectl millpond: {error}")
        sys.exit(FAILED)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
