"""kopf delivers events of the four kinds; this is all that it does here.

No handlers with state, no timers, no finalizers of kopf's (they cost a patch for each object). kopf has a loop and a
thread of its own: when it ends it cancels whatever else runs in its loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import kopf
import msgspec

from millpond_adapters.kube import Access
from millpond_adapters.kube.config import SERVICE_ACCOUNT
from millpond_core import names
from millpond_core.master.world import KINDS, Object
from millpond_core.model import GROUP, VERSION

log = logging.getLogger(__name__)

Sink = Callable[[str, Object], None]
"""Gets the event's type and the object, in the caller's loop."""

STOP_SECONDS = 10.0


class Events:
    """kopf in a thread."""

    def __init__(self, access: Access, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self._access = access
        self._sink = sink
        self._loop = loop
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether kopf still runs."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Block until kopf has ended."""
        self._thread.join()

    async def stop(self) -> None:
        """End kopf, waiting for it for a bounded time."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(
                kopf.operator(
                    registry=self._registry(),
                    settings=_settings(),
                    clusterwide=True,
                    standalone=True,
                    # else kopf asks who we are, and a container's user need not have a name
                    identity=names.MASTER,
                    stop_flag=self._stop,
                    ready_flag=self._ready,
                )
            )
        except Exception:
            log.exception("kopf ended; this process ends too and is started again")

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind in KINDS:
            kopf.on.event(GROUP, VERSION, kind.plural, registry=registry, id=f"seen-{kind.plural}")(self._seen(kind))
        return registry

    def _login(self, *, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
        token = SERVICE_ACCOUNT / "token"
        if not token.exists():
            return kopf.login_with_kubeconfig(settings=settings)
        # By the address that the kubelet gives every pod: it works where there is no cluster DNS, too.
        return kopf.ConnectionInfo(
            server=self._access.server,
            ca_path=str(SERVICE_ACCOUNT / "ca.crt"),
            token=token.read_text().strip(),
            default_namespace=self._access.namespace,
        )

    def _seen(self, kind: type[Object]) -> Callable[..., None]:
        def seen(*, event: kopf.RawEvent, **_: Any) -> None:
            self._loop.call_soon_threadsafe(self._take, kind, event["type"] or "ADDED", event["object"])

        return seen

    def _take(self, kind: type[Object], event: str, document: Any) -> None:
        """In the caller's loop: msgspec 0.22 crashes the process when two threads first meet a type at once."""
        try:
            obj = msgspec.convert(document, kind)
        except msgspec.ValidationError:
            log.exception("an object of kind %s is not what the schema allows", kind.__name__)
            return
        self._sink(event, obj)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    # A dead watch is noticed: the server ends each after a while, and 70 s without even a bookmark count as death.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    return settings
