"""What the lab reads from the host and the pins: mirrors, versions, flags, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import accel, cli, components, debian, golang, images, packages, paths, progress, wheels
from lab.debian import Source
from lab.errors import LabError

DEB822 = """Types: deb
# a comment with a: colon
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
"""
ONE_LINE = """# deb http://not.example/debian bookworm main
deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian trixie main
deb http://security.example/debian-security trixie-security main
deb-src http://source.example/debian bookworm main
"""


def _apt(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return tmp_path


def test_mirrors_come_from_the_host_s_own_sources(tmp_path: Path) -> None:
    apt = _apt(tmp_path, "sources.list.d/debian.sources", DEB822)
    assert debian.sources(apt) == [
        Source("http://mirror.example/debian", "bookworm"),
        Source("http://mirror.example/debian", "bookworm-backports"),
        Source("http://mirror.example/debian-security", "bookworm-security"),
    ]


def test_a_host_of_another_release_has_a_mirror_too(tmp_path: Path) -> None:
    apt = _apt(tmp_path, "sources.list", ONE_LINE)
    assert [str(line) for line in debian.sources(apt)] == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-backports main",
        "deb http://security.example/debian-security bookworm-security main",
    ]


def test_a_host_without_debian_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = _apt(tmp_path, "sources.list", "deb http://archive.example/ubuntu noble main\n")
    with pytest.raises(LabError, match="MILLPOND_DEBIAN_MIRROR"):
        debian.sources(apt)
    monkeypatch.setenv("MILLPOND_DEBIAN_MIRROR", "http://mine.example/debian")
    assert [line.uri for line in debian.sources(apt)] == ["http://mine.example/debian"] * 2


def test_every_program_is_pinned_by_its_group() -> None:
    for name, program in components.PROGRAMS.items():
        module = (paths.COMPONENTS / program.group / "go.mod").read_text()
        if program.package.startswith("./"):
            assert (paths.COMPONENTS / program.group / program.package / "main.go").exists(), name
        else:
            assert f"tool {program.package}" in module or f"\t{program.package}" in module, name
    assert components.kubernetes_version().startswith("v1.")
    for group in components.KUBERNETES:
        module = (paths.COMPONENTS / group / "go.mod").read_text()
        assert f"k8s.io/kubernetes {components.kubernetes_version()}" in module, group
    assert all(sidecar in components.PROGRAMS for sidecar in images.SIDECARS)


def test_the_kernel_tier_s_packages_are_all_in_the_lock() -> None:
    pinned = {line.split("==")[0].lower() for line in wheels.pins().split()}
    wanted = [line for line in (paths.LAB / "guest-requirements.txt").read_text().splitlines() if line]
    assert {name for name in wanted if not name.startswith("#")} <= pinned


@pytest.mark.parametrize(
    ("version", "enough"), [("go1.26.8", True), ("go1.27", True), ("go1.19", False), ("go1.25.3", False)]
)
def test_an_old_go_is_recognised(version: str, enough: bool) -> None:
    assert (golang._numbers(version) >= golang.NEEDED) is enough


def test_the_accelerator_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, flags in (("kvm", accel.KVM), ("tcg", accel.TCG)):
        monkeypatch.setenv("MILLPOND_ACCEL", asked)
        accel.flags.cache_clear()
        assert accel.flags() == flags
    monkeypatch.setenv("MILLPOND_ACCEL", "hvf")
    accel.flags.cache_clear()
    with pytest.raises(LabError, match="set it to kvm or tcg"):
        accel.flags()
    accel.flags.cache_clear()


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError) as refused:
        packages.ensure("qemu-system-x86_64", "qemu-img")
    assert "sudo apt-get install --no-install-recommends qemu-system-x86 qemu-utils" in str(refused.value)


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (35, "35 s"), (200, "3 min 20 s")])
def test_durations_read_like_speech(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_step_says_how_long_it_usually_takes_and_took(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("Counting", usually=90):
        pass
    assert capsys.readouterr().err == "- Counting (usually 90 s)\n  done in 0.0 s: Counting\n"


def test_a_lab_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--name", "nowhere"]) == 1
    assert capsys.readouterr().err == "lab: there is no lab 'nowhere'\n  next: lab up --name nowhere\n"


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fault", "explode", "n1"])
    assert "invalid choice: 'explode'" in capsys.readouterr().err
