"""Python packages for the guests' Python 3.11, as wheels; the versions are those of the lock files."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from lab import cache, packages, paths
from lab.command import run
from lab.errors import LabError
from lab.progress import step

RUNTIME_LOCK = paths.REPOSITORY / "requirements" / "runtime.lock"
DEV_LOCK = paths.REPOSITORY / "requirements" / "dev.lock"
PIP = "pip==25.3"  # for the image's build, which has none; not part of the image
SOURCES = ("core", "adapters", "operator", "csidriver", "statemanager", "cli")
_PLATFORM = "--python-version=3.11 --implementation=cp --only-binary=:all: " + " ".join(
    f"--platform={name}_x86_64" for name in ("manylinux2014", "manylinux_2_28")
)


def library(requirements: Path, target: Path) -> None:
    """Install the packages named in ``requirements`` (no versions) and what they need into the folder ``target``."""
    constraints = target.with_suffix(".constraints")
    constraints.write_text(pins())
    _pip("install", "--target", target, *_PLATFORM.split(), "-r", requirements, "-c", constraints)


def pins() -> str:
    """The development lock as constraints, without its hashes (pip wants either all or none)."""
    return "\n".join(re.findall(r"^[A-Za-z0-9._-]+==[^\s\\]+", DEV_LOCK.read_text(), re.MULTILINE)) + "\n"


def runtime() -> Path:
    """The folder with the wheels of ``requirements/runtime.lock``, and pip's."""

    def build(scratch: Path) -> None:
        with step("Fetching the wheels for our container image", usually=15):
            _pip("download", "-d", scratch, "--require-hashes", *_PLATFORM.split(), "-r", RUNTIME_LOCK)
            _pip("download", "-d", scratch, "--no-deps", PIP)

    return cache.entry("wheels", cache.key(RUNTIME_LOCK, PIP, _PLATFORM, "1"), build)


def own() -> Path:
    """The folder with Millpond's own wheel, built from the work tree as it is now."""
    python = [sys.executable]
    run([*python, "tools/generate.py", "stubs"], seconds=120, cwd=paths.REPOSITORY, next_step="make generate-stubs")

    def build(scratch: Path) -> None:
        with step("Building Millpond's wheel", usually=3):
            # with the tools of this environment where it has them, else pip fetches what pyproject.toml asks for
            isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
            _pip("wheel", "--no-deps", *isolation, "-w", scratch, paths.REPOSITORY)

    return cache.entry("wheels", "own-" + cache.key(*_own_sources()), build)


def _own_sources() -> list[Path]:
    files = [paths.REPOSITORY / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    missing = [path for path in files if not path.exists()]
    if missing:
        raise LabError(f"{missing[0]} is missing, and the wheel needs it")
    return files + [paths.REPOSITORY / folder for folder in SOURCES]


def _pip(command: str, *arguments: str | Path) -> None:
    packages.ensure_pip()
    argv: list[str | Path] = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"]
    run([*argv, *arguments], seconds=900, next_step="does pip work on this machine? (see its message above)")
