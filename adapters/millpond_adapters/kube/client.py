"""The ``Kube`` port on a real API server."""

from __future__ import annotations

import socket
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote

import msgspec

from millpond_adapters.kube.access import Access
from millpond_adapters.kube.answers import APPLY_PATCH, JSON_PATCH, MERGE_PATCH
from millpond_adapters.kube.events import Events
from millpond_adapters.kube.leases import Leases
from millpond_adapters.kube.objects import codec, metadata
from millpond_adapters.kube.transport import Transport
from millpond_adapters.kube.watch import Watch, pages, selection
from millpond_core.errors import Invalid, NotFound
from millpond_core.model.meta import Wire
from millpond_core.ports import Answer, Kind, Reference

STRICT = {"fieldValidation": "Strict"}
_OURS = ("name", "labels", "annotations", "finalizers")
"""What a creator says of the metadata; the rest is the API server's."""

_REPEATABLE = frozenset({"GET", "DELETE"})


class ApiKube:
    """See ``ports.Kube``. ``component`` signs Events and writes; ``namespace`` has the Leases."""

    def __init__(self, access: Access, *, component: str, namespace: str = "", instance: str = "") -> None:
        self._transport = Transport(access, component)
        self._writer = {**STRICT, "fieldManager": component}
        self._events = Events(self._transport, component, instance or socket.gethostname())
        self._leases = Leases(self._transport, namespace or access.namespace)
        self._watches: weakref.WeakSet[Watch[Any]] = weakref.WeakSet()

    async def __aenter__(self) -> ApiKube:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    def silence(self) -> float:
        """Seconds since the API server last sent anything on the quietest watch; 0 without a watch.

        Bookmarks come about every 60 s: much more says that what the caches hold is old.
        """
        now = time.monotonic()
        return max((now - watch.heard for watch in self._watches), default=0.0)

    async def get(self, kind: type[Kind], name: str) -> Kind:
        one = codec(kind)
        return one.decode(await self._transport.request("GET", one.path(name), repeatable=True))

    async def list(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> list[Kind]:
        return [obj async for obj in self.scan(kind, labels=labels, fields=fields)]

    async def scan(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> AsyncIterator[Kind]:
        one = codec(kind)
        async for part in pages(self._transport, one, selection(labels, fields)):
            for item in part.items:
                yield one.decode(item)

    async def watch(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> AsyncIterator[tuple[str, Kind]]:
        watch = Watch(self._transport, codec(kind), labels, fields)
        self._watches.add(watch)
        async for event in watch.events():
            yield event

    async def create(self, obj: Kind) -> Kind:
        one = codec(type(obj))
        one.path(metadata(obj).name)
        content = msgspec.to_builtins(obj)
        content["metadata"] = {name: content["metadata"][name] for name in _OURS if name in content["metadata"]}
        body = one.encode(**content)
        return one.decode(await self._transport.request("POST", one.collection, query=self._writer, body=body))

    async def apply_status(self, kind: type[Kind], name: str, status: Mapping[str, Any], *, manager: str) -> Kind:
        one = codec(kind)
        answer = await self._transport.request(
            "PATCH",
            f"{one.path(name)}/status",
            # Each manager owns its fields by design: whoever else has taken one is overruled.
            query={**STRICT, "fieldManager": manager, "force": "true"},
            body=one.encode(metadata={"name": name}, status=status),
            content_type=APPLY_PATCH,
            repeatable=True,
        )
        return one.decode(answer)

    async def patch(
        self, kind: type[Kind], name: str, operations: Sequence[Mapping[str, Any]], *, status: bool = False
    ) -> Kind:
        # Not repeatable: done the first time, its tests would fail the second time.
        return await self._patch(kind, name, operations, JSON_PATCH, status=status, repeatable=False)

    async def merge(self, kind: type[Kind], name: str, patch: Mapping[str, Any], *, status: bool = False) -> Kind:
        repeatable = "resourceVersion" not in patch.get("metadata", {})
        return await self._patch(kind, name, patch, MERGE_PATCH, status=status, repeatable=repeatable)

    async def delete(self, kind: type[Kind], name: str) -> None:
        try:
            await self._transport.request("DELETE", codec(kind).path(name), repeatable=True)
        except NotFound:
            return

    async def event(self, obj: Wire | Reference, *, reason: str, message: str, warning: bool = False) -> None:
        await self._events.say(obj, reason=reason, message=message, warning=warning)

    async def renew_lease(self, name: str, holder: str, duration_seconds: int) -> None:
        await self._leases.renew(name, holder, duration_seconds)

    async def raw(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        answer = await self._raw(method, path, body, content_type)
        return msgspec.json.decode(answer) if answer else None

    async def read(self, path: str, answer: type[Answer]) -> Answer:
        body = await self._raw("GET", path)
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.MsgspecError as error:
            raise Invalid(f"GET {path}: the answer cannot be read: {error}") from error

    async def _raw(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> bytes:
        if not path.startswith(("/api/", "/apis/")) or "/../" in path or path.endswith("/.."):
            raise Invalid(f"{path!r} is no path of the API server: it starts with /api/ or /apis/")
        return await self._transport.request(
            method,
            quote(path, safe="/?&=%,:!()-._~"),
            body=None if body is None else msgspec.json.encode(body),
            content_type=content_type,
            repeatable=method in _REPEATABLE or content_type in (MERGE_PATCH, APPLY_PATCH),
        )

    async def _patch(
        self, kind: type[Kind], name: str, patch: Any, content_type: str, *, status: bool, repeatable: bool
    ) -> Kind:
        one = codec(kind)
        answer = await self._transport.request(
            "PATCH",
            one.path(name) + ("/status" if status else ""),
            query=self._writer,
            body=msgspec.json.encode(patch),
            content_type=content_type,
            repeatable=repeatable,
        )
        return one.decode(answer)
