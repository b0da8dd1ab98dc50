"""What adapters see of a node's kernel: plain data, apart from the desired types in ``model``."""

from __future__ import annotations

import functools
from typing import Literal

import msgspec


class GateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A gate (dm-multipath with one path) from its table and its status."""

    holding: bool
    """True: queue_if_no_path; False: fail_if_no_path."""
    path_up: bool
    """Whether the one path is active."""
    queued: int = 0
    """Non-zero while I/O is queued because no path is up."""


class DmDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device-mapper device."""

    name: str
    uuid: str
    major_minor: str
    """``major:minor``; checked against the node before each use."""
    table: str
    """The live table as ``dmsetup table`` prints it, lines joined by newlines."""
    suspended: bool = False
    open_count: int = 0
    gate: GateStatus | None = None
    """Of a gate, where all devices were looked at."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One device of an array (``md/dev-*``)."""

    major_minor: str
    slot: int | None
    """Position in the array; None: not active."""
    flags: frozenset[str]
    """From ``state``: in_sync, faulty, blocked, write_mostly, spare …"""
    recovery_start: int | None
    """Sectors already rebuilt; None: all."""
    errors: int = 0


class Array(msgspec.Struct, frozen=True, kw_only=True):
    """One md array with external metadata (Documentation/admin-guide/md.rst)."""

    name: str
    device: str
    """``/dev/md_<name>``."""
    major_minor: str
    array_state: str
    """clear, inactive, active, clean, write-pending …"""
    raid_disks: int
    component_sectors: int
    degraded: int
    sync_action: str
    """idle, frozen, recover, resync, check, repair."""
    sync_done_sectors: int
    sync_total_sectors: int
    mismatch_count: int
    """Sectors that a check found to differ, since it began."""
    members: tuple[Member, ...]
    sync_min_sectors: int = 0
    """Where a check begins, or was interrupted."""
    sync_max_sectors: int | None = None
    """Where it waits for a word; None: it does not, or it came to the end of the array."""
    last_sync_action: str = "none"


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection leads to."""

    major_minor: str
    name: str
    """Kernel name, such as ``nvme7n1``."""
    uuid: str
    sectors: int


class Controller(msgspec.Struct, frozen=True, kw_only=True):
    """One NVMe-oF connection of this host."""

    name: str
    """``nvme7``."""
    nqn: str
    address: str
    """``ip:port``."""
    state: str
    """live, connecting, deleting …"""
    host_nqn: str = ""
    namespaces: tuple[Namespace, ...] = ()


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One nvmet subsystem of this node."""

    nqn: str
    device: str
    """Path of the backing block device."""
    namespace_uuid: str
    enabled: bool
    linked: bool
    """Whether a port offers it."""
    allowed_hosts: tuple[str, ...]
    controllers: int = 0
    """Live controllers of hosts, where the kernel shows them; 0 else."""


class BlockDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One whole disk of the node."""

    name: str
    """Kernel name, such as ``nvme0n1``."""
    path: str
    """Stable path where there is one, ``/dev/<name>`` else."""
    major_minor: str
    serial: str
    wwn: str
    model: str
    size_bytes: int
    diskseq: int = 0
    """The kernel's count of appearances (/sys/block/<name>/diskseq): unique within a boot."""
    links: tuple[str, ...] = ()
    """All paths under /dev/disk/by-id and by-path."""
    holders: tuple[str, ...] = ()
    """Why it is in use: mount points, dm/md holders, swap, an exclusive opener; empty: free."""


class Label(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The label area's content: the device's identity and the record of what lies on it."""

    cluster: str
    """UID of the cluster (kube-system namespace): no label of any cluster is ever erased by signature."""
    device_uuid: str
    device_name: str
    """Name of the StorageDevice."""
    sequence: int
    """Counts the writes; the slot with the higher one counts."""
    attach_count: int = 0
    boot_id: str = ""
    diskseq: int = 0
    """With boot_id: the appearance that ``attach_count`` was last raised for."""
    legs: tuple[LabelLeg, ...] = ()

    def of(self, volume: str) -> tuple[LabelLeg, ...]:
        """Those of a volume (spec.uuid)."""
        return self._by_volume.get(volume, ())

    @functools.cached_property
    def _by_volume(self) -> dict[str, tuple[LabelLeg, ...]]:
        """A label has hundreds of legs, and each step of each volume looks for its own."""
        found: dict[str, tuple[LabelLeg, ...]] = {}
        for leg in self.legs:
            found[leg.volume] = (*found.get(leg.volume, ()), leg)
        return found


class PeerLeg(msgspec.Struct, frozen=True, kw_only=True):
    """A leg of the mapping as a label of any of them knows it: who finds one knows which others to look for."""

    leg: str
    node: str
    state: Literal["InSync", "Rebuilding", "Stale", "Failed"]
    releasing: bool = False


class LabelLeg(msgspec.Struct, frozen=True, kw_only=True):
    """What a label says of one leg, and of the volume: enough to write its mapping anew."""

    volume: str
    """spec.uuid."""
    volume_name: str
    leg: str
    size_bytes: int
    """Usable bytes of the volume."""
    extents: tuple[tuple[int, int, int], ...]
    """(index in the leg's extent list, start unit, length in units) of those on this device."""
    epoch: int = 0
    generation: int = 0
    record_seq: int = 0
    state: Literal["InSync", "Rebuilding", "Stale", "Failed"] = "Rebuilding"
    zeroed: bool = False
    synced_epoch: int = 0
    """Highest epoch in which the leg node saw the leg recorded InSync: tells whether it was part of an array."""
    prepared_bytes: int = 0
    """Usable bytes of a volume for which the leg is zeroed, where that is not ``size_bytes``; 0: it is."""
    extent_count: int = 0
    """How many extents the leg has on all devices; 0: written by a version that did not note it."""
    stripes: int = 1
    stripe_bytes: int = 65536
    next_leg: int = 0
    """Legs ever allocated: an id is never used again."""
    peers: tuple[PeerLeg, ...] = ()
    """All legs of the mapping, this one too, as of ``generation`` and ``record_seq``."""

    @property
    def ready_bytes(self) -> int:
        """Usable bytes of a volume for which the leg is zeroed; 0: it is not zeroed yet."""
        return (self.prepared_bytes or self.size_bytes) if self.zeroed else 0


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""

    target: str
    """Where it is mounted."""
    root: str
    """What of the filesystem is mounted there: ``/`` or, for a bind mount, a path within it."""
    major_minor: str
    """Of the filesystem's device; ``0:…`` when it has none."""
    fs_type: str
    source: str
    options: frozenset[str] = frozenset()
    """Of this mount: ro, rw, nosuid …"""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on a block device, as far as it can be told."""

    kind: Literal["Blank", "Filesystem", "Other"]
    """Blank: no signature, and nothing but zeroes where a filesystem would have its own. Other: anything in doubt."""
    fs_type: str = ""
    detail: str = ""
    """What was found, for people."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """How full a mounted filesystem is, as statvfs(3) says."""

    total_bytes: int
    used_bytes: int
    available_bytes: int
    total_inodes: int
    used_inodes: int
    available_inodes: int
