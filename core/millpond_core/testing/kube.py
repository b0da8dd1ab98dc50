"""The ``Kube`` port in memory: what the API server promises.

It keeps the protocol of watches, optimistic locking, JSON Patch with ``test``, server-side apply, finalizers and
selectors; it fills defaults in and refuses what the schema and its CEL rules refuse. It can be told to fail
(``fail_next``), to be out (``outage``) and to break every watch (``relist``). Admission and authorization are the
business of tests/api.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from millpond_core.errors import Conflict, Invalid, MillpondError, NotFound, Unavailable
from millpond_core.model import API_VERSION, KINDS
from millpond_core.model.meta import Wire
from millpond_core.model.schema import schema
from millpond_core.patches import json_patch, merge_patch
from millpond_core.ports import Answer, Clock, Kind, Reference
from millpond_core.testing.ownership import Ownership
from millpond_core.testing.selectors import matches_fields, matches_labels
from millpond_core.testing.store import Change, Document, Key, Store, parse_path
from millpond_core.testing.structural import faults, fill, violations

LEASES = "coordination.k8s.io/v1"
_START = 1_800_000_000.0
_KINDS: dict[str, type[Wire]] = {kind.__name__: kind for kind in KINDS}


class RecordedEvent(NamedTuple):
    """An Event that someone asked for."""

    kind: str
    name: str
    reason: str
    message: str
    warning: bool


class MemoryKube:
    """See the module. ``events`` and ``calls`` are for assertions."""

    def __init__(self, clock: Clock | None = None, *, namespace: str = "millpond-system") -> None:
        self._clock = clock
        self._namespace = namespace
        self._store = Store(self._now)
        self._ownership: dict[str, Ownership] = {}
        """By uid."""
        self._failures: list[tuple[str, MillpondError]] = []
        self._changed = asyncio.Event()
        self._broken = 0
        self._out = False
        self._patience = 0.0
        self.events: list[RecordedEvent] = []
        self.calls: list[tuple[str, str]] = []
        """(verb, kind or path) of each request in order."""

    # --- what tests tell it ---

    def fail_next(self, verb: str, error: MillpondError, times: int = 1) -> None:
        """The next ``times`` calls of ``verb`` (the port's method name) raise ``error``, with nothing done."""
        self._failures += [(verb, error)] * times

    @contextmanager
    def outage(self, patience: float = 0.0) -> Iterator[None]:
        """Nobody answers: calls raise Unavailable after ``patience`` seconds, watches are silent and relist when it is
        over.
        """
        self._out, self._patience = True, patience
        try:
            yield
        finally:
            self._out = False
            self.relist()

    def relist(self) -> None:
        """Break every watch: each lists again, as after 410 Gone."""
        self._broken += 1
        self._wake()

    def seed(self, obj: Kind) -> Kind:
        """Put an object there with its status, as if it had always been there."""
        kind = type(obj)
        return _typed(kind, self._write(self._store.create, _key(kind, _metadata(obj).name), _filled(_document(obj))))

    # --- the port ---

    async def get(self, kind: type[Kind], name: str) -> Kind:
        await self._reach("get", kind)
        return _typed(kind, self._store.get(_key(kind, name)))

    async def list(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> list[Kind]:
        await self._reach("list", kind)
        return [_typed(kind, found) for found in self._listed(kind, labels, fields)]

    async def scan(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> AsyncIterator[Kind]:
        for obj in await self.list(kind, labels=labels, fields=fields):
            yield obj

    async def watch(self, kind: type[Kind], *, labels: str = "", fields: str = "") -> AsyncIterator[tuple[str, Kind]]:
        feed: deque[Change] = deque()
        self._store.feeds.append(feed)
        known: dict[str, Document] = {}
        try:
            while True:
                await self._up()
                broken = self._broken
                feed.clear()
                listed = {found["metadata"]["name"]: found for found in self._listed(kind, labels, fields)}
                for found in listed.values():
                    yield "ADDED", _typed(kind, found)
                for name in known.keys() - listed.keys():
                    yield "DELETED", _gone(kind, known[name])
                known = listed
                yield "SYNCED", kind()
                while broken == self._broken:
                    while feed and not self._out and broken == self._broken:
                        event = _event(feed.popleft(), kind, labels, fields, known)
                        if event is not None:
                            yield event[0], (_gone if event[0] == "DELETED" else _typed)(kind, event[1])
                    if broken == self._broken:
                        await self._wait()
        finally:
            # By identity: two empty queues are equal.
            self._store.feeds[:] = [other for other in self._store.feeds if other is not feed]

    async def create(self, obj: Kind) -> Kind:
        kind = type(obj)
        await self._reach("create", kind)
        document = _document(obj)
        document.pop("status", None)
        return _typed(kind, self._write(self._store.create, _key(kind, _metadata(obj).name), _checked(document)))

    async def apply_status(self, kind: type[Kind], name: str, status: Mapping[str, Any], *, manager: str) -> Kind:
        await self._reach("apply_status", kind)
        key = _key(kind, name)
        document = self._store.get(key)
        wanted = json.loads(json.dumps(status))
        applied = self._owners(document, kind).copy()
        after = {**document, "status": applied.apply(document.get("status", {}), manager, wanted)}
        written = self._write(self._store.update, key, _checked(after, document))
        self._ownership[document["metadata"]["uid"]] = applied
        return _typed(kind, written)

    async def patch(
        self, kind: type[Kind], name: str, operations: Sequence[Mapping[str, Any]], *, status: bool = False
    ) -> Kind:
        await self._reach("patch", kind)
        document = self._store.get(_key(kind, name))
        return self._update(kind, document, json_patch(document, operations), status=status)

    async def merge(self, kind: type[Kind], name: str, patch: Mapping[str, Any], *, status: bool = False) -> Kind:
        await self._reach("merge", kind)
        document = self._store.get(_key(kind, name))
        return self._update(kind, document, merge_patch(document, patch), status=status)

    async def delete(self, kind: type[Kind], name: str) -> None:
        await self._reach("delete", kind)
        key = _key(kind, name)
        try:
            self._write(self._store.delete, key)
        except NotFound:
            return

    async def event(self, obj: Wire | Reference, *, reason: str, message: str, warning: bool = False) -> None:
        kind, name = (obj.kind, obj.name) if isinstance(obj, Reference) else (type(obj).__name__, _metadata(obj).name)
        await self._reach("event", kind)
        recorded = RecordedEvent(kind, name, reason, message, warning)
        if recorded not in self.events:
            self.events.append(recorded)

    async def renew_lease(self, name: str, holder: str, duration_seconds: int) -> None:
        await self._reach("renew_lease", name)
        key = Key(LEASES, "leases", self._namespace, name)
        renewed = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": duration_seconds, "renewTime": renewed}
        try:
            document = self._store.get(key)
        except NotFound:
            self._write(self._store.create, key, {"spec": spec})
            return
        held = document["spec"]
        since = self._now() - datetime.fromisoformat(held["renewTime"]).timestamp()
        if held["holderIdentity"] not in ("", holder) and since < held["leaseDurationSeconds"]:
            raise Conflict(f"lease {name} is held by {held['holderIdentity']}, renewed {since:.1f} s ago")
        document["spec"] = spec
        self._write(self._store.update, key, document)

    async def read(self, path: str, answer: type[Answer]) -> Answer:
        return msgspec.convert(await self.raw("GET", path), answer)

    async def raw(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        split = urlsplit(path)
        await self._reach("raw", f"{method} {split.path}")
        key, _ = parse_path(split.path)
        body = json.loads(json.dumps(body))
        match method:
            case "GET" if key.name:
                return self._store.get(key)
            case "GET":
                query = {name: values[-1] for name, values in parse_qs(split.query).items()}
                found = self._store.items(key.group_version, key.plural, key.namespace)
                chosen = [one for one in found if _selected_raw(one, query)]
                return {"metadata": {"resourceVersion": self._store.version()}, "items": chosen}
            case "POST":
                return self._write(self._store.create, key._replace(name=body["metadata"]["name"]), body)
            case "PUT":
                return self._write(self._store.update, key, body)
            case "PATCH":
                document = self._store.get(key)
                patched = json_patch(document, body) if "json-patch" in content_type else merge_patch(document, body)
                return self._write(self._store.update, key, patched)
            case "DELETE":
                wanted = (body or {}).get("preconditions", {}).get("uid")
                if wanted and self._store.get(key)["metadata"]["uid"] != wanted:
                    raise Conflict(f'{key.plural} "{key.name}" is another one than {wanted}')
                return self._write(self._store.delete, key)
        raise Invalid(f"{method} is no method of the API server")

    # --- inside ---

    def _now(self) -> float:
        return self._clock.now() if self._clock else _START

    async def _reach(self, verb: str, target: type[Wire] | str) -> None:
        self.calls.append((verb, target if isinstance(target, str) else target.__name__))
        await asyncio.sleep(0)  # a request lets others run: races show in tests too
        for at, (failing, error) in enumerate(self._failures):
            if failing == verb:
                del self._failures[at]
                raise error
        if self._out:
            await asyncio.sleep(self._patience)
            raise Unavailable("the API server does not answer")

    async def _up(self) -> None:
        while self._out:
            await self._wait()

    async def _wait(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _write(self, verb: Any, *arguments: Any) -> Document:
        document: Document = verb(*arguments)
        self._wake()
        return document

    def _owners(self, document: Document, kind: type[Wire]) -> Ownership:
        return self._ownership.setdefault(document["metadata"]["uid"], Ownership(schema(kind)["properties"]["status"]))

    def _listed(self, kind: type[Wire], labels: str, fields: str) -> Sequence[Document]:
        found = self._store.items(API_VERSION, _plural(kind))
        return [one for one in found if _selected(one, kind, labels, fields)]

    def _update(self, kind: type[Kind], before: Document, after: Document, *, status: bool) -> Kind:
        """Write what a patch made of an object; the status through its subresource alone, and nothing else by it."""
        key = _key(kind, before["metadata"]["name"])
        if status:
            expected = after.get("metadata", {}).get("resourceVersion", "")
            metadata = {**before["metadata"], "resourceVersion": expected}
            after = {**before, "status": after.get("status", {}), "metadata": metadata}
        else:
            after = {**after, "status": before.get("status", {})}
        written = self._write(self._store.update, key, _checked(after, before))
        self._owners(before, kind).updated(before.get("status", {}), written.get("status", {}))
        return _typed(kind, written)


def _plural(kind: type[Wire]) -> str:
    plural: str = kind.plural  # type: ignore[attr-defined]
    return plural


def _metadata(obj: Wire) -> Any:
    return obj.metadata  # type: ignore[attr-defined]


def _key(kind: type[Wire], name: str) -> Key:
    return Key(API_VERSION, _plural(kind), "", name)


def _document(obj: Wire) -> Document:
    document: Document = msgspec.to_builtins(obj)
    return {"apiVersion": API_VERSION, "kind": type(obj).__name__, **document}


def _typed(kind: type[Kind], document: Document) -> Kind:
    return msgspec.convert(document, kind)


def _gone(kind: type[Kind], document: Document) -> Kind:
    """What a watch says of an object that is gone."""
    metadata = {name: document["metadata"].get(name, "") for name in ("name", "uid")}
    return msgspec.convert({**document, "metadata": metadata, "spec": {}, "status": {}}, kind)


def _filled(document: Document) -> Document:
    filled: Document = fill(schema(_KINDS[document["kind"]]), document)
    return filled


def _checked(document: Document, before: Document | None = None) -> Document:
    """The document with its defaults; Invalid when the API server would refuse it."""
    kind = _KINDS[document["kind"]]
    filled = _filled(document)
    found = [*faults(schema(kind), filled)]
    if not found:
        try:
            msgspec.convert(filled, kind)
        except msgspec.ValidationError as error:
            found = [str(error)]
    found = found or [*violations(schema(kind), filled, before)]
    if found:
        raise Invalid(f'{kind.__name__} "{document["metadata"]["name"]}" is invalid: {"; ".join(found)}')
    return filled


def _selected(document: Document, kind: type[Wire], labels: str, fields: str) -> bool:
    selectable = frozenset(path.lstrip(".") for path in getattr(kind, "selectable_fields", ()))
    return matches_labels(labels, document["metadata"].get("labels", {})) and matches_fields(
        fields, document, selectable | {"metadata.name"}
    )


def _selected_raw(document: Document, query: Mapping[str, str]) -> bool:
    paths = {term.split("=")[0].rstrip("!") for term in query.get("fieldSelector", "").split(",")}
    return matches_labels(query.get("labelSelector", ""), document["metadata"].get("labels", {})) and matches_fields(
        query.get("fieldSelector", ""), document, frozenset(paths)
    )


def _event(
    change: Change, kind: type[Wire], labels: str, fields: str, known: dict[str, Document]
) -> tuple[str, Document] | None:
    """What a watcher with these selectors sees of a change: leaving the selection looks like a deletion."""
    if (change.key.group_version, change.key.plural) != (API_VERSION, _plural(kind)):
        return None
    name, after = change.key.name, change.after
    if after is not None and _selected(after, kind, labels, fields):
        verb = "MODIFIED" if name in known else "ADDED"
        known[name] = after
        return verb, after
    gone = known.pop(name, None)
    return ("DELETED", change.before or gone) if gone is not None else None
