"""Which legs a volume should have next: what to replace, to take back, to give up; and the commit that does it.

Every change after the first mapping goes through a quiescence. What is ready is computed anew when all are still, so
that a second failure inside a running quiescence is taken in by it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec

from millpond_core import quiesce
from millpond_core.instants import parse
from millpond_core.master import growth
from millpond_core.master import volumes as v
from millpond_core.master.world import World
from millpond_core.model import Quiescence, VirtualVolume
from millpond_core.model.quiescence import Reason
from millpond_core.model.virtualvolume import Leg

MAX_LEGS = 8
MAX_SPARES = 4
"""What the schema has room for."""

STORM_SECONDS = 600.0
"""A leg that came back and was lost again within this time is taken back with a growing pause."""

RETAKEN = 4
"""Taken back so often within ``STORM_SECONDS`` and lost again, a leg is replaced: its disk answers, and fails."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A volume's legs, sorted by what is to become of them."""

    kept: tuple[Leg, ...]
    """Part of the volume, and to stay: in reach, within the grace period, or absent as planned."""
    lost: tuple[tuple[Leg, v.Loss], ...]
    """Out of reach for longer than the grace period."""
    absent: tuple[tuple[Leg, v.Loss], ...]
    """Of ``kept``: out of reach, may still come back."""
    leaving: tuple[Leg, ...]
    """In reach, but to be moved, or their device or node to be emptied."""
    spares: tuple[Leg, ...]
    """Live spares."""
    dead_spares: tuple[Leg, ...]
    """Spares that are out of reach themselves."""
    missing: int
    """Legs that ``kept`` lacks of the copies asked for; negative: there are too many."""
    grace_ends: float | None
    """When the next absent leg is given up."""
    deferred: frozenset[str] = frozenset()
    """Of ``absent``: ids of legs that are given up only once the volume is attached."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does to a volume's legs, by id."""

    reason: Reason
    retire: tuple[str, ...] = ()
    adopt: tuple[str, ...] = ()
    rejoin: tuple[str, ...] = ()
    grow: bool = False
    why: str = ""


def outlook(world: World, volume: VirtualVolume, now: float) -> Outlook:
    """Sort the legs."""
    kept, lost, absent, leaving = [], [], [], []
    ends: list[float] = []
    deferred = set()
    grace = volume.spec.on_failure.grace_period_seconds
    for leg in v.legs(volume):
        loss = v.loss(world, volume, leg)
        # Nothing could be copied before the volume is attached, and a node that boots again brings a good copy back.
        if loss and loss.node_failed and leg.state == "InSync" and not volume.status.attachment.node:
            kept.append(leg)
            absent.append((leg, loss))
            deferred.add(leg.id)
        elif leg.id in volume.spec.scrub.distrusted and leg.state != "Failed":
            lost.append((leg, v.Loss(math.inf, f"leg {leg.id} differs from another and is not to be trusted")))
        elif leg.state == "Failed" or (loss and (now >= loss.patience_ends(grace) or v.leaving(world, volume, leg))):
            # What is to be emptied is not waited for: who replaces a dead disk knows that it does not come back.
            lost.append((leg, loss or v.Loss(math.inf, f"leg {leg.id} has failed")))
        elif loss:
            kept.append(leg)
            absent.append((leg, loss))
            ends += [end] if math.isfinite(end := loss.patience_ends(grace)) else []
        elif leg.state == "Stale" and (retaken := _retakings(world, volume, leg, now)) >= RETAKEN:
            lost.append(
                (leg, v.Loss(math.inf, f"leg {leg.id} was taken back {retaken} times and lost again each time"))
            )
        elif v.leaving(world, volume, leg):
            leaving.append(leg)
        else:
            kept.append(leg)
    dead = [spare for spare in v.spares(volume) if v.loss(world, volume, spare) or v.leaving(world, volume, spare)]
    return Outlook(
        kept=tuple(kept),
        lost=tuple(lost),
        absent=tuple(absent),
        leaving=tuple(leaving),
        spares=tuple(spare for spare in v.spares(volume) if spare not in dead),
        dead_spares=tuple(dead),
        missing=volume.spec.layout.copies - len(kept),
        grace_ends=min(ends, default=None),
        deferred=frozenset(deferred),
    )


def ready(world: World, volume: VirtualVolume, now: float) -> Change | None:
    """The change that could be committed now; None: there is none."""
    if volume.status.mapping.generation == 0 or volume.metadata.deletion_timestamp or v.copied_from(world, volume):
        return None
    sources = [leg for leg in v.in_reach(world, volume) if v.reached(volume, leg)]
    look = outlook(world, volume, now)
    turns, _ = _turns(world, volume, look)
    rejoin = [leg for leg in turns if leg.state == "Stale"]
    adopt = [leg for leg in turns if leg not in rejoin]
    unfilled = max(look.missing - len(adopt), 0)
    # A lost leg without a replacement stays: it may still come back.
    retire = [leg for leg, _ in look.lost][: max(len(look.lost) - unfilled, 0)]
    losses = [loss for leg, loss in look.lost if leg in retire]
    good = [leg for leg in look.kept if leg.state == "InSync" and leg in sources]
    if len(good) >= volume.spec.layout.copies:
        retire += look.leaving
        retire += _surplus(look, good, volume.spec.layout.copies)
    if not any(leg not in retire for leg in sources):
        return None  # nothing could be copied from: the legs stay as they are, one may come back
    if not (retire or adopt or rejoin):
        return _growing(world, volume, sources)
    reason: Reason = "Reconfigure"
    if losses:
        reason = "NodeFailed" if losses[0].node_failed else "DeviceFailed"
    return Change(
        reason=reason,
        retire=tuple(leg.id for leg in retire),
        adopt=tuple(leg.id for leg in adopt),
        rejoin=tuple(leg.id for leg in rejoin),
        why=_why(volume, losses, retire, adopt, rejoin),
    )


def _growing(world: World, volume: VirtualVolume, sources: list[Leg]) -> Change | None:
    """Nothing else is to be changed: a larger size, if all is prepared for it."""
    if not growth.ready(world, volume) or len(sources) < len(v.legs(volume)):
        return None
    return Change(reason="Reconfigure", grow=True, why=f"{volume.metadata.name}: {growth.progress(volume)}")


def queued(world: World, volume: VirtualVolume, now: float) -> str:
    """Why a leg that could be rebuilt is not: too many others are; empty: none waits for its turn."""
    return _turns(world, volume, outlook(world, volume, now))[1]


def endangered(world: World, volume: VirtualVolume) -> tuple[int, str]:
    """Sort key: the volume with the fewest copies in reach first."""
    return len(v.in_reach(world, volume)), volume.metadata.name


def operations(volume: VirtualVolume, change: Change) -> list[dict[str, Any]]:
    """The commit of generation N+1 as a JSON Patch, with tests for everything it was decided from."""
    touched = {*change.retire, *change.rejoin}
    legs = []
    for leg in volume.status.mapping.legs:
        if leg.id in change.retire:
            legs.append(msgspec.structs.replace(volume.status.given(leg), state="Failed", releasing=True))
        elif leg.id in change.rejoin:
            legs.append(msgspec.structs.replace(leg, state="Rebuilding"))
        else:
            legs.append(leg)
    legs += [spare for spare in volume.status.spares if spare.id in change.adopt]
    tests = v.record_tests(volume, [leg for leg in volume.status.mapping.legs if leg.id in touched])
    larger: list[dict[str, Any]] = growth.without(volume, change.retire)
    if change.grow:
        larger, legs = growth.commit(volume)
    size = growth.target(volume) if change.grow else 0
    changes = [*v.put_legs(volume, legs, commit=True, size_bytes=size), *larger]
    if change.adopt:
        tests += v.spare_tests(volume)
        left = [spare for spare in volume.status.spares if spare.id not in change.adopt]
        changes.append(v.put("/status/spares", left))
    return [*tests, *changes]


def pause(world: World, volume: VirtualVolume, change: Change) -> float:
    """When the next quiescence for a volume may begin (seconds since the epoch): after failed ones, and after
    takings-back that did not last, the pause grows. Told from the quiescences that are kept.
    """
    name = volume.metadata.name
    over = [(_ended(q), q) for q in world.quiescences.values() if name in q.status.volumes and _ended(q)]
    over.sort(key=lambda pair: pair[0], reverse=True)
    aborted = 0
    for _, q in over:
        if q.status.phase != "Aborted":
            break
        aborted += 1
    last = over[0][0] if over else 0.0
    until = last + quiesce.backoff_seconds(aborted)
    if change.rejoin and not change.retire:
        until = max(until, last + quiesce.backoff_seconds(len(_retaken(world, volume, last))))
    return until if over else 0.0


def _retaken(world: World, volume: VirtualVolume, now: float) -> list[Quiescence]:
    """The quiescences in which legs of the volume were lately taken back."""
    name = volume.metadata.name
    return [
        q
        for q in world.quiescences.values()
        if name in q.status.volumes
        and q.spec.reason == "Reconfigure"
        and q.status.phase != "Aborted"  # nothing was committed in it
        and _ended(q) > now - STORM_SECONDS
    ]


def _retakings(world: World, volume: VirtualVolume, leg: Leg, now: float) -> int:
    """How often a leg was lately taken back for nothing; while people work on its node it may come and go."""
    return 0 if now < world.back_at(leg.node) else len(_retaken(world, volume, now))


def _returning(world: World, volume: VirtualVolume, look: Outlook) -> list[Leg]:
    """Legs that may catch up."""
    absent = {leg.id for leg, _ in look.absent}
    return [leg for leg in look.kept if leg.state == "Stale" and leg.id not in absent and v.back(world, volume, leg)]


def _prepared(world: World, volume: VirtualVolume, look: Outlook) -> list[Leg]:
    """Spares that may take the place of what is missing."""
    room = MAX_LEGS - len(volume.status.mapping.legs)
    return [spare for spare in look.spares if v.served(world, volume, spare)][: max(min(look.missing, room), 0)]


def _turns(world: World, volume: VirtualVolume, look: Outlook) -> tuple[list[Leg], str]:
    """Legs whose rebuild may begin now, those that return first, and why the others wait. Nothing is copied before the
    volume is attached, so until then they need no turn.
    """
    candidates = [*_returning(world, volume, look), *_prepared(world, volume, look)]
    attach, limits = volume.status.attachment.node, world.rebuild_limits
    if not attach:
        return candidates, ""
    begun: Counter[str] = Counter()
    turns: list[Leg] = []
    why = ""
    for leg in candidates:
        nodes = sorted({leg.node, attach})
        full = [node for node in nodes if 0 < limits.per_node <= world.rebuilding(node) + begun[node]]
        everywhere = world.rebuilding() + len(turns)
        if full:
            why = f"{world.rebuilding(full[0]) + begun[full[0]]} rebuilds run at {full[0]}, as many as may at a node"
        elif 0 < limits.per_cluster <= everywhere:
            why = f"{everywhere} rebuilds run, as many as may in the cluster"
        else:
            turns.append(leg)
            begun.update(nodes)
            continue
        why = f"leg {leg.id} on {leg.node} waits for its turn to be rebuilt: {why}"
    return turns, why


def _ended(q: Quiescence) -> float:
    """When a quiescence was over; 0: it is not."""
    if q.status.phase not in quiesce.OVER:
        return 0.0
    return next((parse(e.at) or 0.0 for e in reversed(q.status.timeline) if e.phase == q.status.phase), 0.0)


def _surplus(look: Outlook, good: list[Leg], copies: int) -> list[Leg]:
    """Legs beyond the copies asked for: first those that are not in sync, then the latest."""
    too_many = max(len(look.kept) - copies, 0)
    order = [leg for leg in look.kept if leg not in good] + list(reversed(good))
    return order[:too_many]


def _why(volume: VirtualVolume, losses: list[v.Loss], retire: list[Leg], adopt: list[Leg], rejoin: list[Leg]) -> str:
    said = []
    if losses:
        said.append(losses[0].why)
    elif retire:
        said.append(f"leg {', '.join(leg.id for leg in retire)} leaves")
    if adopt:
        said.append(f"spare {', '.join(f'{leg.id} on {leg.node}' for leg in adopt)} is ready")
    if rejoin:
        said.append(f"leg {', '.join(f'{leg.id} on {leg.node}' for leg in rejoin)} is back")
    return f"{volume.metadata.name}: {'; '.join(said)}"
