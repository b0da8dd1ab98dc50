"""The operator's process: puts the parts together and runs until it is told to end.

Environment: POD_NAMESPACE (Leases), POD_NAME (identity), HEALTH_PORT (8080; 0: none), FAILOVER (Pods or None, the
default), REBUILDS_PER_NODE and REBUILDS_PER_CLUSTER (0, the default: any number at once), PROTECTED_NAMESPACES
(whose claims' I/O is not held for people, beside POD_NAMESPACE; kube-system), LOG_LEVEL, KUBECONFIG elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterable

from millpond_adapters import stacks
from millpond_adapters.clock import SystemClock
from millpond_adapters.kube import Access, ApiKube, load
from millpond_core import names
from millpond_core.errors import Invalid, MillpondError, NotFound
from millpond_core.master.adoption import policies
from millpond_core.master.world import KINDS, PROTECTED, RebuildLimits
from millpond_core.model import API_VERSION
from millpond_core.ports import Kube
from millpond_operator.failover import Failover
from millpond_operator.heartbeats import Heartbeats
from millpond_operator.leader import Leader
from millpond_operator.master import Master
from millpond_operator.serve import Health, text

log = logging.getLogger("millpond")


def main() -> None:
    """Entry point of ``millpond-operator``."""
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        access = load()
        asyncio.run(run(access, namespace=os.environ.get("POD_NAMESPACE") or access.namespace))
    except MillpondError as error:
        log.error("%s", error)
        sys.exit(1)


async def run(access: Access, *, namespace: str, port: int | None = None, stop: asyncio.Event | None = None) -> None:
    """Run until ``stop`` is set or a signal comes. Raises RuntimeError when a part of it ended by itself."""
    stop = stop or _on_signals()
    stacks.tell_on_signal()
    clock = SystemClock()
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    port = int(os.environ.get("HEALTH_PORT", "8080")) if port is None else port
    moves_pods = _moves_pods(os.environ.get("FAILOVER", "None"))
    rebuilds = RebuildLimits(
        per_node=_number("REBUILDS_PER_NODE"),
        per_cluster=_number("REBUILDS_PER_CLUSTER"),
        rate_per_node=_number("REBUILD_RATE_PER_NODE"),
        rate_per_cluster=_number("REBUILD_RATE_PER_CLUSTER"),
    )
    protected = _protected(os.environ.get("PROTECTED_NAMESPACES")) | {namespace}
    adoption = policies(os.environ.get("ADOPTION", ""))
    async with ApiKube(access, component=names.MASTER, namespace=namespace, instance=identity) as kube:
        master = Master(kube, clock, rebuilds, protected, adoption=adoption)
        leader = Leader(kube, clock, identity, namespace)
        heartbeats = Heartbeats(kube, clock, master, namespace)
        failover = Failover(kube, clock, master)

        async def lead() -> None:
            await master.load()
            await heartbeats.look()
            async with asyncio.TaskGroup() as group:
                group.create_task(master.run())
                if moves_pods:
                    group.create_task(failover.run())

        def metrics() -> str:
            return text(master.world, master.counts, leading=leader.leading, waiting=len(master.agenda))

        if not await _kinds_are_there(kube, stop):
            return
        asked = asyncio.create_task(stop.wait(), name="stop")
        parts = [asyncio.create_task(master.follow(kind), name=kind.plural) for kind in KINDS]
        parts.append(asyncio.create_task(leader.run(lead), name="leader"))
        # Whoever begins to lead when the leader's node dies has seen for how long that node is silent.
        parts.append(asyncio.create_task(heartbeats.run(), name="heartbeats"))
        try:
            async with Health(port, metrics=metrics) if port else contextlib.nullcontext():
                await asyncio.wait([asked, *parts], return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                ended = [part for part in parts if part.done()]
                names_ = ", ".join(part.get_name() for part in ended)
                raise RuntimeError(f"a part of the operator ended by itself: {names_}") from _error(ended)
        finally:
            for task in (asked, *parts):
                task.cancel()
            await asyncio.wait([asked, *parts], timeout=8.0)


def _moves_pods(failover: str) -> bool:
    if failover not in ("Pods", "None"):
        raise Invalid(f"FAILOVER is {failover!r}: it must be Pods or None")
    return failover == "Pods"


def _protected(said: str | None) -> frozenset[str]:
    return PROTECTED if said is None else frozenset(said.replace(",", " ").split())


def _number(variable: str) -> int:
    said = os.environ.get(variable, "0")
    if not said.isdecimal():
        raise Invalid(f"{variable} is {said!r}: it must be a whole number; 0: no limit")
    return int(said)


async def _kinds_are_there(kube: Kube, stop: asyncio.Event) -> bool:
    """Wait for the API server and for our kinds, and say what is missing. False: told to stop first."""
    wanted = {kind.plural for kind in KINDS}
    while not stop.is_set():
        try:
            found = await kube.raw("GET", f"/apis/{API_VERSION}")
            missing = wanted - {resource["name"] for resource in found.get("resources", ())}
            if not missing:
                return True
            log.warning("the API server does not know %s yet: kubectl apply -f crds/", ", ".join(sorted(missing)))
        except NotFound:
            log.warning("the API server does not know our kinds yet: kubectl apply -f crds/")
        except MillpondError as error:
            log.warning("waiting for the API server: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 2.0)
    return False


def _error(ended: Iterable[asyncio.Task[None]]) -> BaseException | None:
    return next((error for task in ended if not task.cancelled() and (error := task.exception())), None)


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


if __name__ == "__main__":
    main()
