"""Looking at the node's kernel: at what one volume has in it, or at everything, once for all who ask at the same time.

What a look at one volume costs hardly depends on how many others the node has; one at everything does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from millpond_core import names
from millpond_core.nodeplan.view import DeviceSeen, Kernel
from millpond_core.observed import Array, Controller, DmDevice, Export
from millpond_node.host import Ports

Found = TypeVar("Found")
_UUID_LENGTH = 36

FEW = 8
"""So many volumes at once are looked at one by one; with more, all are seen in one look."""


class Part(NamedTuple):
    """What one volume has in the kernel, by dm name or NQN."""

    dm: dict[str, DmDevice]
    array: Array | None
    controllers: dict[str, Controller]
    exports: dict[str, Export]

    def shape(self) -> object:
        """What is worth a look when it changes. How far a rebuild is is not; states of connections are polled apart."""
        gates = {name: dm.gate for name, dm in self.dm.items() if dm.gate}
        array = self.array
        return (
            {name: (dm.table, dm.suspended) for name, dm in self.dm.items()},
            {name: (gate.holding, gate.path_up, gate.queued > 0) for name, gate in gates.items()},
            array and (array.array_state, array.sync_action, array.degraded),
            array and [(member.major_minor, member.slot, member.flags) for member in array.members],
            {nqn: controller.namespaces for nqn, controller in self.controllers.items()},
            {nqn: (export.linked, export.enabled) for nqn, export in self.exports.items()},
        )


class Look:
    """What is ours in the kernel, at one time."""

    def __init__(
        self,
        dm: Mapping[str, DmDevice],
        arrays: Mapping[str, Array],
        controllers: Mapping[str, Controller],
        exports: Mapping[str, Export],
    ) -> None:
        self._dm = _by_volume(dm, names.DM_PREFIX)
        self._controllers = _by_volume(controllers, names.NQN_PREFIX)
        self._exports = _by_volume(exports, names.NQN_PREFIX)
        self._arrays = arrays

    def of(self, volume: str) -> Part:
        """``volume`` is spec.uuid."""
        return Part(
            dm=self._dm.get(volume, {}),
            array=self._arrays.get(names.array(volume)),
            controllers=self._controllers.get(volume, {}),
            exports=self._exports.get(volume, {}),
        )


def _by_volume(found: Mapping[str, Found], prefix: str) -> dict[str, dict[str, Found]]:
    """What has names that begin with ``prefix`` and the volume's uuid: hundreds of volumes have thousands."""
    parts: dict[str, dict[str, Found]] = {}
    start, end = len(prefix), len(prefix) + _UUID_LENGTH
    for name, each in found.items():
        parts.setdefault(name[start:end], {})[name] = each
    return parts


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
        part = await self._look_at(volume) if self._at_one < FEW else (await self.look()).of(volume)
        return Kernel(
            boot_id=self._boot_id,
            dm=part.dm,
            gates={name: seen.gate for name, seen in part.dm.items() if seen.gate},
            array=part.array,
            controllers=part.controllers,
            exports=part.exports,
            devices=devices,
        )

    async def _look_at(self, volume: str) -> Part:
        """Without other volumes."""
        ports = self._ports
        self._at_one += 1
        try:
            return Part(
                *await asyncio.gather(
                    ports.dm.list(volume),
                    ports.md.get(names.array(volume)),
                    ports.nvme.list(volume),
                    ports.nvmet.list(volume),
                )
            )
        finally:
            self._at_one -= 1
