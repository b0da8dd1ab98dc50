"""``lab down`` after an interrupted ``lab up``: no process, no mount, no file outside the cache.

An ``up`` of its own, beside whatever lab is running, is ended at several moments, politely and not. Every process that
it started inherits a mark in its environment; afterwards nobody may carry it.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import cluster, paths

MARK = "MILLPOND_INTERRUPTED"
NAME = "interrupted"


def lab(*arguments: str, mark: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "lab", *arguments, "--name", NAME]
    env = {**os.environ, MARK: mark}
    return subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def marked(mark: str) -> list[str]:
    """Command lines of the processes that carry the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has just ended
            continue
    return found


def mounts() -> list[str]:
    """The host's mounts that have to do with the cache."""
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(paths.cache()) in line]


def folder_is_there() -> bool:
    return paths.lab_folder(NAME).exists()


def api_server_runs() -> bool:
    return (paths.lab_folder(NAME) / "control-plane" / "kube-apiserver.process").exists()


def machine_runs() -> bool:
    return (paths.lab_folder(NAME) / "n1" / "qemu.process").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
@pytest.mark.parametrize("moment", [folder_is_there, api_server_runs, machine_runs])
def test_down_leaves_nothing(moment: Callable[[], bool], how: signal.Signals) -> None:
    mark = secrets.token_hex(8)
    before, scratch = mounts(), set(Path("/tmp").glob("millpond*"))
    try:
        with lab("up", "--bare", "--nodes", "1", mark=mark) as up:
            deadline = time.monotonic() + 400
            while not moment():
                assert up.poll() is None, up.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            up.send_signal(how)
            up.communicate(timeout=60)
            assert up.returncode not in (0, None)
        with lab("down", mark=mark) as down:
            told = down.communicate(timeout=60)[1]
        assert down.returncode == 0, told
        assert marked(mark) == []
        assert mounts() == before
        assert set(Path("/tmp").glob("millpond*")) == scratch
        assert [path.name for path in paths.lab_folder(NAME).parent.glob(f"*{NAME}*")] == []
    finally:
        cluster.down(NAME)
