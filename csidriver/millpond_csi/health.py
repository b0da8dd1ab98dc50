"""``/healthz`` for the kubelet's liveness probe: whether the driver answers on its own socket.

It asks for GetPluginInfo, not Probe: being unable to work because the API server is away is no reason for a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from millpond_csi.stubs import csi

_CALL = "/csi.v1.Identity/GetPluginInfo"
_SECONDS = 12.0
_LONGEST_REQUEST = 4096


async def answers(socket: Path) -> bool:
    """Whether the Identity service answers there within 12 s."""
    # A connection of its own: one that is shared remembers, for a second or more, that the socket was not there before.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        call = channel.unary_unary(
            _CALL,
            request_serializer=csi.GetPluginInfoRequest.SerializeToString,
            response_deserializer=csi.GetPluginInfoResponse.FromString,
        )
        try:
            await call(csi.GetPluginInfoRequest(), timeout=_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return True


@asynccontextmanager
async def health(address: str, socket: Path) -> AsyncIterator[int]:
    """Answer HTTP on ``address`` (host:port, :port) while the context lasts, and yield the port; empty: none, 0."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(2 * _SECONDS):
                request = await reader.readuntil(b"\r\n")
                path = request.split(b" ")[1:2]
                status = "404 Not Found"
                if path == [b"/healthz"]:
                    status = "200 OK" if await answers(socket) else "503 Service Unavailable"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or never was a client of HTTP
        finally:
            writer.close()

    if not address:
        yield 0
        return
    host, _, port = address.rpartition(":")
    server = await asyncio.start_server(serve, host or None, int(port), limit=_LONGEST_REQUEST)
    async with server:
        yield server.sockets[0].getsockname()[1]
