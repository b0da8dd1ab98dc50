"""``make model``: the larger sizes, minutes each. Tells states, depth and time; exit status 1 when one is broken."""

from __future__ import annotations

import sys

from explore import explore
from sizes import LONG, SIZES
from world import Model

STATES = 2_000_000
"""Where a size is cut off that is too large to be seen whole: at the end of the layer that passes this."""


def main() -> int:
    broken = False
    for size in (*SIZES, *LONG):
        found = explore(Model(size), limit=STATES)
        print(f"{size.name}: {found}", flush=True)
        if found.way:
            broken = True
            print("\n".join(f"    {event}" for event in found.way), flush=True)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
