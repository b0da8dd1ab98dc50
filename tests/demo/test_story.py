"""The story is told from the objects alone: each change once, in words, and nothing before it begins."""

from __future__ import annotations

import io
from typing import Any

import pytest

from demo.errors import DemoError
from demo.moments import moments
from demo.story import Story

Object = dict[str, Any]


def device(state: str, phase: str = "Online", message: str = "") -> Object:
    status = {"phase": phase, "size": "2Gi", "observation": {"state": state, "message": message}}
    return {"metadata": {"name": "n2-disk1"}, "spec": {"nodeName": "n2"}, "status": status}


def volume(
    *legs: tuple[str, str, str], generation: int = 1, nodes: list[Object] | None = None, spares: Any = ()
) -> Object:
    mapping = {"generation": generation, "legs": [{"id": i, "node": node, "state": s} for i, node, s in legs]}
    spare_legs = [{"id": i, "node": node, "state": "Rebuilding"} for i, node in spares]
    status = {"mapping": mapping, "nodes": nodes or [], "spares": spare_legs}
    return {"metadata": {"name": "pvc-1"}, "spec": {}, "status": status}


def quiescence(phase: str, *acknowledged: str, message: str = "") -> Object:
    status: Object = {"phase": phase, "participants": ["n1", "n3"], "message": message}
    status["acknowledgements"] = [{"node": node, "at": ""} for node in acknowledged]
    return {"metadata": {"name": "q-1"}, "spec": {"reason": "DeviceFailed"}, "status": status}


def path(**fields: str) -> list[Object]:
    return [{"node": "n1", "paths": [{"id": "b", **fields}]}]


def progress(done: int, **fields: Any) -> list[Object]:
    return [{"node": "n1", "progress": [{"leg": "c", "doneBytes": done, "totalBytes": 100, **fields}]}]


A, B = ("a", "n1", "InSync"), ("b", "n2", "InSync")
STALE, SPARE = ("b", "n2", "Stale"), ("c", "n3", "Rebuilding")


@pytest.mark.parametrize(
    ("plural", "before", "after", "kinds"),
    [
        pytest.param("storagedevices", device("Claimed"), device("Failed", "Failed"), ["detected"], id="disk pulled"),
        pytest.param("storagedevices", device("Failed"), device("Failed"), [], id="told once"),
        pytest.param("storagedevices", device("Failed"), device("Claimed"), ["returned"], id="disk is back"),
        pytest.param("storagedevices", device("Claimed", "Pending"), device("Claimed"), ["online"], id="disk taken in"),
        pytest.param("storagedevices", None, device("Failed"), [], id="where the story begins"),
        pytest.param(
            "virtualvolumes",
            volume(A, B, nodes=path(path="Up")),
            volume(A, B, nodes=path(path="Down", holdingSince="now")),
            ["pathdown", "holding"],
            id="path lost, writes held",
        ),
        pytest.param("virtualvolumes", volume(A, B), volume(A, STALE), ["stale"], id="recorded"),
        pytest.param("virtualvolumes", volume(A, STALE), volume(A, STALE, spares=[("c", "n3")]), ["spare"], id="spare"),
        pytest.param(
            "virtualvolumes",
            volume(A, STALE, spares=[("c", "n3")]),
            volume(A, ("b", "n2", "Failed"), SPARE, generation=2),
            ["generation"],
            id="new generation",
        ),
        pytest.param("virtualvolumes", volume(A, SPARE), volume(A, ("c", "n3", "InSync")), ["insync"], id="in sync"),
        pytest.param(
            "virtualvolumes", volume(A, STALE), volume(A, ("b", "n2", "Rebuilding")), ["rebuilding"], id="back"
        ),
        pytest.param("virtualvolumes", volume(A), volume(A, nodes=progress(0)), ["progress"], id="rebuild begins"),
        pytest.param("virtualvolumes", volume(A, nodes=progress(1)), volume(A, nodes=progress(9)), [], id="not each"),
        pytest.param(
            "virtualvolumes", volume(A, nodes=progress(15)), volume(A, nodes=progress(25)), ["progress"], id="each 20 %"
        ),
        pytest.param(
            "virtualvolumes",
            volume(A, nodes=progress(25)),
            volume(A, nodes=progress(25, halted=True)),
            ["halted"],
            id="rebuild halted",
        ),
        pytest.param("quiescences", None, quiescence("Pending"), [], id="quiescence made"),
        pytest.param("quiescences", None, quiescence("Instructed"), ["instructed"], id="instructed"),
        pytest.param(
            "quiescences",
            quiescence("Instructed"),
            quiescence("Draining", "n1"),
            ["acknowledged"],
            id="one acknowledges",
        ),
        pytest.param(
            "quiescences",
            quiescence("Draining", "n1"),
            quiescence("Quiesced", "n1", "n3"),
            ["acknowledged", "quiesced"],
            id="all have",
        ),
        pytest.param(
            "quiescences",
            None,
            quiescence("Released", "n1", "n3"),
            ["instructed", "acknowledged", "acknowledged", "quiesced", "released"],
            id="all at once, when the watch was late",
        ),
        pytest.param("quiescences", quiescence("Draining"), quiescence("Aborted"), ["aborted"], id="aborted"),
        pytest.param("storagenodes", {}, {}, [], id="nodes tell nothing"),
    ],
)
def test_moments(plural: str, before: Object | None, after: Object, kinds: list[str]) -> None:
    assert [moment.kind for moment in moments(plural, before, after)] == kinds


def test_in_words() -> None:
    before = volume(A, STALE)
    after = volume(A, ("b", "n2", "Failed"), SPARE, generation=2)
    after["status"]["mapping"]["legs"][1]["releasing"] = True
    (moment,) = moments("virtualvolumes", before, after)
    assert moment.text == "new mapping, generation 2: a on n1 (InSync), c on n3 (Rebuilding)"


def test_a_story_is_told_and_remembered() -> None:
    out = io.StringIO()
    story = Story(out)
    with story.phase("pull", "A disk is pulled"):
        story.changed("storagedevices", device("Claimed"))
        story.changed("storagedevices", device("Failed", message="it is gone"))
    assert "n2 reports that n2-disk1 failed: it is gone" in out.getvalue()
    assert story.find("detected", subject="n2-disk1") is not None
    assert story.find("detected", subject="n3-disk1") is None
    assert story.wait("detected", "the failure is seen", seconds=1, since=0).moment.subject == "n2-disk1"
    assert set(story.phases) == {"pull"}


def test_waiting_ends_and_says_what_the_volume_says() -> None:
    story = Story(io.StringIO())
    found = volume(A, STALE)
    found["status"]["message"] = "no room for a spare"
    story.changed("virtualvolumes", found)
    with pytest.raises(DemoError, match=r"in sync: not after 0 s(.|\n)*no room for a spare"):
        story.wait("insync", "in sync", seconds=0, since=0, subject="pvc-1")
