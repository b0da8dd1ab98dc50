"""QEMU's machine protocol: one short conversation per command, so that nothing has to be kept open.

Also runs inside a kernel-tier guest, where ``/dev/virtio-ports/millpond.qmp`` is the machine's own monitor.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.errors import LabError

GUEST_PORT = Path("/dev/virtio-ports/millpond.qmp")


class Monitor:
    """An open conversation with QEMU. Made by :func:`connect` (host) and :func:`own` (inside a guest)."""

    def __init__(self, read: Callable[[float], bytes], write: Callable[[bytes], object]) -> None:
        self._read = read
        self._write = write
        self._buffer = b""
        self._events: list[dict[str, Any]] = []

    def command(self, name: str, arguments: Mapping[str, Any] | None = None, *, seconds: float = 20) -> Any:
        """Send one command and return its result; LabError when QEMU refuses or does not answer in time."""
        message = json.dumps({"execute": name, "arguments": dict(arguments or {})})
        self._write(message.encode() + b"\n")
        deadline = time.monotonic() + seconds
        while True:
            answer = self._next(deadline, f"QEMU did not answer {name!r}")
            if "error" in answer:
                raise LabError(f"QEMU refused {name}: {answer['error'].get('desc', answer['error'])}")
            if "return" in answer:
                return answer["return"]
            self._events.append(answer)

    def wait_event(self, name: str, *, seconds: float, **data: Any) -> dict[str, Any]:
        """Wait for an event whose data contains ``data``, also one that came during an earlier command."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self._events:
                if event.get("event") == name and data.items() <= event.get("data", {}).items():
                    self._events.remove(event)
                    return event
            self._events.append(self._next(deadline, f"QEMU did not report {name} {data}"))

    def _next(self, deadline: float, complaint: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(complaint)
            self._buffer += self._read(left)
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def unplug(monitor: Monitor, device: str) -> None:
    """Pull a disk (``disk1``) out; returns when the guest has let go of it."""
    monitor.command("device_del", {"id": device})
    monitor.wait_event("DEVICE_DELETED", seconds=30, device=device)


def plug(monitor: Monitor, device: str, serial: str) -> None:
    """Put a pulled disk back on its port."""
    monitor.command("device_add", nvme_device(device, serial))


def warn(monitor: Monitor, device: str, bits: int) -> None:
    """From here on a disk says so of its health: the critical warning of NVMe's health log; 0: it is well."""
    where = {"path": f"/machine/peripheral/{device}", "property": "smart_critical_warning"}
    monitor.command("qom-set", {**where, "value": bits})


def nvme_device(device: str, serial: str) -> dict[str, str]:
    """QEMU's arguments for an NVMe disk on its port."""
    return {"driver": "nvme", "id": device, "bus": f"port-{device}", "drive": f"{device}-data", "serial": serial}


@contextmanager
def connect(path: Path, *, seconds: float = 10) -> Iterator[Monitor]:
    """A conversation over the monitor's UNIX socket; waits up to ``seconds`` while another one is using it."""
    folder = os.open(path.parent, os.O_PATH)  # the address of a UNIX socket is short, our paths may not be
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(seconds)
            try:
                link.connect(f"/proc/self/fd/{folder}/{path.name}")
            except OSError as error:
                what = f"no machine answers at {path} ({error})"
                raise LabError(what, next_step="is it running? lab status") from error

            def read(left: float) -> bytes:
                link.settimeout(left)
                try:
                    data = link.recv(65536)
                except TimeoutError:
                    return b""
                if not data:
                    raise LabError(f"the machine at {path} has ended")
                return data

            monitor = Monitor(read, link.sendall)
            monitor._next(time.monotonic() + seconds, f"the monitor at {path} is busy")  # the greeting
            monitor.command("qmp_capabilities", seconds=seconds)
            yield monitor
    finally:
        os.close(folder)


@contextmanager
def own() -> Iterator[Monitor]:
    """Inside a guest: a conversation with the QEMU that runs this very machine (to unplug its own disks)."""
    port = os.open(GUEST_PORT, os.O_RDWR)
    try:

        def read(left: float) -> bytes:
            ready, _, _ = select.select([port], [], [], left)
            return os.read(port, 65536) if ready else b""

        while read(0.05):  # leftovers of an earlier conversation, and the greeting
            pass
        monitor = Monitor(read, lambda data: os.write(port, data))
        try:
            monitor.command("qmp_capabilities", seconds=10)
        except LabError as error:
            if "Capabilities negotiation is already complete" not in str(error):
                raise
        yield monitor
    finally:
        os.close(port)
