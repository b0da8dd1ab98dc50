"""How urgent a report is, and whom a change concerns."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.nodereport import LegReport, PathReport, Progress
from millpond_core.model.virtualvolume import NodeReport, VirtualVolumeStatus
from millpond_core.telling import WORDS_SECONDS, concerns, patience

LEG = LegReport(id="a", message="it is being zeroed")
COPY = Progress(leg="b", kind="Full", done_bytes=5, total_bytes=9)
BEFORE = NodeReport(node="n1", epoch=1, message="leg b: given up in 59 s", legs=[LEG], progress=[COPY])
NUMBERS = 15.0


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"message": "leg b: given up in 58 s"}, NUMBERS, id="seconds left"),
        pytest.param({"progress": [replace(COPY, done_bytes=6, rate=1)]}, NUMBERS, id="bytes copied"),
        pytest.param({"message": "leg b: connecting"}, WORDS_SECONDS, id="words"),
        pytest.param({"legs": [replace(LEG, message="its disk is slow")]}, WORDS_SECONDS, id="words of a leg"),
        pytest.param({"epoch": 2}, 0.0, id="what others act on"),
        pytest.param({"epoch": 2, "message": ""}, 0.0, id="what others act on, and words"),
        pytest.param({"legs": [replace(LEG, prepared=True)]}, 0.0, id="a leg is ready"),
        pytest.param({"legs": []}, 0.0, id="a leg less"),
        pytest.param({"paths": [PathReport(id="a", path="Down")]}, 0.0, id="a path"),
        pytest.param({"progress": [replace(COPY, halted=True)]}, 0.0, id="a copy halts"),
        pytest.param({"progress": []}, 0.0, id="a copy has ended"),
    ],
)
def test_what_others_act_on_is_due_at_once(change: dict[str, object], seconds: float | None) -> None:
    assert patience(BEFORE, replace(BEFORE, **change), numbers=NUMBERS) == seconds
    assert patience(None, replace(BEFORE, **change), numbers=NUMBERS) == 0.0


VOLUME = VirtualVolume(
    metadata=ObjectMeta(name="v", resource_version="1"), status=VirtualVolumeStatus(size_bytes=1, nodes=[BEFORE])
)


@pytest.mark.parametrize(
    ("change", "does"),
    [
        pytest.param({"message": "all is well", "copies": "2/2"}, False, id="a verdict"),
        pytest.param({"nodes": [replace(BEFORE, message="", progress=[replace(COPY, rate=9)])]}, False, id="words"),
        pytest.param({"nodes": [replace(BEFORE, epoch=2)]}, True, id="a report"),
        pytest.param({"nodes": []}, True, id="no report"),
        pytest.param({"size_bytes": 2}, True, id="the record"),
    ],
)
def test_a_node_looks_for_what_it_could_act_on(change: dict[str, object], does: bool) -> None:
    newer = replace(VOLUME.metadata, resource_version="2")
    assert concerns(VOLUME, replace(VOLUME, metadata=newer, status=replace(VOLUME.status, **change))) is does


def test_a_node_looks_when_the_object_is_another() -> None:
    for change in ({"uid": "u"}, {"labels": {"a": "b"}}, {"deletion_timestamp": "2026-01-01T00:00:00Z"}):
        assert concerns(VOLUME, replace(VOLUME, metadata=replace(VOLUME.metadata, **change)))
