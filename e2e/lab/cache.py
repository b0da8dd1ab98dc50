"""Folders that are built once and kept, keyed by the content of what they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lab import paths
from lab.errors import LabError
from lab.progress import say

LOCK_SECONDS = 3600.0
# Of each kind of entry so many are kept, and any that was used lately (it may be about to be used) or by a lab.
KEPT = 3
LATELY_SECONDS = 3600.0


def key(*parts: str | bytes | Path) -> str:
    """A short key for strings, bytes, files and folders (names and content; order counts)."""
    digest = hashlib.sha256()
    for part in parts:
        for name, content in _content(part):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _content(part: str | bytes | Path) -> Iterable[tuple[str, bytes]]:
    if isinstance(part, str):
        yield "str", part.encode()
    elif isinstance(part, bytes):
        yield "bytes", part
    elif part.is_dir():
        for path in sorted(part.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(part)), path.read_bytes()
    else:
        yield part.name, part.read_bytes()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, so that two labs do not do ``what`` at the same time; gives up after an hour.

    The holder may remove the file: whoever waited for it then takes the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    told = False
    while True:
        with path.open("w") as handle:
            if _lock(handle) and path.exists() and path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                yield
                return
        if time.monotonic() > deadline:
            raise LabError(f"another lab has held {path} for an hour", next_step="see what it is doing, or end it")
        if not told:
            say(f"  another lab is busy with {what}; waiting for it")
            told = True
        time.sleep(0.5)


def _lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder ``<cache>/<kind>/<key>``; when it is missing, ``build`` fills a scratch folder that becomes it.

    A build that fails or is interrupted leaves nothing that could be taken for a finished one.
    """
    final = paths.cache() / kind / key
    if final.is_dir():
        os.utime(final)
        return final
    with locked(final.parent / f".{key}.lock", kind):
        if final.is_dir():
            return final
        scratch = final.parent / f".{key}.building"
        remove(scratch)
        scratch.mkdir(parents=True)
        build(scratch)
        scratch.rename(final)
        os.utime(final)
        _prune(final)
    return final


def _prune(new: Path) -> None:
    """Remove entries of the same family as ``new`` (``millpond-<key>``, or keys alone) that nobody needs any more."""
    family = new.name.rpartition("-")[0]
    entries = [path for path in new.parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    relatives = [(path.stat().st_mtime, path) for path in entries if path.name.rpartition("-")[0] == family]
    in_use = "".join(path.read_text() for path in (paths.cache() / "labs").glob("*/lab.json"))
    for used, path in sorted(relatives, reverse=True)[KEPT:]:
        if used < time.time() - LATELY_SECONDS and str(path) not in in_use:
            remove(path)


def remove(folder: Path) -> None:
    """Remove a folder of the cache, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
