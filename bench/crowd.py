"""What was measured of many volumes on one node, and the tables that it becomes: pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from bench.calls import Answer
from bench.figures import number
from bench.samples import percentile


class Phase(msgspec.Struct, frozen=True):
    """One method, called for every volume."""

    name: str
    total: float
    """Seconds from the first call to the last answer."""
    seconds: list[float]
    """Of each call, all its attempts."""
    attempts: int
    """Of all calls."""


class Standing(msgspec.Struct, frozen=True):
    """A program, or the node, while nothing goes on."""

    program: str
    moment: str
    resident_mib: float
    """Of the node: memory that is not available."""
    own: float = 0.0
    """CPU seconds a minute."""
    all: float = 0.0
    """The same with the children that it waited for."""
    files: int = 0
    may: int = 0
    """Files that are open, and how many may be (soft limit)."""


class Restart(msgspec.Struct, frozen=True):
    """One of the state manager, in seconds."""

    signal: str
    down: float
    """From the signal until its successor was executed."""
    adopted: float
    """From there until it had adopted every volume."""
    cpu: float
    """What it used of the processors for that, its children included."""
    pause: float
    """The longest between two acknowledgements of the writer, from the signal until a while after."""


class Crowd(msgspec.Struct):
    """Everything measured; what build/bench/density-<kernel>.json holds."""

    kernel: str
    machine: str
    date: str
    command: str
    volumes: int
    revision: str = ""
    release: str = ""
    """Of the nodes' kernel, as it says itself."""
    load: float = 0.0
    """Of the host, over the last 15 minutes of it."""
    phases: list[Phase] = []
    standings: list[Standing] = []
    restarts: list[Restart] = []
    quiet_pause: float = 0.0
    """The writer's longest, nothing else going on."""
    acknowledged: int = 0
    errors: int = 0
    compared: int = 0
    """Volumes whose two legs were equal, byte by byte."""
    left: dict[str, list[str]] = {}
    """What was left on each node when every volume was deleted."""


def phase(name: str, answers: Sequence[Answer]) -> Phase:
    """Of the calls of one phase, none of them an error."""
    return Phase(
        name,
        total=max(answer.ended for answer in answers),
        seconds=[round(answer.seconds, 4) for answer in sorted(answers, key=lambda answer: answer.number)],
        attempts=sum(answer.attempts for answer in answers),
    )


def standings(
    moment: str, before: Mapping[str, Any], after: Mapping[str, Any], names: Mapping[str, str]
) -> list[Standing]:
    """From two looks (``programs.look``) with nothing between them; ``names``: module → what it is called."""
    minutes = (after["node"]["at"] - before["node"]["at"]) / 60
    found = [
        Standing(
            program=name,
            moment=moment,
            resident_mib=after[module]["resident"] / 1024,
            own=(after[module]["own"] - before[module]["own"]) / minutes,
            all=(after[module]["all"] - before[module]["all"]) / minutes,
            files=int(after[module]["files"]),
            may=int(after[module]["may"]),
        )
        for module, name in names.items()
    ]
    return [*found, Standing("the node in all", moment, after["node"]["used"] / 1024)]


def report(crowd: Crowd) -> str:
    """The section's tables."""
    parts = [phase_table(crowd.phases), standing_table(crowd.standings), restart_table(crowd), ending(crowd)]
    return "\n\n".join(parts)


def phase_table(phases: Sequence[Phase]) -> str:
    lines = [
        "| call | calls | in all | p50 | p99 | slowest | attempts |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in phases:
        times = [percentile(one.seconds, part) for part in (0.5, 0.99, 1.0)]
        cells = [one.name, f"{len(one.seconds)}", f"{number(one.total)} s", *(f"{time:.2f} s" for time in times)]
        lines.append(f"| {' | '.join(cells)} | {one.attempts} |")
    return "\n".join(lines)


def standing_table(found: Sequence[Standing]) -> str:
    """Programs in the order in which they come, each with its moments."""
    lines = [
        "| program | volumes | resident | CPU a minute, its own | with children | open files, of at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for program in dict.fromkeys(one.program for one in found):
        for one in (each for each in found if each.program == program):
            cells = [program, one.moment, f"{number(one.resident_mib)} MiB"]
            cells += (
                [f"{one.own:.1f} s", f"{one.all:.1f} s", f"{one.files} of {one.may:,}"] if one.may else ["-", "-", "-"]
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def restart_table(crowd: Crowd) -> str:
    """Restarts by signal: medians, and how far they lie apart where there are several."""
    lines = [
        "| the state manager is ended by | runs again after | then all adopted after | CPU for that "
        "| the writer's longest pause | times |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| nothing | - | - | - | {number(crowd.quiet_pause)} s | 1 |",
    ]
    for name in dict.fromkeys(one.signal for one in crowd.restarts):
        some = [one for one in crowd.restarts if one.signal == name]
        cells = [
            name,
            *(_span([getattr(one, field) for one in some]) for field in ("down", "adopted", "cpu", "pause")),
            f"{len(some)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(values: Sequence[float]) -> str:
    span = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return f"{number(statistics.median(values))} s{span}"


def ending(crowd: Crowd) -> str:
    """In sentences: the writer, the legs, what was left."""
    left = [f"{node}: {', '.join(there)}" for node, there in crowd.left.items() if there]
    return (
        f"The writer had {crowd.acknowledged:,} writes acknowledged and {crowd.errors} refused; the two legs of "
        f"{crowd.compared} volumes\nwith data were equal, byte by byte. Left on the nodes after the last deletion: "
        f"{'; '.join(left) or 'nothing'}."
    )
