"""Looks that nobody asks for (decision 25): at what the kernel tells nobody, and at volumes that wait."""

from __future__ import annotations

from collections import defaultdict

from millpond_core import names
from millpond_node.host import Ports
from millpond_node.look import Looker
from millpond_node.volumes import Volumes

_RESTS = 9.0
"""Times as long as a look at everything took there is no other: the more volumes a node has, the longer it takes.
It is for what others do here; the kernel tells of a lost path and of an array that changes.
"""

_WAITING_AT_ONCE = 16
"""So many volumes that wait for something are looked at each second, of perhaps hundreds."""


class Polls:
    """Asks for volumes (``Volumes.work``) of which something is not as it was when it was last looked for."""

    def __init__(self, ports: Ports, looker: Looker, volumes: Volumes) -> None:
        self._ports, self._looker, self._volumes = ports, looker, volumes
        self._shapes: dict[str, object] = {}
        """What stood here of each volume."""
        self._states: dict[str, set[tuple[str, str]]] = {}
        """Each volume's connections with their states."""
        self._turn = 0
        """How many of those that wait were asked for so far."""
        self._rests_until = float("-inf")

    @property
    def rested(self) -> bool:
        """Whether it is time to look at everything again."""
        return self._ports.clock.boottime() >= self._rests_until

    async def everything(self) -> None:
        """Look at the whole kernel; ask for every volume whose part of it has changed. Then rest."""
        began, self._rests_until = self._ports.clock.boottime(), float("inf")
        try:
            look = await self._looker.look()
            seen = {name: look.of(known.volume.spec.uuid).shape() for name, known in self._volumes.volumes.items()}
            for name, shape in seen.items():
                if name not in self._shapes or shape != self._shapes[name]:
                    self._volumes.work.ask(name)
            self._shapes = seen
        finally:
            now = self._ports.clock.boottime()
            self._rests_until = now + _RESTS * (now - began)

    async def connections(self) -> None:
        """Ask for every volume with a connection whose state has changed, which the kernel tells nobody."""
        states: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for nqn, state in (await self._ports.nvme.states()).items():
            if leg := names.parse_nqn(nqn):
                states[leg[0]].add((nqn, state))
        seen = {name: states[known.volume.spec.uuid] for name, known in self._volumes.volumes.items()}
        for name, now in seen.items():
            if now != self._states.get(name, set()):
                self._volumes.work.ask(name)
        self._states = seen

    def some_that_wait(self) -> None:
        """Ask for some of the volumes that wait, in turn: most of what they wait for is told, or has its time."""
        waiting = [name for name, known in self._volumes.volumes.items() if known.waits]
        some = min(len(waiting), _WAITING_AT_ONCE)
        for at in range(self._turn, self._turn + some):
            self._volumes.work.ask(waiting[at % len(waiting)])
        self._turn += some
