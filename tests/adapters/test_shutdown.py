"""Whether the node is shutting down: what process 1 is, and what systemd answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from millpond_adapters import shutdown


def proc(folder: Path, comm: str) -> Path:
    (folder / "1").mkdir()
    (folder / "1/comm").write_text(f"{comm}\n")
    return folder


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, nsenter: str) -> None:
    """``nsenter`` is that script."""
    (folder / "bin").mkdir()
    program = folder / "bin/nsenter"
    program.write_text(f"#!/bin/sh\n{nsenter}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


async def test_in_its_last_phase_nobody_has_to_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, "exit 1")
    assert await shutdown.begun(proc(tmp_path, "systemd-shutdow"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo stopping", True),
        ("echo running", False),
        ("echo degraded", False),
        ("echo 'System has not been booted with systemd' >&2; exit 1", False),
        ("sleep 30", False),
    ],
    ids=["stopping", "running", "degraded", "another init", "no answer"],
)
async def test_what_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool) -> None:
    monkeypatch.setattr(shutdown, "ASK_SECONDS", 0.5)
    programs(
        tmp_path,
        monkeypatch,
        f'[ "$*" = "--target=1 --mount -- systemctl show --property=SystemState --value" ] || exit 2\n{answer}',
    )
    assert await shutdown.begun(proc(tmp_path, "systemd")) is expected
