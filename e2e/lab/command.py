"""Runs the host's commands: always with a deadline, never outliving the lab, errors with argv, exit code and output."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lab import paths
from lab.errors import LabError

# In front of a command: it gets SIGKILL when the thread of ours that started it is gone, however that came.
WITH_US = ("setpriv", "--pdeathsig", "KILL")


def search_path() -> str:
    """``$PATH``, and where Debian keeps ``mke2fs`` and friends, which is not on every user's."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _end(process: subprocess.Popen[bytes], *, gently: bool) -> None:
    """End a child that leads its own session, and everything in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if gently else signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)


def run(
    argv: Sequence[str | Path],
    *,
    seconds: float,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    next_step: str = "",
    with_us: bool = True,
) -> str:
    """Run ``argv`` and return its standard output (empty when it goes to ``log`` together with standard error).

    ``env`` is added to the environment. Raises LabError after ``seconds`` or on an exit status other than 0.
    ``with_us=False`` is for what must not be killed half-way: it is asked to end when we are interrupted, and goes on
    when we are killed.
    """
    words = [str(word) for word in argv]
    if not shutil.which(words[0], path=search_path()):
        raise LabError(f"the command {words[0]!r} is missing", next_step=next_step or "install it")
    full_env = {**os.environ, "PATH": search_path(), "TMPDIR": str(paths.scratch()), **(env or {})}
    sink = log.open("ab") if log else None
    try:
        process = subprocess.Popen(
            [*(WITH_US if with_us else ()), *words],
            cwd=cwd,
            env=full_env,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=sink or subprocess.PIPE,
            stderr=subprocess.STDOUT if sink else subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        if sink:
            sink.close()
    try:
        out, err = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process, gently=not with_us)
        raise LabError(f"not finished after {seconds:g} s: {shlex.join(words)}", next_step=next_step, log=log) from None
    except BaseException:
        _end(process, gently=not with_us)
        raise
    if process.returncode != 0:
        detail = tail(log) if log else err.decode(errors="replace").strip()[-2000:]
        raise LabError(f"exit status {process.returncode}: {shlex.join(words)}\n{detail}", next_step=next_step, log=log)
    return out.decode(errors="replace") if out else ""


def isolated(argv: Sequence[str | Path]) -> list[str | Path]:
    """``argv`` in namespaces of its own: no mount outlives it and no process either, however the lab ends.

    Needs root; without it ``argv`` as it is, and what it leaves when it is killed ends by itself.
    """
    if os.geteuid() != 0:
        return list(argv)
    return ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", *argv]


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
