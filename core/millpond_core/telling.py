"""What is told at once and what can wait: each report is a write, and has everyone who hears of it look again."""

from __future__ import annotations

import re

from msgspec.structs import replace

from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import NodeReport

WORDS_SECONDS = 3.0
"""For so long after a report, or a status, there is none for its words alone: as a rule they are over by then."""


def patience(before: NodeReport | None, now: NodeReport, *, numbers: float) -> float | None:
    """After how many seconds since the report ``before`` the report ``now`` is due; None: it says nothing new.

    What others act on is due at once, other words after WORDS_SECONDS, and numbers alone (bytes copied, seconds left)
    after ``numbers``.
    """
    if now == before:
        return None
    if before is None or _facts(before) != _facts(now):
        return 0.0
    return numbers if _words(before) == _words(now) else WORDS_SECONDS


def concerns(before: VirtualVolume, now: VirtualVolume) -> bool:
    """Whether a node has anything to look for because a volume's object is another: not for others' words alone."""
    return _plain(before) != _plain(now)


def gist(sentence: str) -> str:
    """A sentence without its counts: the same thing said a second later is not news."""
    return re.sub(r"\b[0-9]+ (s|times)\b", "", sentence)


def _facts(report: NodeReport) -> NodeReport:
    legs = [replace(leg, message="") for leg in report.legs]
    progress = [replace(one, done_bytes=0, total_bytes=0, rate=0) for one in report.progress]
    return replace(report, message="", legs=legs, progress=progress)


def _words(report: NodeReport) -> list[str]:
    return [gist(report.message), *(gist(leg.message) for leg in report.legs)]


def _plain(volume: VirtualVolume) -> VirtualVolume:
    nodes = [_facts(report) for report in volume.status.nodes]
    status = replace(volume.status, nodes=nodes, conditions=[], message="", copies="")
    return replace(volume, metadata=replace(volume.metadata, resource_version=""), status=status)
