"""device-mapper through ``dmsetup``.

Swapping a table is one ioctl: ``resume`` of a device with a table loaded suspends it, swaps and resumes in the kernel,
so that a caller killed in between leaves nothing suspended. Always ``--noflush`` (a gate's held I/O would else be
failed) and ``--nolockfs`` (freezing a filesystem can hang behind a stuck leg).

A gate is a dm-multipath of one path in bio mode. ``dmsetup status`` does not say whether it holds or how much: the
mode is read from its table, what waits in it from the block layer's count of I/O in flight.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from millpond_adapters import sysfs
from millpond_adapters.dm_reader import Reader, Seen
from millpond_adapters.run import run
from millpond_core import layout, names
from millpond_core.errors import Busy, CommandFailed, Conflict, Invalid, MillpondError, NotFound
from millpond_core.observed import DmDevice, GateStatus

SECONDS = 10.0
DRAIN_SECONDS = 15.0
_BUSY_SECONDS = 2.0  # a scanner that looked at a new device lets go of it within this
_FIELDS = "name,uuid,major,minor,open,suspended"


class DeviceMapper:
    """The port ``Dm``. ``system`` and ``device_nodes`` are the folders of sysfs and of device nodes."""

    def __init__(self, system: Path = Path("/sys"), device_nodes: Path = Path("/dev")) -> None:
        self._sys = system
        self._mapper = device_nodes / "mapper"
        self._reader = Reader(self._mapper / "control")

    async def list(self, volume: str = "") -> dict[str, DmDevice]:
        return {
            name: DmDevice(
                name=name,
                uuid=seen.uuid,
                major_minor=seen.major_minor,
                table=seen.lines,
                suspended=seen.suspended,
                open_count=seen.open_count,
                gate=self._gate(seen) if seen.status else None,
            )
            for name, seen in (await self._reader.read(names.DM_PREFIX + volume, with_status="multipath")).items()
        }

    async def get(self, name: str) -> DmDevice:
        """One device. NotFound when there is none of that name."""
        info, table = await asyncio.gather(self._dmsetup(*_INFO, _ours(name)), self._dmsetup("table", name))
        return parse_devices(info, "\n".join(f"{name}: {line}" for line in table.splitlines()))[name]

    async def create(self, name: str, uuid: str, table: str) -> DmDevice:
        """Raises Conflict when the name is taken by another table or uuid."""
        if " multipath " in table:
            self._refuse_timed_gates()
        try:
            await self._dmsetup("create", _ours(name), "--uuid", uuid, "--table", table)
        except MillpondError:
            device = await self._existing(name)
            if device is None:
                raise
            if device.uuid != uuid or not layout.same_table(device.table, table):
                raise Conflict(
                    f"{name} exists already as {device.table!r}, wanted {table!r}: remove it or swap its table"
                ) from None
        else:
            device = DmDevice(name=name, uuid=uuid, major_minor=await self._reader.number(name), table=table)
        await self._check_node(device)
        return device

    async def swap(self, name: str, table: str, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        await self._dmsetup("load", _ours(name), "--table", table)
        try:
            await self._dmsetup("resume", name, "--noflush", "--nolockfs", seconds=drain_seconds)
        except MillpondError:
            # Some tables are refused only now, with the device suspended already: it goes on with the one it had.
            await self._dmsetup("clear", name)
            await self._dmsetup("resume", name)
            raise

    async def suspend(self, name: str) -> None:
        await self._dmsetup("suspend", _ours(name), "--nolockfs", seconds=DRAIN_SECONDS)

    async def resume(self, name: str) -> None:
        await self._dmsetup("resume", _ours(name))

    async def remove(self, name: str) -> None:
        deadline = asyncio.get_running_loop().time() + _BUSY_SECONDS
        while True:
            try:
                return await self._remove(name)
            except Busy:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def gate_hold(self, name: str) -> None:
        await self._message(name, "queue_if_no_path")

    async def gate_fail(self, name: str) -> None:
        await self._message(name, "fail_if_no_path")

    async def gate_reinstate(self, name: str, major_minor: str) -> None:
        await self._message(name, f"reinstate_path {major_minor}")

    async def gate_fail_path(self, name: str, major_minor: str) -> None:
        await self._message(name, f"fail_path {major_minor}")

    async def _message(self, name: str, message: str) -> None:
        await self._dmsetup("message", _ours(name), "0", message)

    async def _existing(self, name: str) -> DmDevice | None:
        try:
            return await self.get(name)
        except NotFound:
            return None

    async def _remove(self, name: str) -> None:
        try:
            await self._dmsetup("remove", _ours(name))
        except NotFound:
            return
        except Busy as error:
            device = await self._existing(name)
            if device is not None:
                raise Busy(f"{name} cannot be removed: opened {device.open_count} times; close it first") from error

    def _gate(self, seen: Seen) -> GateStatus:
        path_up = parse_path_up(seen.name, seen.status)
        queued = 0
        if not path_up:
            counts = sysfs.peek(self._sys / "dev/block" / seen.major_minor / "inflight").split()
            queued = sum(int(count) for count in counts)
        return GateStatus(holding=layout.gate_holds(seen.lines), path_up=path_up, queued=queued)

    async def _check_node(self, device: DmDevice) -> None:
        """Numbers are reused: a node left by a device of old would lead to another one's data."""
        if sysfs.number_of(self._mapper / device.name) != device.major_minor:
            await self._dmsetup("mknodes", device.name)
            if sysfs.number_of(self._mapper / device.name) != device.major_minor:
                raise Conflict(
                    f"{self._mapper / device.name} is not the node of {device.major_minor}: is /dev the machine's own?"
                )

    def _refuse_timed_gates(self) -> None:
        seconds = sysfs.peek(self._sys / "module/dm_multipath/parameters/queue_if_no_path_timeout_secs", "0")
        if seconds != "0":
            raise Invalid(
                f"this kernel opens gates by itself after {seconds} s, so a leg could be lost before it is recorded: "
                "set the dm_multipath parameter queue_if_no_path_timeout_secs to 0"
            )

    async def _dmsetup(self, *arguments: str, seconds: float = SECONDS) -> str:
        try:
            return (await run("dmsetup", *arguments, seconds=seconds)).decode(errors="replace")
        except CommandFailed as error:
            if "does not exist" in error.stderr or "No such device or address" in error.stderr:
                raise NotFound(f"there is no device-mapper device {arguments[1]}") from error
            if "resource busy" in error.stderr:
                raise Busy(f"dmsetup {' '.join(arguments)} failed: device busy") from error
            raise


_INFO = ("info", "-c", "--noheadings", "--separator", "|", "-o", _FIELDS)


def parse_devices(info: str, table: str) -> dict[str, DmDevice]:
    """Our devices from ``dmsetup info -c`` (fields of ``_FIELDS``, by ``|``) and ``dmsetup table`` of all devices."""
    tables = lines_by_name(table)
    devices = {}
    for line in info.splitlines():
        fields = line.strip().split("|")
        if len(fields) != len(_FIELDS.split(",")) or not fields[0].startswith(names.DM_PREFIX):
            continue
        name, uuid, major, minor, opened, suspended = fields
        devices[name] = DmDevice(
            name=name,
            uuid=uuid,
            major_minor=f"{major}:{minor}",
            table="\n".join(tables.get(name, [])),
            suspended=suspended == "Suspended",
            open_count=int(opened),
        )
    return devices


def lines_by_name(output: str) -> dict[str, list[str]]:
    """The lines of ``dmsetup table`` or ``status`` of many devices (``NAME: LINE``), by the names that are ours."""
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        name, separator, rest = line.partition(": ")
        if separator and name.startswith(names.DM_PREFIX):
            found.setdefault(name, []).append(rest.strip())
    return found


def parse_path_up(name: str, status: str) -> bool:
    """Whether the one path of a gate is active, from ``dmsetup status`` (kernel: ``multipath_status``).

    ``0 SIZE multipath 2 Q I 0 1 G [A|E|D] 0 1 ARGS M:m [A|F] FAILURES …``
    """
    words = status.split()
    if len(words) < 3 or words[2] != "multipath":
        raise Invalid(f"{name} is no gate: its status is {status.strip()!r}")
    paths = [state for device, state in itertools.pairwise(words[3:]) if ":" in device]
    if len(paths) != 1 or paths[0] not in ("A", "F"):
        raise Invalid(f"{name} should have one path: its status is {status.strip()!r}")
    return paths[0] == "A"


def _ours(name: str) -> str:
    if not name.startswith(names.DM_PREFIX):
        raise Invalid(f"{name!r} is not one of Millpond's devices: their names begin with {names.DM_PREFIX}")
    return name
