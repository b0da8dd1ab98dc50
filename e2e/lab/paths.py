"""Where the lab keeps things. Nothing is ever written outside the cache folder (and the folders a caller names)."""

from __future__ import annotations

import os
import re
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


def lab_folder(name: str) -> Path:
    """The folder of the running lab ``name``: sockets, disks, logs, process records."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} cannot be the name of a lab: at most 30 of a-z, 0-9 and '-', no '-' at the ends",
            next_step="choose another name with --name",
        )
    return cache() / "labs" / name
