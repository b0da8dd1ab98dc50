"""Pure: the four kinds → one verdict, and everything that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from millpond_core import names, quiesce
from millpond_core.master.conditions import find
from millpond_core.master.maintenance import READY
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.meta import Wire

Verdict = Literal["OK", "Degraded", "Faulted"]
About = Literal["Node", "Maintenance", "Device", "Volume", "Quiescence", "HeldIO"]

HEADINGS: dict[About, str] = {
    "Node": "node",
    "Maintenance": "maintenance",
    "Device": "device",
    "Volume": "volume",
    "Quiescence": "going still",
    "HeldIO": "held I/O",
}

WELL, NOT_WELL = 0, 3
"""Exit statuses."""


class Finding(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    about: About
    kind: str
    name: str
    claim: str = ""
    """Of a volume that serves one, as namespace/name."""
    reason: str
    """One CamelCase word: the phase, the intent of a maintenance, the reason of a quiescence, what holds I/O."""
    message: str

    def line(self) -> str:
        return f"  {HEADINGS[self.about]:<12} {self.claim or self.name}: {self.message or self.reason}"


class Report(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What is true of the volumes' copies, and everything that is not as it should be."""

    verdict: Verdict
    message: str
    findings: list[Finding]

    def lines(self) -> list[str]:
        """For a person: the verdict, then one line for each finding."""
        return [f"{self.verdict.upper()}: {self.message}", *(finding.line() for finding in self.findings)]

    def status(self) -> int:
        """The exit status."""
        return NOT_WELL if self.findings else WELL


def status(
    nodes: Sequence[StorageNode],
    devices: Sequence[StorageDevice],
    volumes: Sequence[VirtualVolume],
    quiescences: Sequence[Quiescence],
) -> Report:
    """The whole of it."""
    verdict, message = _verdict(volumes)
    findings = [
        *(_phase("Node", n) for n in nodes if n.status.phase not in ("", "Ready")),
        *_maintained(nodes),
        *(_phase("Device", d) for d in devices if d.status.phase != "Online"),
        *(_phase("Volume", v, claim(v)) for v in volumes if v.status.phase != "Ready"),
        *(_quiescence(q) for q in quiescences if q.status.phase not in quiesce.OVER),
        *(finding for volume in volumes for finding in _held(volume)),
    ]
    return Report(verdict=verdict, message=message, findings=findings)


def claim(volume: VirtualVolume) -> str:
    """The claim that it serves, as namespace/name; empty: none."""
    return volume.metadata.annotations.get(names.ANNOTATION_CLAIM, "")


def title(volume: VirtualVolume) -> str:
    """The claim as namespace/name where there is one, the volume's name else."""
    return claim(volume) or volume.metadata.name


def used_by(pods: Sequence[str] | None) -> str:
    """The end of a line about what they have; empty: none, or nobody has asked."""
    return f"; used by {', '.join(pods)}" if pods else ""


def held(quiescence: Quiescence) -> str:
    """Whether reads and writes wait for it."""
    return "reads and writes wait" if quiescence.spec.hold_io else "reads and writes go on"


def _verdict(volumes: Sequence[VirtualVolume]) -> tuple[Verdict, str]:
    """The worst that is true, in a few words."""
    faulted = [title(v) for v in volumes if v.status.phase == "Faulted"]
    if faulted:
        return "Faulted", f"{len(faulted)} of {len(volumes)} volumes need help: {', '.join(faulted[:5])}"
    degraded = [v for v in volumes if v.status.phase == "Degraded"]
    if degraded:
        alone = sum(1 for v in degraded if v.status.copies.startswith("1/"))
        short = f"{len(degraded)} of {len(volumes)} volumes short of copies"
        return "Degraded", f"no data lost, {short}, {alone} on one copy"
    return "OK", f"{len(volumes)} volumes, every copy in sync"


def _phase(about: About, obj: StorageNode | StorageDevice | VirtualVolume, claim: str = "") -> Finding:
    return Finding(
        about=about,
        kind=type(obj).__name__,
        name=obj.metadata.name,
        claim=claim,
        reason=obj.status.phase,
        message=obj.status.message,
    )


def _maintained(nodes: Sequence[StorageNode]) -> Iterator[Finding]:
    for node in nodes:
        if (intent := node.intent()) != "None":
            said = find(node.status.conditions, READY)
            yield Finding(
                about="Maintenance",
                kind="StorageNode",
                name=node.metadata.name,
                reason=intent,
                message=f"{intent}; {said.message if said else 'not looked at yet'}",
            )


def _quiescence(q: Quiescence) -> Finding:
    reason, status = q.spec.reason, q.status
    message = f"{reason}, {status.phase}, {status.acks} acknowledged, {held(q)}"
    return Finding(about="Quiescence", kind="Quiescence", name=q.metadata.name, reason=reason, message=message)


def _held(volume: VirtualVolume) -> Iterator[Finding]:
    def finding(reason: str, message: str) -> Finding:
        name = volume.metadata.name
        return Finding(
            about="HeldIO", kind="VirtualVolume", name=name, claim=claim(volume), reason=reason, message=message
        )

    for node in volume.status.nodes:
        for path in node.paths:
            if path.holding_since:
                yield finding("LegHolds", f"on {node.node}, leg {path.id}, since {path.holding_since}")
        if node.front == "Suspended":
            yield finding("FrontSuspended", f"on {node.node}: the front is suspended")
