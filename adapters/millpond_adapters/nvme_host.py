"""The host side of NVMe/TCP, through ``/dev/nvme-fabrics`` and sysfs; nvme-cli is not needed.

Each leg has a subsystem of its own, found by its NQN; its namespace is found by its uuid below that subsystem. With
native multipath (Debian's default) the block device belongs to the subsystem, without it to the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from millpond_adapters import sysfs
from millpond_core import names
from millpond_core.errors import CommandFailed, DeadlineExceeded, MillpondError, NotFound, Unavailable
from millpond_core.observed import Controller, Namespace

KEEP_ALIVE_SECONDS = 5
"""A silent loss is seen after 1.3 to 1.6 times this. 3 s would see it sooner, but a starved node's breath would do."""

RECONNECT_SECONDS = 1
FAST_FAIL_SECONDS = 2
"""I/O fails this long after the connection was lost: one attempt to reconnect, then the gate is to hold, not we."""

LOSS_SECONDS = 60
"""The controller goes after this; the state manager connects anew. For ever would hang the node's shutdown."""

MAX_QUEUES = 4
"""Connections, each with its memory on both sides, for each leg: a node has hundreds of legs."""

_CONNECT_SECONDS = 10.0
_APPEAR_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.5
_GO_SECONDS = 10.0
_NAMESPACE = re.compile(r"nvme\d+n\d+")
_ADDRESS = re.compile(r"(traddr|trsvcid)=([^,]+)")
_UNREACHABLE = (
    "Connection refused",
    "Connection timed out",
    "Connection reset by peer",
    "No route to host",
    "Network is unreachable",
)


class NvmeTcpHost:
    """The port ``NvmeHost``. ``system`` and ``device_nodes`` are the folders of sysfs and of device nodes."""

    def __init__(self, system: Path = Path("/sys"), device_nodes: Path = Path("/dev")) -> None:
        self._sys = system
        self._fabrics = device_nodes / "nvme-fabrics"

    async def list(self, volume: str = "") -> dict[str, Controller]:
        return self._seen(names.NQN_PREFIX + volume)

    async def states(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for at, nqn in self._named(names.NQN_PREFIX):
            state = sysfs.peek(f"{at}/state")
            if state and found.get(nqn) != "live":
                found[nqn] = state
        return found

    async def connect(self, nqn: str, address: str, *, host_nqn: str, host_id: str, namespace_uuid: str) -> Controller:
        """Raises Unavailable when the leg node cannot be reached or refuses: it does not export the leg (yet)."""
        present = self._seen(nqn).get(nqn)
        if present is not None and (present.address != address or present.state in ("dead", "deleting")):
            await self.disconnect(nqn)
            present = None
        if present is None:
            await self._write_connect(nqn, address, host_nqn, host_id)
        return await self._appear(nqn, namespace_uuid)

    async def disconnect(self, nqn: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GO_SECONDS
        while True:
            left = [controller for controller in self._controllers(nqn) if controller.nqn == nqn]
            for controller in left:
                if not controller.state.startswith("deleting"):
                    await self._delete(controller)
            if not left:
                return
            if loop.time() > deadline:
                raise DeadlineExceeded(
                    f"the connection {left[0].name} to {nqn} is {left[0].state} and does not go away"
                )
            await asyncio.sleep(0.05)

    async def _delete(self, controller: Controller) -> None:
        try:
            await sysfs.write(
                self._sys / "class/nvme" / controller.name / "delete_controller", "1", seconds=_GO_SECONDS
            )
        except (NotFound, CommandFailed) as error:
            if (self._sys / "class/nvme" / controller.name).exists() and isinstance(error, CommandFailed):
                raise

    async def _write_connect(self, nqn: str, address: str, host_nqn: str, host_id: str) -> None:
        ip, _, port = address.rpartition(":")
        queues = min(MAX_QUEUES, os.cpu_count() or 1)
        options = (
            f"transport=tcp,traddr={ip.strip('[]')},trsvcid={port},nqn={nqn},hostnqn={host_nqn},hostid={host_id},"
            f"keep_alive_tmo={KEEP_ALIVE_SECONDS},reconnect_delay={RECONNECT_SECONDS},"
            f"fast_io_fail_tmo={FAST_FAIL_SECONDS},ctrl_loss_tmo={LOSS_SECONDS},nr_io_queues={queues}"
        )
        try:
            await sysfs.write(self._fabrics, options, seconds=_CONNECT_SECONDS)
        except CommandFailed as error:
            if "Operation already in progress" in error.stderr:
                return  # somebody was faster; it has to appear all the same
            why = "cannot be reached" if error.stderr.strip() in _UNREACHABLE else "refuses"
            raise Unavailable(f"{address} {why} {nqn}: {error.stderr.strip()}") from error
        except NotFound as error:
            raise Unavailable("this kernel cannot connect to NVMe/TCP: load the module nvme_tcp") from error

    async def _appear(self, nqn: str, namespace_uuid: str) -> Controller:
        loop = asyncio.get_running_loop()
        deadline, look = loop.time() + _APPEAR_SECONDS, loop.time() + _LOOK_AGAIN_SECONDS
        while True:
            controller = self._seen(nqn).get(nqn)
            if controller is None:
                raise Unavailable(f"the connection to {nqn} was made and is gone already: its node took the leg back")
            if controller.state == "live" and namespace_uuid in {found.uuid for found in controller.namespaces}:
                return controller
            if controller.state == "live" and loop.time() > look:
                look = loop.time() + _LOOK_AGAIN_SECONDS
                await self._rescan(controller)
            if loop.time() > deadline:
                seen = ", ".join(found.uuid for found in controller.namespaces) or "none"
                raise Unavailable(
                    f"{nqn} is connected as {controller.name} ({controller.state}), but namespace {namespace_uuid} "
                    f"did not appear; there: {seen}"
                )
            await asyncio.sleep(0.02)

    async def _rescan(self, controller: Controller) -> None:
        """Have the kernel look for namespaces: one whose identity has changed it drops, and takes the new one only when
        it looks again (nvme_scan_ns in drivers/nvme/host/core.c).
        """
        with contextlib.suppress(NotFound):
            await sysfs.write(self._sys / "class/nvme" / controller.name / "rescan_controller", "1")

    def _seen(self, prefix: str) -> dict[str, Controller]:
        """By NQN, which starts with ``prefix``."""
        found: dict[str, Controller] = {}
        for controller in self._controllers(prefix):
            # of two to one subsystem, one that is going and its successor, the live one counts
            if controller.nqn not in found or controller.state == "live":
                found[controller.nqn] = controller
        return found

    def _controllers(self, prefix: str) -> Iterator[Controller]:
        named = list(self._named(prefix))
        heads = self._heads() if named else {}
        for at, nqn in named:
            name = at.rpartition("/")[2]
            heads_of_it = (head for head in heads.get(nqn, ()) if os.path.lexists(f"{head}/{name}"))
            try:
                yield Controller(
                    name=name,
                    nqn=nqn,
                    address=parse_address(sysfs.read(f"{at}/address")),
                    state=sysfs.read(f"{at}/state"),
                    host_nqn=sysfs.peek(f"{at}/hostnqn"),
                    namespaces=tuple(_namespaces(*heads_of_it, at)),
                )
            except MillpondError:
                continue  # gone while we looked

    def _named(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Folder and NQN of each controller whose NQN starts with ``prefix``."""
        folder = f"{self._sys}/class/nvme"
        for name in sysfs.entries(folder):
            nqn = sysfs.peek(f"{folder}/{name}/subsysnqn")
            if nqn.startswith(prefix):
                yield f"{folder}/{name}", nqn

    def _heads(self) -> dict[str, tuple[str, ...]]:
        """NQN → folders of its subsystem, which with native multipath has the namespaces."""
        folder = self._sys / "class/nvme-subsystem"
        heads: dict[str, tuple[str, ...]] = {}
        for entry in sysfs.entries(folder):
            nqn = sysfs.peek(f"{folder}/{entry}/subsysnqn")
            heads[nqn] = (*heads.get(nqn, ()), f"{folder}/{entry}")
        return heads


def _namespaces(*folders: str) -> Iterator[Namespace]:
    """Each namespace in some folders."""
    for folder in folders:
        for entry in sysfs.entries(folder):
            if _NAMESPACE.fullmatch(entry):
                number, uuid = sysfs.peek(f"{folder}/{entry}/dev"), sysfs.peek(f"{folder}/{entry}/uuid")
                if number and uuid:
                    sectors = int(sysfs.peek(f"{folder}/{entry}/size", "0"))
                    yield Namespace(major_minor=number, name=entry, uuid=uuid, sectors=sectors)


def parse_address(text: str) -> str:
    """``ip:port`` (``[ip]:port`` of IPv6) from a controller's ``address``: ``traddr=…,trsvcid=…[,src_addr=…]``."""
    found = dict(_ADDRESS.findall(text))
    ip = found.get("traddr", "")
    return f"[{ip}]:{found.get('trsvcid', '')}" if ":" in ip else f"{ip}:{found.get('trsvcid', '')}"
