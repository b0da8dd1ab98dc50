"""The two ends of a guest's command line, spoken over a socket of this machine: as a guest does, without the guest."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths, processes
from lab.agent import Agent
from lab.errors import LabError
from lab.ports import free_ports


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    token = tmp_path / "token"
    token.write_text("secret\n")
    (port,) = free_ports(1)
    script = paths.GUEST_FILES / "agent.py"
    # As a guest's init starts it: in the background of a shell, which has it ignore the terminal's signals.
    background: list[str | Path] = ["sh", "-c", "trap '' INT QUIT; exec \"$@\"", "init"]
    argv = [*background, sys.executable, "-IS", script, token, str(port)]
    daemon = processes.start(argv, tmp_path, "agent", with_us=True)
    agent = Agent("n1", port, "secret")
    agent.wait(seconds=20, alive=daemon.alive)
    yield agent
    daemon.end(grace=2)


def run(agent: Agent, *argv: str, **options: object) -> str:
    return agent.run(argv, cwd="/", **options).stdout  # type: ignore[arg-type]


def test_output_error_output_and_status_come_apart(agent: Agent) -> None:
    result = agent.run(["sh", "-c", "echo out; echo err >&2; exit 7"], cwd="/", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "err\n")


def test_a_failure_is_an_error_that_says_where_and_what(agent: Agent) -> None:
    with pytest.raises(LabError, match=r"exit status 7 on n1: .*\nbroken"):
        run(agent, "sh", "-c", "echo broken >&2; exit 7")


def test_what_is_not_there_is_127(agent: Agent) -> None:
    assert agent.run(["no-such-program"], cwd="/", check=False).returncode == 127
    missing = agent.run(["true"], cwd="/no/such/folder", check=False)
    assert (missing.returncode, missing.stderr) == (127, "true: no folder /no/such/folder\n")


def test_a_signal_is_a_negative_status(agent: Agent) -> None:
    assert agent.run(["sh", "-c", "kill -9 $$"], cwd="/", check=False).returncode == -9


def test_a_command_can_be_interrupted_although_the_agent_cannot(agent: Agent) -> None:
    assert agent.run(["sh", "-c", "kill -INT $$; echo survived"], cwd="/", check=False).returncode == -2


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_input_of_any_size_comes_back(agent: Agent, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    got = io.BytesIO()
    agent.run(["cat"], cwd="/", stdin=io.BytesIO(data[:size]), stdout=got.write)
    assert got.getvalue() == data[:size]


def test_input_nobody_reads_does_no_harm(agent: Agent) -> None:
    assert run(agent, "true", stdin=b"x" * 1_000_000) == ""


def test_environment_and_folder(agent: Agent, tmp_path: Path) -> None:
    result = agent.run(["sh", "-c", "echo $A; pwd"], env={"A": "b c"}, cwd=str(tmp_path))
    assert result.stdout == f"b c\n{tmp_path}\n"


def test_after_its_time_a_command_is_killed_with_its_group(agent: Agent, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LabError, match=r"not finished after 0\.5 s on n1"):
        run(agent, "sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; wait", seconds=0.5)
    assert time.monotonic() - began < 5
    _gone(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_in_the_background_goes_on(agent: Agent, tmp_path: Path) -> None:
    began = time.monotonic()
    pid = int(run(agent, "sh", "-c", "sleep 60 & echo $!"))
    assert time.monotonic() - began < 10  # although it holds the output open
    assert Path(f"/proc/{pid}").exists()
    run(agent, "kill", str(pid))
    _gone(pid)


def test_many_at_once(agent: Agent) -> None:
    """Connections do not wait for each other: a slow command in one does not hold up the next."""
    slow: list[bytes] = []

    def nested(data: bytes) -> None:
        slow.append(data)
        assert run(agent, "echo", "quick") == "quick\n"

    agent.run(["sh", "-c", "echo started; sleep 0.3; echo done"], cwd="/", stdout=nested)
    assert b"".join(slow) == b"started\ndone\n"


def test_without_the_token_nothing_runs(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(LabError):
        Agent("n1", agent.port, "guess").run(["touch", str(tmp_path / "ran")], cwd="/", seconds=10)
    assert not (tmp_path / "ran").exists()


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)
