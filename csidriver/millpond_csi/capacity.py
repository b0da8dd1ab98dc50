"""How large a volume could be: the allocator's own judgement, asked the other way round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from millpond_core.allocator import Need, largest, topology_value
from millpond_core.master.world import Health, Object, World
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.units import UNIT_BYTES
from millpond_csi.parameters import VolumeClass
from millpond_csi.sizes import MAXIMUM_BYTES


def largest_volume(
    devices: Iterable[StorageDevice],
    nodes: Iterable[StorageNode],
    volumes: Iterable[VirtualVolume],
    asked: VolumeClass,
    node: str = "",
) -> int:
    """Bytes of the largest volume of this class that could be placed now; 0: none.

    ``node``, when named and the class wants pods on leg nodes only, must get one of the legs.
    """
    nodes = list(nodes)
    world = World(cast(Iterable[Object], (*nodes, *devices, *volumes)))
    world.health = {each.metadata.name: _health(each) for each in nodes}
    spaces = world.spaces()
    layout, placement = asked.layout, asked.placement
    need = Need(
        units=0,
        stripes=layout.stripes,
        pool=placement.pool,
        selector=placement.node_selector,
        topology=placement.spread_topology,
    )
    if node and asked.leg_nodes_only:
        here = [space for space in spaces if space.node == node]
        units = largest(here, need)
        if units and layout.copies > 1:
            value = topology_value(here[0], need.topology)
            taken = frozenset() if value is None else frozenset({value})
            elsewhere = replace(need, taken_nodes=frozenset({node}), taken_values=taken)
            units = min(units, largest(spaces, elsewhere, layout.copies - 1))
    else:
        units = largest(spaces, need, layout.copies)
    # A leg's bitmap takes part of a unit, so the whole unit is lost to data.
    return min(max(0, units * layout.stripes - 1) * UNIT_BYTES, MAXIMUM_BYTES)


def _health(node: StorageNode) -> Health:
    """The master's judgement, as it stands in the status."""
    phase = node.status.phase
    if phase == "Failed":
        return Health("Failed")
    return Health("StateManagerDown") if phase == "StateManagerDown" else Health()
