"""HTTP to one API server: deadlines, credentials, retries, typed errors. It knows no kinds."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from millpond_adapters.kube import answers
from millpond_adapters.kube.access import Access
from millpond_core.errors import DeadlineExceeded, MillpondError, Unavailable

log = logging.getLogger(__name__)

CALL_SECONDS = 20.0
"""For one call with all its retries."""

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 100.0
"""A watch gets a bookmark about every 60 s (apiserver, watch cache): longer silence is a dead connection."""

RETRY_FIRST, RETRY_MOST = 0.2, 5.0
RETRIED = frozenset({429, 500, 502, 503, 504})

# A peer that vanished without a word (a cut link) is noticed after 10 + 3 * 5 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class _Call(NamedTuple):
    """One request as it goes out, as often as it does."""

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """One connection pool. ``async with`` it."""

    def __init__(self, access: Access, user_agent: str) -> None:
        self._access = access
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        connector = aiohttp.TCPConnector(limit=64, ttl_dns_cache=30)
        headers = {"User-Agent": self._user_agent}
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        repeatable: bool = False,
        seconds: float = CALL_SECONDS,
    ) -> bytes:
        """The answer's body. ``repeatable``: doing it twice does what doing it once does, so failures are retried.

        What was certainly not carried out (429, no connection) is retried in any case, until ``seconds`` are over.
        """
        call = _Call(method, path, query, body, content_type)
        delay = RETRY_FIRST
        deadline = time.monotonic() + seconds
        while True:
            try:
                async with asyncio.timeout_at(_loop_time(deadline)):
                    return await self._once(call)
            except _Refused as refused:
                json_patch = content_type == answers.JSON_PATCH
                failure = answers.error(refused.status, str(call), json_patch=json_patch)
                again = refused.status.code in RETRIED and (repeatable or refused.status.code == 429)
                wait = max(delay, refused.retry_after)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                failure, again, wait = Unavailable(f"{call}: cannot connect: {error}"), True, delay
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{call}: no answer within {seconds:.0f} s; whether it was done is unknown"
                ) from None
            except (aiohttp.ClientError, OSError) as error:
                failure = Unavailable(f"{call}: {_text(error)}; whether it was done is unknown")
                again, wait = repeatable, delay
            wait *= random.uniform(1, 1.5)  # noqa: S311 (spreads retries, keeps no secret)
            if not again or deadline - time.monotonic() < 2 * wait:  # what is left must be worth an attempt
                raise failure
            log.info("%s; again in %.1f s", failure, wait)
            await asyncio.sleep(wait)
            delay = min(delay * 2, RETRY_MOST)

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that does not end by itself. Errors are raised while it is read too."""
        call = _Call("GET", path, query)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            async with await self._send(call, timeout=timeout) as answer:
                if answer.status != 200:
                    raise answers.error(answers.status(answer.status, await answer.read()), f"{call} (watch)")
                _keep_alive(answer)
                yield _lines(answer)
        except aiohttp.SocketTimeoutError:
            raise Unavailable(f"{call} (watch): silent for {SILENCE_SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{call} (watch): {_text(error)}") from error

    async def _once(self, call: _Call) -> bytes:
        started = time.monotonic()
        for refused in (False, True):
            async with await self._send(call, refused=refused) as answer:
                content = await answer.read()
                log.debug("%s: %s in %.0f ms", call, answer.status, (time.monotonic() - started) * 1000)
                if answer.status == 401 and not refused:
                    continue  # the token may have been rotated in this moment: once more with a fresh one
                if answer.status < 300:
                    return content
                raise _Refused(answers.status(answer.status, content), answer.headers.get("Retry-After", ""))
        raise AssertionError("unreachable")

    async def _send(
        self, call: _Call, *, refused: bool = False, timeout: aiohttp.ClientTimeout | None = None
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "use it as a context manager"
        headers = {"Accept": "application/json"}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if token := await self._access.token(refused):
            headers["Authorization"] = f"Bearer {token}"
        query = ("&" if "?" in call.path else "?") + urlencode(call.query) if call.query else ""
        more: dict[str, Any] = {"timeout": timeout} if timeout else {}
        return await self._session.request(
            call.method,
            URL(self._access.server + call.path + query, encoded=True),
            data=call.body,
            headers=headers,
            ssl=self._access.tls(),
            server_hostname=self._access.server_name or None,
            allow_redirects=False,
            **more,
        )


class _Refused(MillpondError):
    def __init__(self, status: answers.Status, retry_after: str) -> None:
        self.status = status
        self.retry_after = float(retry_after) if retry_after.isdecimal() else 0.0
        super().__init__(status.message)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # Not readline(): an object may be longer than aiohttp's limit for a line.
    parts: list[bytes] = []
    async for chunk in answer.content.iter_any():
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            whole = b"".join([*parts, line])
            parts.clear()
            if whole:
                yield whole
        if rest:
            parts.append(rest)


def _keep_alive(answer: aiohttp.ClientResponse) -> None:
    transport = answer.connection.transport if answer.connection else None
    link = transport.get_extra_info("socket") if transport else None
    if link is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            link.setsockopt(socket.IPPROTO_TCP, option, value)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _loop_time(deadline: float) -> float:
    return asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())
