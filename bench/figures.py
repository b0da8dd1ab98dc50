"""Figures from repeated runs, and the table that they become."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import accel


@dataclass
class Figures:
    """Measurements by name, in the order in which the names were first used."""

    values: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        """One measurement; negative ones mean that there was none."""
        if value >= 0:
            self.values.setdefault(name, []).append(value)
            self.units[name] = unit

    def table(self) -> str:
        """A Markdown table: median, lowest and highest of each figure."""
        lines = ["| what | median | lowest to highest | runs |", "| --- | --- | --- | --- |"]
        for name, values in self.values.items():
            unit = self.units[name]
            span = f"{number(min(values))} to {number(max(values))} {unit}" if len(values) > 1 else ""
            lines.append(f"| {name} | {number(statistics.median(values))} {unit} | {span} | {len(values)} |")
        return "\n".join(lines)


def number(value: float) -> str:
    """As people write it: no digits that mean nothing."""
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def replace_section(path: Path, name: str, content: str, preface: str) -> None:
    """Put ``content`` between the markers of section ``name``; the rest of the file stays as people wrote it."""
    begin, end = f"<!-- {name}: begin, written by a command -->", f"<!-- {name}: end -->"
    text = path.read_text() if path.exists() else preface
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}")


def host() -> str:
    """The machine that carries the guests."""
    kvm = "kvm" in " ".join(accel.flags())
    return f"{os.cpu_count()} cores, {'KVM' if kvm else 'no KVM'}"


def described(machine: Mapping[str, str], command: str, notes: Sequence[str] = ()) -> str:
    """What a reader must know to judge the figures."""
    facts = "; ".join(f"{name} {value}" for name, value in machine.items())
    return "\n".join([f"Measured with `{command}` ({facts}).", *notes])
