"""What survives a restart of the state manager but not a reboot: small JSON files under /run/millpond.

/run is memory and goes with the kernel's own state, which is what is remembered here. Each file is replaced in one
rename, so a reader sees the old or the new one.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import msgspec

log = logging.getLogger(__name__)
Thing = TypeVar("Thing")


class RunDir:
    """One folder of things by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self, name: str, kind: type[Thing]) -> Thing | None:
        """None when there is none, or none that can be read."""
        try:
            return msgspec.json.decode((self._folder / f"{name}.json").read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, OSError) as error:
            log.error("what was remembered as %s cannot be read (%s): it counts as forgotten", name, error)
            return None

    def save(self, name: str, thing: object) -> None:
        new = self._folder / f".{name}.new"
        new.write_bytes(msgspec.json.encode(thing))
        new.replace(self._folder / f"{name}.json")

    def forget(self, name: str) -> None:
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("[!.]*.json"))
