"""What is explored. A size is a set of bounds; ``SIZES`` take a minute together, ``LONG`` take some.

In ``ALONE`` and ``LAST`` every leg in sync loses power under one attachment; the others keep one leg's disk, or its
node, out of harm's way.
"""

from __future__ import annotations

from state import Size

LOSE = Size("2 legs, 2 nodes: one fault", kinds=frozenset({"pull", "cut", "lose record"}))
RETURN = Size("2 legs, 2 nodes: a disk goes twice", kinds=frozenset({"pull"}), disks=(1,), faults=2, late=False)
CRASH = Size(
    "2 legs, 2 nodes: power lost, and a disk",
    kinds=frozenset({"pull", "crash"}),
    disks=(1,),
    crashing=(0,),
    faults=2,
    once=True,
    late=False,
)
MOVE = Size("2 legs, 2 nodes: taken from a node cut off", kinds=frozenset({"partition"}), moves=1, clears=False)
STILL = Size(
    "2 legs and a spare: replaced behind a quiescence",
    places=(0, 1, 0),
    spare=True,
    kinds=frozenset({"pull"}),
    disks=(1,),
    barrier=True,
    hold_io=True,
    clears=False,
    late=False,
)
REPLACE = Size(
    "2 legs and a spare: a leg node cut off",
    places=(0, 1, 0),
    spare=True,
    kinds=frozenset({"partition"}),
    clears=False,
    late=False,
)
THREE = Size("3 legs, 2 nodes: one fault", places=(0, 1, 1), kinds=frozenset({"pull", "crash"}), late=False)
FAR = Size("2 legs on the other node: a link", places=(1, 1), kinds=frozenset({"cut"}))

ALONE = Size("1 leg: its disk goes", places=(0,), kinds=frozenset({"pull"}))
LAST = Size(
    "2 legs, 2 nodes: one disk, then the other",
    kinds=frozenset({"pull"}),
    disks=(0, 1),
    faults=2,
    clears=False,
    late=False,
)

SIZES = (LOSE, RETURN, CRASH, MOVE, STILL, REPLACE, THREE, FAR, ALONE, LAST)

SPARE = Size(
    "2 legs and a spare: a disk", places=(0, 1, 0), spare=True, kinds=frozenset({"pull"}), disks=(1,), late=False
)
BLIP = Size(
    "2 legs, 2 nodes: a disk, and a link for a moment",
    kinds=frozenset({"pull", "cut"}),
    disks=(1,),
    faults=2,
    once=True,
    clears=False,
    late=False,
)

RACE = Size(
    "2 legs, 2 nodes: a disk, and a node cut off before it tells",
    kinds=frozenset({"pull", "partition"}),
    disks=(1,),
    faults=2,
    once=True,
    moves=1,
    clears=False,
    late=False,
)

LONG = (
    SPARE,
    BLIP,
    RACE,
    Size(
        "2 legs, 2 nodes: two faults of all kinds, and a move",
        kinds=frozenset({"cut", "crash", "partition", "kill"}),
        crashing=(0,),
        faults=2,
        once=True,
        moves=1,
    ),
    Size(
        "3 legs, 2 nodes: two faults",
        places=(0, 1, 1),
        kinds=frozenset({"pull", "cut", "crash"}),
        disks=(1,),
        crashing=(0,),
        faults=2,
        once=True,
    ),
    Size(
        "2 legs and a spare: two faults behind a quiescence",
        places=(0, 1, 0),
        spare=True,
        kinds=frozenset({"pull", "kill", "partition"}),
        disks=(1,),
        faults=2,
        once=True,
        barrier=True,
        hold_io=True,
        late=False,
    ),
)
