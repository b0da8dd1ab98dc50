"""What becomes of a volume's legs, step by step, told from two versions of its record.

Plans are made of these steps, and accounts of what was done: whoever watches a volume tells the same story of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from millpond_core.model import VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.virtualvolume import Leg

Event = Literal["Allocated", "Joined", "Copied", "Lost", "GivenUp", "Released"]

What = tuple[str, str, str, str, tuple[str, ...]]


class Step(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """One thing that becomes of one leg."""

    volume: str
    event: Event
    leg: str
    node: str
    devices: list[str]
    bytes: int = 0
    """Copied: a whole copy. A leg that is taken back gets less, only what it missed."""
    copies: int = 0
    """In sync and in reach afterwards."""

    @property
    def what(self) -> What:
        """What two accounts are compared by: volume, event, leg, node, devices."""
        return self.volume, self.event, self.leg, self.node, tuple(self.devices)


def steps(before: VirtualVolume, after: VirtualVolume) -> Iterator[Step]:
    """What has become of a volume's legs from one version to a later one, in the order of a leg's life."""
    was = {leg.id: leg for leg in before.status.mapping.legs}
    is_ = {leg.id: leg for leg in after.status.mapping.legs}
    spare_was = {leg.id: leg for leg in before.status.spares}
    spare_is = {leg.id: leg for leg in after.status.spares}
    known, there = {**spare_was, **was}, {**spare_is, **is_}

    def step(event: Event, leg: Leg, size: int = 0) -> Step:
        devices = list(dict.fromkeys(extent.device for extent in leg.extents))
        name = after.metadata.name
        return Step(volume=name, event=event, leg=leg.id, node=leg.node, devices=devices, bytes=size)

    yield from (step("Allocated", leg) for id_, leg in there.items() if id_ not in known)
    for id_, leg in is_.items():
        old = was.get(id_)
        if old is None or (old.state, leg.state) in (("Stale", "Rebuilding"), ("Stale", "InSync")):
            yield step("Joined", leg)
        if leg.state == "InSync" and (old is None or old.state != "InSync"):
            yield step("Copied", leg, after.status.mapped_bytes)
        if leg.state == "Stale" and old is not None and old.state != "Stale":
            yield step("Lost", leg)
    for id_, leg in known.items():
        if not leg.releasing and (id_ not in there or there[id_].releasing):
            yield step("GivenUp", leg)
        if id_ not in there:
            yield step("Released", leg)


def sentence(what: What) -> str:
    """One step for a person."""
    return f"{what[0]}: {predicate(what)}"


def predicate(what: What) -> str:
    """The same where it is clear which volume it is about."""
    _, event, leg, node, devices = what
    return _SAID[event].format(leg=leg, at=f"{node} ({', '.join(devices)})")


_SAID: dict[str, str] = {
    "Allocated": "spare {leg} on {at} is allocated",
    "Joined": "leg {leg} on {at} joins, to be copied",
    "Copied": "leg {leg} on {at} is copied and in sync",
    "Lost": "leg {leg} on {at} is lost",
    "GivenUp": "leg {leg} on {at} is given up",
    "Released": "leg {leg} on {at} is gone, its room free",
}
