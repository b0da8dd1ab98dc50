"""The seed: a tar with everything particular to one machine, attached as a disk and unpacked over its root at boot."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab import packages, paths
from lab.command import run

_BLOCK = 512 * 128  # a disk's size must be a multiple of its sector


def write(
    target: Path,
    files: Mapping[str, bytes | str],
    trees: Iterable[tuple[str, Path]] = (),
    links: Mapping[str, str] | None = None,
) -> None:
    """Write the tar.

    ``files`` by path without the first ``/`` (executable below ``bin`` and ``sbin``); for each ``(prefix, folder)`` of
    ``trees`` the files of a work tree that git does not ignore; ``links`` are symbolic links and where they point.
    """
    with tarfile.open(target, "w") as archive:
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            entry.mtime = int(time.time())
            entry.mode = (
                0o755
                if "bin" in Path(path).parent.name
                else 0o600
                if path.startswith(("etc/kubernetes/", "etc/lab/"))
                else 0o644
            )
            archive.addfile(entry, io.BytesIO(data))
        for path, goal in (links or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, goal
            archive.addfile(entry)
        for prefix, folder in trees:
            for name in work_tree(folder):
                archive.add(folder / name, f"{prefix}/{name}", recursive=False, filter=_owned_by_root)
    with target.open("ab") as handle:
        handle.truncate(-(-handle.tell() // _BLOCK) * _BLOCK)


def agent_files(hostname: str, token: str) -> dict[str, bytes | str]:
    """What every guest needs to be talked to."""
    return {
        "etc/hostname": hostname + "\n",
        "etc/lab/token": token + "\n",
        "usr/local/lib/lab/agent.py": (paths.GUEST_FILES / "agent.py").read_bytes(),
    }


def work_tree(folder: Path) -> list[str]:
    """Files below ``folder`` that git tracks or would track, as they are now."""
    packages.ensure("git")
    out = run(
        ["git", "-c", "safe.directory=*", "-C", folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        seconds=60,
    )
    return sorted(name for name in out.split("\0") if name and (folder / name).is_file())


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
