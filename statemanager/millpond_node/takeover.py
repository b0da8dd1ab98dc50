"""One state manager a node: a new one asks the old one to go, and waits for the lock that it holds.

The lock is the kernel's (flock): it is free as soon as its holder is gone, however it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import uuid
from pathlib import Path

from millpond_core.errors import Busy

_LOOK_SECONDS = 0.2


class Takeover:
    """The right to act on this node."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_path, self._successor = run_dir / "lock", run_dir / "successor"
        self._me = str(uuid.uuid4())
        self._handle: int | None = None

    async def take(self, seconds: float = 30.0) -> None:
        """Ask whoever acts to stop, and take the lock. Busy when it has not gone after ``seconds``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._successor.write_text(self._me)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if loop.time() >= until:
                    os.close(handle)
                    raise Busy(
                        f"another state manager holds {self._lock_path} and did not stop within {seconds:.0f} s: "
                        "see what it waits for in its log, or end it"
                    ) from None
            await asyncio.sleep(_LOOK_SECONDS)
        self._handle = handle

    async def succeeded(self) -> None:
        """Return when a newer state manager asks this one to go."""
        while True:
            with contextlib.suppress(OSError):
                if self._successor.read_text() != self._me:
                    return
            await asyncio.sleep(1.0)

    def give(self) -> None:
        """Let the lock go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
