"""``make bench-density`` without a node: how calls are made, what /proc says, and what the tables say of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from bench import calls, crowd, density, programs
from bench.calls import Answer, Work
from bench.crowd import Crowd, Phase, Restart, Standing

from millpond_core.errors import Invalid
from millpond_csi.errors import NotReady
from millpond_csi.server import Server
from millpond_csi.stubs import csi

# --- calls ---


class Slow:
    """A controller that has each volume at the second asking, and never one that is called bad."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def delete_volume(self, request: object, deadline: object) -> object:
        name = request.volume_id  # type: ignore[attr-defined]
        self.asked.append(name)
        if name == "bad":
            raise Invalid("no volume is called bad")
        if self.asked.count(name) < 2:
            raise NotReady("in a moment")
        return csi.DeleteVolumeResponse()


async def asked_of(service: Slow, folder: Path, *volumes: str, seconds: float = 30) -> list[Answer]:
    server = Server(folder / "csi.sock", [(csi.DESCRIPTOR.services_by_name["Controller"], service)])
    requests = [{"volume_id": volume} for volume in volumes]
    answers: list[Answer] = []
    await server.start()
    try:
        work = Work(str(server.socket), "Controller/DeleteVolume", requests, 2, 5.0, seconds)
        await calls.make(work, answers.append)
    finally:
        await server.stop()
    return answers


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSE_SECONDS", 0.01)


async def test_what_is_not_yet_is_asked_again_and_is_one_call(tmp_path: Path) -> None:
    answers = await asked_of(Slow(), tmp_path, "a", "b", "c")
    assert sorted(answer.number for answer in answers) == [0, 1, 2]
    assert {(answer.attempts, answer.error) for answer in answers} == {(2, "")}


async def test_after_an_error_no_call_is_begun(tmp_path: Path) -> None:
    service = Slow()
    answers = await asked_of(service, tmp_path, "bad", "a", "b", "c")
    assert [answer.error for answer in answers if answer.error] == [
        "Controller/DeleteVolume of bad: INVALID_ARGUMENT: no volume is called bad"
    ]
    assert "c" not in service.asked


async def test_a_call_that_never_succeeds_is_an_error_in_the_end(tmp_path: Path) -> None:
    (answer,) = await asked_of(Slow(), tmp_path, "a", seconds=0)
    assert (answer.attempts, answer.error) == (1, "Controller/DeleteVolume of a: ABORTED: in a moment")


def test_work_and_answers_travel_as_json() -> None:
    answer = Answer(1, 0.5, 2.0, 3, {"volume": {"volume_id": "a"}})
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer


# --- what /proc says ---

STAT = "77 (python3 (x)) S 1 77 77 0 -1 4194560 9 8 7 6 150 50 30 20 20 0 4 0 1234 99 88"
STATUS = "Name:\tpython3\nVmHWM:\t   50000 kB\nVmRSS:\t   40960 kB\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units\n"
    "Max open files            1024                 4096                 files\n"
)


def test_a_process_is_read_from_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "TICK", 100)
    assert programs.usage(STAT, STATUS, LIMITS) == {
        "own": 2.0,
        "all": 2.5,
        "resident": 40960,
        "began": 12.34,
        "may": 1024,
    }


def test_a_module_s_process_is_the_one_that_runs_it(tmp_path: Path) -> None:
    for pid, words in (
        ("7", "sh\0-c\0while python3 -m millpond_node.main"),
        ("8", "python3\0-m\0millpond_node.main\0"),
    ):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_text(words)
    (tmp_path / "9").mkdir()  # one that has ended
    assert programs.find("millpond_node.main", tmp_path) == 8
    assert programs.find("millpond_csi.main", tmp_path) == 0


def test_what_is_not_available_is_used() -> None:
    assert programs.used_kib("MemTotal:  1000 kB\nMemFree:   1 kB\nMemAvailable:  700 kB\n") == 300


# --- what the tables say ---


def seen(at: float, own: float, resident: float = 40960) -> dict[str, object]:
    program = {"own": own, "all": own * 2, "resident": resident, "began": 1.0, "files": 20, "may": 1024}
    return {"m": program, "node": {"at": at, "used": 512 * 1024}}


def test_cpu_is_a_minute_s_and_memory_is_the_later_look_s() -> None:
    found = crowd.standings("none", seen(100, 3.0, 1.0), seen(130, 4.0), {"m": "manager"})
    assert found == [
        Standing("manager", "none", 40.0, own=2.0, all=4.0, files=20, may=1024),
        Standing("the node in all", "none", 512.0),
    ]


def test_a_phase_lasts_until_its_last_answer() -> None:
    found = crowd.phase("create", [Answer(1, 0.25, 4.0, 2), Answer(0, 0.5, 3.0, 1)])
    assert found == Phase("create", 4.0, [0.5, 0.25], 3)


def made() -> Crowd:
    return Crowd(
        kernel="6.1",
        machine="2 cores",
        date="2026-01-01",
        command="make bench-density",
        volumes=100,
        phases=[Phase("create", 30.0, [0.01 * each for each in range(1, 101)], 107)],
        standings=[Standing("m", "none", 40.0, 1.0, 2.0, 20, 1024), Standing("the node in all", "none", 512.0)],
        restarts=[Restart("SIGTERM", 1.5, 3.0, 2.0, 0.25), Restart("SIGTERM", 2.5, 5.0, 3.0, 0.5)],
        quiet_pause=0.2,
        acknowledged=1234,
        compared=6,
        left={"n1": [], "n2": []},
    )


def test_the_report_says_each_thing_once() -> None:
    rows = [line for line in crowd.report(made()).splitlines() if not line.startswith("| ---")]
    assert rows[1] == "| create | 100 | 30 s | 0.50 s | 0.99 s | 1.00 s | 107 |"
    assert "| m | none | 40 MiB | 1.0 s | 2.0 s | 20 of 1,024 |" in rows
    assert "| the node in all | none | 512 MiB | - | - | - |" in rows
    assert "| nothing | - | - | - | 0.2 s | 1 |" in rows
    assert "| SIGTERM | 2.0 s (1.5 to 2.5) | 4.0 s (3.0 to 5.0) | 2.5 s (2.0 to 3.0) | 0.4 s (0.2 to 0.5) | 2 |" in rows
    assert rows[-1].endswith("after the last deletion: nothing.")


def test_what_was_left_is_named() -> None:
    found = made()
    found.left["n2"] = ["dm millpond-x", "subsystem y"]
    assert crowd.report(found).endswith("n2: dm millpond-x, subsystem y.")


def test_results_can_be_read_again() -> None:
    assert msgspec.json.decode(msgspec.json.encode(made()), type=Crowd) == made()


def test_no_two_volumes_share_a_folder() -> None:
    volumes = [f"pvc-{number:04d}" for number in range(100)]
    assert len({place(volume) for volume in volumes for place in (density.staged, density.target)}) == 200
