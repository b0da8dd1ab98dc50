"""How the tests are called, and how they reach the nodes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.cluster import Cluster
from external import bastion, definition, known, run
from external.parts import SELECTION, WHOLE, Part
from lab import components
from lab.noderecord import NodeRecord

CLUSTER = Cluster(Path("/lab/admin.kubeconfig"), Path("/programs/kubectl"))


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "ensure", lambda name: Path("/programs") / name)


@pytest.mark.parametrize("part", [*WHOLE, *SELECTION], ids=lambda part: part.name)
def test_a_part_is_one_call_within_its_time(part: Part, tmp_path: Path) -> None:
    argv = [str(word) for word in run.arguments(CLUSTER, part, tmp_path, tmp_path / "junit.xml")]
    program = argv.index("/programs/e2e.test")
    ginkgo, own = argv[1:program], argv[program + 2 :]
    assert argv[0] == "/programs/ginkgo"
    assert argv[program + 1] == "--"
    assert f"--timeout={part.minutes:g}m" in ginkgo
    assert f"--procs={part.at_once}" in ginkgo
    assert all(word.startswith("-") for word in [*ginkgo, *own])  # ginkgo takes the first other word for a package
    assert [word for word in ginkgo if word.startswith("--focus=")] == [f"--focus={each}" for each in part.focuses()]
    assert all(f"--skip={each.pattern}" in ginkgo for each in known.LEFT_OUT)
    (driver,) = [word.partition("=")[2] for word in own if word.startswith("--storage.testdriver=")]
    assert json.loads(Path(driver).read_text()) == definition.definition(part.of_class)
    assert "--kubeconfig=/lab/admin.kubeconfig" in own


def test_patterns_are_patterns() -> None:
    for part in (*WHOLE, *SELECTION):
        for pattern in (*part.focuses(), *part.skips()):
            re.compile(pattern)
    for reason in (*known.SKIPPED, *known.LEFT_OUT):
        re.compile(reason.pattern)


def test_nothing_runs_beside_a_kubelet_that_is_stopped() -> None:
    stopping = [part for part in (*WHOLE, *SELECTION) if part.chosen(f"{known.BEGIN}x] subPath [Disruptive]")]
    assert [part.at_once for part in stopping] == [1]


def test_the_bastion_knows_each_node_by_an_address_of_its_own(tmp_path: Path) -> None:
    records = [NodeRecord.new(number, disks=1, disk_mib=64, mib=512) for number in (1, 2, 3)]
    lab: Any = SimpleNamespace(name="x", nodes=[SimpleNamespace(name=each.name, record=each) for each in records])
    argv = bastion.arguments(lab, tmp_path / "key")
    command = argv.index("--")
    nodes = [word for word in argv[:command] if "=" in word]
    assert nodes == ["127.0.0.11=n1", "127.0.0.12=n2", "127.0.0.13=n3"]
    assert argv[command + 1 : command + 7] == [sys.executable, "-m", "lab", "exec", "--name", "x"]
