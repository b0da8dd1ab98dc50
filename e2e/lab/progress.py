"""Progress in a person's words: what is being done, how long that usually takes, how long it took.

Lines go to standard error, so that the output of ``exec`` and ``kubectl`` stays clean.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Print one line at once, also when the output is a pipe."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``0.4 s``, ``35 s``, ``3 min 20 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


@contextmanager
def step(what: str, usually: float) -> Iterator[None]:
    """Announce ``what`` (``usually`` in seconds, measured on two cores without KVM) and report the time it took."""
    say(f"- {what} (usually {duration(usually)})")
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  not finished after {duration(time.monotonic() - started)}: {what}")
        raise
    say(f"  done in {duration(time.monotonic() - started)}: {what}")
