"""Liveness, readiness and metrics, over plain HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from aiohttp import web

from millpond_core.master import volumes as v
from millpond_core.master.world import World


class Health:
    """What the kubelet and Prometheus ask for. Whoever answers is alive: the process ends when a part of it does."""

    def __init__(self, port: int, *, metrics: Callable[[], str], host: str | None = None) -> None:
        self.port = port
        """Where it is served; given 0, any that is free on ``host`` (without one: all addresses, a port each)."""
        self._host = host
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Health:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._healthz),
                web.get("/metrics", self._show),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(text=self._metrics(), content_type="text/plain", charset="utf-8")


def text(world: World, counts: Counter[str], *, leading: bool, waiting: int) -> str:
    """The metrics, in the text format of Prometheus."""
    lines = [
        "# HELP millpond_master_leading Whether this process is the master.",
        "# TYPE millpond_master_leading gauge",
        f"millpond_master_leading {int(leading)}",
        "# HELP millpond_master_agenda Objects on the agenda, later looks included.",
        "# TYPE millpond_master_agenda gauge",
        f"millpond_master_agenda {waiting}",
        "# HELP millpond_master_total What the master did since it started.",
        "# TYPE millpond_master_total counter",
        *(f'millpond_master_total{{what="{what}"}} {count}' for what, count in sorted(counts.items())),
        "# HELP millpond_objects Objects by kind and phase.",
        "# TYPE millpond_objects gauge",
    ]
    phases = Counter((type(obj).__name__, obj.status.phase or "Unknown") for obj in world.all())
    lines += [f'millpond_objects{{kind="{k}",phase="{p}"}} {count}' for (k, p), count in sorted(phases.items())]
    lines += [
        "# HELP millpond_device_free_bytes Bytes that can be allocated.",
        "# TYPE millpond_device_free_bytes gauge",
        *(
            f'millpond_device_free_bytes{{device="{d.metadata.name}",pool="{d.spec.pool}"}} {d.status.free_bytes}'
            for d in world.devices.values()
        ),
    ]
    held = [(volume, since) for volume in world.volumes.values() if (since := v.holding(volume))]
    lines += [
        "# HELP millpond_volumes_holding Volumes of which reads or writes wait for a leg.",
        "# TYPE millpond_volumes_holding gauge",
        f"millpond_volumes_holding {len(held)}",
        "# HELP millpond_leg_holding_since_seconds Since when a node holds I/O for a leg (Unix time).",
        "# TYPE millpond_leg_holding_since_seconds gauge",
        *(
            f'millpond_leg_holding_since_seconds{{volume="{volume.metadata.name}",'
            f'node="{volume.status.attachment.node}",leg="{leg}"}} {at:.0f}'
            for volume, since in held
            for leg, at in since.items()
        ),
    ]
    lines += [
        "# HELP millpond_leaked_holds Holds of I/O that lasted long beyond their deadline since the node booted; 0.",
        "# TYPE millpond_leaked_holds gauge",
        *(
            f'millpond_leaked_holds{{node="{name}"}} {node.status.leaked_holds}'
            for name, node in sorted(world.nodes.items())
        ),
    ]
    legs = Counter(leg.state for volume in world.volumes.values() for leg in volume.status.mapping.legs)
    lines += [
        "# HELP millpond_legs Legs by recorded state.",
        "# TYPE millpond_legs gauge",
        *(f'millpond_legs{{state="{state}"}} {count}' for state, count in sorted(legs.items())),
    ]
    return "\n".join(lines) + "\n"
