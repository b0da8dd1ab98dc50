"""What became of cases: as JSON for programs, and as Markdown tables for people, of one report or of several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

WORDS = ("lost", "wrong", "unequal", "wedged", "interrupted")
"""What a violation is called, in its text."""
LONGEST = 5
"""Pauses that are shown."""

Report = Mapping[str, Any]


@dataclass
class Outcome:
    """What became of a case. ``violations``: empty when it held."""

    case: str
    kind: str
    phase: str
    seconds: float = 0.0
    """How long the fault lasted."""
    acknowledged: int = 0
    errors: int = 0
    pods_ended: int = 0
    longest_gap_seconds: float = 0.0
    legs_looked_at: int = 0
    """While the fault lasted, each time they were recorded InSync and compared with what had been acknowledged."""
    whole_seconds: float = 0.0
    """From the fault's undoing until the volume was whole."""
    violations: list[str] = field(default_factory=list)


def report(outcomes: Sequence[Outcome], **about: str | int) -> dict[str, Any]:
    """For ``report.json``; ``about``: kernel, its release, seed and revision."""
    violations = [v for outcome in outcomes for v in outcome.violations]
    return {
        **about,
        "cases": len(outcomes),
        "kinds": Counter(outcome.kind for outcome in outcomes),
        "phases": Counter(outcome.phase for outcome in outcomes),
        "seconds": {
            kind: sorted({outcome.seconds for outcome in outcomes if outcome.kind == kind})
            for kind in dict.fromkeys(outcome.kind for outcome in outcomes)
        },
        "acknowledged": sum(outcome.acknowledged for outcome in outcomes),
        "legs looked at": sum(outcome.legs_looked_at for outcome in outcomes),
        **{name: sum(name in v for v in violations) for name in WORDS},
        "violations": violations,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def markdown(reports: Sequence[Report]) -> str:
    """Tables of reports, those of one kernel taken together: cases by kind and by phase, what was found, pauses."""
    kernels: dict[str, list[Report]] = {}
    for each in reports:
        kernels.setdefault(each["kernel"], []).append(each)
    outcomes = {kernel: [one for each in of for one in each["outcomes"]] for kernel, of in kernels.items()}
    return "\n\n".join(
        "\n".join(_table(head, rows))
        for head, rows in (
            (("kernel", "what ran", "cases", "acknowledged", *WORDS), _totals(kernels)),
            (("kind", "seconds", *outcomes), _by("kind", outcomes)),
            (("phase", *outcomes), _by("phase", outcomes)),
            (("pause", "kernel", "case"), _pauses(outcomes)),
        )
    )


def _totals(kernels: Mapping[str, Sequence[Report]]) -> Iterator[Sequence[object]]:
    for kernel, of in kernels.items():
        sums = [f"{sum(each[name] for each in of):,}" for name in ("cases", "acknowledged", *WORDS)]
        yield kernel, "; ".join(dict.fromkeys(map(_what_ran, of))), *sums


def _what_ran(one: Report) -> str:
    parts = [f"seed {one['seed']}", one.get("release", ""), one.get("revision", "")]  # the last two are not in old ones
    return ", ".join(part for part in parts if part)


def _by(what: str, outcomes: Mapping[str, Sequence[Report]]) -> Iterator[Sequence[object]]:
    every = [one for of in outcomes.values() for one in of]
    for name in dict.fromkeys(one[what] for one in every):
        counts = [sum(one[what] == name for one in of) for of in outcomes.values()]
        drawn = sorted({_seconds(one) for one in every if one[what] == name})
        yield name, *([", ".join(f"{each:g}" for each in drawn)] if what == "kind" else []), *counts


def _seconds(outcome: Report) -> float:
    """Reports of old have it in the case's words alone."""
    if "seconds" in outcome:
        return float(outcome["seconds"])
    found = re.search(r" for ([0-9.e+]+) s while ", outcome["case"])
    return float(found[1]) if found else 0.0


def _pauses(outcomes: Mapping[str, Sequence[Report]]) -> Iterator[Sequence[object]]:
    every = [(one["longest_gap_seconds"], kernel, one["case"]) for kernel, of in outcomes.items() for one in of]
    for gap, kernel, case in sorted(every, key=lambda each: -each[0])[:LONGEST]:
        yield f"{gap:.1f} s", kernel, case


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(map(str, row))} |"
