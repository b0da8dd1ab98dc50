"""The record of what holds reads and writes, for the watchdog. Standard library only: the watchdog imports this.

One file a suspended front, under ``<run>/holds``: {"front", "deadline" (CLOCK_BOOTTIME, s), "boot_id", "began"}. It is
written before the front is suspended and removed after it was resumed, so a suspended front always has one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict


class Hold(TypedDict):
    """One front's hold."""

    front: str
    deadline: float
    boot_id: str
    began: float


def write(folder: Path, hold: Hold) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = folder / f".{hold['front']}.new"
    new.write_text(json.dumps(hold))
    new.replace(folder / f"{hold['front']}.json")


def read(folder: Path) -> list[Hold]:
    """All holds. A file that cannot be read counts as a hold whose time is up."""
    found: list[Hold] = []
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else ():
        try:
            hold = json.loads(path.read_text())
            found.append(
                Hold(
                    front=path.stem,
                    deadline=float(hold["deadline"]),
                    boot_id=str(hold["boot_id"]),
                    began=float(hold["began"]),
                )
            )
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            found.append(Hold(front=path.stem, deadline=0.0, boot_id="", began=0.0))
    return found


def forget(folder: Path, front: str) -> None:
    (folder / f"{front}.json").unlink(missing_ok=True)


@contextlib.contextmanager
def answering(folder: Path, array: str, *, wait_seconds: float = 0.0) -> Iterator[bool]:
    """The right to answer an array's waits, or to stop it: one process at a time (kernel-facts 17).

    False when another has it for longer than ``wait_seconds``. The kernel takes it back from a process that dies.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / f"{array}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield True
                return
            except BlockingIOError:
                pass
            if time.monotonic() >= until:
                yield False
                return
            time.sleep(0.01)
    finally:
        os.close(handle)
