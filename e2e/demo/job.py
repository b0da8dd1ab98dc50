"""The main job: a claim, a pod that writes, two disks pulled one after the other, every acknowledged record read back.

``MainJob.run`` is the whole of it; its parts are used one by one by the end-to-end tests. Who calls it brings the
cluster, with Millpond installed and disks adopted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from demo import legs
from demo.cluster import Cluster, Object
from demo.errors import DemoError
from demo.faults import Faults
from demo.report import ENOUGH, Report
from demo.story import Story
from demo.workload import Workload, storage_class

# Ten times what a quiet machine takes: they tell a hang from a slow machine, and nothing else.
DETECT_SECONDS = 120.0
RECORD_SECONDS = 300.0
QUIESCE_SECONDS = 600.0
REBUILD_SECONDS = 1200.0
WRITE_SECONDS = 400.0
BEFORE_THE_FAULT = 300
MIB = 1 << 20
PATIENT = '{"spec":{"onFailure":{"gracePeriodSeconds":3600}}}'


@dataclass(frozen=True)
class Victim:
    """A leg and the one disk that it lies on."""

    leg: str
    node: str
    device: str
    serial: str


class MainJob:
    """One run. A context manager: the watch that tells the story runs inside it.

    A lost leg is replaced after ``grace`` seconds.
    """

    def __init__(
        self, cluster: Cluster, faults: Faults, workload: Workload, story: Story, report: Report, *, grace: int = 5
    ) -> None:
        self.cluster, self.faults, self.workload, self.story, self.report = cluster, faults, workload, story, report
        self.grace = grace
        self.volume = ""
        self._watching = ExitStack()

    def __enter__(self) -> MainJob:
        self._watching.enter_context(self.cluster.watch(self.story.changed))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._watching.close()

    def run(self) -> None:
        """From the claim to the verdict; fills the report in as it goes."""
        self.write_something()
        remote, local = self.victims()
        self.lose(remote)
        self.compare()
        self.lose_the_other(local)
        self.read_back()

    # --- the parts ---------------------------------------------------------------------------------------------------

    def write_something(self) -> None:
        """Claim, pod, first records."""
        work = self.workload
        with self.story.phase("claim", f"A pod claims {work.size}, in two copies on different nodes"):
            self.cluster.apply(storage_class(work.storage_class, grace=self.grace), *work.claim_objects())
            began = time.monotonic()
            work.write()
            self.volume = work.volume()
            self.story.say(f"the claim is bound to {self.volume}, {time.monotonic() - began:.0f} s after it was made")
            node = work.running()
            self.story.say(f"the pod runs on {node}, {time.monotonic() - began:.0f} s after it was made")
        with self.story.phase("write", "The pod writes numbered records and notes each one whose fsync has returned"):
            self._until_written(BEFORE_THE_FAULT)
            self._in_sync()
            found = self.see()
            self.report.generation_before = int(found["status"]["mapping"]["generation"])
            for leg in found["status"]["mapping"]["legs"]:
                devices = ", ".join(sorted({extent["device"] for extent in leg["extents"]}))
                self.story.say(f"leg {leg['id']} lies on {leg['node']}, on {devices}: {leg['state']}")

    def victims(self) -> tuple[Victim, Victim]:
        """The two legs: one on another node than the pod if there is one, then the other."""
        status = self.see()["status"]
        attach = status["attachment"]["node"]
        in_sync = [leg for leg in status["mapping"]["legs"] if leg["state"] == "InSync"]
        if len(in_sync) != 2:
            raise DemoError(f"{self.volume} should have two legs in sync, not {len(in_sync)}: {status.get('message')}")
        in_sync.sort(key=lambda leg: bool(leg["node"] == attach))
        return self._victim(in_sync[0]), self._victim(in_sync[1])

    def lose(self, victim: Victim) -> None:
        """Pull the disk under a leg; follow it until a spare is in sync."""
        work, story = self.workload, self.story
        with story.phase("first_disk", f"The disk under leg {victim.leg} is pulled out of {victim.node}"):
            pulled = self.pull(victim)
            story.wait("stale", "the loss is recorded", seconds=RECORD_SECONDS, since=pulled, subject=self.volume)
            count = work.goes_on(seconds=WRITE_SECONDS)
            story.say(f"I/O goes on: {count} records acknowledged by now")
        with story.phase("reconfigure", "It does not come back in time: the mapping has to change"):
            generation = story.wait(
                "generation", "a new mapping", seconds=QUIESCE_SECONDS, since=pulled, subject=self.volume
            )
            self._quiesced(pulled)
        with story.phase("rebuild", "The spare is rebuilt while the pod writes on"):
            in_sync = story.wait("insync", "in sync", seconds=REBUILD_SECONDS, since=generation.at, subject=self.volume)
            self.report.rebuild_seconds = round(in_sync.at - generation.at, 1)
            self._until_written(ENOUGH)
        self.report.generation_after = int(self.see()["status"]["mapping"]["generation"])

    def compare(self) -> None:
        """Every leg that is in sync, byte by byte, in the disks' own bytes; the pod holds still meanwhile."""
        with self.story.phase("compare", "The two copies are compared byte by byte, on the disks themselves"):
            self.workload.pause()
            try:
                size, differences = compare_in_sync(self.cluster, self.see(), self.faults)
            finally:
                self.workload.resume()
            self.report.compared_bytes = size
            self.report.differing_stretches = len(differences)
            self.report.problems += [f"the legs differ: {each}" for each in differences[: legs.EXAMPLES]]
            told = "they differ" if differences else "not one differs"
            self.story.say(f"{size // MIB} MiB of each compared: {told}")

    def lose_the_other(self, victim: Victim) -> None:
        """Pull the disk under the leg that had been there from the beginning: only the rebuilt copy is left."""
        with self.story.phase("second_disk", f"The second of the original disks is pulled, out of {victim.node}"):
            self.cluster.kubectl("patch", "vvol", self.volume, "--type=merge", "-p", PATIENT)
            self.story.say("this time a lost disk is waited for: no spare comes to the help of the rebuilt copy")
            pulled = self.pull(victim)
            self.story.wait("stale", "the loss is recorded", seconds=RECORD_SECONDS, since=pulled, subject=self.volume)
            count = self.workload.goes_on(seconds=WRITE_SECONDS)
            self.story.say(f"I/O goes on, on the rebuilt copy alone: {count} records acknowledged by now")

    def read_back(self) -> None:
        """Every acknowledged record: in the pod that wrote it, and in a new one after a remount."""
        work, story = self.workload, self.story
        with story.phase("read_back", "Every acknowledged record is read back and checked"):
            work.pause()
            acks, text = work.acks()
            self.report.records_acknowledged = len(acks.digests)
            self.report.records_refused = acks.errors
            self.report.longest_write_gap_ms = round(acks.longest_gap_ms())
            self._held()
            self._judge("the pod that wrote them", work.verify("writer", text))
        with story.phase("remount", "Once more after a remount: the pod is deleted, a new one reads"):
            work.delete_pod("writer")
            work.idle("reader")
            node = work.running("reader")
            self._judge(f"a new pod on {node}", work.verify("reader", text))

    def pull(self, victim: Victim) -> float:
        """Pull a disk and wait until its state manager says so; returns when it was pulled."""
        began = time.monotonic()
        self.faults.unplug(victim.node, victim.serial)
        self.story.say(f"the disk with serial {victim.serial} is out")
        seen = self.story.wait(
            "detected", f"{victim.node} notices it", seconds=DETECT_SECONDS, since=began, subject=victim.device
        )
        if self.report.detected_ms < 0:
            self.report.detected_ms = round(1000 * (seen.at - began))
        return began

    def see(self) -> Object:
        """The volume as it is now."""
        return self.cluster.get("vvol", self.volume)

    # --- details -----------------------------------------------------------------------------------------------------

    def _victim(self, leg: Mapping[str, Any]) -> Victim:
        devices = {extent["device"] for extent in leg["extents"]}
        if len(devices) != 1:
            raise DemoError(f"leg {leg['id']} lies on {len(devices)} devices; this story is about one")
        (device,) = devices
        return Victim(leg["id"], leg["node"], device, serial_of(_devices(self.cluster)[device]))

    def _until_written(self, count: int) -> None:
        def missing() -> str:
            now = self.workload.count()
            return "" if now >= count else f"{now} so far"

        self.cluster.wait(missing, f"{count} records are acknowledged", seconds=WRITE_SECONDS)
        self.story.say(f"{self.workload.count()} records acknowledged")

    def _in_sync(self) -> None:
        """Two legs in sync: on a machine that is short of breath one may have been given up, and is rebuilt."""

        def missing() -> str:
            states = [leg["state"] for leg in self.see()["status"]["mapping"]["legs"] if not leg.get("releasing")]
            return "" if states.count("InSync") == 2 else f"its legs are {', '.join(states)}"

        self.cluster.wait(missing, f"both legs of {self.volume} are in sync", seconds=REBUILD_SECONDS)

    def _quiesced(self, since: float) -> None:
        """How long the quiescence took, by the master's own notes; by our watch when it made none."""
        instructed = self.story.find("instructed", since=since)
        quiesced = self.story.find("quiesced", since=since)
        if instructed is None or quiesced is None:
            self.report.problems.append("the mapping changed without a quiescence")
            return
        noted = _noted(self.story.object("quiescences", quiesced.moment.subject))
        seconds = noted if noted is not None else quiesced.at - instructed.at
        self.report.quiesced_ms = round(1000 * seconds)

    def _held(self) -> None:
        status = self.see()["status"]
        holds = [node.get("longestHoldMs", 0) for node in status.get("nodes", ()) if node.get("paths")]
        self.report.held_ms = max(holds, default=-1)

    def _judge(self, where: str, verdict: dict[str, Any]) -> None:
        self.report.count(verdict)
        self.story.say(
            f"{where}: {verdict['checked']} of {self.report.records_acknowledged} acknowledged records read, "
            f"{verdict['lost']} lost, {verdict['wrong']} wrong"
        )


def compare_in_sync(cluster: Cluster, volume: Object, faults: Faults) -> tuple[int, list[legs.Difference]]:
    """Compare all legs of a volume that are in sync with the first of them. Nothing may be writing."""
    status = volume["status"]
    in_sync = [leg for leg in status["mapping"]["legs"] if leg["state"] == "InSync" and not leg.get("releasing")]
    if len(in_sync) < 2:
        raise DemoError(f"{volume['metadata']['name']} has {len(in_sync)} leg in sync: nothing to compare")
    devices = _devices(cluster)
    stripes = volume["spec"].get("layout", {}).get("stripes", 1)

    def again() -> tuple[int, list[legs.Difference]]:
        if node := status.get("attachment", {}).get("node"):
            faults.run(node, "sync")
        images: dict[str, Path] = {
            extent["device"]: faults.image(leg["node"], serial_of(devices[extent["device"]]))
            for leg in in_sync
            for extent in leg["extents"]
        }
        first, *others = (legs.runs(leg, images, stripes=stripes) for leg in in_sync)
        differences: list[legs.Difference] = []
        for other in others:
            differences += legs.compare(first, other, int(status["sizeBytes"]))[1]
        return int(status["sizeBytes"]), differences

    return legs.settle(again)


def _devices(cluster: Cluster) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in cluster.items("storagedevices")}


def serial_of(device: Object) -> str:
    """The serial number of a StorageDevice's disk."""
    serial: str = device["spec"]["identity"].get("serial") or device["status"]["observation"]["serial"]
    return serial


def _noted(quiescence: Object) -> float | None:
    """Seconds from Instructed to Quiesced by ``status.timeline``."""
    status = quiescence.get("status", {})
    times = {entry["phase"]: entry["at"] for entry in status.get("timeline", ())}
    if "Instructed" not in times or "Quiesced" not in times:
        return None
    return (datetime.fromisoformat(times["Quiesced"]) - datetime.fromisoformat(times["Instructed"])).total_seconds()
