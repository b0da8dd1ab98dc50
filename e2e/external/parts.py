"""Which of the tests run, in which order, and how long they may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from external import definition, known

GRACE_SECONDS = 600.0
"""After a part's own time is over: Ginkgo has the tests that run clean up, and writes its report."""
AT_ONCE = 2
"""Tests at a time: mostly they wait, for a kubelet or for a controller, and the machine has two cores."""
LEAST = 60
"""Tests that must have run and passed, all parts taken together."""


@dataclass(frozen=True)
class Part:
    """A run of ``e2e.test``. ``focus``: patterns of names, any of which; of ``known.BEGIN`` they must be anyhow."""

    name: str
    minutes: float
    focus: tuple[str, ...]
    skip: tuple[str, ...] = ()
    of_class: str = definition.CLASS
    """StorageClass of the volumes; the chart publishes capacity for ``definition.LEGS_CLASS``."""
    at_once: int = AT_ONCE

    @property
    def legs(self) -> bool:
        """Whether volumes are reached where their legs lie."""
        return self.of_class == definition.LEGS_CLASS

    @property
    def capabilities(self) -> Mapping[str, bool]:
        return definition.LEGS_CAPABILITIES if self.legs else definition.CAPABILITIES

    def focuses(self) -> list[str]:
        """For ``--focus``."""
        return [f"{re.escape(known.BEGIN)}.*{each}" for each in self.focus]

    def skips(self) -> list[str]:
        """For ``--skip``."""
        return [*(each.pattern for each in known.LEFT_OUT), *self.skip]

    def chosen(self, name: str) -> bool:
        """Whether this part is to run the test of that name; it may skip itself all the same."""
        matches = any(re.search(pattern, name) for pattern in self.focuses())
        return matches and not any(re.search(pattern, name) for pattern in self.skips())


_DISRUPTIVE = r"\[Disruptive\]"
"""Kubelets are stopped: nothing else may run beside these."""
_LEGS = (r"\] topology ", r"\] capacity ")
_UNUSED = r"volume-modify-stress .*should modify volumes"
"""Changes the attributes of claims that no pod uses, which the API server allows once they are bound."""
WHOLE = (
    Part("any", 300, ("",), skip=(_DISRUPTIVE, _UNUSED)),
    Part("immediate", 30, (_UNUSED,), of_class=definition.IMMEDIATE_CLASS),
    Part("disruptive", 90, (_DISRUPTIVE,), at_once=1),
    Part("legs", 40, _LEGS, of_class=definition.LEGS_CLASS),
)
"""Every test of what the driver can do."""

_DEFAULT = r"Dynamic PV \(default fs\)\] "
SELECTION = (
    Part(
        "selection",
        10,
        (
            rf"{_DEFAULT}volumes should store data",
            rf"{_DEFAULT}subPath should support existing directory$",
            r"Dynamic PV \(block volmode\)\] volumes should store data",
            r"Dynamic PV \(default fs\)\(allowExpansion\)\] volume-expand .*while pod is using it",
            r"Dynamic PV \(default fs\)\] fsgroupchangepolicy .*Always.* applied to the volume contents$",
            r"read-write-once-pod should block a second pod",
        ),
    ),
)
"""What ``make test`` has: one of each kind, in ten minutes."""
SELECTION_LEAST = 5


def least(chosen: tuple[Part, ...]) -> int:
    """How many tests must have passed."""
    return SELECTION_LEAST if chosen == SELECTION else LEAST
