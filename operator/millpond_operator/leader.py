"""Leader election on a Lease: for economy. Safety is the compare-and-swap of every write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from millpond_core import names
from millpond_core.errors import Conflict, MillpondError
from millpond_core.ports import Clock, Kube

log = logging.getLogger(__name__)

DURATION_SECONDS = 15
"""For how long a Lease that is not renewed keeps others out."""

RENEW_SECONDS = 4.0
DEADLINE_SECONDS = 10.0
"""A leader that could not renew for so long stops at once: before anyone else may begin."""


class Leader:
    """Campaigns, and runs ``lead`` while elected. ``lead`` is cancelled when the Lease is lost."""

    def __init__(self, kube: Kube, clock: Clock, identity: str, namespace: str) -> None:
        self._kube = kube
        self._clock = clock
        self._identity = identity
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{names.MASTER}"
        self.leading = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Campaign for ever; gives the Lease up when cancelled, so that a successor need not wait."""
        try:
            while True:
                if await self._renew():
                    self.leading = True
                    await self._reign(lead)
                    self.leading = False
                await asyncio.sleep(RENEW_SECONDS / 2)
        finally:
            if self.leading:
                self.leading = False
                await asyncio.shield(self._resign())

    async def _reign(self, lead: Callable[[], Awaitable[None]]) -> None:
        log.info("%s leads", self._identity)
        work = asyncio.ensure_future(lead())
        renewed = self._clock.boottime()
        try:
            while True:
                await asyncio.wait([work], timeout=RENEW_SECONDS)
                if work.done():
                    _ended(work)
                    return
                began = self._clock.boottime()
                if began - renewed >= DEADLINE_SECONDS:
                    log.error("could not renew the Lease for %.0f s: leading no more", began - renewed)
                    return
                try:
                    left = max(DEADLINE_SECONDS - (began - renewed), 0.1)
                    async with asyncio.timeout(left):
                        await self._kube.renew_lease(names.MASTER, self._identity, DURATION_SECONDS)
                    renewed = began
                except Conflict as error:
                    log.error("leading no more: %s", error)
                    return
                except (MillpondError, TimeoutError) as error:
                    log.warning("cannot renew the Lease: %s", error)
        finally:
            work.cancel()
            await asyncio.wait([work], timeout=5.0)

    async def _renew(self) -> bool:
        try:
            await self._kube.renew_lease(names.MASTER, self._identity, DURATION_SECONDS)
        except Conflict:
            return False
        except MillpondError as error:
            log.warning("cannot campaign: %s", error)
            return False
        return True

    async def _resign(self) -> None:
        try:
            async with asyncio.timeout(3.0):
                lease = await self._kube.raw("GET", self._path)
                if lease.get("spec", {}).get("holderIdentity") != self._identity:
                    return
                version = lease["metadata"]["resourceVersion"]
                patch = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": ""}}
                content_type = "application/merge-patch+json"
                await self._kube.raw("PATCH", self._path, patch, content_type=content_type)
        except (MillpondError, TimeoutError) as error:
            log.warning("cannot give the Lease up, a successor waits %d s: %s", DURATION_SECONDS, error)


def _ended(work: asyncio.Future[None]) -> None:
    """A leader that the API server stopped campaigns again; any other end is a fault, and shown."""
    try:
        work.result()
    except MillpondError as error:
        log.warning("leading no more: %s", error)
