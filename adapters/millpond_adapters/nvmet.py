"""The target side of NVMe/TCP, through nvmet's configfs.

Order matters. Up: subsystem, hosts, namespace, and the link from the port last, because a host that asks for what is
not complete yet is refused for good (DNR) and removes its controller. Down: the link first, which cuts the hosts; then
disabling the namespace waits for what is in flight; then the folders.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import uuid
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from millpond_adapters import sysfs
from millpond_adapters.run import run
from millpond_core import names
from millpond_core.errors import Busy, CommandFailed, Conflict, DeadlineExceeded, NotFound
from millpond_core.observed import Export

NSID = "1"
_SETTLE_SECONDS = 5.0
_CUT_SECONDS = 10.0
_ESTABLISHED = "01"


class NvmeTcpTarget:
    """The port ``Nvmet``. ``system`` and ``processes`` are the folders of sysfs and of procfs."""

    def __init__(self, system: Path = Path("/sys"), processes: Path = Path("/proc")) -> None:
        self._sys = system
        self._proc = processes
        self._root = system / "kernel/config/nvmet"
        self._ports = asyncio.Lock()

    async def list(self, volume: str = "") -> dict[str, Export]:
        prefix, linked = names.NQN_PREFIX + volume, self._linked()
        there = (nqn for nqn in sysfs.entries(self._root / "subsystems") if nqn.startswith(prefix))
        return {nqn: self._look(nqn, linked) for nqn in there}

    async def connected(self, port: int) -> Sequence[str]:
        # The kernel does not say which hosts a subsystem has; the sockets do. The target closes one whose host is
        # silent for longer than its keep-alive time.
        tables = (sysfs.lines(self._proc / "net" / name) for name in ("tcp", "tcp6"))
        return sorted({peer for table in tables for peer in peers(table, port)})

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
        subsystem = self._root / "subsystems" / nqn
        wanted = Export(
            nqn=nqn,
            device=device,
            namespace_uuid=namespace_uuid,
            enabled=True,
            linked=True,
            allowed_hosts=(host_nqn,),
        )
        seen = self._look(nqn, self._linked())
        if seen.enabled and (seen.device, seen.namespace_uuid) != (device, namespace_uuid):
            raise Conflict(f"{nqn} exports {seen.device} as {seen.namespace_uuid} already: take that back first")
        if seen.linked and not set(seen.allowed_hosts) <= {host_nqn}:
            raise Conflict(f"{nqn} is exported to {', '.join(seen.allowed_hosts)} already: take that back first")
        if not _same(seen, wanted):
            await self._make_subsystem(subsystem, serial)
            await self._make_namespace(subsystem / "namespaces" / NSID, seen.enabled, device, namespace_uuid)
            await self._allow_only(subsystem, host_nqn)
        async with self._ports:
            link = await self._make_port(address, port) / "subsystems" / nqn
            if not link.is_symlink():
                await run("ln", "-s", str(subsystem), str(link))

    async def resize(self, nqn: str) -> None:
        namespace = self._root / "subsystems" / nqn / "namespaces" / NSID
        if sysfs.peek(namespace / "enable") == "1":
            await sysfs.write(namespace / "revalidate_size", "1")

    async def unexport(self, nqn: str) -> None:
        subsystem = self._root / "subsystems" / nqn
        if not subsystem.is_dir():
            return
        async with self._ports:
            for port in self._linked().get(nqn, ()):
                await run("rm", str(port / "subsystems" / nqn), seconds=_CUT_SECONDS)
                if not sysfs.entries(port / "subsystems"):
                    await self._remove_folder(port)
        for nsid in sysfs.entries(subsystem / "namespaces"):
            await self._take_back(nqn, subsystem / "namespaces" / nsid)
        hosts = sysfs.entries(subsystem / "allowed_hosts")
        for host in hosts:
            await run("rm", str(subsystem / "allowed_hosts" / host))
        await self._remove_folder(subsystem)
        for host in hosts:
            await self._remove_folder(self._root / "hosts" / host, unless_used=True)

    def _look(self, nqn: str, linked: Container[str]) -> Export:
        subsystem = f"{self._root}/subsystems/{nqn}"
        namespace = f"{subsystem}/namespaces/{NSID}"
        return Export(
            nqn=nqn,
            device=sysfs.peek(f"{namespace}/device_path"),
            namespace_uuid=sysfs.peek(f"{namespace}/device_uuid"),
            enabled=sysfs.peek(f"{namespace}/enable") == "1",
            linked=nqn in linked,
            allowed_hosts=tuple(sysfs.entries(f"{subsystem}/allowed_hosts")),
            controllers=self._controllers(nqn),
        )

    def _controllers(self, nqn: str) -> int:
        """Live controllers, where the kernel tells (debugfs, since 6.11)."""
        entries = sysfs.entries(self._sys / "kernel/debug/nvmet" / nqn)
        return sum(1 for entry in entries if entry.startswith("ctrl"))

    def _linked(self) -> dict[str, tuple[Path, ...]]:
        """NQN → ports that it is offered at."""
        found: dict[str, tuple[Path, ...]] = {}
        for entry in sysfs.entries(self._root / "ports"):
            port = self._root / "ports" / entry
            for nqn in sysfs.entries(port / "subsystems"):
                found[nqn] = (*found.get(nqn, ()), port)
        return found

    async def _make_subsystem(self, subsystem: Path, serial: str) -> None:
        if not subsystem.is_dir():
            await run("mkdir", str(subsystem))
        if sysfs.peek(subsystem / "attr_serial") != serial:
            await sysfs.write_all(
                [
                    (subsystem / "attr_allow_any_host", "0"),
                    (subsystem / "attr_serial", serial),
                    (subsystem / "attr_model", "Millpond"),
                ]
            )

    async def _make_namespace(self, namespace: Path, enabled: bool, device: str, namespace_uuid: str) -> None:
        if enabled:
            return
        if not namespace.is_dir():
            await run("mkdir", str(namespace))
        await sysfs.write_all(
            [
                (namespace / "device_path", device),
                # Both identities from one: hosts join namespaces that look the same as two ways to one disk.
                (namespace / "device_uuid", namespace_uuid),
                (namespace / "device_nguid", str(uuid.UUID(namespace_uuid))),
                (namespace / "enable", "1"),
            ]
        )

    async def _allow_only(self, subsystem: Path, host_nqn: str) -> None:
        host, allowed = self._root / "hosts" / host_nqn, subsystem / "allowed_hosts"
        for other in sysfs.entries(allowed):
            if other != host_nqn:
                await run("rm", str(allowed / other))
        if not host.is_dir():
            await run("mkdir", "-p", str(host))
        if not (allowed / host_nqn).is_symlink():
            await run("ln", "-s", str(host), str(allowed / host_nqn))

    async def _make_port(self, address: str, port: int) -> Path:
        """The port that listens on ``address``, made when there is none: numbers mean nothing."""
        ports = self._root / "ports"
        wanted = {
            "addr_trtype": "tcp",
            "addr_adrfam": "ipv6" if ":" in address else "ipv4",
            "addr_trsvcid": str(port),
            "addr_traddr": address,  # last: a port without it is half made
        }
        taken = sysfs.entries(ports)
        for entry in taken:
            if all(sysfs.peek(ports / entry / name) == value for name, value in wanted.items()):
                return ports / entry
        # One that a killed caller left without an address, else the first number that is free.
        half_made = [entry for entry in taken if not sysfs.peek(ports / entry / "addr_traddr")]
        made = ports / next(iter(half_made), str(next(n for n in range(1, 65536) if str(n) not in taken)))
        if not half_made:
            await run("mkdir", str(made))
        await sysfs.write_all([(made / name, value) for name, value in wanted.items()])
        return made

    async def _take_back(self, nqn: str, namespace: Path) -> None:
        if sysfs.peek(namespace / "enable") == "1":
            await self._still(nqn, Path(sysfs.read(namespace / "device_path")))
            await sysfs.write(namespace / "enable", "0", seconds=_CUT_SECONDS)
        await self._remove_folder(namespace)

    async def _still(self, nqn: str, device: Path) -> None:
        """Wait until no host is connected and nothing is in flight, as far as the kernel tells.

        Disabling waits for the same, but uninterruptibly and with a lock that every connect on this node needs.
        """
        block = self._sys / "dev/block" / sysfs.number_of(device)
        if sysfs.peek(block / "dm/suspended") == "1":
            raise Busy(f"{device} is suspended: {nqn} cannot be taken back before it is resumed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SETTLE_SECONDS
        while self._controllers(nqn) or any(int(count) for count in sysfs.peek(block / "inflight").split()):
            if loop.time() > deadline:
                raise DeadlineExceeded(f"{nqn} is cut off, but I/O to {device} is still in flight: is it dead?")
            await asyncio.sleep(0.02)

    async def _remove_folder(self, folder: Path, *, unless_used: bool = False) -> None:
        try:
            await run("rmdir", str(folder))
        except CommandFailed as error:
            told = sysfs.explain(error, f"removing {folder}")
            used = isinstance(told, Busy) or "not empty" in error.stderr
            if isinstance(told, NotFound) or (used and unless_used):
                return
            raise told from error


def peers(table: Sequence[str], port: int) -> Iterator[str]:
    """Addresses at the other end of established connections to a local port, from ``/proc/net/tcp`` or ``tcp6``
    (Documentation/networking/proc_net_tcp.rst: words of 32 bits in the machine's own order, in hexadecimal digits).
    """
    for line in table[1:]:
        _, local, remote, state, *_ = line.split()
        if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            digits = remote.rpartition(":")[0]
            words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
            address = ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
            yield str(getattr(address, "ipv4_mapped", None) or address)


def _same(seen: Export, wanted: Export) -> bool:
    return (seen.device, seen.namespace_uuid, seen.enabled, seen.allowed_hosts) == (
        wanted.device,
        wanted.namespace_uuid,
        wanted.enabled,
        wanted.allowed_hosts,
    )
