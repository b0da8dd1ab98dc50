"""Remembers that a format is under way, so that one that was cut off can be told from a user's data.

A mark is a file in the plugin's folder, which outlives pods and reboots. It names the attachment's epoch: a volume that
was attached anywhere else since has another, and the mark counts for nothing.
"""

from __future__ import annotations

import os
from pathlib import Path


class FormatMarks:
    """Marks in ``folder``, one a volume. ``uuid`` is checked by the caller: it becomes a file's name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, uuid: str, epoch: str) -> None:
        """Durable when it returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        mark = self._folder / uuid
        with mark.open("w") as file:
            file.write(epoch)
            file.flush()
            os.fsync(file.fileno())
        self._sync()

    def end(self, uuid: str) -> None:
        """Durable when it returns. Idempotent."""
        try:
            (self._folder / uuid).unlink()
        except FileNotFoundError:
            return
        self._sync()

    def interrupted(self, uuid: str, epoch: str) -> bool:
        """Whether a format was begun under this epoch and not ended."""
        try:
            return bool(epoch) and (self._folder / uuid).read_text() == epoch
        except FileNotFoundError:
            return False

    def _sync(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
