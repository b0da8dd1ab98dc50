"""Pure: the four kinds → lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from millpond_core import names, quiesce, units
from millpond_core.master.conditions import find
from millpond_core.master.maintenance import READY
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume


def status(
    nodes: Sequence[StorageNode],
    devices: Sequence[StorageDevice],
    volumes: Sequence[VirtualVolume],
    quiescences: Sequence[Quiescence],
) -> list[str]:
    """One verdict, then one line for each thing that is not as it should be."""
    going = [q for q in quiescences if q.status.phase not in quiesce.OVER]
    lines = [
        *_each("node", ((n.metadata.name, n.status.message) for n in nodes if n.status.phase not in ("", "Ready"))),
        *_each("maintenance", _maintained(nodes)),
        *_each("device", ((d.metadata.name, d.status.message) for d in devices if d.status.phase != "Online")),
        *_each("volume", ((title(v), v.status.message) for v in volumes if v.status.phase != "Ready")),
        *_each(
            "going still",
            ((q.metadata.name, _quiescence(q)) for q in going),
        ),
        *_each("held I/O", _held(volumes)),
    ]
    return [verdict(volumes), *lines]


def verdict(volumes: Sequence[VirtualVolume]) -> str:
    """The first line: the worst that is true, in a few words."""
    faulted = [title(v) for v in volumes if v.status.phase == "Faulted"]
    if faulted:
        return f"FAULTED: {len(faulted)} of {len(volumes)} volumes need help: {', '.join(faulted[:5])}"
    degraded = [v for v in volumes if v.status.phase == "Degraded"]
    if degraded:
        alone = sum(1 for v in degraded if v.status.copies.startswith("1/"))
        return f"DEGRADED: no data lost, {len(degraded)} of {len(volumes)} volumes short of copies, {alone} on one copy"
    return f"OK: {len(volumes)} volumes, every copy in sync"


def tree(devices: Sequence[StorageDevice], volumes: Sequence[VirtualVolume], only: str = "") -> list[str]:
    """Device by device: which claims lie on it, and what the record says of that leg."""
    lines: list[str] = []
    for device in sorted(devices, key=lambda d: (d.spec.node_name, d.metadata.name)):
        name = device.metadata.name
        if only and only != name:
            continue
        free = device.status.free or "-"
        lines.append(
            f"{name}  on {device.spec.node_name}, {device.status.phase}, {free} free of {device.status.size or '?'}"
        )
        for volume in sorted(volumes, key=title):
            lines.extend(f"  {line}" for line in _legs_on(name, volume))
    return lines


def title(volume: VirtualVolume) -> str:
    """The claim as namespace/name where there is one, the volume's name else."""
    return volume.metadata.annotations.get(names.ANNOTATION_CLAIM) or volume.metadata.name


def _legs_on(device: str, volume: VirtualVolume) -> Iterator[str]:
    for leg in [*volume.status.mapping.legs, *volume.status.spares]:
        length = sum(extent.length for extent in leg.extents if extent.device == device)
        if length:
            what = "being released" if leg.releasing else leg.state
            yield f"{title(volume)}  leg {leg.id}, {units.format_bytes(length * units.UNIT_BYTES)}, {what}"


def held(quiescence: Quiescence) -> str:
    """Whether reads and writes wait for it."""
    return "reads and writes wait" if quiescence.spec.hold_io else "reads and writes go on"


def _quiescence(quiescence: Quiescence) -> str:
    status = quiescence.status
    return f"{quiescence.spec.reason}, {status.phase}, {status.acks} acknowledged, {held(quiescence)}"


def _maintained(nodes: Sequence[StorageNode]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if (intent := node.intent()) != "None":
            said = find(node.status.conditions, READY)
            yield node.metadata.name, f"{intent}; {said.message if said else 'not looked at yet'}"


def _held(volumes: Sequence[VirtualVolume]) -> Iterator[tuple[str, str]]:
    for volume in volumes:
        for node in volume.status.nodes:
            for path in node.paths:
                if path.holding_since:
                    yield title(volume), f"on {node.node}, leg {path.id}, since {path.holding_since}"
            if node.front == "Suspended":
                yield title(volume), f"on {node.node}: the front is suspended"


def _each(heading: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield f"  {heading:<12} {name}: {text}".rstrip(": ")
