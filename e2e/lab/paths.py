"""Where the lab keeps things. Nothing is ever written outside the cache folder (and the folders a caller names)."""

from __future__ import annotations

import atexit
import os
import re
import shutil
from pathlib import Path

from lab.errors import LabError

LAB = Path(__file__).resolve().parent
REPOSITORY = LAB.parent.parent
GUEST_FILES = LAB / "guestfiles"
COMPONENTS = LAB / "components"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")


def cache() -> Path:
    """``$MILLPOND_CACHE``, or ``millpond`` in the user's cache folder."""
    named = os.environ.get("MILLPOND_CACHE")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "millpond"


def scratch() -> Path:
    """A folder for this process's and its children's temporary files; gone with the process, or at the next start."""
    everyone = cache() / "tmp"
    mine = everyone / str(os.getpid())
    if not mine.exists():
        everyone.mkdir(parents=True, exist_ok=True)
        for left in everyone.iterdir():
            if not Path("/proc", left.name).exists():
                shutil.rmtree(left, ignore_errors=True)
        mine.mkdir(exist_ok=True)
        atexit.register(shutil.rmtree, mine, ignore_errors=True)
    return mine


def logs() -> Path:
    """The folder for the logs of builds."""
    folder = cache() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lab_folder(name: str) -> Path:
    """The folder of the running lab ``name``: sockets, disks, logs, process records."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} cannot be the name of a lab: at most 30 of a-z, 0-9 and '-', no '-' at the ends",
            next_step="choose another name with --name",
        )
    return cache() / "labs" / name
