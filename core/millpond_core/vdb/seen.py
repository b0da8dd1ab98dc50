"""What one node has on its disks and in its kernel: what ``millpond-labels`` prints there, as JSON."""

from __future__ import annotations

import msgspec

from millpond_core import names
from millpond_core.observed import Label


class DiskRead(msgspec.Struct, frozen=True, kw_only=True):
    """A disk with a Millpond label, or one that could not be read."""

    path: str
    label: Label | None = None
    problem: str = ""
    """Why there is no label: damaged, or the disk does not answer."""


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One look at one node."""

    node: str
    disks: tuple[DiskRead, ...] = ()
    """Those without a label that can be read well are left out."""
    dm: dict[str, int] = {}
    """Millpond's device-mapper devices by name → how often each is open."""
    exports: tuple[str, ...] = ()
    """NQNs under which legs are exported."""
    problems: tuple[str, ...] = ()
    """What could not be looked at."""

    def opened(self, volume: str) -> int:
        """How often the front of a volume (spec.uuid) is open here: pods, mounts."""
        return self.dm.get(names.front(volume), 0)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A difference or a refusal: about what, what it is, and what to do."""

    about: str
    """As kubectl has it, such as ``vvol/pvc-1``; ``disk/n1/dev/sdb`` for a disk that has no name yet."""
    what: str
    todo: str

    def sentence(self) -> str:
        return f"{self.about}: {self.what}: {self.todo}"
