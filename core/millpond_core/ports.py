"""The ports: what decisions need from the world. Adapters implement them, ``testing`` has doubles in memory.

Every call has a deadline of its own inside the adapter and raises a ``MillpondError`` with a sentence for people;
``DeadlineExceeded`` means that the outcome is unknown. Sectors are 512 bytes, offsets and sizes are named with their
unit. Calls are idempotent where their docstring says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from millpond_core.model.meta import Wire
from millpond_core.model.storagedevice import DiskWarning
from millpond_core.observed import (
    Array,
    BlockDisk,
    Contents,
    Controller,
    DmDevice,
    Export,
    Label,
    Mount,
    Usage,
)

Kind = TypeVar("Kind", bound=Wire)
Answer = TypeVar("Answer")


class Clock(Protocol):
    """Time, as a parameter of whoever acts."""

    def now(self) -> float:
        """Seconds since the epoch, for what is written into objects."""
        ...

    def boottime(self) -> float:
        """CLOCK_BOOTTIME in seconds, for deadlines: goes on while the machine sleeps, never jumps."""
        ...


class Dm(Protocol):
    """device-mapper, for devices whose name starts with ``names.DM_PREFIX`` only."""

    async def list(self, volume: str = "") -> dict[str, DmDevice]:
        """All Millpond devices by name, or those of one volume (spec.uuid), the gates with their status."""
        ...

    async def create(self, name: str, uuid: str, table: str) -> DmDevice:
        """Create and resume; an existing device of that name with the same table is returned as it is."""
        ...

    async def swap(self, name: str, table: str, *, drain_seconds: float = 15.0) -> None:
        """Replace the table in one go, ``--noflush``: load, suspend, resume. Held I/O stays held.

        New I/O waits meanwhile. DeadlineExceeded, and the table is the old one: I/O in flight did not end in time.
        """
        ...

    async def suspend(self, name: str) -> None:
        """Drain and suspend (``--nolockfs``). Idempotent. Waits for I/O in flight, until the adapter's deadline."""
        ...

    async def resume(self, name: str) -> None:
        """Idempotent."""
        ...

    async def remove(self, name: str) -> None:
        """Idempotent. Busy names the open count."""
        ...

    async def gate_hold(self, name: str) -> None:
        """``queue_if_no_path``. Idempotent."""
        ...

    async def gate_fail(self, name: str) -> None:
        """``fail_if_no_path``: held I/O is answered with errors. Idempotent."""
        ...

    async def gate_reinstate(self, name: str, major_minor: str) -> None:
        """Take the gate's path up again: held I/O goes on."""
        ...

    async def gate_fail_path(self, name: str, major_minor: str) -> None:
        """Take the gate's path down without waiting for an error."""
        ...


class Md(Protocol):
    """md raid1 with metadata ``external:millpond``, driven through sysfs."""

    async def get(self, name: str) -> Array | None: ...

    async def list(self) -> dict[str, Array]:
        """All arrays with our metadata, by name."""
        ...

    async def assemble(
        self,
        name: str,
        *,
        raid_disks: int,
        component_sectors: int,
        members: Sequence[tuple[int, str, bool]],
        dirty_chunks: Sequence[tuple[int, int]] = (),
    ) -> Array:
        """Assemble from legs that are all in sync: ``members`` are (slot, major:minor, write_mostly).

        Data starts ``units.BITMAP_BYTES`` into each leg; the write-intent bitmap lies before it. ``dirty_chunks``
        (first, last) are set in the bitmap before anything is added, so that a leg taken back with ``delta`` gets
        them. Never pass a leg that is not in sync: add it afterwards.
        """
        ...

    async def add(
        self,
        name: str,
        slot: int,
        major_minor: str,
        *,
        delta: bool,
        write_mostly: bool,
        dirty_chunks: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Take a leg in and start its rebuild: whole, or by the bitmap when ``delta``. Grows raid_disks if needed.

        ``dirty_chunks`` are set in the array's bitmap (``bitmap_set_bits``) before the leg is added: what the returning
        leg's own bitmap calls dirty may have been lost with its cache. A member that an interrupted call left half
        added (no slot, not faulty) is removed first.
        """
        ...

    async def fail(self, name: str, major_minor: str) -> None:
        """Mark a member faulty. New writes wait for ``acknowledge_failure``. Idempotent."""
        ...

    async def acknowledge_failure(self, name: str, major_minor: str) -> None:
        """After the record: ``-blocked``, ``active``, and remove the member once its slot is empty. Idempotent."""
        ...

    async def acknowledge(self, name: str) -> bool:
        """Answer a ``write-pending`` that needs no record.

        False, and nothing done, while a failure waits for its record: a member is faulty and still blocked.
        """
        ...

    async def freeze(self, name: str) -> None:
        """``sync_action=frozen``: halts a rebuild or scrub; I/O goes on. Answers its write-pending. Idempotent."""
        ...

    async def unfreeze(self, name: str) -> None:
        """``sync_action=idle``: long operations go on. Idempotent."""
        ...

    async def set_speed(self, name: str, max_kib: int, *, background: bool = False) -> None:
        """Ceiling of what is copied or compared, in KiB/s; 0: the system's. ``background``: I/O goes first."""
        ...

    async def check(self, name: str, first: int, last: int) -> None:
        """Begin to compare all members between two sectors of the array; returns at once.

        ``Array.mismatch_count`` counts from 0. At ``last`` it waits for ``end_check``; at the end of the array it ends
        by itself, then ``sync_max_sectors`` is None. Interrupted, by a failure or ``freeze``, it has
        ``sync_min_sectors`` where it would go on. Busy: something else is copied or compared.
        """
        ...

    async def end_check(self, name: str) -> None:
        """End it, and forget where it was to end. Answers its write-pending. Idempotent."""
        ...

    async def dirty_chunks(self, leg_device: str) -> Sequence[tuple[int, int]]:
        """(first, last) runs of chunks that the bitmap on a leg's block device calls dirty. For stopped arrays."""
        ...

    async def grow(self, name: str, component_sectors: int) -> None:
        """Use more of each member. What is new must be equal on all of them, as zeroes are: it is not compared.

        For an array without reads and writes in flight, which would keep everybody from its attributes. What it copies
        or compares is halted for as long. Idempotent. Invalid: the bitmap's chunk would change, or a member is too
        small.
        """
        ...

    async def stop(self, name: str) -> None:
        """Write ``clear`` alone (kernel-facts 17). Idempotent. Busy when it is open."""
        ...

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` when array_state, sync_action or degraded change; returns what ends the watch."""
        ...


class Pods(Protocol):
    """The processes of the pods on this node."""

    async def kill(self, major_minor: str) -> Sequence[str]:
        """SIGKILL to every process of every pod that a block device has been given to, mounted or raw; their uids.

        When this returns the signal is pending: none of these processes will run another instruction of its own,
        also those that sleep in the kernel until their I/O is answered.

        NotFound: a pod has it whose processes cannot be told from others (no cgroup v2 of its own); none was killed.
        """
        ...


class NvmeHost(Protocol):
    """The host side of NVMe/TCP."""

    async def list(self, volume: str = "") -> dict[str, Controller]:
        """Our controllers by subsystem NQN, or those of one volume (spec.uuid)."""
        ...

    async def states(self) -> dict[str, str]:
        """The state of each of them, by subsystem NQN: a fraction of what ``list`` costs."""
        ...

    async def connect(self, nqn: str, address: str, *, host_nqn: str, host_id: str, namespace_uuid: str) -> Controller:
        """Connect and wait for the namespace with that uuid. Idempotent for a live controller."""
        ...

    async def disconnect(self, nqn: str) -> None:
        """Idempotent."""
        ...


class Nvmet(Protocol):
    """The target side, through configfs."""

    async def list(self, volume: str = "") -> dict[str, Export]:
        """Our subsystems by NQN, or those of one volume (spec.uuid)."""
        ...

    async def connected(self, port: int) -> Sequence[str]:
        """IP addresses with a connection to what is exported at a TCP port, sorted; one that is silent goes within
        the keep-alive time.
        """
        ...

    async def export(
        self,
        nqn: str,
        device: str,
        *,
        namespace_uuid: str,
        serial: str,
        host_nqn: str,
        address: str,
        port: int,
    ) -> None:
        """Subsystem, host, namespace, and the port link last. Idempotent."""
        ...

    async def resize(self, nqn: str) -> None:
        """Tell hosts the size that the device has now. Idempotent."""
        ...

    async def unexport(self, nqn: str) -> None:
        """Unlink, wait until its controllers are gone, disable, remove. Idempotent."""
        ...


class Block(Protocol):
    """Whole disks."""

    async def disks(self) -> dict[str, BlockDisk]:
        """All whole disks that could hold legs, by kernel name; none of ours (dm, md, NVMe-oF)."""
        ...

    async def signatures(self, path: str) -> Sequence[str]:
        """What lies on it but a Millpond label, such as ``ext4``, ``gpt``, ``LVM2_member``; empty: nothing known."""
        ...

    async def erase(self, path: str) -> None:
        """Remove every known signature."""
        ...

    async def zero(self, path: str, start_bytes: int = 0) -> None:
        """Zero a block device (a leg) from some byte to its end, discarding with zeroes where the device can; flushed
        at the end.
        """
        ...

    async def flush(self, path: str) -> None: ...

    async def alive(self, path: str) -> bool:
        """Whether the device answers without an error: reads one sector, uncached.

        DeadlineExceeded: it has not answered yet, which says nothing.
        """
        ...

    async def warnings(self, path: str) -> Sequence[DiskWarning]:
        """What a disk says of its own health; empty: nothing, or it has no way to."""
        ...

    def watch(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        """Call ``changed(action, kernel name)`` for each block uevent; returns what ends the watch."""
        ...


class Labels(Protocol):
    """The label area of devices."""

    async def read(self, path: str) -> Label | None:
        """The newest valid slot; None: no label. Invalid when there is one but both slots are damaged."""
        ...

    async def write(self, path: str, label: Label) -> None:
        """Write the other slot and flush. ``label.sequence`` must be higher than what is there, or Conflict."""
        ...


class Mounts(Protocol):
    """Filesystems and mounts of this node, in the mount namespace that the kubelet sees. Paths are absolute."""

    async def table(self) -> Sequence[Mount]:
        """All mounts in the order in which they were made: of two with one target the later one is seen."""
        ...

    async def device(self, name: str, uuid: str) -> tuple[str, str] | None:
        """(device node, major:minor) of the dm device with this name and dm UUID; None: there is none.

        The node was checked to have that major:minor: numbers are reused.
        """
        ...

    async def contents(self, device: str) -> Contents:
        """What lies on a block device. Raises when it cannot be read: unreadable is not blank."""
        ...

    async def format(self, device: str, fs_type: str) -> None:
        """Make an ext4 or xfs; the tool itself refuses a device that is mounted or, for xfs, not blank."""
        ...

    async def check(self, device: str, fs_type: str) -> None:
        """Replay and repair what can be repaired without a person. IOFailed when that is not enough."""
        ...

    async def mount(self, device: str, target: str, fs_type: str, options: Sequence[str]) -> None:
        """Mount it there. Invalid: the filesystem does not take one of the options."""
        ...

    async def grow(self, major_minor: str, target: str, fs_type: str) -> None:
        """Let an ext4 or xfs fill its device, which is mounted writable at ``target``. One that does already is done.

        Safe to be cut off: what has been added by then stays.
        """
        ...

    async def bind(self, source: str, target: str, *, readonly: bool) -> None:
        """Show ``source``, a folder or a device node, at ``target`` too."""
        ...

    async def unmount(self, target: str) -> None:
        """Take the topmost mount away. Busy when it is in use."""
        ...

    async def make(self, path: str, *, folder: bool) -> None:
        """Make an empty folder, or file, with the folders above it. Idempotent. Invalid: something else is there."""
        ...

    async def remove(self, path: str) -> None:
        """Remove an empty folder or an empty file. Idempotent.

        Busy: something lies in the folder. Invalid: it is no file of ours, but one with content, a socket, a link.
        """
        ...

    async def usage(self, path: str) -> Usage: ...

    async def block_device(self, path: str) -> str | None:
        """major:minor of the block device node at ``path``; None: there is none."""
        ...

    async def size(self, major_minor: str) -> int:
        """Bytes of a block device."""
        ...


class Reference(NamedTuple):
    """An object of a kind that Millpond does not define, for Events about it."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


class Kube(Protocol):
    """The API server. Objects are typed by their kind's struct."""

    async def get(self, kind: type[Kind], name: str) -> Kind:
        """NotFound when there is none."""
        ...

    async def list(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> list[Kind]: ...

    def scan(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> AsyncIterator[Kind]:
        """What ``list`` returns, a page at a time: for whoever does not keep all of it."""
        ...

    def watch(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> AsyncIterator[tuple[str, Kind]]:
        """("SYNCED"|"ADDED"|"MODIFIED"|"DELETED", object), for ever.

        A list first, as ADDED events, then one SYNCED event (with an empty object); after every relist the same, with
        DELETED, after the ADDED ones, for what is gone. Of what is gone the object has its name and its uid, no more.
        Bounded silence: reconnects by itself.
        """
        ...

    async def create(self, obj: Kind) -> Kind:
        """Conflict when it exists."""
        ...

    async def apply_status(self, kind: type[Kind], name: str, status: Mapping[str, Any], *, manager: str) -> Kind:
        """Server-side apply of a partial status (already in wire form) under a field manager of one's own."""
        ...

    async def patch(
        self, kind: type[Kind], name: str, operations: Sequence[Mapping[str, Any]], *, status: bool = False
    ) -> Kind:
        """JSON Patch; a failed ``test`` raises Conflict."""
        ...

    async def merge(self, kind: type[Kind], name: str, patch: Mapping[str, Any], *, status: bool = False) -> Kind:
        """JSON merge patch."""
        ...

    async def delete(self, kind: type[Kind], name: str) -> None:
        """Idempotent."""
        ...

    async def event(self, obj: Wire | Reference, *, reason: str, message: str, warning: bool = False) -> None:
        """An Event about the object, deduplicated by the adapter."""
        ...

    async def renew_lease(self, name: str, holder: str, duration_seconds: int) -> None:
        """Take or renew a coordination Lease in Millpond's namespace. Conflict when someone else holds it."""
        ...

    async def raw(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        """One request for kinds that Millpond does not define (Nodes, Leases, VolumeAttachments …), as plain JSON."""
        ...

    async def read(self, path: str, answer: type[Answer]) -> Answer:
        """``raw("GET", path)``, and of the answer what this struct has: plain JSON of a thousand Leases is 5 MiB."""
        ...
