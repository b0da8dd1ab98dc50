"""Events about our objects, for ``kubectl describe``. Said again, one grows a count instead of a twin."""

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

log = logging.getLogger(__name__)

COLLECTION = "/api/v1/namespaces/default/events"
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
    name: str
    count: int
    sent: float


class Events:
    """Writes Events. An Event that cannot be written is logged and lost: nothing depends on it."""

    def __init__(self, transport: Transport, component: str, instance: str) -> None:
        self._transport = transport
        self._component = component
        self._instance = instance
        self._said: OrderedDict[str, _Said] = OrderedDict()

    async def say(self, obj: Wire, *, reason: str, message: str, warning: bool) -> None:
        """An Event about ``obj``."""
        meta = metadata(obj)
        text = message.encode()[:MESSAGE_BYTES].decode("utf-8", "ignore")
        key = hashlib.sha256(f"{meta.uid}/{reason}/{warning}/{text}".encode()).hexdigest()[:16]
        now = time.monotonic()
        said = self._said.get(key)
        if said is not None and now - said.sent > FORGET_SECONDS:
            said = None
        try:
            if said is None:
                await self._create(obj, f"{meta.name[:200]}.{key}", reason, text, warning)
                self._said[key] = _Said(f"{meta.name[:200]}.{key}", 1, now)
            else:
                said.count += 1
                if now - said.sent >= REPEAT_SECONDS:
                    await self._count(said.name, said.count)
                    said.sent = now
            self._said.move_to_end(key)
        except NotFound:  # it has expired on the server
            self._said.pop(key, None)
        except MillpondError as error:
            log.warning("an Event is lost (%s: %s): %s", reason, text, error)
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)

    async def _create(self, obj: Wire, name: str, reason: str, message: str, warning: bool) -> None:
        meta, now = metadata(obj), _now()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": type(obj).__name__,
                "name": meta.name,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": self._component, "host": self._instance},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }
        try:
            await self._transport.request("POST", COLLECTION, body=msgspec.json.encode(event), seconds=CALL_SECONDS)
        except Conflict:  # said before our restart, or by our twin
            await self._count(name, 2)

    async def _count(self, name: str, count: int) -> None:
        body = msgspec.json.encode({"count": count, "lastTimestamp": _now()})
        await self._transport.request(
            "PATCH", f"{COLLECTION}/{name}", body=body, content_type=MERGE_PATCH, repeatable=True, seconds=CALL_SECONDS
        )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
