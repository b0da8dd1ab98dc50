"""Calls that may hang in the kernel, made in a thread that nobody waits for beyond a deadline.

A child could be killed, but starting one costs a tenth of a second on a slow node; a thread that sleeps uninterruptibly
costs some memory until the kernel lets go of it. Calls for one key that are under way together may all get stuck; while
the last of them is, the next call for that key fails at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from millpond_core.errors import DeadlineExceeded

Answer = TypeVar("Answer")
_stuck: dict[str, threading.Thread] = {}


async def patiently(key: str, work: Callable[[], Answer], *, seconds: float) -> Answer:
    """What ``work`` returns or raises. DeadlineExceeded, and its effect unknown, when it takes longer."""
    earlier = _stuck.get(key)
    if earlier is not None and earlier.is_alive():
        raise DeadlineExceeded(f"{key} has not answered an earlier call yet")
    _stuck.pop(key, None)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def settle(result: Answer | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: Answer | None = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failed)

    thread = threading.Thread(target=run, name=key, daemon=True)
    thread.start()
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError:
        _stuck[key] = thread
        raise DeadlineExceeded(
            f"{key} did not answer within {seconds:g} s; whether it took effect is unknown"
        ) from None
    except asyncio.CancelledError:
        _stuck[key] = thread
        raise
