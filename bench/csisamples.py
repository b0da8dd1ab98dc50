"""What ``make bench-csi`` has measured, and the tables that it becomes: pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec
from bench.figures import number
from bench.samples import percentile

GOAL_RATIO = 1.5
GOAL_ADDED_SECONDS = 2.0

OURS, PEER, NONE = "millpond", "peer", "none"
DRIVERS = (OURS, PEER, NONE)

BOUND = "claim → Bound"
START = "pod (and its claim) → Ready"
EXPAND = "larger size asked for → claim has it, in use"
DELETE = "pod and claim deleted → all gone"
ALL_BOUND = "pods and claims at once → all Bound"
ALL_READY = "pods and claims at once → all Ready"
ELSEWHERE = "pod deleted, another on another node → Ready"
MEASURES = (BOUND, START, EXPAND, DELETE, ALL_BOUND, ALL_READY, ELSEWHERE)

LEAST_REQUESTS = 0.5
"""What is asked less often, by each of a life's drivers, is not told of line by line."""


class Sample(msgspec.Struct, frozen=True):
    """One measurement."""

    driver: str
    what: str
    seconds: float


class Run(msgspec.Struct):
    """Everything measured so far in one run; what build/bench/csi-<kernel>.json holds."""

    kernel: str
    release: str
    kubernetes: str
    machine: str
    date: str
    command: str
    peer: str
    """What the peer is called."""
    at_once: int
    samples: list[Sample] = []
    requests: dict[str, dict[str, float]] = {}
    """By driver: requests to the API server of one life, by resource and verb, without an idle cluster's."""

    def seconds(self, driver: str, what: str) -> list[float]:
        """All of one measure."""
        return [one.seconds for one in self.samples if (one.driver, one.what) == (driver, what)]

    def told(self, driver: str) -> str:
        return {OURS: "Millpond, two copies", PEER: self.peer, NONE: "no volume"}[driver]

    def named(self, what: str) -> str:
        return f"{self.at_once} {what}" if what in (ALL_BOUND, ALL_READY) else what


def of_a_life(
    before: Mapping[str, float], after: Mapping[str, float], idle: Mapping[str, float], *, passed: float, lives: int
) -> dict[str, float]:
    """Requests of one life: what was added in ``passed`` seconds, less ``idle`` of each second, by the lives.

    Below zero where an idle cluster asked for more than these lives and it: sums would be too high without.
    """
    return {name: (after[name] - before.get(name, 0.0) - idle.get(name, 0.0) * passed) / lives for name in after}


def rates(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Requests of one second."""
    return {name: (after[name] - before.get(name, 0.0)) / seconds for name in after}


def ratio(run: Run, what: str, part: float) -> float | None:
    """Ours by the peer's percentile; None where one of them has no samples."""
    ours, peer = run.seconds(OURS, what), run.seconds(PEER, what)
    return percentile(ours, part) / percentile(peer, part) if ours and peer else None


def added(run: Run, driver: str) -> float | None:
    """Seconds that a new volume adds to a pod's start, in the median."""
    with_volume, without = run.seconds(driver, START), run.seconds(NONE, START)
    return statistics.median(with_volume) - statistics.median(without) if with_volume and without else None


def goals(run: Run) -> str:
    """A Markdown table: each goal, what was found, and whether it is kept; one that could not be judged says so."""
    lines = ["| goal | found | kept |", "| --- | --- | --- |"]
    for what in MEASURES:
        for part, name in ((0.5, "p50"), (0.99, "p99")):
            if what != ELSEWHERE and (name == "p50" or what == BOUND):
                found = ratio(run, what, part)
                lines.append(
                    _verdict(f"{run.named(what)}, {name} ≤ {GOAL_RATIO:g} times the peer's", found, GOAL_RATIO)
                )
    seconds = added(run, OURS)
    lines.append(_verdict(f"≤ {GOAL_ADDED_SECONDS:g} s added to a pod's start", seconds, GOAL_ADDED_SECONDS, " s"))
    return "\n".join(lines)


def _verdict(goal: str, found: float | None, most: float, unit: str = "") -> str:
    if found is None:
        return f"| {goal} | - | not measured |"
    return f"| {goal} | {found:.2f}{unit} | {'yes' if found <= most else 'no'} |"


def table(run: Run) -> str:
    """A Markdown table: each measure of each driver."""
    lines = [
        "| what | with | p50 | p99 | lowest to highest | of the peer's p50 | samples |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for what in MEASURES:
        for driver in DRIVERS:
            if values := run.seconds(driver, what):
                lines.append(_row(run, what, driver, values))
    return "\n".join(lines)


def _row(run: Run, what: str, driver: str, values: Sequence[float]) -> str:
    peer = run.seconds(PEER, what)
    cells = [
        run.named(what),
        run.told(driver),
        *(f"{percentile(values, part):.2f} s" for part in (0.5, 0.99)),
        f"{min(values):.2f} to {max(values):.2f} s",
        f"{percentile(values, 0.5) / percentile(peer, 0.5):.2f}" if peer and driver != PEER else "",
        f"{len(values)}",
    ]
    return f"| {' | '.join(cells)} |"


def requests_table(run: Run) -> str:
    """A Markdown table: requests of one life by resource and verb, first what a volume of ours adds the most of."""
    there = [driver for driver in DRIVERS if driver in run.requests]
    if not there:
        return "Requests were not counted."
    counts = {
        name: [run.requests[driver].get(name, 0.0) for driver in there]
        for name in sorted({name for driver in there for name in run.requests[driver]})
    }
    lines = [f"| requests of one life | {' | '.join(map(run.told, there))} |", f"| --- |{' --- |' * len(there)}"]
    for name in sorted(counts, key=lambda each: counts[each][-1] - counts[each][0]):
        if max(counts[name]) >= LEAST_REQUESTS:
            lines.append(f"| {name} | {' | '.join(map(_count, counts[name]))} |")
    whole = (sum(each[at] for each in counts.values()) for at in range(len(there)))
    return "\n".join([*lines, f"| all | {' | '.join(map(_count, whole))} |"])


def _count(value: float) -> str:
    return number(round(value, 1) + 0.0)  # no -0.0
