"""Services on a unix socket.

The handlers are made from the descriptor: a method that the service object lacks is answered with UNIMPLEMENTED by
gRPC itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from millpond_csi.interceptors import UNLOCKED, UNREADABLE, VolumeLocks, on_the_wire

GUARD_SECONDS = 5.0
"""Between two looks whether the sockets are still there."""

log = logging.getLogger("millpond.csi")

UNTAKEN_SECONDS = 600
"""For so long a call may wait for a driver that is busy. gRPC itself cancels it after 30 s, and so fails on a starved
node what it was about to begin; its callers pause then. They have deadlines of their own, of two minutes."""

_OPTIONS = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.server_max_unrequested_time_in_server", UNTAKEN_SECONDS),
)


def snake_case(name: str) -> str:
    """``NodeStageVolume`` → ``node_stage_volume``: what the method is called in Python."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def reader(kind: Any) -> Callable[[bytes], Any]:
    """How a request of ``kind`` is read. gRPC itself would call what is none an error of the server."""

    def read(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return UNREADABLE

    return read


def handlers(descriptor: Any, service: object, locks: VolumeLocks) -> Any:
    """gRPC's generic handler for ``service``, which has a method for each call that it serves."""
    methods = {}
    for method in descriptor.methods:
        served = getattr(service, snake_case(method.name), None)
        if served is None:
            continue
        if method.name not in UNLOCKED:
            served = locks.wrap(method.name, served)
        methods[method.name] = grpc.unary_unary_rpc_method_handler(
            on_the_wire(method.name, served),
            request_deserializer=reader(message_factory.GetMessageClass(method.input_type)),
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(descriptor.full_name, methods)


class Server:
    """Some services on one socket, from ``start`` to ``stop``."""

    def __init__(self, socket: Path, services: Iterable[tuple[Any, object]]) -> None:
        self.socket = socket
        self._services = tuple(services)
        self._locks = VolumeLocks()
        self._server: Any = None
        self._inode = 0

    async def start(self) -> None:
        """Bind and serve, to our own user alone: whoever can connect can have any volume deleted.

        A socket left behind by a process before us is replaced. Raises OSError.
        """
        self.socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(
            tuple(handlers(descriptor, service, self._locks) for descriptor, service in self._services)
        )
        before = os.umask(0o177)  # not chmod: there would be a moment between
        try:
            self._server.add_insecure_port(f"unix:{self.socket}")
        finally:
            os.umask(before)
        await self._server.start()
        self._inode = self.socket.stat().st_ino

    async def stop(self, seconds: float = 5.0) -> None:
        """Take no more calls and let those that run end, at most so long. Idempotent."""
        if self._server is not None:
            await self._server.stop(seconds)
            await self._locks.drain(seconds)
            self._server = None

    def reachable(self) -> bool:
        """Whether the socket in the file system is still ours: someone may have cleaned the folder."""
        try:
            return self.socket.stat().st_ino == self._inode
        except OSError:
            return False


async def serve(servers: Sequence[Server], stopped: asyncio.Event, *, guard_seconds: float = GUARD_SECONDS) -> None:
    """Start in order, see to it that the sockets stay, and when ``stopped`` stop in reverse order."""
    try:
        for server in servers:
            await server.start()
            log.info("serving on %s", server.socket)
        while not stopped.is_set():
            try:
                await asyncio.wait_for(stopped.wait(), guard_seconds)
            except TimeoutError:
                await _restore(servers)
    finally:
        for server in reversed(servers):
            await server.stop()


async def _restore(servers: Sequence[Server]) -> None:
    for server in servers:
        if server.reachable():
            continue
        log.warning("%s is gone or someone else's: serving there anew", server.socket)
        try:
            await server.stop()
            await server.start()
        except (OSError, RuntimeError) as error:
            log.error("cannot serve on %s: %s; trying again in a while", server.socket, error)
