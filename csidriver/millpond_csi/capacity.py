"""How large a volume could be: the allocator's own judgement, asked the other way round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from millpond_core.allocator import Need, Space, largest, topology_value
from millpond_core.master.world import Health, World
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.ports import Kube
from millpond_core.units import UNIT_BYTES
from millpond_csi.parameters import VolumeClass
from millpond_csi.sizes import MAXIMUM_BYTES

FRESH_SECONDS = 10.0
"""The provisioner asks once for each class and node, all at the same time: one look serves them all."""


class Spaces:
    """Free space as the allocator sees it, read anew when the last look is older than ``FRESH_SECONDS``."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._lock = asyncio.Lock()
        self._seen: Sequence[Space] = ()
        self._until = 0.0

    async def look(self) -> Sequence[Space]:
        """All devices, fit or not."""
        async with self._lock:
            if time.monotonic() >= self._until:
                nodes, devices, volumes = await asyncio.gather(
                    self._kube.list(StorageNode), self._kube.list(StorageDevice), self._kube.list(VirtualVolume)
                )
                self._seen = spaces(nodes, devices, volumes)
                self._until = time.monotonic() + FRESH_SECONDS
            return self._seen


def spaces(
    nodes: Iterable[StorageNode], devices: Iterable[StorageDevice], volumes: Iterable[VirtualVolume]
) -> Sequence[Space]:
    """Devices with their free runs; a node's health is the master's judgement, as its status has it."""
    nodes = list(nodes)
    world = World((*nodes, *devices, *volumes))
    world.health = {node.metadata.name: _health(node) for node in nodes}
    return world.spaces()


def largest_volume(spaces: Sequence[Space], asked: VolumeClass, node: str = "") -> int:
    """Bytes of the largest volume of this class that could be placed now; 0: none.

    ``node``, when named and the class wants pods on leg nodes only, must get one of the legs.
    """
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
    phase = node.status.phase
    if phase == "Failed":
        return Health("Failed")
    return Health("StateManagerDown") if phase == "StateManagerDown" else Health()
