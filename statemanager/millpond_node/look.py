"""Looking at the node's kernel: at what one volume has in it, or at everything, once for all who ask at the same time.

What a look at one volume costs hardly depends on how many others the node has; one at everything does.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from millpond_core import names
from millpond_core.nodeplan.view import DeviceSeen, Kernel
from millpond_core.observed import Array, Controller, DmDevice, Export
from millpond_node.host import Ports

FEW = 8
"""So many volumes at once are looked at one by one; with more, all are seen in one look."""


class Look(NamedTuple):
    """What is ours in the kernel, at one time."""

    dm: dict[str, DmDevice]
    arrays: dict[str, Array]
    controllers: dict[str, Controller]
    exports: dict[str, Export]

    def shapes(self) -> dict[str, set[object]]:
        """What is worth a look when it changes, by volume (spec.uuid) and, of the arrays, by the name of the array: not
        how far a rebuild is. In one pass, since hundreds of volumes have thousands of devices.
        """
        found: dict[str, set[object]] = defaultdict(set)
        for name, dm in self.dm.items():
            if ours := names.parse_dm(name):
                gate = dm.gate and (dm.gate.holding, dm.gate.path_up, dm.gate.queued > 0)
                found[ours[0]].add((name, dm.table, dm.suspended, gate))
        for name, array in self.arrays.items():
            members = tuple((member.major_minor, member.slot, member.flags) for member in array.members)
            found[name].add((array.array_state, array.sync_action, array.degraded, members))
        for nqn, controller in self.controllers.items():
            if leg := names.parse_nqn(nqn):
                found[leg[0]].add((nqn, controller.namespaces))
        for nqn, export in self.exports.items():
            if leg := names.parse_nqn(nqn):
                found[leg[0]].add((nqn, export.linked, export.enabled))
        return found


class Looker:
    """Takes looks. Whoever asks gets one that is begun after the asking."""

    def __init__(self, ports: Ports, boot_id: str) -> None:
        self._ports, self._boot_id = ports, boot_id
        self._next: asyncio.Task[Look] | None = None
        self._current: asyncio.Task[Look] | None = None
        self._at_one = 0
        """How many look at one volume just now."""

    async def look(self) -> Look:
        """Everything, as it is now."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._current))
        return await asyncio.shield(self._next)

    async def _after(self, previous: asyncio.Task[Look] | None) -> Look:
        if previous is not None and not previous.done():
            await asyncio.wait([previous])
        # From here on, whoever asks needs a later look than this one.
        self._current, self._next = self._next, None
        ports = self._ports
        return Look(*await asyncio.gather(ports.dm.list(), ports.md.list(), ports.nvme.list(), ports.nvmet.list()))

    async def kernel(self, volume: str, devices: Mapping[str, DeviceSeen]) -> Kernel:
        """The part that concerns one volume (``volume`` is spec.uuid), gates included, as it is now."""
        look = await (self._look_at(volume) if self._at_one < FEW else self.look())
        prefix = names.front(volume)
        dm = {name: seen for name, seen in look.dm.items() if name.startswith(prefix)}
        return Kernel(
            boot_id=self._boot_id,
            dm=dm,
            gates={name: seen.gate for name, seen in dm.items() if seen.gate},
            array=look.arrays.get(names.array(volume)),
            controllers=look.controllers,
            exports=look.exports,
            devices=devices,
        )

    async def _look_at(self, volume: str) -> Look:
        """Without other volumes."""
        ports, name = self._ports, names.array(volume)
        self._at_one += 1
        try:
            dm, array, controllers, exports = await asyncio.gather(
                ports.dm.list(volume), ports.md.get(name), ports.nvme.list(volume), ports.nvmet.list(volume)
            )
        finally:
            self._at_one -= 1
        return Look(dm, {name: array} if array else {}, controllers, exports)
