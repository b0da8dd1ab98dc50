"""Children: what they print, how they fail, and that none is waited for beyond its deadline."""

from __future__ import annotations

import asyncio
import time

import pytest

from millpond_adapters.run import run
from millpond_core.errors import CommandFailed, DeadlineExceeded


async def test_what_is_printed_is_returned_and_what_is_given_is_read() -> None:
    assert await run("cat", stdin=b"some words") == b"some words"
    assert await run("sh", "-c", "echo $DM_DISABLE_UDEV $LC_ALL") == b"1 C\n"


async def test_a_failure_says_what_was_run_with_which_status_and_message() -> None:
    with pytest.raises(CommandFailed, match="failed with exit status 3: no such luck") as caught:
        await run("sh", "-c", "echo no such luck >&2; exit 3")
    assert caught.value.code == 3


async def test_a_missing_program_is_a_failure_like_any_other() -> None:
    with pytest.raises(CommandFailed, match="cannot start no-such-program"):
        await run("no-such-program")


async def test_the_deadline_ends_the_wait_and_the_child() -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0.2 s"):
        await run("sleep", "60", seconds=0.2)
    assert time.monotonic() - begun < 5


async def test_a_child_that_cannot_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in D: the signal has no effect, and still nobody waits."""
    monkeypatch.setattr("asyncio.subprocess.Process.kill", lambda self: None)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await run("sleep", "3", seconds=0.2)
    assert time.monotonic() - begun < 2.5


async def test_a_cancelled_caller_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    kill = asyncio.subprocess.Process.kill

    def note(process: asyncio.subprocess.Process) -> None:
        killed.append(process.pid)
        kill(process)

    monkeypatch.setattr("asyncio.subprocess.Process.kill", note)
    task = asyncio.create_task(run("sleep", "60"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(killed) == 1
