"""What a series of samples says, and the tables that it becomes: pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec
from bench.figures import number

GOAL_SECONDS = 1.0
GOAL_MIB = 150.0
GOAL_SYNCED_SECONDS = 30.0
SAME = 1.1
"""What costs at most this much more is called the same."""


class Stillness(msgspec.Struct, frozen=True):
    """One quiescence."""

    volumes: int
    hold_io: bool
    participants: int
    answered: float
    """Seconds from Instructed to the last acknowledgement, by the clocks of master and nodes (here one)."""
    seen: float
    """Seconds from the request that made it to its being seen Quiesced, by the clock of who asked."""
    requests: float
    """Of our kinds, Events included, from its making to its end; less what an idle cluster asks in that time."""
    kib: float
    """Bodies of those requests and answers, and of the events of watches."""


class Failure(msgspec.Struct, frozen=True):
    """One pulled device; seconds from the pulling."""

    failed: float
    """To its being seen Failed."""
    quiescence: float
    """To its Quiescence's being seen."""
    volumes: int
    """With a leg on it."""


class Series(msgspec.Struct, frozen=True):
    """Everything measured with one size; what build/bench/control-<size>.json holds."""

    size: str
    volumes: int
    nodes: int
    date: str
    machine: str
    command: str
    started: float
    """Seconds from the operator's exec to leading with everything read."""
    looked: float
    """To having looked at every object."""
    resident_mib: float
    """When that was done."""
    peak_mib: float
    """Highest resident memory until the end."""
    idle_requests: float
    """A second, of our kinds."""
    idle_kib: float
    stillness: list[Stillness]
    failures: list[Failure]


def percentile(values: Iterable[float], part: float) -> float:
    """By nearest rank: of fewer than 100 samples the 99th percentile is the worst."""
    found = sorted(values)
    return found[max(math.ceil(part * len(found)), 1) - 1]


def chosen(series: Series, volumes: int, *, hold_io: bool | None = None) -> list[Stillness]:
    """Those of one kind."""
    return [one for one in series.stillness if one.volumes == volumes and hold_io in (None, one.hold_io)]


def counts(series: Series) -> list[int]:
    """How many volumes went still at once."""
    return sorted({one.volumes for one in series.stillness})


def stillness_table(all_series: Sequence[Series]) -> str:
    """A Markdown table: each kind of quiescence in each size."""
    lines = [
        "| volumes on nodes | go still | on nodes | reads and writes | instructed → last acknowledgement, p50 | p99 "
        "| asked → seen still, p50 | p99 | requests | KiB | samples |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for series in all_series:
        for volumes in counts(series):
            for hold_io in (False, True):
                if found := chosen(series, volumes, hold_io=hold_io):
                    lines.append(_row(series, found))
    return "\n".join(lines)


def _row(series: Series, found: Sequence[Stillness]) -> str:
    first = found[0]
    answered, seen = [one.answered for one in found], [one.seen for one in found]
    cells = [
        f"{series.volumes:,} on {series.nodes:,}",
        f"{first.volumes:,}",
        f"{first.participants}",
        "wait" if first.hold_io else "go on",
        *(f"{percentile(values, part):.2f} s" for values in (answered, seen) for part in (0.5, 0.99)),
        number(statistics.median(one.requests for one in found)),
        number(statistics.median(one.kib for one in found)),
        f"{len(found)}",
    ]
    return f"| {' | '.join(cells)} |"


def cluster_table(all_series: Sequence[Series]) -> str:
    """A Markdown table: operator and failed devices in each size."""
    lines = [
        "| volumes on nodes | operator leads, all read | all looked at | resident then | at most | requests a second "
        "when idle | pulled → Failed | → its quiescence | devices pulled |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for series in all_series:
        cells = [
            f"{series.volumes:,} on {series.nodes:,}",
            f"{series.started:.1f} s",
            f"{series.looked:.1f} s",
            f"{series.resident_mib:.0f} MiB",
            f"{series.peak_mib:.0f} MiB",
            f"{series.idle_requests:.1f}",
            _span([one.failed for one in series.failures]),
            _span([one.quiescence for one in series.failures]),
            f"{len(series.failures)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def goals(all_series: Sequence[Series]) -> str:
    """A Markdown table: each goal, what was found, and whether it is kept; one that could not be judged says so."""
    lines = ["| goal | found | kept |", "| --- | --- | --- |"]
    for what, found, kept in (_fast(all_series), _flat(all_series), *_large(all_series)):
        lines.append(f"| {what} | {found} | {'not measured' if kept is None else 'yes' if kept else 'no'} |")
    return "\n".join(lines)


Verdict = tuple[str, str, bool | None]


def _fast(all_series: Sequence[Series]) -> Verdict:
    what = f"p99 ≤ {GOAL_SECONDS:g} s from instruction to last acknowledgement, 100 volumes on 3 nodes"
    small = next((series for series in all_series if series.nodes == 3 and chosen(series, 100)), None)
    if small is None:
        return what, "-", None
    worst = {h: percentile((one.answered for one in chosen(small, 100, hold_io=h)), 0.99) for h in (False, True)}
    return what, f"{worst[False]:.2f} s; with I/O held {worst[True]:.2f} s", max(worst.values()) <= GOAL_SECONDS


def _flat(all_series: Sequence[Series]) -> Verdict:
    """The same volumes on the same nodes, in the smallest and the largest cluster."""
    what = f"the requests of one quiescence do not depend on the cluster's size (at most {SAME:g} times as many)"
    by_nodes = sorted(all_series, key=lambda series: (series.nodes, series.volumes))
    if not by_nodes or by_nodes[0].nodes == by_nodes[-1].nodes:
        return what, "-", None
    small, large = by_nodes[0], by_nodes[-1]
    said, ratios = [], []
    for volumes in (1, 10):
        before, after = (
            statistics.median(one.requests for one in found) if (found := chosen(series, volumes)) else 0.0
            for series in (small, large)
        )
        if before and after:
            said.append(f"{volumes} volume(s): {number(before)} in {small.size}, {number(after)} in {large.size}")
            ratios.append(after / before)
    return what, "; ".join(said) or "-", max(ratios) <= SAME if ratios else None


def _large(all_series: Sequence[Series]) -> tuple[Verdict, Verdict]:
    memory = f"operator ≤ {GOAL_MIB:g} MiB at 10,000 volumes"
    synced = f"operator synced in ≤ {GOAL_SYNCED_SECONDS:g} s at 10,000 volumes"
    large = next((series for series in all_series if series.volumes >= 10_000), None)
    if large is None:
        return (memory, "-", None), (synced, "-", None)
    return (
        (memory, f"{large.peak_mib:.0f} MiB at most", large.peak_mib <= GOAL_MIB),
        (synced, f"{large.looked:.1f} s", large.looked <= GOAL_SYNCED_SECONDS),
    )
