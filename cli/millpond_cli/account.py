"""Pure: what was seen of a device that is being emptied, what is left to see, and where it was not as planned."""

from __future__ import annotations

from collections.abc import Callable

from millpond_cli.report import title
from millpond_core.master import foresight
from millpond_core.master.foresight import Plan
from millpond_core.master.moves import Step, predicate, steps
from millpond_core.master.world import World
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.units import format_bytes

STATES = {"Drain": "Drained", "Retire": "Retired", "Replace": "Deleted"}
"""What a device is in the end."""


class Outcome(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What was planned, what was done, and what is left."""

    plan: Plan
    steps: list[Step]
    bytes: int
    departures: list[str]
    """A sentence for each thing that was not as planned."""
    left: list[str]
    """Volumes with a leg that still lies on the device."""
    message: str
    status: int
    """The exit status."""

    def lines(self) -> list[str]:
        """For a person: how it ended, and where it was not as planned."""
        if not self.departures:
            return [self.message, "as planned"]
        return [self.message, "not as planned:", *(f"  {departure}" for departure in self.departures)]


class Story:
    """What was seen so far."""

    def __init__(self, world: World, plan: Plan, tell: Callable[[str], None]) -> None:
        self._plan, self._tell = plan, tell
        self._device: StorageDevice | None = world.devices[plan.device]
        self._uuid = world.devices[plan.device].status.observation.device_uuid
        self.volumes = {move.volume: world.volumes[move.volume] for move in plan.moves}
        """As last seen."""
        self._said = ""
        self.steps: list[Step] = []

    def see(self, event: str, obj: StorageDevice | VirtualVolume) -> None:
        name, gone = obj.metadata.name, event == "DELETED"
        if isinstance(obj, StorageDevice):
            self._device = None if gone else obj
            self._say(f"{name}: {obj.status.message}" if obj.status.message and not gone else "")
        elif gone:
            self.volumes.pop(name, None)
        elif name in self.volumes:  # else another of that name
            for step in steps(self.volumes[name], obj):
                self.steps.append(step)
                self._tell(f"{title(obj)}: {predicate(step.what)}")
            self.volumes[name] = obj
            if any(leg.state == "Rebuilding" for leg in obj.status.mapping.legs):
                self._say(f"{title(obj)}: {obj.status.message}")

    def _say(self, text: str) -> None:
        if text and text != self._said:
            self._said = text
            self._tell(text)

    def left(self) -> set[str]:
        """Volumes with a leg on the device; of one whose disk is gone nothing can be given back."""
        return {name for name, volume in self.volumes.items() if _lies(volume, self._uuid, self._alive())}

    def _alive(self) -> bool:
        return self._device is not None and self._device.status.observation.state == "Claimed"

    def emptied(self, may_stay: set[str]) -> bool:
        """Whether nothing more can leave: what stays may, or nothing does and there is no disk to say so."""
        left = self.left()
        if left:
            return left <= may_stay and self.as_planned()
        legs = (leg for volume in self.volumes.values() for leg in volume.status.mapping.legs)
        return not self._alive() and not any(leg.state == "Rebuilding" for leg in legs)

    def reached(self) -> bool:
        """Whether the device is what it was to become."""
        return (self._device.status.phase if self._device else "Deleted") == STATES[self._plan.deed]

    def copying(self) -> bool:
        """Whether a copy that was planned is still being made. A dead disk is given up before, and goes at once."""
        planned = {step.what[:3] for move in self._plan.moves for step in move.steps if step.event == "Copied"}
        return any(
            leg.state == "Rebuilding" and (name, "Copied", leg.id) in planned
            for name, volume in self.volumes.items()
            for leg in volume.status.mapping.legs
        )

    def stuck(self) -> set[str]:
        """Volumes of which the plan knew that they would stay."""
        return {move.volume for move in self._plan.moves if move.obstacle}

    def as_planned(self) -> bool:
        """Whether every step that was planned has been taken."""
        return {step.what for move in self._plan.moves for step in move.steps} <= {step.what for step in self.steps}

    def ended(self) -> str:
        """How it ended well."""
        if self.reached():
            state = STATES[self._plan.deed]
        elif left := sorted(self.left()):
            state = f"emptied but for {', '.join(left)}, as was accepted"
        else:
            state = f"not there, and nothing needs it any more: kubectl millpond replace {self._plan.device} deletes it"
        moved = sum(1 for step in self.steps if step.event == "GivenUp")
        copied = format_bytes(sum(step.bytes for step in self.steps))
        return f"{self._plan.device} is {state}: {moved} leg{'' if moved == 1 else 's'} given up, {copied} copied"

    def stays(self) -> str:
        """What is in the way of the rest."""
        left = self.left()
        why = "; ".join(f"{move.volume}: {move.obstacle}" for move in self._plan.moves if move.volume in left)
        return f"{self._plan.device} is as empty as it can be now; the operator goes on when this is no more: {why}"

    def outcome(self, status: int, message: str) -> Outcome:
        return Outcome(
            plan=self._plan,
            steps=self.steps,
            bytes=sum(step.bytes for step in self.steps),
            departures=foresight.departures(self._plan, self.steps),
            left=sorted(self.left()),
            message=message,
            status=status,
        )


def _lies(volume: VirtualVolume, uuid: str, alive: bool) -> bool:
    legs = (*volume.status.mapping.legs, *volume.status.spares)
    return any(e.device_uuid == uuid for leg in legs if alive or not leg.releasing for e in leg.extents)
