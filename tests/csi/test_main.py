"""The command line, and that each process imports its own half alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from millpond_csi.main import options

ROOT = Path(__file__).resolve().parents[2]


def test_the_environment_that_the_chart_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSI_ENDPOINT", "unix:///var/lib/kubelet/plugins/csi.millpond.io/csi.sock")
    monkeypatch.setenv("NODE_NAME", "n1")
    monkeypatch.setenv("KUBELET_DIR", "/data/kubelet")
    parsed = options(["node"])
    assert (parsed.node_name, parsed.kubelet_dir, parsed.max_volumes) == ("n1", "/data/kubelet", 0)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--endpoint", "tcp://0.0.0.0:1", "controller"], "write unix://"),
        (["--health-address", "9808", "controller"], "write host:port"),
        (["node"], "NODE_NAME"),
        ([], "mode"),
    ],
)
def test_what_is_missing_is_named(
    argv: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    with pytest.raises(SystemExit):
        options(argv)
    assert complaint in capsys.readouterr().err


def test_the_node_process_stays_lean() -> None:
    """State manager and CSI node share 120 MiB, and importing costs ten times as much in a guest."""
    program = (
        "import sys\n"
        "import millpond_csi.main, millpond_csi.serve_node\n"
        "print(*[name for name in ('aiohttp', 'kubernetes', 'yaml') if name in sys.modules])\n"
        "print(next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS')) // 1024)\n"
    )
    path = ":".join(str(ROOT / root) for root in ("core", "adapters", "csidriver"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    heavy, resident = done.stdout.splitlines()
    assert heavy == ""
    assert int(resident) < 60, "MiB resident after the imports"
