"""What every command needs of the terminal: where sentences go, and how work with the API server ends as a process."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

from rich.console import Console

from millpond_adapters.kube import ApiKube, load
from millpond_core.errors import MillpondError
from millpond_core.ports import Kube

FAILED = 1
"""Exit status of whatever has no other."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


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
        err.print(f"kubectl millpond: {error}", markup=False)
        sys.exit(FAILED)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
