"""What is built is built once, whole or not at all."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from lab import cache, paths
from lab.errors import LabError


def test_an_entry_is_built_once_and_found_again() -> None:
    calls = []

    def build(scratch: Path) -> None:
        calls.append(scratch)
        (scratch / "result").write_text("here")

    first = cache.entry("things", "k", build)
    assert cache.entry("things", "k", build) == first == paths.cache() / "things" / "k"
    assert (first / "result").read_text() == "here"
    assert len(calls) == 1


def test_a_build_that_fails_leaves_nothing_that_looks_built() -> None:
    def fail(scratch: Path) -> None:
        (scratch / "half").touch()
        raise LabError("no")

    with pytest.raises(LabError):
        cache.entry("things", "k", fail)
    found = cache.entry("things", "k", lambda scratch: (scratch / "whole").touch())
    assert [path.name for path in found.iterdir()] == ["whole"]


def test_two_who_want_the_same_build_it_once() -> None:
    started, go_on, calls = threading.Event(), threading.Event(), []

    def slow(_: Path) -> None:
        calls.append(1)
        started.set()
        assert go_on.wait(10)

    threads = [threading.Thread(target=cache.entry, args=("things", "k", slow)) for _ in range(2)]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(calls) == 1


def test_a_lock_whose_file_was_removed_does_not_let_two_in(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    entered: list[str] = []

    def second() -> None:
        with cache.locked(lock, "it"):
            entered.append("second")

    thread = threading.Thread(target=second)
    with cache.locked(lock, "it"):
        thread.start()
        thread.join(0.2)
        lock.unlink()  # the next one must not content itself with the file that is gone
    thread.join(10)
    assert entered == ["second"]
    assert lock.exists()


def test_a_key_depends_on_names_content_and_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = cache.key("x", tmp_path)
    assert cache.key("x", tmp_path) == before
    assert cache.key(tmp_path, "x") != before
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert cache.key("x", tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert cache.key("x", tmp_path) != before
    assert cache.key("ab", "c") != cache.key("a", "bc")


def test_old_entries_go_unless_a_lab_or_someone_lately_used_them() -> None:
    def build(name: str, hours: float) -> Path:
        folder = cache.entry("things", name, lambda scratch: (scratch / "x").touch())
        os.utime(folder, (time.time() - hours * 3600,) * 2)
        return folder

    used_by_lab = build("a-1", 30)
    lab = paths.lab_folder("running")
    lab.mkdir(parents=True)
    (lab / "lab.json").write_text(json.dumps({"root": str(used_by_lab / "disk.img")}))
    build("a-2", 20)
    build("b-1", 40)
    build("a-3", 0.5)
    build("a-4", 5)
    build("a-5", 4)
    build("a-6", 0)
    assert {path.name for path in used_by_lab.parent.glob("[ab]*")} == {"a-1", "b-1", "a-3", "a-5", "a-6"}


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "../x", "a" * 31, "a\n"])
def test_a_lab_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot be the name"):
        paths.lab_folder(name)


def test_scratch_folders_of_dead_processes_go() -> None:
    dead = paths.cache() / "tmp" / "999999999"
    dead.mkdir(parents=True)
    mine = paths.scratch()
    assert mine.is_dir()
    assert not dead.exists()
