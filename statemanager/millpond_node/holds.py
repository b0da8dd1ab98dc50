# pathlib would be a tenth of the watchdog's memory.
# ruff: noqa: PTH103, PTH105, PTH108, PTH123, PTH208
"""The record of what holds reads and writes, and the right to answer an array. The watchdog imports this: lean.

One file a suspended front, under ``<run>/holds``: {"front", "deadline" (CLOCK_BOOTTIME, s), "boot_id", "began"}. It is
written before the front is suspended and removed after it was resumed, so a suspended front always has one. One empty
file under ``<run>/leaks`` for each that was still suspended long after its deadline: there must be none.
"""

from __future__ import annotations

import fcntl
import json
import os
from types import TracebackType
from typing import NamedTuple


class Hold(NamedTuple):
    """One front's hold."""

    front: str
    deadline: float
    boot_id: str
    began: float


def write(folder: str, hold: Hold) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    new = f"{folder}/.{hold.front}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump(hold._asdict(), file)
    os.replace(new, f"{folder}/{hold.front}.json")


def read(folder: str) -> list[Hold]:
    """All holds. A file that cannot be read counts as a hold whose time is up."""
    found: list[Hold] = []
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    for name in names:
        front, dot, suffix = name.partition(".")
        if not front or dot + suffix != ".json":
            continue
        try:
            with open(f"{folder}/{name}", encoding="utf-8") as file:
                said = json.load(file)
            found.append(Hold(front, float(said["deadline"]), str(said["boot_id"]), float(said["began"])))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            found.append(Hold(front, 0.0, "", 0.0))
    return found


def forget(folder: str, front: str) -> None:
    """Idempotent."""
    try:
        os.unlink(f"{folder}/{front}.json")
    except FileNotFoundError:
        return


def leaked(folder: str, hold: Hold) -> bool:
    """Note that a front was suspended beyond its deadline; False: that is noted already."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    try:
        os.close(os.open(f"{folder}/{hold.front}@{hold.deadline:.3f}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def leaks(folder: str) -> int:
    """How many were noted since the node booted."""
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0


class Answering:
    """The right to answer an array's waits, or to stop it: one process at a time (kernel-facts 17).

    ``taken`` says whether it was to be had. The kernel takes it back from a process that dies.
    """

    def __init__(self, folder: str, array: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._path = f"{folder}/{array}.lock"
        self._handle = -1
        self.taken = False

    def __enter__(self) -> Answering:
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.taken = True
        except BlockingIOError:
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._handle)
        self.taken = False
