"""What the model knows of the world: plain tuples, so that a state is its own key.

One volume, one block of data, writes numbered from 1: what a disk holds is the number of the last write that reached
it. Objects of the API server (the volume, an instruction, a list of steps) are kept once each and stand in a state as a
number (``Interned``): they are the very structs of ``millpond_core.model``, so that the decisions of ``core`` can be
asked, and two states that say the same are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

NODES = ("n1", "n2")
LEGS = ("a", "b", "c", "d")

NONE, HOLDING, FAILING = 0, 1, 2
"""A gate."""

OUT, IN, FULL, DELTA, FAULTY = 0, 1, 2, 3, 4
"""What md makes of a leg: no member, in sync, being copied whole, being copied where the bitmap says so, faulty and
blocked until that is answered."""

ABSENT, ACTIVE, SUSPENDED, WALLED = 0, 1, 2, 3
"""A front; walled: it lies on the wall and reaches nothing any more."""

UP, DOWN = 1, 2
"""A wall: made, and with its path failed."""

NOTHING, RUNNING, FROZEN = 0, 1, 2
"""An array."""

LIVES = 8
"""A life's number is boot · LIVES + attach count, so that both can be told from it."""

Life = tuple[int, int]
"""(epoch, life) of what a path or a connection leads to; epoch 0: the leg's dm on this very node."""

ERROR: Life = (-1, -1)
"""A path that leads nowhere."""


class Size(NamedTuple):
    """What an exploration covers. Everything here is a bound: the model is finite because these are."""

    name: str
    places: tuple[int, ...] = (0, 1)
    """Legs, each with the number of its node. With ``spare`` the last one is a spare, prepared from the start."""
    spare: bool = False
    writes: tuple[int, int] = (1, 1)
    """Of the pod on each node."""
    clears: bool = True
    """md clears bits of the bitmap; without, each delta copies more than it would have to."""
    faults: int = 1
    """How many of ``kinds`` happen in one history; that what is broken gets well again is free."""
    once: bool = False
    """Of each kind one at most."""
    kinds: frozenset[str] = frozenset()
    """pull, cut, crash, partition, kill, lose record."""
    disks: tuple[int, ...] = (0, 1, 2)
    """Legs whose disk may be pulled."""
    crashing: tuple[int, ...] = (0, 1)
    """Nodes that may lose power."""
    moves: int = 0
    """How often the volume is wanted on the other node."""
    commits: int = 1
    """Generations that the master commits: a leg that comes back and is lost again could go on for ever."""
    barrier: bool = False
    """The master commits behind a quiescence. Without: at any moment, which is more than a quiescence allows."""
    hold_io: bool = False
    late: bool = True
    """Time may pass without a fault: paths are given up, grace periods end."""


class Disk(NamedTuple):
    """A leg's disk as its node sees it."""

    present: bool = True
    life: int = LIVES
    label: int = 0
    """What its label says of the leg (a LabelLeg); 0: nothing."""


class Data(NamedTuple):
    """A leg's bytes: the newest write, the newest that a loss of power leaves, and the bit of the bitmap on it."""

    content: int = 0
    durable: int = 0
    bit: bool = False


class LegStack(NamedTuple):
    """One leg on an attach node."""

    connected: Life | None = None
    target: Life | None = None
    """Where the path leads; None: there is no path."""
    gate: int = NONE
    up: bool = False
    member: int = OUT


class Node(NamedTuple):
    up: bool = True
    reaches: bool = True
    """Whether it reaches the API server."""
    failed: bool = False
    """The master's verdict."""
    boot: int = 1
    seen: int = 0
    """The copy of the volume that its state manager goes by: of the look that its plan is from, or the last one before
    it was cut off (whoever lags behind may as well have been cut off before). 0: none, it reads before it acts."""
    memory: int = 0
    pending: int = 0
    """The rest of the plan that is being carried out, without another look; 0: nothing."""
    instruction: int = 0
    front: int = ABSENT
    wall: int = NONE
    severing: bool = False
    """The front is being put on the wall: what is asked waits, that is done when nothing is inside."""
    open: bool = False
    array: int = NOTHING
    legs: tuple[LegStack, ...] = ()
    mapped: tuple[int, ...] = ()
    """By leg: the life for which its dm was made here; -1: there is none."""
    exports: tuple[tuple[Export, ...], ...] = ()
    """By leg."""


class Export(NamedTuple):
    epoch: int
    life: int
    host: int
    """Number of the node that it is for."""


class Flight(NamedTuple):
    """A write on its way, then the flush that makes it count. At most one a node."""

    number: int
    waiting: frozenset[int]
    """Legs that have not answered yet."""
    taken: bool = False
    """A leg in sync has it."""
    flushing: bool = False
    owned: bool = True
    """Somebody waits for it: its pod is alive."""


class State(NamedTuple):
    volume: int
    nodes: tuple[Node, ...]
    disks: tuple[Disk, ...]
    data: tuple[Data, ...]
    flights: tuple[Flight | None, ...]
    dirty: tuple[bool, ...]
    """By node: the bit of the bitmap that md holds in memory."""
    faults: int
    kinds: frozenset[str]
    """Of faults, that may still happen."""
    moves: int
    link: bool = True
    """Between the two nodes."""
    acknowledged: int = 0
    started: tuple[int, int] = (0, 0)
    """Writes that the pod on each node has begun."""
    master: int = 0
    """What the master has decided and not written yet; 0: nothing."""
    quiescence: int = 0
    time_up: bool = False
    """The quiescence's deadline has passed."""
    given_away: frozenset[int] = frozenset()
    """Legs whose extents belong to another volume by now."""
    wrong: str = ""
    """What a single step did that must never be done."""


class Interned:
    """Structs ↔ numbers, from 1."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.objects: list[Any] = [None]

    def __call__(self, obj: Any) -> int:
        key = _key(obj)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.objects)
            self.objects.append(obj)
        return number

    def __getitem__(self, number: int) -> Any:
        return self.objects[number]


def _key(obj: Any) -> Any:
    if isinstance(obj, tuple):
        return tuple(_key(part) for part in obj)
    if isinstance(obj, msgspec.Struct):
        return type(obj).__name__, msgspec.msgpack.encode(obj, order="deterministic")
    return obj


def put(items: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """The tuple with one item replaced."""
    return (*items[:index], value, *items[index + 1 :])


def on_node(state: State, n: int, **fields: Any) -> State:
    """The state with fields of one node replaced."""
    return state._replace(nodes=put(state.nodes, n, state.nodes[n]._replace(**fields)))


def on_leg(state: State, n: int, leg: int, **fields: Any) -> State:
    """The state with fields of one leg's stack on one node replaced."""
    there = state.nodes[n].legs
    return on_node(state, n, legs=put(there, leg, there[leg]._replace(**fields)))
