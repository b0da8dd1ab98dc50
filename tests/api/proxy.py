"""A TCP proxy on the loopback whose link can be cut, or made to swallow everything."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """``async with Proxy(port) as proxy`` forwards ``proxy.port`` to ``port``."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True
        self.silent = False
        """True: what arrives is swallowed, nobody is told."""
        self.connections = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection; new ones are closed at once."""
        self._open = False
        for link in self._links:
            link.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self._open, self.silent = True, False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._links |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        self._links.discard(sink)
        sink.transport.abort()
