"""Pure: a plan → lines for a person; and what of it people have not accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from millpond_cli.report import used_by
from millpond_core.errors import Invalid, NotFound
from millpond_core.instants import span
from millpond_core.master.balance import Transfer
from millpond_core.master.foresight import Move, Plan
from millpond_core.master.moves import predicate
from millpond_core.master.world import World
from millpond_core.units import format_bytes


def lines(plan: Plan) -> list[str]:
    """The whole of it."""
    number = f"{len(plan.moves)} volume{'' if len(plan.moves) == 1 else 's'}"
    where = f" on {plan.node}" if plan.device else ""
    said = [
        f"{plan.deed.lower()} {plan.subject}{where}: {number}, {_effort(plan)}",
        f"  reckoned with {plan.assumed}",
    ]
    for move in plan.moves:
        said += [f"  {line}" for line in _move(move, away=plan.node if plan.deed == "Reboot" else "")]
    said.append(f"in the end {plan.subject} is {plan.ends}" + (f": {plan.message}" if plan.message else ""))
    titles = {move.volume: title(move) for move in plan.moves}
    if plan.at_risk:
        said.append(f"on one copy or none meanwhile: {', '.join(titles.get(name, name) for name in plan.at_risk)}")
    if plan.losses:
        said.append(f"without {plan.subject} no copy is left of: {', '.join(titles.get(n, n) for n in plan.losses)}")
    return said


def title(move: Move | Transfer) -> str:
    """The claim where there is one, with the volume's name, which is what options take."""
    return f"{move.claim} ({move.volume})" if move.claim else move.volume


def refusal(plan: Plan, accepted: Collection[str]) -> str:
    """Why the act is not begun; empty: it may be. ``accepted``: names of volumes."""
    left = [name for name in plan.losses if name not in accepted]
    if not left:
        return ""
    options = " ".join(f"--accept-data-loss={name}" for name in left)
    return (
        f"refused: {plan.device} has the last copy in reach of {', '.join(left)}; what is in the way of another "
        f"copy is told above. Remove that; or, to lose the volume with the device, say {options}"
    )


def with_pods(plan: Plan, pods: Mapping[str, Sequence[str]]) -> Plan:
    """The plan with the names of the pods that have each claim."""
    moves = [msgspec.structs.replace(move, pods=tuple(pods.get(move.claim, ()))) for move in plan.moves]
    return msgspec.structs.replace(plan, moves=moves)


def successor(world: World, plan: Plan, name: str) -> str:
    """How much of the plan goes to the device that takes another's place. Raises NotFound; Invalid: nothing can."""
    new, old = world.devices.get(name), world.devices[plan.device]
    if new is None:
        raise NotFound(f"there is no StorageDevice {name}: hand the new disk over with kubectl millpond adopt")
    if name == plan.device:
        raise Invalid(f"{name} cannot take its own place")
    if new.spec.pool != old.spec.pool:
        raise Invalid(f"{name} belongs to pool {new.spec.pool}, {plan.device} to pool {old.spec.pool}")
    if unfit := world.unfit(new):
        raise Invalid(f"nothing can be placed on {name}: {unfit}")
    placed = [step for move in plan.moves for step in move.steps if step.event == "Allocated"]
    there = sum(1 for step in placed if name in step.devices)
    return f"{there} of {len(placed)} new legs go to {name}"


def _effort(plan: Plan) -> str:
    waits = f"{span(plan.wait_seconds)} of waiting" if plan.wait_seconds else ""
    if not plan.bytes:
        return ", ".join(filter(None, ("nothing to copy", waits)))
    about = f"{format_bytes(plan.bytes)} to copy, about {span(plan.copy_seconds + plan.wait_seconds)}"
    return f"{about}, {waits} in it" if waits else about


def _move(move: Move, *, away: str) -> Iterator[str]:
    what = f"{format_bytes(move.bytes)} from leg {move.source}, about {span(move.seconds)}" if move.bytes else "no copy"
    yield f"{title(move)}: {what}{used_by(move.pods)}"
    yield f"  {move.copies}/{move.wanted}  as it is"
    if away:
        yield f"  {move.fewest}/{move.wanted}  while {away} is away"
    for step in move.steps:
        yield f"  {step.copies}/{move.wanted}  {predicate(step.what)}"
    if move.obstacle:
        yield f"  in the way: {move.obstacle}"
