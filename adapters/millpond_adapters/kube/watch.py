"""A watch that never ends: resumes where it broke off, lists again when it must, says what vanished meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Generic

import msgspec

from millpond_adapters.kube import answers
from millpond_adapters.kube.objects import Codec, Page, head, page, watch_event
from millpond_adapters.kube.transport import RETRY_FIRST, RETRY_MOST, Transport
from millpond_core.errors import Invalid, MillpondError, NotFound
from millpond_core.ports import Kind

log = logging.getLogger(__name__)

PAGE = 250
"""Objects: of ours a page is a megabyte, which is there three times while it is read."""
WATCH_SECONDS = (240, 300)
"""The API server ends a watch after this; spread, so that not all return at once."""


def selection(labels: str, fields: str) -> dict[str, str]:
    """Selectors as query parameters."""
    return {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


async def pages(transport: Transport, codec: Codec[Kind], query: Mapping[str, str]) -> AsyncIterator[Page]:
    """A list, some objects at a time."""
    more = {"limit": str(PAGE)}
    while True:
        part = await _page(transport, codec, {**query, **more})
        yield part
        if not part.metadata.continued:
            return
        more["continue"] = part.metadata.continued


async def _page(transport: Transport, codec: Codec[Kind], query: Mapping[str, str]) -> Page:
    body = await transport.request("GET", codec.collection, query=query, repeatable=True)
    try:
        return page(body)
    except msgspec.MsgspecError as error:
        raise Invalid(f"GET {codec.collection}: the answer is no list: {error}") from error


class Watch(Generic[Kind]):
    """One watch of one kind. ``heard`` is when the API server last sent anything for it (monotonic seconds)."""

    def __init__(self, transport: Transport, codec: Codec[Kind], labels: str, fields: str) -> None:
        self._transport = transport
        self._codec = codec
        self._query = selection(labels, fields)
        self._known: dict[str, str] = {}
        """Names and uids of what is there. The objects are for who watches to keep: they are not held twice."""
        self._version = ""
        self.heard = time.monotonic()

    async def events(self) -> AsyncIterator[tuple[str, Kind]]:
        """See ``ports.Kube.watch``. No error ends it; the log says what it waits for."""
        delay = RETRY_FIRST
        while True:
            try:
                if not self._version or await self._is_older():
                    async for event in self._list():
                        yield event
                async for event in self._follow():
                    delay = RETRY_FIRST
                    yield event
                delay = RETRY_FIRST
                continue
            except answers.Gone:
                log.info("%s: too old to go on, listing again", self._codec.collection)
                self._version = ""
            except NotFound as error:
                log.warning("%s: the kind itself is gone, all of it is listed again once it is back", error)
                self._version = ""
            except MillpondError as error:
                log.warning("%s; trying again in %.1f s", error, delay)
            await asyncio.sleep(delay * random.uniform(1, 1.5))  # noqa: S311 (spreads retries, keeps no secret)
            delay = min(delay * 2, RETRY_MOST)

    async def _is_older(self) -> bool:
        """Whether the database is older than what was seen of it: restored from a backup, or made anew. A watch from a
        version that is still to come would be silent until it has come. Versions of one kind are ordered (KEP-5504).
        """
        now = (await _page(self._transport, self._codec, {"limit": "1"})).metadata.resource_version
        older = now.isdecimal() and self._version.isdecimal() and int(now) < int(self._version)
        if older:
            log.warning("%s: the database is older than it was, listing again", self._codec.collection)
        return older

    async def _list(self) -> AsyncIterator[tuple[str, Kind]]:
        there: set[str] = set()
        version = ""
        async for part in pages(self._transport, self._codec, self._query):
            self.heard = time.monotonic()
            for item in part.items:
                there.add(self._note(item))
                found = self._read(item)
                if found is not None:
                    yield "ADDED", found
            version = part.metadata.resource_version
        for name in [name for name in self._known if name not in there]:
            yield "DELETED", self._codec.named(name, self._known.pop(name))
        yield "SYNCED", self._codec.kind()
        self._version = version

    async def _follow(self) -> AsyncIterator[tuple[str, Kind]]:
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311
        }
        async with self._transport.stream(self._codec.collection, query) as lines:
            async for line in lines:
                self.heard = time.monotonic()
                event = watch_event(line)
                if event.type == "ERROR":
                    raise answers.error(answers.status(0, bytes(event.object)), f"GET {self._codec.collection} (watch)")
                seen = head(event.object).metadata
                if event.type == "DELETED":
                    self._known.pop(seen.name, None)
                    yield "DELETED", self._codec.named(seen.name, seen.uid)
                elif event.type != "BOOKMARK":
                    self._note(event.object)
                    found = self._read(event.object)
                    if found is not None:
                        yield event.type, found
                self._version = seen.resource_version

    def _note(self, item: msgspec.Raw) -> str:
        """The name of an object that is there."""
        seen = head(item).metadata
        self._known[seen.name] = seen.uid
        return seen.name

    def _read(self, item: msgspec.Raw) -> Kind | None:
        """The object. One that cannot be read stays as it was last seen: it is not gone."""
        try:
            return self._codec.decode(item)
        except Invalid as error:
            log.error("%s; it is left as it was last seen", error)
            return None
