"""The watchdog on files that look like sysfs: holds end in time, harmless waits are answered, harmful ones are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from millpond_core import names
from millpond_node import holds
from millpond_node.watchdog import ARRAY, FRONT, LEAK_SECONDS, Watchdog

UUID = "7d3c4b52-53b6-5d0c-9a35-2d1c8d8f7a10"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.run, self.system, self.now = folder / "run", folder / "sys", 100.0
        self.resumed: list[str] = []
        (self.system / "block").mkdir(parents=True)
        self.watchdog = Watchdog(
            str(self.run), str(self.system), boot_id="b1", boottime=lambda: self.now, resume=self.resume
        )

    def resume(self, front: str) -> None:
        self.resumed.append(front)

    def hold(self, deadline: float, boot_id: str = "b1") -> None:
        holds.write(str(self.run / "holds"), holds.Hold(names.front(UUID), deadline, boot_id, 0.0))

    def suspended(self, name: str, value: str = "1") -> None:
        dm = self.system / "block" / "dm-0" / "dm"
        dm.mkdir(parents=True, exist_ok=True)
        (dm / "name").write_text(f"{name}\n")
        (dm / "suspended").write_text(f"{value}\n")

    def array(self, state: str, *members: str) -> Path:
        md = self.system / "block" / f"md_{names.array(UUID)}" / "md"
        md.mkdir(parents=True, exist_ok=True)
        (md / "array_state").write_text(f"{state}\n")
        for number, flags in enumerate(members):
            (md / f"dev-dm-{number}").mkdir(exist_ok=True)
            (md / f"dev-dm-{number}" / "state").write_text(f"{flags}\n")
        return md / "array_state"

    def look(self) -> None:
        self.watchdog.look()
        self.settle()

    def settle(self) -> None:
        until = time.monotonic() + 5
        while self.watchdog._busy and time.monotonic() < until:
            time.sleep(0.002)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_hold_ends_at_its_deadline_and_not_before(bench: Bench) -> None:
    bench.hold(deadline=130.0)
    bench.look()
    assert bench.resumed == []
    bench.now = 130.0
    bench.look()
    assert bench.resumed == [names.front(UUID)]
    assert holds.read(str(bench.run / "holds")) == []


def test_a_hold_that_could_not_be_ended_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.hold(deadline=1.0)
    failing = [OSError("no dmsetup")]

    def resume(front: str) -> None:
        if failing:
            raise failing.pop()
        bench.resumed.append(front)

    monkeypatch.setattr(bench.watchdog, "_resume", resume)
    bench.look()
    assert len(holds.read(str(bench.run / "holds"))) == 1
    bench.look()
    assert bench.resumed == [names.front(UUID)]


def test_a_hold_of_another_boot_is_forgotten(bench: Bench) -> None:
    bench.hold(deadline=1.0, boot_id="b0")
    bench.look()
    assert bench.resumed == []
    assert holds.read(str(bench.run / "holds")) == []


def test_a_damaged_record_of_a_hold_ends_it(bench: Bench) -> None:
    (bench.run / "holds").mkdir(parents=True)
    (bench.run / "holds" / f"{names.front(UUID)}.json").write_text("{")
    bench.look()
    assert bench.resumed == [names.front(UUID)]


def test_a_front_suspended_without_a_hold_is_resumed_after_a_second_look(bench: Bench) -> None:
    bench.suspended(names.front(UUID))
    bench.look()
    assert bench.resumed == []
    bench.look()
    assert bench.resumed == [names.front(UUID)]


def test_a_front_that_stays_suspended_beyond_its_deadline_is_counted_once(bench: Bench) -> None:
    bench.hold(deadline=99.0)
    bench.suspended(names.front(UUID))
    bench.watchdog._resume = lambda front: (_ for _ in ()).throw(OSError("it hangs"))
    leaks = str(bench.run / "leaks")
    bench.look()
    assert holds.leaks(leaks) == 0, "it is resumed just now"
    bench.now += LEAK_SECONDS
    bench.look()
    bench.look()
    assert holds.leaks(leaks) == 1
    bench.suspended(names.front(UUID), "0")
    bench.hold(deadline=90.0)
    bench.look()
    assert holds.leaks(leaks) == 1, "what is not suspended is held no more"


@pytest.mark.parametrize("name", [names.path(UUID, "a"), names.gate(UUID, "a"), names.leg(UUID, "a"), "vg-root"])
def test_only_fronts_are_resumed(bench: Bench, name: str) -> None:
    bench.suspended(name)
    for _ in range(3):
        bench.look()
    assert bench.resumed == []


@pytest.mark.parametrize(
    ("state", "members", "after"),
    [
        ("write-pending", ("in_sync", "in_sync,write_mostly"), "active"),
        ("write-pending", ("in_sync", "spare"), "active"),
        ("write-pending", ("in_sync", "faulty"), "active"),
        ("write-pending", ("in_sync", "faulty,blocked"), "write-pending"),
        ("write-pending", ("in_sync", "blocked"), "write-pending"),
        ("clean", ("in_sync", "in_sync"), "clean"),
    ],
    ids=["no record needed", "a rebuild", "failure recorded", "failure not recorded", "blocked", "nothing waits"],
)
def test_only_harmless_waits_are_answered(bench: Bench, state: str, members: tuple[str, ...], after: str) -> None:
    path = bench.array(state, *members)
    bench.look()
    assert path.read_text().strip() == after


def test_it_is_silent_while_an_array_is_stopped(bench: Bench) -> None:
    path = bench.array("write-pending", "in_sync")
    with holds.Answering(str(bench.run / "arrays"), names.array(UUID)) as mine:
        assert mine.taken
        bench.look()
        assert path.read_text().strip() == "write-pending"
    bench.look()
    assert path.read_text().strip() == "active"


def test_an_array_made_anew_under_its_name_is_heard_again(bench: Bench) -> None:
    """Stopped and assembled between two looks: the file that was open is gone, and with it whoever spoke through it."""
    bench.array("active", "in_sync")
    bench.look()
    (name,) = bench.watchdog._watched
    gone = os.open(bench.system, os.O_RDONLY)  # reading it fails, as reading a removed sysfs file does
    os.dup2(gone, bench.watchdog._watched[name])
    os.close(gone)
    state = bench.array("write-pending", "in_sync")
    bench.look()
    bench.look()
    assert state.read_text().strip() == "active"


def test_the_next_device_of_a_kernel_name_is_not_taken_for_the_last(bench: Bench) -> None:
    bench.suspended("some-other-device", "0")
    bench.look()
    (bench.system / "block" / "dm-0").rename(bench.system / "gone")  # whose inode is taken for as long
    bench.suspended(names.front(UUID))
    bench.look()
    bench.look()
    assert bench.resumed == [names.front(UUID)]


def test_a_hold_that_has_begun_anew_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.hold(90.0)
    monkeypatch.setattr(bench.watchdog, "_resume", lambda front: bench.hold(500.0))
    bench.look()
    assert [hold.deadline for hold in holds.read(str(bench.run / "holds"))] == [500.0]


def test_an_array_is_answered_between_two_looks_and_nothing_else_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Telling:
        """Files of a test tell of no change: sysfs does."""

        told = False

        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            time.sleep(0 if not self.told else milliseconds / 1000)
            told, self.told = self.told, True
            return [] if told else [(handle, 0) for handle in bench.watchdog._watched.values()]

    state = bench.array("active", "in_sync")
    bench.suspended(names.front(UUID))
    bench.look()
    state.write_text("write-pending\n")
    monkeypatch.setattr(bench.watchdog, "_poll", Telling())
    bench.watchdog.wait(0.05)
    bench.settle()
    assert state.read_text() == "active"
    assert bench.resumed == [], "a look so soon after the last one is no second look"


def test_its_names_are_those_of_the_rest() -> None:
    assert names.front(UUID).startswith(FRONT)
    assert len(names.front(UUID)) == len(FRONT) + 36
    assert f"md_{names.array(UUID)}".startswith(ARRAY)


def test_it_imports_nothing_but_the_standard_library() -> None:
    heavy = ("msgspec", "aiohttp", "asyncio", "millpond_core", "logging", "subprocess", "pathlib")
    code = f"import sys, millpond_node.watchdog; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert answer.stdout.strip() == "[]"


def test_it_ends_what_it_keeps_and_stops_when_told_to(tmp_path: Path) -> None:
    resumed, dmsetup = tmp_path / "resumed", tmp_path / "bin" / "dmsetup"
    dmsetup.parent.mkdir()
    dmsetup.write_text(f'#!/bin/sh\necho "$@" > {resumed}\n')
    dmsetup.chmod(0o755)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    later = time.clock_gettime(time.CLOCK_BOOTTIME) + 600
    holds.write(str(tmp_path / "holds"), holds.Hold(names.front(UUID), later, boot, 0.0))
    child = subprocess.Popen(
        [sys.executable, "-m", "millpond_node.watchdog"],
        env={"RUN_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": f"{dmsetup.parent}:/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        assert "watching" in child.stderr.readline()
        child.terminate()
        assert child.wait(timeout=10) == 0
        assert resumed.read_text().split() == ["resume", names.front(UUID)], "nobody keeps its deadline any more"
        assert holds.read(str(tmp_path / "holds")) == []
    finally:
        child.kill()
        child.wait()
