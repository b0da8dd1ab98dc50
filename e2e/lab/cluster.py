"""The cluster: a control plane on this host and nodes in guests, all of it in one folder, described by ``lab.json``.

``up`` writes the description first and starts things after; ``down`` needs nothing but the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab import cache, components, debian, images, kernels, nodeimage, paths, processes
from lab.api import wait_for
from lab.controlplane import HOST_FROM_GUESTS, ControlPlane
from lab.errors import Ended, LabError
from lab.node import Node
from lab.noderecord import NodeRecord
from lab.ports import free_lan
from lab.progress import say, step
from lab.qemu import Spec

DESCRIPTION = "lab.json"
REGISTER_SECONDS = 420.0
TAINT = "node.cloudprovider.kubernetes.io/uninitialized"


class Cluster:
    """A lab that is up, or was: made by :func:`up`, found by :func:`load`."""

    def __init__(self, name: str, description: dict[str, Any]) -> None:
        self.name = name
        self.folder = paths.lab_folder(name)
        self.kernel = str(description["kernel"])
        self.lan = str(description["lan"])
        self.root = Path(description["root"])
        self.store = Path(description["store"])
        self.control_plane = ControlPlane(self.folder / "control-plane", controllers=True)
        self.nodes = [self._node(NodeRecord.decode(record)) for record in description["nodes"]]

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator."""
        return self.control_plane.kubeconfig

    def node(self, name: str) -> Node:
        """The node ``name``; a LabError that names the nodes when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"no node {name!r} in lab {self.name!r}: it has {', '.join(n.name for n in self.nodes)}")

    def kubectl(self, *arguments: str, seconds: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the cluster's administrator; LabError after ``seconds``, and on failure with ``check``."""
        argv = [str(components.ensure("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        try:
            result = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise LabError(f"not finished after {seconds:g} s: kubectl {' '.join(arguments)}") from None
        if check and result.returncode != 0:
            raise LabError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result

    def start(self) -> None:
        """Start the control plane and the nodes; returns when every node is Ready."""
        self.control_plane.start()
        for node in self.nodes:
            self._prepare(node)
        with step(f"Booting {len(self.nodes)} nodes with kernel {self.kernel}", usually=75):
            for node in self.nodes:
                node.machine.create(node.spec)
                node.machine.start(node.spec)
            for node in self.nodes:
                node.wait()
            for node in self.nodes:
                self._adopt(node)
            for node in self.nodes:
                self._wait_ready(node)

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into every running node; slow under TCG, for one that ``up`` did not bake in."""
        for node in self.nodes:
            with step(f"Importing {archive.name} on {node.name}", usually=60), archive.open("rb") as handle:
                argv = ["ctr", "-n", images.NAMESPACE, "images", "import", "--snapshotter", "overlayfs", "-"]
                node.agent.run(argv, seconds=600, stdin=handle)

    def _prepare(self, node: Node) -> None:
        authority, server = self.control_plane.authority, f"https://{HOST_FROM_GUESTS}:{self.control_plane.port}"
        hosts = [f"DNS:{node.name}", f"IP:{node.record.loopback}", f"IP:{node.address}"]
        kubelet = authority.issue(f"kubelet-{node.name}", f"system:node:{node.name}", group="system:nodes", hosts=hosts)
        proxy = authority.issue(f"proxy-{node.name}", "system:kube-proxy")
        node.machine.folder.mkdir()
        nodeimage.write_seed(
            node.spec.seed,
            node.record,
            others=[other.record.number for other in self.nodes if other is not node],
            secrets={
                "ca.crt": authority.certificate,
                "kubelet.crt": kubelet.certificate,
                "kubelet.key": kubelet.key,
                "kubelet.kubeconfig": authority.kubeconfig(f"kubelet-{node.name}", kubelet, server),
                "kube-proxy.kubeconfig": authority.kubeconfig(f"proxy-{node.name}", proxy, server),
            },
        )

    def _adopt(self, node: Node) -> None:
        """What a cloud provider would do for a node that registers: tell its addresses, take its taint off."""
        api, path = self.control_plane.api, _path(node)
        wait_for(lambda: bool(self._look(node)), f"{node.name} registers", seconds=REGISTER_SECONDS, every=1)
        known = {"InternalIP": node.address, "ExternalIP": node.record.loopback, "Hostname": node.name}
        addresses = [{"type": kind, "address": address} for kind, address in known.items()]
        api.merge(f"{path}/status", {"status": {"addresses": addresses}})
        taints = [taint for taint in self._look(node)["spec"].get("taints", []) if taint["key"] != TAINT]
        api.merge(path, {"spec": {"taints": taints}})

    def _wait_ready(self, node: Node) -> None:
        wait_for(lambda: _ready(self._look(node)), f"{node.name} is Ready", seconds=REGISTER_SECONDS, every=1)
        say(f"  {node.name} is Ready")

    def _look(self, node: Node) -> dict[str, Any]:
        """The node's object, or {} before it has one; LabError at once when its machine has ended."""
        if not node.machine.alive():
            raise Ended(f"the machine of {node.name} has ended", log=node.machine.console)
        answer: dict[str, Any] = self.control_plane.api.request("GET", _path(node), missing={})
        return answer

    def _node(self, record: NodeRecord) -> Node:
        folder = self.folder / record.name
        spec = Spec(
            name=f"{self.name}-{record.name}",
            boot=debian.root() / self.kernel,
            root=self.root,
            seed=folder / "seed.tar",
            init="/lib/systemd/systemd",
            disks=record.disks,
            overlays=[self.store],
            forwards=[(record.kubelet_port, record.kubelet_port)],
            loopback=record.loopback,
            lan=self.lan,
            number=record.number,
            uuid=record.machine,
            mib=record.mib,
        )
        return Node(folder, record, spec)


def up(
    name: str,
    *,
    kernel: str,
    nodes: int = 3,
    disks: int = 2,
    disk_mib: int = 2048,
    mib: int = 1536,
    archives: Sequence[Path] = (),
) -> Cluster:
    """Bring a lab up, or return the one that is up. ``archives`` are images to bake in besides pause and sidecars."""
    folder = paths.lab_folder(name)
    kernels.check(kernel)
    with cache.locked(_lock(name), f"lab {name!r}"):
        if (folder / DESCRIPTION).exists():
            cluster = load(name)
            if all(node.machine.alive() for node in cluster.nodes) and (folder / "ready").exists():
                say(f"Lab {name!r} is up already.")
                return cluster
            raise LabError(f"lab {name!r} is there, but not whole", next_step=f"lab down --name {name}, then lab up")
        root = nodeimage.disk()
        sidecars = [images.sidecar(program) for program in images.SIDECARS]
        store = images.store([images.pause(), images.base(), *sidecars, *archives])
        components.ensure("kubectl")
        folder.mkdir(parents=True)
        processes.record_self(folder)
        records = [NodeRecord.new(number, disks=disks, disk_mib=disk_mib, mib=mib) for number in range(1, nodes + 1)]
        description = {
            "kernel": kernel,
            "lan": free_lan(),
            "root": str(root),
            "store": str(store),
            "nodes": [record.encode() for record in records],
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))
        cluster = Cluster(name, description)
        cluster.start()
        (folder / "ready").touch()
        (folder / "owner.pid").unlink()
        return cluster


def load(name: str) -> Cluster:
    """The lab ``name``; LabError when there is none."""
    path = paths.lab_folder(name) / DESCRIPTION
    if not path.exists():
        raise LabError(f"there is no lab {name!r}", next_step=f"lab up --name {name}")
    return Cluster(name, json.loads(path.read_text()))


def down(name: str) -> None:
    """End everything of a lab and remove its folder, in whatever state it is."""
    folder = paths.lab_folder(name)
    ending = folder.with_name(f".{name}.ending")
    with step(f"Taking lab {name!r} down", usually=2):
        _stop_owner(folder)
        with cache.locked(_lock(name), f"lab {name!r}"):
            for _ in range(2):  # one that an earlier, interrupted down left, and the lab itself
                processes.end_all(processes.below(ending), grace=3)
                shutil.rmtree(ending, ignore_errors=True)
                with suppress(FileNotFoundError):
                    # a daemon that is just starting finds no place for its record now, and gives up
                    folder.rename(ending)
            _lock(name).unlink(missing_ok=True)


def _stop_owner(folder: Path) -> None:
    """End an ``up`` that is still running, so that it starts nothing more."""
    owner = processes.owner(folder)
    if owner is not None and owner.alive() and owner.pid != os.getpid():
        with suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while owner.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        if owner.alive():
            os.kill(owner.pid, signal.SIGKILL)


def _lock(name: str) -> Path:
    return paths.lab_folder(name).with_name(f".{name}.lock")


def _path(node: Node) -> str:
    return f"/api/v1/nodes/{node.name}"


def _ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
