"""One object from now until it is deleted, as whoever waits for it follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from millpond_core.ports import Kind, Kube


async def versions(
    kube: Kube, kind: type[Kind], name: str, silence: Callable[[Kind | None], float | None] = lambda _: None
) -> AsyncGenerator[Kind, None]:
    """The version that is there, and each that comes. Ends when it is deleted, be it before anyone looked.

    ``silence``: after which version (None: none was seen yet) nothing may be heard for how many seconds; None: for any
    time. Raises TimeoutError when it was longer.
    """
    last: Kind | None = None
    # Whoever stops listening, for whatever reason, leaves no watch behind.
    async with aclosing(cast(Any, kube.watch(kind, fields=f"metadata.name={name}"))) as watch:
        while True:
            async with asyncio.timeout(silence(last)):
                event, seen = await anext(watch)
            if event == "DELETED" or (event == "SYNCED" and last is None):
                return
            if event != "SYNCED":
                last = seen
                yield seen
