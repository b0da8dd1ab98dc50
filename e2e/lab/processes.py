"""Daemons of a lab: each records itself before it becomes the program, so that none can be lost.

A record is the child's own ``/proc/<pid>/stat`` line: with the start time in it a reused pid is never taken for ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.command import WITH_US, tail
from lab.errors import LabError

SUFFIX = ".process"
_STARTER = 'read -r line </proc/$$/stat && echo "$line" >"$0.new" && mv "$0.new" "$0" && exec "$@"'


@dataclass(frozen=True)
class Recorded:
    """A daemon that was started, whether it still runs or not."""

    record: Path
    pid: int
    started: str  # clock ticks since the host's boot, as in /proc/<pid>/stat

    @property
    def name(self) -> str:
        return self.record.name.removesuffix(SUFFIX)

    @property
    def log(self) -> Path:
        return self.record.with_suffix(".log")

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        with suppress(ChildProcessError, OSError):
            os.waitpid(self.pid, os.WNOHANG)  # reap it if it is our child
        try:
            fields = _fields(Path(f"/proc/{self.pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return False
        return fields.started == self.started and fields.state != "Z"

    def end(self, *, grace: float) -> None:
        """SIGTERM, and after ``grace`` seconds SIGKILL; returns when it is gone, then drops the record."""
        end_all([self], grace=grace)


def start(
    argv: Sequence[str | Path],
    folder: Path,
    name: str,
    *,
    env: Mapping[str, str] | None = None,
    with_us: bool = False,
) -> Recorded:
    """Start a daemon in ``folder`` (its working directory), log in ``<name>.log``.

    It goes on when we end, unless ``with_us`` says that it is to be killed then.
    """
    record = folder / (name + SUFFIX)
    with (folder / (name + ".log")).open("ab") as log:
        child = subprocess.Popen(
            [*(WITH_US if with_us else ()), "/bin/sh", "-c", _STARTER, str(record), *map(str, argv)],
            cwd=folder,
            env={**os.environ, **env} if env else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    child.returncode = 0  # it outlives this object on purpose; Recorded.alive reaps it
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            recorded = read(record)
            if recorded.pid == child.pid:
                return recorded
        time.sleep(0.005)
    raise LabError(f"{name} could not be started", log=folder / (name + ".log"))


def record_self(folder: Path) -> None:
    """Record the calling process as the owner of ``folder``, for :func:`owner`."""
    (folder / "owner.pid").write_text(Path("/proc/self/stat").read_text())


def owner(folder: Path) -> Recorded | None:
    """The process that called :func:`record_self`, if any."""
    record = folder / "owner.pid"
    return read(record) if record.exists() else None


def sweep(folder: Path, pattern: str) -> None:
    """End and remove what is left in those folders below ``folder`` whose recorded owner is gone."""
    for left in folder.glob(pattern):
        recorded = owner(left)
        if recorded is not None and not recorded.alive():
            end_all(below(left), grace=0)
            shutil.rmtree(left, ignore_errors=True)


def read(record: Path) -> Recorded:
    """The daemon behind a record file."""
    fields = _fields(record.read_text())
    return Recorded(record, fields.pid, fields.started)


def below(folder: Path) -> list[Recorded]:
    """Every daemon recorded in ``folder`` or a folder in it."""
    found = []
    for record in sorted(folder.rglob("*" + SUFFIX)):
        with suppress(FileNotFoundError, ValueError, IndexError):
            found.append(read(record))
    return found


def end_all(daemons: Iterable[Recorded], *, grace: float) -> None:
    """End them side by side: SIGTERM, after ``grace`` seconds SIGKILL; records of those that are gone are removed."""
    left = [daemon for daemon in daemons if daemon.alive()]
    ended = list(daemons) if isinstance(daemons, list) else left
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 20.0)):
        for daemon in left:
            with suppress(ProcessLookupError):
                os.kill(daemon.pid, number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            left = [daemon for daemon in left if daemon.alive()]
            time.sleep(0.02)
    if left:
        raise LabError(f"these processes do not end: {', '.join(f'{d.name} ({d.pid})' for d in left)}")
    for daemon in ended:
        daemon.record.unlink(missing_ok=True)


def failure(daemon: Recorded, what: str) -> LabError:
    """The error for a daemon that ended by itself."""
    return LabError(f"{what}\n{tail(daemon.log)}", log=daemon.log)


@dataclass(frozen=True)
class _Fields:
    pid: int
    state: str
    started: str


def _fields(stat: str) -> _Fields:
    # the second field, the command, may contain blanks and brackets: count from the last bracket
    head, _, rest = stat.rpartition(")")
    words = rest.split()
    return _Fields(pid=int(head.split()[0]), state=words[0], started=words[19])
