"""``make bench-density``: many small volumes on one node, from creation to deletion, into docs/performance.md.

Three storage nodes (``faults.field``) with the operator, and beside them what Kubernetes' sidecars and the kubelet
talk to: the CSI controller on the host, the CSI node service in the guest. All volumes are attached to the first node,
where each has one of its two legs. The calls are made as those would make them, a few at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from bench import calls, crowd
from bench.calls import Answer, Work
from bench.crowd import Crowd, Restart
from bench.figures import described, host, replace_section

from demo import diagnostics
from demo.legs import compare, runs
from faults.__main__ import revision
from faults.field import MEMORY_MIB, NAMES, Field, Object
from faults.volume import Volume
from lab import kernels
from lab.errors import LabError
from lab.progress import say, step
from millpond_core import names
from millpond_core.units import LABEL_BYTES, MIB, UNIT_BYTES, leg_units
from millpond_csi import stubs

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "bench"
NODE = NAMES[0]
VOLUMES = 250
VOLUME_MIB = UNIT_BYTES // MIB
"""The least that the driver makes."""
AT_ONCE = 4
ATTEMPT_SECONDS = 120.0
"""The chart's ``callTimeoutSeconds``, and the kubelet's two minutes."""
CALL_SECONDS = 900.0
"""After which a call that is not done is a failure."""
LEAST_SECONDS = 600.0
PAGE = 100
LISTS = 10
SETTLE_SECONDS = 30.0
"""Before an idle minute."""
IDLE_SECONDS = 60.0
QUIET_SECONDS = 30.0
WRITER_MIB = 16
SOON_SECONDS = 300.0
RESTARTS = (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
WITH_DATA = 5
DATA_KIB = 1024
NODE_MIB, LEG_NODE_MIB = 8, 4
"""Memory for each volume, where it is attached and elsewhere."""

KUBELET = "/var/lib/kubelet"
NODE_SOCKET = f"{KUBELET}/plugins/{names.DRIVER}/csi.sock"
PROGRAMS = {
    "millpond_node.main": "state manager",
    "millpond_csi.main": "CSI node service",
    "millpond_node.watchdog": "watchdog",
}
CAPABILITY = {"mount": {"fs_type": "ext4"}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}
# $@: of some volumes the folders that their pods see.
_FILL = """
for folder; do
    dd if=/dev/urandom of="$folder/data" bs=64k count="$0" conv=fsync status=none || exit 1
done
"""
_LEFT = """
dmsetup ls | sed -n 's/^\\(millpond-[^[:space:]]*\\).*/dm \\1/p'
for each in /sys/block/md_mp*; do [ ! -e "$each" ] || echo "array ${each##*/}"; done
grep -lsF nqn.2026-11.io.millpond: /sys/class/nvme/*/subsysnqn | sed 's/^/connection /'
ls /sys/kernel/config/nvmet/subsystems | sed 's/^/subsystem /'
sed -n 's|^[^ ]* \\(/var/lib/kubelet/[^ ]*\\) .*|mount \\1|p' /proc/self/mounts
ls /run/millpond/volumes /run/millpond/reports | sed -n 's/\\.json$//p' | sed 's/^/remembered /'
"""
NOTES = f"""
etcd, the API server, the operator and the CSI controller run on the host; state managers, watchdogs and the CSI node
service in three guests. Every volume has {VOLUME_MIB} MiB (the least), ext4 and two legs, one of them on {NODE},
where all are attached; the others lie on the two other nodes. {AT_ONCE} calls are made at once, as the sidecars and
the kubelet make them, one kind after the other; one that is answered with "not yet" is made again.

* *p50*, *p99*: of one call with all its attempts, by the clock of who calls. A list is all pages, asked for
  {LISTS} times: *in all* is once through them.
* *resident*: VmRSS; of the node what its kernel calls not available. *CPU*: user and system time, over
  {IDLE_SECONDS:g} s in which nobody asks for anything, {SETTLE_SECONDS:g} s after the last call. A guest counts as used
  what its emulated processors waited for the host's: with a *load* beyond the host's cores it is far too much.
* *adopted*: the state manager holds each array's `array_state` open once it has looked at its volume, planned, and
  reported where there was something to report: the time from its execution until it has all of them. It is executed
  again a second after it has ended.
* *writer*: on a volume beside the others, 60 random writes of 4 KiB a second, each acknowledged by its fsync.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 once docs/performance.md is written, whatever it says."""
    parser = argparse.ArgumentParser(prog="bench.density", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument("--volumes", type=int, default=VOLUMES, help=f"({VOLUMES})")
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends the guests
    found = Crowd(
        kernel=arguments.kernel,
        machine=host(),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command=f"make bench-density KERNEL={arguments.kernel} VOLUMES={arguments.volumes}",
        volumes=arguments.volumes,
        revision=revision(),
    )
    try:
        measure(found)
    finally:
        found.load = os.getloadavg()[2]
        FOLDER.mkdir(parents=True, exist_ok=True)
        result = FOLDER / f"density-{arguments.kernel}-{arguments.volumes}.json"
        result.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
        say(f"what was measured: {result}")
    told = f"{heading(found)}\n\n{crowd.report(found)}"
    print(f"\n{told}")
    if not arguments.dry:
        path = ROOT / "docs" / "performance.md"
        replace_section(path, f"density-{arguments.kernel}", told, "# Performance\n")
        print(f"\nwritten to {path}")
    return 0


def heading(found: Crowd) -> str:
    """Title, and what a reader must know to judge the figures."""
    machine = {"kernel": found.release, "date": found.date, "host": found.machine, "load": f"{found.load:.1f}"}
    machine["revision"] = found.revision
    told = described(machine, found.command, NOTES.rstrip().splitlines())
    return f"## {found.volumes} volumes on one node, kernel {found.kernel}\n\n{told}"


def measure(found: Crowd) -> None:
    """Fill ``found``; LabError at the first thing that is not as it should be."""
    count = found.volumes
    disk_mib = (LABEL_BYTES + count * leg_units(VOLUME_MIB * MIB) * UNIT_BYTES) // MIB + 64
    memory = {name: MEMORY_MIB + count * (NODE_MIB if name == NODE else LEG_NODE_MIB) for name in NAMES}
    with Field(found.kernel, disk_mib=disk_mib, mib=memory) as field:
        found.release = field.release
        bench = Bench(field, found)
        try:
            bench.run()
        except BaseException:
            collect(field, FOLDER / f"density-{found.kernel}")
            raise


def collect(field: Field, folder: Path) -> None:
    """After a failure: what an engineer wants to see."""
    field.collect(folder)
    diagnostics.save(folder / "csi-node.log", lambda: field.run(NODE, "cat", "/out/csi-node.log"))
    diagnostics.save(folder / "csi-controller.log", (field.plane.folder / "csi-controller.log").read_text)
    say(f"what is known of it lies in {folder}\n{field.gist(folder)}")


class Bench:
    """The volumes, what is known of each, and who is asked for them."""

    def __init__(self, field: Field, found: Crowd) -> None:
        self.field, self.found = field, found
        self.volumes = [f"pvc-{number:04d}" for number in range(found.volumes)]
        self.contexts: dict[str, dict[str, str]] = {}
        """Of each volume, as CreateVolume gave it."""
        self.published: dict[str, dict[str, str]] = {}
        """Of each volume, as ControllerPublishVolume gave it."""
        self.seconds = max(LEAST_SECONDS, found.volumes * 60.0)
        """For a phase."""

    def run(self) -> None:
        """From no volume to no volume."""
        self._begin()
        self._idle("none, before")
        self._make()
        self._idle(f"{self.found.volumes}, staged")
        self._fill()
        self._restarts()
        self._unmake()
        self._left()
        self._idle("none, after")

    def _begin(self) -> None:
        """The CSI driver, where a cluster has it."""
        self.socket = self.field.plane.folder / "csi.sock"
        self.field.start_here(
            "csi-controller", "millpond_csi.main", "--endpoint", f"unix://{self.socket}", "controller"
        )
        # They are generated, so no part of the work tree that the guests have.
        for stub in Path(stubs.csi.__file__).parent.glob("*.py"):
            put = ["sh", "-ec", 'mkdir -p "${0%/*}" && cat >"$0"', f"/repo/{stub.relative_to(ROOT)}"]
            self.field.nodes[NODE].agent.run(put, stdin=stub.read_bytes())
        self.field.run(NODE, "mkdir", "-p", KUBELET)
        self.field.start_program(NODE, "csi-node", "millpond_csi.main", "--endpoint", f"unix://{NODE_SOCKET}", "node")
        with step("Waiting for the CSI driver", usually=10):
            for asked in (self._controller, self._on_node):
                asked("Identity/Probe", [{}])

    # --- calls ---

    def _controller(self, method: str, requests: Sequence[Object], at_once: int = AT_ONCE) -> list[Answer]:
        """Made here."""
        work = self._work(self.socket, method, requests, at_once)
        return self._all(work, lambda told: asyncio.run(self._within(calls.make(work, told))))

    async def _within(self, making: Any) -> None:
        await asyncio.wait_for(making, self.seconds)

    def _on_node(self, method: str, requests: Sequence[Object]) -> list[Answer]:
        """Made in the guest."""
        work, guest, rest = self._work(Path(NODE_SOCKET), method, requests, AT_ONCE), self.field.nodes[NODE], b""

        def run(told: Callable[[Answer], None]) -> None:
            def hear(data: bytes) -> None:
                nonlocal rest
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    told(msgspec.json.decode(line, type=Answer))

            argv, given = ["python3", "-m", "bench.calls"], msgspec.json.encode(work)
            env = guest.environment()
            guest.agent.run(argv, seconds=self.seconds, stdin=given, stdout=hear, env=env, cwd="/repo")

        return self._all(work, run)

    @staticmethod
    def _work(socket: Path, method: str, requests: Sequence[Object], at_once: int) -> Work:
        return Work(str(socket), method, [*requests], at_once, ATTEMPT_SECONDS, CALL_SECONDS)

    @staticmethod
    def _all(work: Work, run: Callable[[Callable[[Answer], None]], None]) -> list[Answer]:
        """Every answer, by number; LabError when one is an error. Says now and then how far it is."""
        answers: list[Answer] = []
        said = time.monotonic()

        def told(answer: Answer) -> None:
            nonlocal said
            answers.append(answer)
            if time.monotonic() > said + 20:
                said = time.monotonic()
                say(f"   {work.method}: {len(answers)} of {len(work.requests)}")

        run(told)
        if errors := [answer.error for answer in answers if answer.error]:
            raise LabError("; ".join(errors))
        return sorted(answers, key=lambda answer: answer.number)

    def _phase(
        self,
        name: str,
        ask: Callable[[str, Sequence[Object]], list[Answer]],
        method: str,
        request: Callable[[str], Object],
    ) -> list[Answer]:
        """One call for each volume, noted."""
        with step(f"{name}: {len(self.volumes)} volumes", usually=len(self.volumes)):
            answers = ask(method, [request(volume) for volume in self.volumes])
        self.found.phases.append(crowd.phase(name, answers))
        return answers

    # --- a volume's life ---

    def _make(self) -> None:
        """Create, attach, stage, publish, list."""
        preferred = {"preferred": [{"segments": {names.TOPOLOGY_KEY: NODE}}]}

        def create(volume: str) -> Object:
            return {
                "name": volume,
                "capacity_range": {"required_bytes": VOLUME_MIB * MIB},
                "volume_capabilities": [CAPABILITY],
                "parameters": {"copies": "2"},
                "accessibility_requirements": preferred,
            }

        for answer in self._phase("create", self._controller, "Controller/CreateVolume", create):
            volume = answer.response["volume"]
            self.contexts[volume["volume_id"]] = volume.get("volume_context", {})
        attached = self._phase("attach", self._controller, "Controller/ControllerPublishVolume", self._at_node)
        self.published = {
            volume: answer.response["publish_context"] for volume, answer in zip(self.volumes, attached, strict=True)
        }
        self._phase("stage", self._on_node, "Node/NodeStageVolume", self._staging)
        self.field.run(NODE, "mkdir", "-p", *(str(Path(target(volume)).parent) for volume in self.volumes))
        publish = lambda volume: {**self._staging(volume), "target_path": target(volume)}  # noqa: E731
        self._phase("publish", self._on_node, "Node/NodePublishVolume", publish)
        self._list()

    def _at_node(self, volume: str) -> Object:
        known = {"volume_capability": CAPABILITY, "volume_context": self.contexts[volume]}
        return {"volume_id": volume, "node_id": NODE, **known}

    def _staging(self, volume: str) -> Object:
        return {
            "volume_id": volume,
            "publish_context": self.published[volume],
            "staging_target_path": staged(volume),
            "volume_capability": CAPABILITY,
            "volume_context": self.contexts[volume],
        }

    def _list(self) -> None:
        """All pages, some times; each volume must be there once, on its node."""
        size, pages, totals = min(PAGE, -(-len(self.volumes) // 2)), list[Answer](), []
        for _ in range(LISTS):
            began, entries, token = time.monotonic(), list[Object](), ""
            while True:
                (page,) = self._controller("Controller/ListVolumes", [{"max_entries": size, "starting_token": token}])
                pages.append(page)
                entries += page.response.get("entries", ())
                token = page.response.get("next_token", "")
                if not token:
                    break
            totals.append(time.monotonic() - began)
            there = [(each["volume"]["volume_id"], each["status"].get("published_node_ids")) for each in entries]
            if there != [(volume, [NODE]) for volume in self.volumes]:
                raise LabError(
                    f"ListVolumes gives {len(there)} volumes, not the {len(self.volumes)} on {NODE}: {there}"
                )
        noted = crowd.phase(f"list, pages of {size}", pages)
        self.found.phases.append(msgspec.structs.replace(noted, total=sorted(totals)[LISTS // 2]))

    def _unmake(self) -> None:
        """The way back; the legs of those with data are compared before they go."""
        unpublish = lambda volume: {"volume_id": volume, "target_path": target(volume)}  # noqa: E731
        unstage = lambda volume: {"volume_id": volume, "staging_target_path": staged(volume)}  # noqa: E731
        detach = lambda volume: {"volume_id": volume, "node_id": NODE}  # noqa: E731
        self._phase("unpublish", self._on_node, "Node/NodeUnpublishVolume", unpublish)
        self._phase("unstage", self._on_node, "Node/NodeUnstageVolume", unstage)
        self._phase("detach", self._controller, "Controller/ControllerUnpublishVolume", detach)
        for volume in self.volumes[:WITH_DATA]:
            self._compare(volume)
        self._phase("delete", self._controller, "Controller/DeleteVolume", lambda volume: {"volume_id": volume})

    # --- data ---

    def _fill(self) -> None:
        folders = [target(volume) for volume in self.volumes[:WITH_DATA]]
        self.field.run(NODE, "sh", "-c", _FILL, str(DATA_KIB // 64), *folders, seconds=SOON_SECONDS)

    def _compare(self, name: str) -> None:
        """LabError when its legs are not two, in sync and equal."""
        volume = self.field.get("virtualvolumes", name)
        legs = [leg for leg in volume["status"]["mapping"]["legs"] if leg["state"] == "InSync"]
        images = {e["device"]: self.field.image(leg["node"], e["device"]) for leg in legs for e in leg["extents"]}
        one, other = (runs(leg, images) for leg in legs)
        if differences := compare(one, other, VOLUME_MIB * MIB)[1]:
            raise LabError(f"the legs of {name} differ in {', '.join(map(str, differences))}")
        self.found.compared += 1

    # --- what is measured ---

    def _idle(self, moment: str) -> None:
        """What the programs of the node take while nobody asks for anything."""
        with step(f"An idle minute, volumes: {moment}", usually=SETTLE_SECONDS + IDLE_SECONDS):
            time.sleep(SETTLE_SECONDS)
            before = self._programs("look", *PROGRAMS)
            time.sleep(IDLE_SECONDS)
            after = self._programs("look", *PROGRAMS)
        self.found.standings += crowd.standings(moment, before, after, PROGRAMS)

    def _programs(self, *words: str) -> Mapping[str, Any]:
        told = self.field.run(NODE, "python3", "-IS", "/repo/bench/programs.py", *words, seconds=self.seconds + 900)
        found: Mapping[str, Any] = json.loads(told)
        return found

    def _restarts(self) -> None:
        """End the state manager, again and again, under a writer; its volume must be whole afterwards."""
        writer = Volume(self.field, "writer", mib=WRITER_MIB)
        writer.attach(NODE, seconds=SOON_SECONDS)
        writer.begin(NODE)
        writer.writes(seconds=SOON_SECONDS, more=50)
        writer.ledger.gap()
        time.sleep(QUIET_SECONDS)
        self.found.quiet_pause = writer.ledger.gap()
        arrays = str(len(self.volumes) + 1)
        for number in RESTARTS:
            with step(f"The state manager gets {number.name}", usually=30):
                took = self._programs("restart", "millpond_node.main", str(number.value), arrays)
                writer.writes(seconds=SOON_SECONDS)
            self.found.restarts.append(Restart(signal=number.name, pause=writer.ledger.gap(), **took))
        writer.end()
        self.found.acknowledged, self.found.errors = writer.ledger.count, writer.ledger.errors
        if found := writer.check():
            raise LabError(f"the writer's volume is not as it should be: {'; '.join(found)}")
        self.found.compared += 1
        writer.detach(seconds=SOON_SECONDS)
        self.field.delete("virtualvolumes", writer.name)

        def there() -> str:
            return "it is still there" if self.field.get("virtualvolumes", writer.name) else ""

        writer.wait(there, "it is deleted", seconds=SOON_SECONDS)

    def _left(self) -> None:
        """What the volumes have left behind, noted for each node: the report says it."""
        for node in NAMES:
            self.found.left[node] = self.field.run(node, "sh", "-c", _LEFT).splitlines()
        status = {each["metadata"]["name"]: each["status"] for each in self.field.items("storagenodes")}
        for node in NAMES:
            self.found.left[node] += [f"leg {leg}" for leg in status[node].get("orphanedLegs", ())]
            self.found.left[node] += [f"hold {hold}" for hold in status[node].get("leakedHolds", ())]
        if any(self.found.left.values()):
            say(f"   left behind: {self.found.left}")


def staged(volume: str) -> str:
    """Where the kubelet would have it staged."""
    folder = hashlib.sha256(volume.encode()).hexdigest()
    return f"{KUBELET}/plugins/kubernetes.io/csi/{names.DRIVER}/{folder}/globalmount"


def target(volume: str) -> str:
    """Where the kubelet would have it shown to a pod: one pod a volume."""
    pod = hashlib.sha256(f"pod of {volume}".encode()).hexdigest()[:32]
    return f"{KUBELET}/pods/{pod}/volumes/kubernetes.io~csi/{volume}/mount"


if __name__ == "__main__":
    sys.exit(main())
