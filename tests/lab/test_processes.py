"""Daemons are recorded before they run, ended by record, and never confused with others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import cluster, command, paths, processes
from lab.errors import LabError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "daemons"
    path.mkdir()
    return path


def test_a_daemon_is_found_by_its_record_and_ended(folder: Path) -> None:
    daemon = processes.start(["sleep", "60"], folder, "sleeper")
    assert daemon.alive()
    assert processes.below(folder.parent) == [daemon]
    processes.end_all(processes.below(folder.parent), grace=5)
    assert not daemon.alive()
    assert processes.below(folder.parent) == []


def test_one_that_ignores_the_request_is_killed(folder: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    daemon = processes.start([sys.executable, "-c", script], folder, "stubborn")
    deadline = time.monotonic() + 10
    while "ready" not in daemon.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    daemon.end(grace=0.1)
    assert not daemon.alive()


def test_a_pid_that_was_reused_is_not_ours(folder: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        stat = Path(f"/proc/{other.pid}/stat").read_text()
        words = stat.split()
        words[21] = str(int(words[21]) - 1)  # same pid, started at another time
        (folder / "old.process").write_text(" ".join(words))
        processes.end_all(processes.below(folder), grace=1)
        assert other.poll() is None
        assert not (folder / "old.process").exists()
    finally:
        other.kill()
        other.wait(10)


def test_a_command_name_with_blanks_and_brackets_is_read_right(folder: Path) -> None:
    program = folder / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    daemon = processes.start([program, "60"], folder, "odd")
    assert daemon.alive()
    daemon.end(grace=5)


def test_a_daemon_whose_folder_is_gone_does_not_start(folder: Path) -> None:
    """``down`` moves the folder away first: what is just starting must not run without a record."""
    marker = folder.parent / "ran"
    child = subprocess.run(
        ["/bin/sh", "-c", processes._STARTER, str(folder / "gone" / "x.process"), "touch", str(marker)],
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert child.returncode != 0
    assert not marker.exists()


def test_down_takes_a_half_started_lab_away_and_its_unfinished_predecessor(folder: Path) -> None:
    lab = paths.lab_folder("half")
    ending = lab.with_name(".half.ending")
    daemons = []
    for place in (lab / "n1", ending / "n1"):
        place.mkdir(parents=True)
        daemons.append(processes.start(["sleep", "60"], place, "qemu"))
    cluster.down("half")
    assert not any(daemon.alive() for daemon in daemons)
    assert list(lab.parent.iterdir()) == []
    cluster.down("half")  # nothing there: nothing to do


def test_down_ends_an_up_that_still_runs(folder: Path) -> None:
    lab = paths.lab_folder("busy")
    lab.mkdir(parents=True)
    up = subprocess.Popen(["sleep", "60"])
    try:
        (lab / "owner.pid").write_text(Path(f"/proc/{up.pid}/stat").read_text())
        cluster.down("busy")
        assert up.wait(10) is not None
    finally:
        up.kill()
        up.wait(10)


def test_sweep_takes_only_what_has_no_owner(folder: Path) -> None:
    for name, pid in (("x-mine", os.getpid()), ("x-dead", None), ("x-unknown", None)):
        (folder / name).mkdir()
        if pid:
            (folder / name / "owner.pid").write_text(Path(f"/proc/{pid}/stat").read_text())
    child = subprocess.Popen(["sleep", "60"])
    (folder / "x-dead" / "owner.pid").write_text(Path(f"/proc/{child.pid}/stat").read_text())
    child.kill()
    child.wait(10)
    processes.sweep(folder, "x-*")
    assert sorted(path.name for path in folder.iterdir()) == ["x-mine", "x-unknown"]


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"not finished after 0\.4 s"):
        command.run(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; wait"], seconds=0.4)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"exit status 3: sh -c .*\nno such luck"):
        command.run(["sh", "-c", "echo no such luck >&2; exit 3"], seconds=10)
    log = tmp_path / "log"
    with pytest.raises(LabError, match=f"into the log\n  log:  {log}"):
        command.run(["sh", "-c", "echo into the log; exit 1"], seconds=10, log=log)


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match="'no-such-program' is missing"):
        command.run(["no-such-program"], seconds=1)
