"""What is told of a rehearsal: whatever did not skip itself would run."""

from __future__ import annotations

from external import outcome, rehearsal
from external.parts import WHOLE

DATA = "External Storage [Driver: csi.millpond.io] [Testpattern: Dynamic PV (xfs)] volumes should store data"
RWX = "External Storage [Driver: csi.millpond.io] [Testpattern: Dynamic PV (xfs)] multiVolume on several nodes"
ODD = "External Storage [Driver: csi.millpond.io] [Testpattern: Dynamic PV (xfs)] volumes are odd"


def test_what_would_run_and_what_would_not() -> None:
    found = outcome.Outcome(
        WHOLE[0],
        failed={DATA: "failed: no pod is let in"},
        skipped={RWX: "Driver csi.millpond.io doesn't support RWX -- skipping", ODD: "the moon is full"},
    )
    lines = rehearsal.told(found).splitlines()
    assert lines[:2] == ["part any: 1 would run", "  [Testpattern: Dynamic PV (xfs)] volumes should store data"]
    assert "     1  pods on several nodes at once" in lines
    assert any(line.startswith(f"{ODD}: skipped for a reason that is not known") for line in lines)
