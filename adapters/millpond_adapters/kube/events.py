"""Events about our objects and what they serve, for ``kubectl describe``. Said again, one grows a count, not a twin."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from millpond_adapters.kube.answers import MERGE_PATCH
from millpond_adapters.kube.objects import metadata
from millpond_adapters.kube.transport import Transport
from millpond_core.errors import Conflict, MillpondError, NotFound
from millpond_core.model import API_VERSION
from millpond_core.model.meta import Wire
from millpond_core.ports import Reference

log = logging.getLogger(__name__)

NAMESPACE = "default"
"""Where Events of objects without a namespace go."""

REPEAT_SECONDS = 60.0
"""The same Event is counted up at most this often; in between only the count here rises."""

FORGET_SECONDS = 3600.0
REMEMBERED = 1024
MESSAGE_BYTES = 1000
"""The API server takes 1,024."""

CALL_SECONDS = 5.0
"""Nobody waits longer for an Event."""


@dataclass
class _Said:
    count: int
    sent: float


class Events:
    """Writes Events. An Event that cannot be written is logged and lost: nothing depends on it."""

    def __init__(self, transport: Transport, component: str, instance: str) -> None:
        self._transport = transport
        self._component = component
        self._instance = instance
        self._said: OrderedDict[str, _Said] = OrderedDict()

    async def say(self, obj: Wire | Reference, *, reason: str, message: str, warning: bool) -> None:
        """An Event about ``obj``."""
        about = _about(obj)
        text = message.encode()[:MESSAGE_BYTES].decode("utf-8", "ignore")
        type_ = "Warning" if warning else "Normal"
        key = hashlib.sha256(f"{about['uid']}/{reason}/{warning}/{text}".encode()).hexdigest()[:16]
        name = f"{about['name'][:200]}.{key}"
        collection = f"/api/v1/namespaces/{about.get('namespace', NAMESPACE)}/events"
        now = time.monotonic()
        said = self._said.get(key)
        if said is not None and now - said.sent > FORGET_SECONDS:
            said = None
        try:
            if said is None:
                await self._create(collection, name, about, {"reason": reason, "message": text, "type": type_})
                self._said[key] = _Said(1, now)
            else:
                said.count += 1
                if now - said.sent >= REPEAT_SECONDS:
                    await self._count(collection, name, said.count)
                    said.sent = now
            self._said.move_to_end(key)
        except NotFound:  # it has expired on the server
            self._said.pop(key, None)
        except MillpondError as error:
            log.warning("an Event is lost (%s: %s): %s", reason, text, error)
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)

    async def _create(self, collection: str, name: str, about: dict[str, str], said: dict[str, str]) -> None:
        now = _now()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": about.get("namespace", NAMESPACE)},
            "involvedObject": about,
            **said,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": self._component, "host": self._instance},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }
        try:
            await self._transport.request("POST", collection, body=msgspec.json.encode(event), seconds=CALL_SECONDS)
        except Conflict:  # said before our restart, or by our twin
            await self._count(collection, name, 2)

    async def _count(self, collection: str, name: str, count: int) -> None:
        body = msgspec.json.encode({"count": count, "lastTimestamp": _now()})
        await self._transport.request(
            "PATCH", f"{collection}/{name}", body=body, content_type=MERGE_PATCH, repeatable=True, seconds=CALL_SECONDS
        )


def _about(obj: Wire | Reference) -> dict[str, str]:
    """``involvedObject``."""
    if isinstance(obj, Reference):
        return dict(zip(("apiVersion", "kind", "namespace", "name", "uid"), obj, strict=True))
    meta = metadata(obj)
    return {
        "apiVersion": API_VERSION,
        "kind": type(obj).__name__,
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
