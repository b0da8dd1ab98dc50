"""A volume on the field, and the pod that writes to it.

Attachment is asked for as the CSI controller does. A pod is what the kubelet and a runtime would make of it, as far as
Millpond looks: a cgroup of its own, and the device's node bound below the kubelet's folder.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.install import API_VERSION
from demo.legs import Reader, Run, compare, runs
from demo.reality import discrepancies
from faults import blocks
from faults.field import Field, Object
from faults.ledger import Ledger
from lab.errors import LabError
from millpond_core import names, quiesce
from millpond_core.units import BITMAP_BYTES, MIB

ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
POD_SECONDS = 3600.0
RATE = 60
ASK_SECONDS = 3.0
"""For the record, while the fault may be that nobody answers."""
GRACE_SECONDS = 60
"""Before a spare takes the place of a lost leg, where a case does not want it otherwise."""

# $1: uid, $2: name of the front; the rest is the writer's. The CSI driver publishes the kernel's own node, too.
_POD = """
folder=/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/claim/dev
node="/dev/dm-$(dmsetup info -c --noheadings -o minor "$2")" || exit 98
mkdir -p "$folder" "/sys/fs/cgroup/pod$1" && : >"$folder/$1" && mount --bind "$node" "$folder/$1" || exit 98
echo $$ >"/sys/fs/cgroup/pod$1/cgroup.procs"
target="$folder/$1"; shift 2
exec python3 -IS /repo/e2e/faults/blocks.py "$target" "$@"
"""
_GONE = """
umount "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/claim/dev/$1" 2>/dev/null
rm -f "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/claim/dev/$1"
rmdir "/sys/fs/cgroup/pod$1" 2>/dev/null
cat "/run/blocks-$1" 2>/dev/null && rm "/run/blocks-$1"
true
"""


class Pod:
    """One life of the writer, on one node."""

    def __init__(self, field: Field, node: str, front: str, ledger: Ledger) -> None:
        self.node, self.uid = node, str(uuid.uuid4())
        self._field, self._ledger = field, ledger
        self._first, self._heard = ledger.hear()
        argv = ["sh", "-c", _POD, "pod", self.uid, front, ledger.volume.hex(), str(ledger.blocks)]
        argv += ["--first", str(self._first), "--rate", str(RATE), "--own", f"/run/blocks-{self.uid}"]
        self.end = ""
        """How it ended; empty: it has not."""
        self._thread = threading.Thread(target=self._run, args=(argv,), daemon=True)
        self._thread.start()

    def _run(self, argv: list[str]) -> None:
        agent = self._field.nodes[self.node].agent
        try:
            done = agent.run(argv, seconds=POD_SECONDS, stdout=self._heard, check=False)
            self.end = f"exit status {done.returncode} {done.stderr.strip()[-300:]}"
        except (LabError, OSError) as error:
            self.end = str(error)

    def alive(self) -> bool:
        return not self.end

    def stop(self, *, seconds: float = 120) -> None:
        """SIGTERM; returns when no write is in flight. LabError when a write still waits after ``seconds``.

        What it was told and could not say, on a node that was cut off, is in the ledger then; on one that lost its
        power it is lost.
        """
        deadline = time.monotonic() + seconds
        while self.alive():
            if self._field.nodes[self.node].machine.alive():
                self._field.run(self.node, "pkill", "-TERM", "-f", f"blocks.py .*{self.uid}", check=False)
            self._thread.join(2.0)
            if self.alive() and time.monotonic() > deadline:
                raise LabError(f"a write on {self.node} waits for more than {seconds:.0f} s")
        there = self._field.nodes[self.node].machine.alive()
        own = self._field.run(self.node, "sh", "-c", _GONE, "gone", self.uid) if there else ""
        self._ledger.read(own)
        if not own:
            self._ledger.cut_short(self._first)


def virtual_volume(name: str, *, mib: int, copies: int = 2, **spec: Any) -> Object:
    """A VirtualVolume; ``spec``: what else it says."""
    wanted = {"uuid": str(uuid.uuid4()), "size": f"{mib}Mi", "layout": {"copies": copies}, **spec}
    return {"apiVersion": API_VERSION, "kind": "VirtualVolume", "metadata": {"name": name}, "spec": wanted}


class Volume:
    """A VirtualVolume of two copies, its ledger, and its pod when there is one."""

    def __init__(self, field: Field, name: str, *, mib: int, grace: int = GRACE_SECONDS, hold: int = 5) -> None:
        self.field, self.name = field, name
        self.uuid = str(uuid.uuid4())
        self.bytes = mib * MIB
        self.ledger = Ledger(uuid.UUID(self.uuid).bytes, self.bytes // blocks.BLOCK)
        self.pod: Pod | None = None
        wanted = virtual_volume(
            name,
            mib=mib,
            uuid=self.uuid,
            placement={"preferredNode": "n1"},
            onFailure={"gracePeriodSeconds": grace, "holdSeconds": hold},
        )
        field.cluster.apply(wanted)
        self.make_persistent()

    def make_persistent(self) -> None:
        """The PersistentVolume that stands for it."""
        known: Object = {
            "capacity": {"storage": f"{self.bytes // MIB}Mi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": names.DRIVER, "volumeHandle": self.name},
        }
        meta = {"name": self.name}
        self.field.cluster.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": known})

    # --- what the record says ---

    def see(self) -> Object:
        """The object; its status may be empty."""
        return {"status": {}, **self.field.get("virtualvolumes", self.name)}

    def legs(self, *states: str) -> list[Object]:
        """Legs of the mapping that are not being given back, in one of ``states`` (none given: in any)."""
        return _legs(self.see(), *states)

    def node(self) -> str:
        """Where it is attached, by the record; empty: nowhere."""
        node: str = self.see()["status"].get("attachment", {}).get("node", "")
        return node

    def wanted(self) -> str:
        """Where it is asked for; empty: nowhere."""
        node: str = self.see().get("spec", {}).get("attachment", {}).get("node", "")
        return node

    def fenced(self, node: str) -> bool:
        """Whether it cannot go on in the pods on ``node``: the master ends them."""
        needs_new = node == self.node() and _ready(self.see()["status"]).startswith("NeedsNewPods:")
        return needs_new or self.report(node).get("front") == "Fenced"

    def report(self, node: str) -> Object:
        """What the node has made of it; empty: nothing."""
        reports = self.see()["status"].get("nodes", ())
        return next((each for each in reports if each["node"] == node), {})

    def wait(self, condition: Callable[[], str], what: str, *, seconds: float) -> None:
        """Until ``condition`` says nothing more (it says what is missing)."""
        self.field.cluster.wait(_or_the_error(condition), f"{self.name}: {what}", seconds=seconds, every=0.25)

    def set_grace(self, seconds: int) -> None:
        """How long a lost leg is waited for before a spare takes its place."""
        patch = {"spec": {"onFailure": {"gracePeriodSeconds": seconds}}}
        self.field.merge("virtualvolumes", self.name, patch)

    # --- other volumes, which nobody attaches ---

    def make_another(self, name: str, *, mib: int, copies: int = 2) -> None:
        self.field.cluster.apply(virtual_volume(name, mib=mib, copies=copies))

    def others(self) -> dict[str, Object]:
        """By name."""
        found = {each["metadata"]["name"]: each for each in self.field.items("virtualvolumes")}
        return {name: each for name, each in found.items() if name != self.name}

    def delete_others(self) -> None:
        """Ask for it: they are gone when their extents are free again."""
        for name in self.others():
            self.field.delete("virtualvolumes", name)

    # --- what the CSI controller and the kubelet do ---

    def want(self, node: str) -> None:
        """Ask for it on a node; "": nowhere. Its VolumeAttachment says so too, for who takes it from a lost node."""
        for other in self.field.nodes:
            self.field.api.request("DELETE", f"{ATTACHMENTS}/{self.name}-{other}", missing={})
        if node:
            source = {"attacher": names.DRIVER, "nodeName": node, "source": {"persistentVolumeName": self.name}}
            self.field.api.request("POST", ATTACHMENTS, {"metadata": {"name": f"{self.name}-{node}"}, "spec": source})
        self.field.merge("virtualvolumes", self.name, {"spec": {"attachment": {"node": node}}})

    def attach(self, node: str, *, seconds: float) -> None:
        """On ``node``, from wherever it is."""
        if self.node() not in ("", node):
            self.detach(seconds=seconds)
        self.want(node)
        self.wait(lambda: self.not_there(node), f"it is attached on {node}", seconds=seconds)

    def not_there(self, node: str) -> str:
        status = self.see()["status"]
        report = self.report(node)
        if status.get("attachment", {}).get("node") != node:
            return f"the master has not given it to {node}: {_ready(status)}"
        if report.get("front") != "Active" or report.get("epoch") != status["attachment"]["epoch"]:
            return f"{node} has not built it: {report.get('message') or report.get('front') or 'no report'}"
        return ""

    def detach(self, *, seconds: float) -> None:
        """From wherever it is."""
        self.want("")
        self.wait(lambda: f"it is still on {self.node()}" if self.node() else "", "it is detached", seconds=seconds)

    def begin(self, node: str) -> None:
        """A pod starts to write there; the volume must be attached."""
        self.pod = Pod(self.field, node, names.front(self.uuid), self.ledger)

    def end(self) -> None:
        """The pod ends; returns when no write is in flight."""
        if self.pod is not None:
            self.pod.stop()
            self.pod = None

    def writes(self, *, seconds: float, more: int = 20) -> None:
        """Wait until ``more`` writes than now are acknowledged."""
        wanted = self.ledger.count + more

        def missing() -> str:
            pod = (
                "there is no pod" if self.pod is None else f"the pod has ended: {self.pod.end}" if self.pod.end else ""
            )
            return f"{wanted - self.ledger.count} of {more} are to come; {pod}" if self.ledger.count < wanted else ""

        self.wait(missing, "writes are acknowledged", seconds=seconds)

    # --- what must be true all the time ---

    def lacking(self) -> tuple[int, list[str]]:
        """How many legs the record calls in sync now, and what they lack of what was acknowledged before it was asked.

        In that order, for a leg may be recorded as lost at any moment, and what is acknowledged after that it need not
        have. Others may be writing, and nodes without power or links: a disk's bytes are the host's. LabError: the
        record cannot be asked.
        """
        promised = self.ledger.promised()
        legs = _legs(self.field.get("virtualvolumes", self.name, seconds=ASK_SECONDS), "InSync")
        found = {leg["id"]: self.lacks(leg, promised) for leg in legs}
        if any(found.values()):
            kept = self._still_mapped({*found})
            found = {leg: lacks for leg, lacks in found.items() if leg in kept}
        said = [
            f"lost: leg {leg}, recorded InSync during the fault, lacks {each}"
            for leg, lacks in found.items()
            for each in lacks
        ]
        return len(legs), said

    def lacks(self, leg: Object, promised: Mapping[int, int]) -> list[str]:
        """What a leg (as in the mapping) does not have of what was ``promised``, in words; others may be writing."""
        pieces = runs(leg, self._images(leg))

        def read(start: int, count: int) -> bytes:
            with Reader(pieces) as reader:  # anew each time: a file that is open may give what it has read before
                return reader.read(BITMAP_BYTES + start * blocks.BLOCK, count * blocks.BLOCK)

        return list(self.ledger.lacks(promised, read))

    def _still_mapped(self, legs: set[str]) -> set[str]:
        """Those whose extents cannot have become another's while they were read; all, when nobody can be asked."""
        try:
            return legs & {leg["id"] for leg in self.legs()}
        except LabError:
            return legs

    # --- what must be true in the end ---

    def not_whole(self) -> str:
        """Why it is not as it should be when nothing is wrong; empty: it is."""
        status = self.see()["status"]
        if status.get("phase") != "Ready":
            return f"it is {status.get('phase')}: {_ready(status)}"
        if status.get("spares") or len(self.legs("InSync")) != 2 or len(status["mapping"]["legs"]) != 2:
            return f"its legs: {[(leg['id'], leg['state']) for leg in status['mapping']['legs']]}"
        going = [
            q["metadata"]["name"]
            for q in self.field.items("quiescences")
            if q["status"].get("phase") not in quiesce.OVER
        ]
        if going:
            return f"quiescences go on: {', '.join(going)}"
        if others := self.others():
            phases = [f"{name} is {each['status'].get('phase')}" for name, each in others.items()]
            return f"not gone yet: {', '.join(phases)}"
        devices = self.field.items("storagedevices")
        offline = [each["metadata"]["name"] for each in devices if each["status"].get("phase") != "Online"]
        return f"not Online: {', '.join(offline)}" if offline else ""

    def check(self) -> list[str]:
        """Every acknowledged block on every leg in sync, the legs' equality, and the kernels against the record.

        Nobody may be writing.
        """
        found: list[str] = []
        legs = {leg["id"]: runs(leg, self._images(leg)) for leg in self.legs("InSync")}
        first, *others = legs
        for other in others:
            _, differences = compare(legs[first], legs[other], self.bytes)
            found += [f"unequal: legs {first} and {other} differ in {each}" for each in differences]
        for leg, pieces in legs.items():
            found += [f"leg {leg}: {fault}" for fault in self._faults(pieces)]
        found += [f"record: {each}" for each in discrepancies(self.field.cluster, self.field, self.see())]
        return found

    def _images(self, leg: Object) -> dict[str, Path]:
        # A StorageDevice's name is its disk's serial number here.
        return {e["device"]: self.field.image(leg["node"], e["device"]) for e in leg["extents"]}

    def _faults(self, pieces: Sequence[Run]) -> list[str]:
        found: list[str] = []
        with Reader(pieces) as reader:
            for start in range(0, self.bytes, MIB):
                content = reader.read(BITMAP_BYTES + start, MIB)
                found += self.ledger.faults(start // blocks.BLOCK, content)
        return found


def _legs(volume: Object, *states: str) -> list[Object]:
    found = volume.get("status", {}).get("mapping", {}).get("legs", ())
    return [leg for leg in found if not leg.get("releasing") and (not states or leg["state"] in states)]


def _or_the_error(condition: Callable[[], str]) -> Callable[[], str]:
    """A control plane that does not answer is not there yet."""

    def said() -> str:
        try:
            return condition()
        except LabError as error:
            return str(error)

    return said


def _ready(status: Object) -> str:
    ready = [c for c in status.get("conditions", ()) if c["type"] == "Ready"]
    return "".join(f"{c.get('reason', '')}: {c.get('message', '')}" for c in ready)
