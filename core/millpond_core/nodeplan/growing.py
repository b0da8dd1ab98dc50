"""A volume that has grown in the record grows here, with reads and writes going on but for a moment.

From below: what each path leads to has grown already (``legs``); then paths, gates, the array, the front. Each is at
least as large as what lies on it at every moment, so a kill between two steps leaves what goes on from there. The array
is enlarged with nothing in flight: md waits inside for what is, with a lock that whoever ends the waiting needs.
"""

from __future__ import annotations

from millpond_core import layout
from millpond_core.nodeplan import paths
from millpond_core.nodeplan.attaching import Attaching
from millpond_core.nodeplan.stack import in_sync
from millpond_core.nodeplan.steps import Grow, SwapDm
from millpond_core.units import SECTOR, format_bytes

LOOK_SECONDS = 1.0
"""Until the next look for a namespace that is to grow."""


def enlarge(plan: Attaching) -> bool:
    """The array, once everything below it is large enough; or the front."""
    if plan.wanted_bytes > plan.bytes and plan.memory.assembled:
        _array(plan)
    else:
        _front(plan)
    return bool(plan.steps)


def _array(plan: Attaching) -> None:
    array, front, size = plan.stack.array, plan.stack.front, plan.wanted_bytes
    assert array is not None
    legs, needed = plan.wanted(), layout.leg_sectors(size)
    if not all(plan.good(leg) and in_sync(plan.stack.member(leg.id)) for leg in legs):
        plan.waits.append(f"grows to {format_bytes(size)} once all of its legs are in sync and in reach")
        return
    small = [leg.id for leg in legs if plan.sources[leg.id].sectors < needed]
    if small:
        plan.waits.append(f"grows to {format_bytes(size)} once leg {', '.join(small)} shows its new size here")
        plan.wake = LOOK_SECONDS
        return
    for leg in legs:
        found = plan.sources[leg.id]
        if not layout.leads_to(plan.stack.paths[leg.id].table, found.major_minor, needed):
            plan.steps.append(SwapDm(name=plan.path_name(leg.id), table=layout.path_table(found.major_minor, size)))
        elif layout.table_sectors(plan.stack.gates[leg.id].table) < needed:
            plan.steps.append(paths.larger_gate(plan, leg.id, size))
    if plan.steps:
        return
    if front is not None and (front.suspended or plan.around.hold):
        plan.waits.append(f"grows to {format_bytes(size)} once reads and writes are not held any more")
        return
    plan.steps.append(
        Grow(
            name=array.name,
            component_sectors=layout.component_sectors(size),
            front=front.name if front else "",
            why=f"{plan.volume.metadata.name} grows from {format_bytes(plan.bytes)} to {format_bytes(size)}",
        )
    )


def _front(plan: Attaching) -> None:
    array, front = plan.stack.array, plan.stack.front
    if array is None or front is None or front.suspended or not layout.lies_on(front.table, array.major_minor):
        return
    if layout.table_sectors(front.table) < plan.bytes // SECTOR:
        table = layout.front_table(array.major_minor, plan.bytes)
        why = f"{plan.volume.metadata.name} has {format_bytes(plan.bytes)}"
        plan.steps.append(SwapDm(name=front.name, table=table, why=why))
