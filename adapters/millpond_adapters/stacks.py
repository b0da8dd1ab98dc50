"""Where a process stands, said on SIGUSR1: for whoever asks why nothing goes on.

Threads are told at once, from the signal itself, so that a loop that hangs is seen as well; tasks by the loop.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys


def tell_on_signal() -> None:
    """From here on SIGUSR1 has every thread and every task of the running loop told to standard error."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, _tell_tasks, loop)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)


def _tell_tasks(loop: asyncio.AbstractEventLoop) -> None:
    for task in sorted(asyncio.all_tasks(loop), key=lambda each: each.get_name()):
        task.print_stack(file=sys.stderr)
    sys.stderr.flush()
