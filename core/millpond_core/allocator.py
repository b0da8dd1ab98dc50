"""Where a leg goes: named predicates refuse devices, named sort keys order the rest, first fit cuts the extents.

Everything is plain data and deterministic: the same devices and request always give the same extents. Free space is
derived from mappings by the caller, never from a counter. A refusal says which predicate refused which device, and how
much is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from millpond_core.units import UNIT_BYTES, format_bytes

MAX_EXTENTS = 256
"""Extents of one leg; from the object's size (``model.virtualvolume``)."""

HOSTNAME_KEY = "kubernetes.io/hostname"

Run = tuple[int, int]
"""(first unit, number of units)."""


@dataclass(frozen=True, slots=True)
class Space:
    """One device, as far as placement is concerned. Sizes in units of 4 MiB."""

    name: str
    uuid: str
    node: str
    pool: str
    free: tuple[Run, ...]
    """Free runs, ascending."""
    legs: int = 0
    unfit: str = ""
    """Why no leg may be placed on the device or its node; empty: it may."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the node."""

    @property
    def units(self) -> int:
        """Free units in all."""
        return sum(length for _, length in self.free)

    def usable(self, runs: int) -> int:
        """Free units within the ``runs`` longest runs."""
        return sum(sorted((length for _, length in self.free), reverse=True)[:runs])


@dataclass(frozen=True, slots=True)
class Need:
    """What one leg asks for."""

    units: int
    """Units on each of the ``stripes`` devices."""
    stripes: int = 1
    pool: str = "default"
    selector: Mapping[str, str] = field(default_factory=dict)
    topology: str = HOSTNAME_KEY
    preferred: str = ""
    doubted: frozenset[str] = frozenset()
    """Nodes on which a leg of the volume was just lost: taken when no other has room."""
    left_devices: frozenset[str] = frozenset()
    """Uuids of devices on which a leg of the volume was just lost, or that it is to leave: never taken, the next would
    be lost as well, or have to leave again.
    """
    taken_nodes: frozenset[str] = frozenset()
    taken_values: frozenset[str] = frozenset()
    """Values of ``topology`` that other legs of the volume have."""

    @property
    def runs(self) -> int:
        """Runs that a leg may take of each device: n stripes of r runs each make at most n·r rows of n extents."""
        return MAX_EXTENTS // self.stripes**2


@dataclass(frozen=True, slots=True)
class Piece:
    """One extent."""

    device: str
    uuid: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where one leg goes: pieces in the order that ``layout.leg_table`` reads, rows of one a stripe."""

    node: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """No place: ``found`` of ``wanted`` legs fit. ``reasons`` are for people, one a device, in the order of names."""

    wanted: int
    found: int
    units: int
    reasons: tuple[str, ...]

    def sentence(self) -> str:
        """How much is missing, and where."""
        size = format_bytes(self.units * UNIT_BYTES)
        what = f"needs {size} on each of {self.wanted} more node(s), {self.found} found"
        if not self.reasons:
            return f"{what}: there is no StorageDevice in use yet; create one for a disk of `kubectl get snode -o yaml`"
        shown = self.reasons[:8]
        more = f"; and {len(self.reasons) - len(shown)} more" if len(self.reasons) > len(shown) else ""
        return f"{what}: {'; '.join(shown)}{more}"


# --- predicates: each takes a device and a need, and answers why not --------------------------------------------------


def in_use(space: Space, need: Need) -> str:
    """The device is Online, its node is up and schedulable."""
    return space.unfit


def in_pool(space: Space, need: Need) -> str:
    """The device belongs to the pool asked for."""
    return "" if space.pool == need.pool else f"belongs to pool {space.pool}, not {need.pool}"


def on_selected_node(space: Space, need: Need) -> str:
    """The node has every label asked for."""
    missing = [f"{key}={value}" for key, value in need.selector.items() if space.labels.get(key) != value]
    return f"its node lacks the label {', '.join(missing)}" if missing else ""


def on_another_node(space: Space, need: Need) -> str:
    """No other leg of the volume lies on the node."""
    return "its node has a leg of this volume already" if space.node in need.taken_nodes else ""


def in_another_domain(space: Space, need: Need) -> str:
    """No other leg of the volume shares the node's value of the spread label."""
    value = topology_value(space, need.topology)
    if value is None:
        return f"its node lacks the label {need.topology}, over which legs are spread"
    return f"a leg of this volume is in {need.topology}={value} already" if value in need.taken_values else ""


def not_under_the_leg_before(space: Space, need: Need) -> str:
    """The leg that is to be replaced was not lost on this very device, nor is it to leave it."""
    return "the leg to be replaced was lost there, or is to leave it" if space.uuid in need.left_devices else ""


def has_room(space: Space, need: Need) -> str:
    """Enough free units, in few enough runs that the leg has at most 256 extents."""
    if space.units < need.units:
        short = format_bytes((need.units - space.units) * UNIT_BYTES)
        return f"{format_bytes(space.units * UNIT_BYTES)} free, {short} short"
    if (usable := space.usable(need.runs)) < need.units:
        return f"its free space is in too many pieces: the {need.runs} longest hold {format_bytes(usable * UNIT_BYTES)}"
    return ""


PREDICATES: tuple[Callable[[Space, Need], str], ...] = (
    in_use,
    in_pool,
    on_selected_node,
    on_another_node,
    in_another_domain,
    not_under_the_leg_before,
    has_room,
)


def topology_value(space: Space, key: str) -> str | None:
    """The node's value of ``key``; a node without a hostname label is its own host."""
    return space.labels.get(key, space.node if key == HOSTNAME_KEY else None)


def refused(space: Space, need: Need) -> str:
    """The first predicate's reason against the device; empty: none."""
    return next((reason for predicate in PREDICATES if (reason := predicate(space, need))), "")


# --- sort keys: smaller is better; earlier keys decide first ----------------------------------------------------------


def preferred_node_first(space: Space, need: Need) -> int:
    return 0 if space.node == need.preferred else 1


def doubted_node_last(space: Space, need: Need) -> int:
    return 1 if space.node in need.doubted else 0


def most_free_first(space: Space, need: Need) -> int:
    return -space.units


def fewest_legs_first(space: Space, need: Need) -> int:
    return space.legs


def by_name(space: Space, need: Need) -> str:
    return space.name


SORT_KEYS: tuple[Callable[[Space, Need], int | str], ...] = (
    preferred_node_first,
    doubted_node_last,
    most_free_first,
    fewest_legs_first,
    by_name,
)


# --- the decision -----------------------------------------------------------------------------------------------------


def allocate(spaces: Iterable[Space], need: Need, count: int = 1) -> tuple[Place, ...] | Refusal:
    """Places for ``count`` legs, no two on one node or in one domain.

    Greedy is enough: a node has one value of the spread label, all legs are of one size, so that a choice only ever
    takes its own domain from the others.
    """
    spaces = sorted(spaces, key=lambda space: space.name)
    places: list[Place] = []
    while len(places) < count:
        chosen = _choose(spaces, need)
        if not chosen:
            reasons = tuple(f"{s.name} ({s.node}): {_why(spaces, s, need)}" for s in spaces)
            return Refusal(wanted=count, found=len(places), units=need.units * need.stripes, reasons=reasons)
        node = chosen[0].node
        places.append(Place(node, _rows(chosen, [cut(s.free, need.units, need.runs) for s in chosen])))
        value = topology_value(chosen[0], need.topology)
        need = replace(
            need,
            taken_nodes=need.taken_nodes | {node},
            taken_values=need.taken_values | ({value} if value is not None else set()),
        )
    return tuple(places)


def extend(row: Sequence[Space], units: int, extents: int) -> tuple[Piece, ...] | str:
    """``units`` more on each device of a leg's row of stripes, in at most so many extents; or why not."""
    for space in row:
        if space.unfit:
            return f"{space.name} {space.unfit}"
        if space.units < units:
            short = format_bytes((units - space.units) * UNIT_BYTES)
            return f"{space.name} has {format_bytes(space.units * UNIT_BYTES)} free, {short} short"
    pieces = _rows(row, [cut(space.free, units, max(extents // len(row) ** 2, 1)) for space in row])
    if len(pieces) > extents:
        names = ", ".join(space.name for space in row)
        return f"the free space of {names} is in too many pieces: a leg has {MAX_EXTENTS} extents at most"
    return pieces


def largest(spaces: Iterable[Space], need: Need, count: int = 1) -> int:
    """Units on each device of the largest leg of which ``count`` fit; 0 when none does. ``need.units`` is ignored."""
    spaces = list(spaces)
    low, high = 0, max((space.usable(need.runs) for space in spaces), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if isinstance(allocate(spaces, replace(need, units=middle), count), Refusal):
            high = middle - 1
        else:
            low = middle
    return low


def cut(free: Sequence[Run], units: int, most: int = MAX_EXTENTS) -> tuple[Run, ...]:
    """``units`` from ``free``: first fit, or the longest runs first where first fit would take more than ``most``."""
    first_fit = _take(free, units)
    if len(first_fit) <= most:
        return first_fit
    return _take(sorted(free, key=lambda run: (-run[1], run[0])), units)


def free_runs(capacity: int, used: Iterable[Run]) -> tuple[Run, ...]:
    """The gaps that ``used`` runs leave in ``capacity`` units; overlaps and runs beyond the end are taken as used."""
    gaps: list[Run] = []
    at = 0
    for start, length in sorted(used):
        if start > at:
            gaps.append((at, min(start, capacity) - at))
        at = max(at, start + length)
        if at >= capacity:
            break
    if at < capacity:
        gaps.append((at, capacity - at))
    return tuple(gap for gap in gaps if gap[1] > 0)


def _take(runs: Iterable[Run], units: int) -> tuple[Run, ...]:
    taken: list[Run] = []
    for start, length in runs:
        if units == 0:
            break
        part = min(length, units)
        taken.append((start, part))
        units -= part
    return tuple(taken)


def _rows(spaces: Sequence[Space], cuts: Sequence[Sequence[Run]]) -> tuple[Piece, ...]:
    """Rows of equally long pieces, one of each device: split wherever a run of any device ends."""
    rest = [list(runs) for runs in cuts]
    pieces: list[Piece] = []
    while all(rest):
        length = min(runs[0][1] for runs in rest)
        for space, runs in zip(spaces, rest, strict=True):
            start, left = runs.pop(0)
            pieces.append(Piece(space.name, space.uuid, start, length))
            if left > length:
                runs.insert(0, (start + length, left - length))
    return tuple(pieces)


def _choose(spaces: Sequence[Space], need: Need) -> tuple[Space, ...]:
    """The devices of the best node that has enough of them; empty: there is none."""
    fit = sorted((s for s in spaces if not refused(s, need)), key=lambda s: tuple(key(s, need) for key in SORT_KEYS))
    a_node = Counter(space.node for space in fit)
    node = next((space.node for space in fit if a_node[space.node] >= need.stripes), None)
    return tuple(space for space in fit if space.node == node)[: need.stripes]


def _why(spaces: Sequence[Space], space: Space, need: Need) -> str:
    if reason := refused(space, need):
        return reason
    fit = sum(1 for other in spaces if other.node == space.node and not refused(other, need))
    return f"its node has {fit} device(s) with room, {need.stripes} stripes need as many"
