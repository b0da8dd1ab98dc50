"""A claim, a pod that writes into it, and what that pod has acknowledged."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from demo.cluster import Cluster, Object
from demo.errors import DemoError
from demo.writer import Acks
from millpond_core import names

WRITER = Path(__file__).with_name("writer.py")
CLASS = "millpond-demo"
USER = 65532
CLAIM_SECONDS = 600.0
POD_SECONDS = 900.0


@dataclass(frozen=True)
class Workload:
    """One claim in a namespace of its own; pods come and go."""

    cluster: Cluster
    image: str
    namespace: str
    claim: str = "data"
    size: str = "128Mi"
    storage_class: str = CLASS
    mode: Literal["Filesystem", "Block"] = "Filesystem"
    rate: float = 30
    records: int = 24_000

    @property
    def target(self) -> str:
        """What the writer writes to, inside the pod."""
        return "/data/records" if self.mode == "Filesystem" else "/dev/data"

    def claim_objects(self) -> list[Object]:
        """Namespace, the writer's program, and the claim."""
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "writer", "namespace": self.namespace},
            "data": {WRITER.name: WRITER.read_text()},
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": self.claim, "namespace": self.namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": self.storage_class,
                "volumeMode": self.mode,
                "resources": {"requests": {"storage": self.size}},
            },
        }
        return [namespace(self.namespace), config, claim]

    def pod(self, name: str, command: list[str], node: str = "") -> Object:
        """A pod with the claim, the writer's program and a folder for acknowledgements that is not on the claim."""
        container: Object = {
            "name": "main",
            "image": self.image,
            "imagePullPolicy": "Never",
            "command": command,
            "volumeMounts": [
                {"name": "program", "mountPath": "/program", "readOnly": True},
                {"name": "acks", "mountPath": "/acks"},
            ],
        }
        security: Object = {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "runAsNonRoot": True}
        if self.mode == "Filesystem":
            container["volumeMounts"].append({"name": "data", "mountPath": "/data"})
        else:
            container["volumeDevices"] = [{"name": "data", "devicePath": self.target}]
            security = {"runAsUser": 0}  # a device node belongs to root unless the runtime is told otherwise
        placed = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"app": "writer"}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 10,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": security,
                "containers": [container],
                "volumes": [
                    {"name": "program", "configMap": {"name": "writer"}},
                    {"name": "acks", "emptyDir": {}},
                    {"name": "data", "persistentVolumeClaim": {"claimName": self.claim}},
                ],
                **placed,
            },
        }

    def write(self, name: str = "writer", node: str = "") -> None:
        """Start a pod that writes."""
        command = ["python3", "/program/writer.py", "write", self.target, "--acks", "/acks"]
        command += ["--rate", str(self.rate), "--records", str(self.records)]
        self.cluster.apply(self.pod(name, command, node))

    def pod_without_claim(self, name: str, command: list[str], node: str = "") -> Object:
        """The same without the claim: what a pod costs that does not use a volume."""
        pod = self.pod(name, command, node)
        (container,) = pod["spec"]["containers"]
        for listed in (pod["spec"]["volumes"], container["volumeMounts"]):
            listed[:] = [each for each in listed if each["name"] != "data"]
        container.pop("volumeDevices", None)
        return pod

    def bystander(self, name: str, node: str) -> None:
        """Start a pod that writes the same into a folder of that node: what its cores alone cost a writer."""
        command = ["python3", "/program/writer.py", "write", "/acks/records", "--acks", "/acks"]
        command += ["--rate", str(self.rate), "--records", str(self.records)]
        self.cluster.apply(self.pod_without_claim(name, command, node))

    def idle(self, name: str, node: str = "") -> None:
        """Start a pod that only has the volume."""
        self.cluster.apply(self.pod(name, ["sleep", "infinity"], node))

    def bound(self) -> Object:
        """Wait until the claim is bound; returns its PersistentVolume."""

        def missing() -> str:
            claim = self.cluster.get("pvc", self.claim, "-n", self.namespace)
            return "" if claim["status"].get("phase") == "Bound" else self.events(self.claim) or "nobody has said why"

        self.cluster.wait(missing, f"claim {self.namespace}/{self.claim} is bound", seconds=CLAIM_SECONDS)
        claim = self.cluster.get("pvc", self.claim, "-n", self.namespace)
        return self.cluster.get("pv", claim["spec"]["volumeName"])

    def running(self, name: str = "writer", *, seconds: float = POD_SECONDS) -> str:
        """Wait until the pod runs; returns its node."""

        def missing() -> str:
            pod = self.cluster.get("pod", name, "-n", self.namespace)
            if pod["status"].get("phase") == "Running":
                return ""
            return f"it is {pod['status'].get('phase')}; {self.events(name) or 'no event yet'}"

        self.cluster.wait(missing, f"pod {self.namespace}/{name} runs", seconds=seconds)
        node: str = self.cluster.get("pod", name, "-n", self.namespace)["spec"]["nodeName"]
        return node

    def delete_pod(self, name: str, *, seconds: float = 400) -> None:
        """Delete the pod and wait until it is gone."""
        self.cluster.kubectl(
            "delete", "pod", name, "-n", self.namespace, f"--timeout={seconds:.0f}s", seconds=seconds + 10
        )

    def run_writer(self, name: str, *arguments: str, stdin: str | None = None, seconds: float = 180) -> str:
        """Run the writer's program in a pod that runs."""
        argv = ["exec", *(["-i"] if stdin is not None else []), "-n", self.namespace, name, "--"]
        return self.cluster.kubectl(
            *argv, "python3", "/program/writer.py", *arguments, stdin=stdin, seconds=seconds, check=False
        )

    def pause(self, name: str = "writer") -> None:
        """Returns when no write is in flight and everything is flushed."""
        self._must(name, "pause")

    def resume(self, name: str = "writer") -> None:
        """Go on writing."""
        self._must(name, "resume")

    def _must(self, name: str, what: str) -> None:
        argv = ["exec", "-n", self.namespace, name, "--", "python3", "/program/writer.py", what, "--acks", "/acks"]
        self.cluster.kubectl(*argv, seconds=90)

    def acks(self, name: str = "writer") -> tuple[Acks, str]:
        """What the pod has acknowledged so far; also as the text that ``verify`` takes."""
        text = self.cluster.kubectl("exec", "-n", self.namespace, name, "--", "cat", "/acks/acks", seconds=120)
        return Acks.parse(text.splitlines(keepends=True)), text

    def count(self, name: str = "writer") -> int:
        """Acknowledged records, from the pod's last report."""
        lines = self.cluster.kubectl("logs", "-n", self.namespace, name, "--tail=2").splitlines()
        reports = [json.loads(line) for line in lines if line.startswith("{")]
        return max((int(report.get("acknowledged", 0)) for report in reports), default=0)

    def goes_on(self, name: str = "writer", *, seconds: float, more: int = 20) -> int:
        """Wait until ``more`` records than now are acknowledged; returns how many there are."""
        before, deadline = self.count(name), time.monotonic() + seconds
        while (now := self.count(name)) < before + more:
            if time.monotonic() > deadline:
                raise DemoError(f"the pod does not write: {now - before} records acknowledged in {seconds:.0f} s")
            time.sleep(0.5)
        return now

    def verify(self, name: str, acks: str, *, seconds: float = 600) -> dict[str, Any]:
        """Read every acknowledged record back in that pod: ``checked``, ``lost``, ``wrong``, ``examples``."""
        out = self.run_writer(name, "verify", self.target, stdin=acks, seconds=seconds)
        try:
            verdict: dict[str, Any] = json.loads(out.splitlines()[-1])
        except (IndexError, ValueError):
            raise DemoError(f"reading back in pod {name} gave no verdict: {out.strip()[-500:]!r}") from None
        return verdict

    def events(self, name: str) -> str:
        """The last two Events about an object of the namespace, in their own words."""
        found = self.cluster.items("events", "-n", self.namespace, f"--field-selector=involvedObject.name={name}")
        found.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return "; ".join(event.get("message", "") for event in found[-2:])

    def volume(self) -> str:
        """Name of the VirtualVolume behind the claim."""
        handle: str = self.bound()["spec"]["csi"]["volumeHandle"]
        return handle


def namespace(name: str) -> Object:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def storage_class(
    name: str = CLASS, *, copies: int = 2, grace: int = 5, parameters: Mapping[str, str] | None = None
) -> Object:
    """A StorageClass like ``millpond-mirrored`` that replaces a lost leg after ``grace`` seconds."""
    return class_of(name, {"copies": str(copies), "gracePeriodSeconds": str(grace), **(parameters or {})})


def class_of(
    name: str,
    parameters: Mapping[str, str] | None = None,
    *,
    binding: str = "WaitForFirstConsumer",
    provisioner: str = names.DRIVER,
) -> Object:
    """A StorageClass whose volumes can grow; of Millpond, or of another driver."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner,
        "volumeBindingMode": binding,
        "allowVolumeExpansion": True,
        "parameters": dict(parameters or {}),
    }
