"""What this node reports of volumes: when it is due, with the points in time and rates that a plan does not know."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from millpond_core import telling
from millpond_core.instants import stamp
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import NodeReport, PathReport
from millpond_core.ports import Clock
from millpond_node.host import Config
from millpond_node.rundir import RunDir
from millpond_node.writer import Writer

_SURE = 0.05
"""Seconds more than what is left: whoever comes again by another clock is not to come too early."""


class Told:
    """What was reported of one volume."""

    def __init__(self) -> None:
        self.report: NodeReport | None = None
        self.at = float("-inf")
        """When (CLOCK_BOOTTIME)."""
        self.copying: dict[str, tuple[float, int]] = {}
        """Legs being copied: when (CLOCK_BOOTTIME) and with how many bytes done that was first seen."""

    def takes_back(self, report: NodeReport) -> bool:
        """Whether a leg that was offered is so no more."""
        if self.report is None:
            return False
        offered = {leg.id for leg in report.legs if leg.nqn}
        return any(leg.nqn and leg.id not in offered for leg in self.report.legs)


class Reports:
    """Writes reports of volumes to the API server, and for whoever looks on the node itself while that is away."""

    def __init__(self, config: Config, clock: Clock, writer: Writer) -> None:
        self._config, self._clock, self._writer = config, clock, writer
        self._shown = RunDir(config.run_dir / "reports")

    def tell(
        self, volume: VirtualVolume, told: Told, report: NodeReport, held_since: Mapping[str, float], error: str
    ) -> float | None:
        """Report what is due; the seconds after which to come again. ``held_since``: by leg (CLOCK_BOOTTIME)."""
        if not volume.status.mapping.generation and not report.legs and not report.epoch:
            return None
        name, now = volume.metadata.name, self._clock.boottime()
        if told.report is None:
            told.report = next((each for each in volume.status.nodes if each.node == self._config.node), None)
        report = self._timed(told, report, held_since)
        if error:
            report = msgspec.structs.replace(report, message="; ".join(filter(None, (error, report.message))))
        if told.report is None and report == NodeReport(node=report.node, boot_id=report.boot_id):
            return None  # it was planned before the volume had a mapping
        pace = self._config.progress_seconds
        looks = pace if report.progress else None  # nobody tells how far a copy is
        due = telling.patience(told.report, report, numbers=pace)
        if due is None:
            return looks
        if (left := told.at + due - now) > 0:
            return left + _SURE
        told.report, told.at = report, now
        self._shown.save(name, report)
        self._writer.write(VirtualVolume, name, {"nodes": [msgspec.to_builtins(report)]})
        return looks

    def forget(self, name: str) -> None:
        self._shown.forget(name)

    def _timed(self, told: Told, report: NodeReport, held_since: Mapping[str, float]) -> NodeReport:
        wall, now = self._clock.now(), self._clock.boottime()
        old = {path.id: path for path in told.report.paths} if told.report else {}
        paths = []
        for path in report.paths:
            was = old.get(path.id, PathReport(id=path.id))
            since = was.since if was.path == path.path and was.since else stamp(wall)
            held = held_since.get(path.id)
            holding = ""
            if held is not None:
                holding = was.holding_since or stamp(wall - (now - held))
            paths.append(msgspec.structs.replace(path, since=since, holding_since=holding))
        progress = []
        for one in report.progress:
            began = told.copying.setdefault(one.leg, (now, one.done_bytes))
            rate = int((one.done_bytes - began[1]) / (now - began[0])) if now > began[0] else 0
            progress.append(msgspec.structs.replace(one, rate=0 if one.halted else max(rate, 0)))
        copying = {one.leg for one in progress if not one.halted}
        told.copying = {leg: began for leg, began in told.copying.items() if leg in copying}
        return msgspec.structs.replace(report, paths=paths, progress=progress)
