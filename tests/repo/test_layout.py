"""What must hold of the repository itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("core", "adapters", "operator", "csidriver", "statemanager", "cli")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_source_roots_are_never_packages(root: str) -> None:
    """A package named ``operator`` would shadow Python's own module for everyone whose path holds the repository."""
    assert (ROOT / root).is_dir()
    assert not (ROOT / root / "__init__.py").exists()


def test_pythons_own_operator_is_found_from_the_root_of_the_repository() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__); operator.itemgetter"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert not Path(found.strip()).is_relative_to(ROOT)


def test_every_make_target_explains_itself() -> None:
    promised = [
        "demo",
        "test",
        "test-unit",
        "test-api",
        "test-kernel",
        "test-faults",
        "faults",
        "test-conformance",
        "e2e",
        "lint",
        "generate",
        "images",
        "lab-up",
        "lab-status",
        "lab-shell",
        "lab-down",
    ]
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    explained = {line.split()[0] for line in re.sub(r"\x1b\[\d*m", "", listed).splitlines() if line.startswith("  ")}
    assert set(promised) <= explained


def test_generated_stubs_are_not_committed() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], check=True, cwd=ROOT, capture_output=True, text=True, timeout=60
    ).stdout
    assert "_pb2" not in tracked
