"""One question for the operator to ask, whatever the object: what is the next step?"""

from __future__ import annotations

from millpond_core.master import device, node, quiescence, volume, volume_status
from millpond_core.master.steps import Act, Decision
from millpond_core.master.world import Object, World
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume


def decide(world: World, obj: Object, now: float) -> Decision:
    """The one next step for an object of ``world``; ``now`` in seconds since the epoch."""
    match obj:
        case VirtualVolume():
            return _volume(world, obj, now)
        case StorageDevice():
            return device.decide(world, obj, now)
        case StorageNode():
            return node.decide(world, obj, now)
        case Quiescence():
            return quiescence.decide(world, obj, now)


def _volume(world: World, obj: VirtualVolume, now: float) -> Decision:
    decision = volume.decide(world, obj, now)
    if isinstance(decision, Act):
        return decision
    return volume_status.decide(world, obj, decision, now) or decision
