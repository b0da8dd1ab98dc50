"""SIGUSR1 tells where a process stands, also when its loop hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CHILD = """
import asyncio, time
from millpond_adapters import stacks

async def waits_for_a_leg():
    print("ready", flush=True)
    await asyncio.sleep(60)

async def hangs_in_the_kernel():
    print("ready", flush=True)
    time.sleep(60)

async def main():
    stacks.tell_on_signal()
    await asyncio.create_task({what}())

asyncio.run(main())
"""


@contextmanager
def child(what: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", _CHILD.format(what=what)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["waits_for_a_leg", "hangs_in_the_kernel"])
def test_it_says_where_it_stands(what: str) -> None:
    with child(what) as running:
        running.send_signal(signal.SIGUSR1)
        assert running.stderr is not None
        for line in running.stderr:
            if f"in {what}" in line:
                break
        else:
            pytest.fail(f"nothing of {what} was said")
        assert running.poll() is None, "and it goes on"
