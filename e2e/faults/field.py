"""Three storage nodes in guests, a control plane, and the operator: all of Millpond but what needs a kubelet.

State manager and watchdog run in the guests from the work tree, the operator is a process of the host; what ends is
started anew, as a kubelet would. What kube-controller-manager says of a silent kubelet is said here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from demo import diagnostics
from demo.cluster import GROUP, Cluster
from demo.install import NAMESPACE, device
from lab import components, paths, processes
from lab.api import wait_for
from lab.command import tail
from lab.controlplane import HOST_FROM_GUESTS, ControlPlane
from lab.errors import LabError
from lab.guest import SOURCE_ROOTS, Guest
from lab.pki import Identity
from lab.ports import free_lan
from lab.progress import say, step
from lab.qemu import Disk

Object = dict[str, Any]

NAMES = ("n1", "n2", "n3")
DISKS = ("disk1", "disk2")
DISK_MIB = 256
MEMORY_MIB = 768
KUBELET_SECONDS = 20.0
"""After so long a node that does not run is not Ready; kube-controller-manager waits 50 s."""
STACK_LINES = 300
GIST = ("operator*.log", "*-state-manager.log", "*-console.log")
PROGRAMS = {"state-manager": "millpond_node.main", "watchdog": "millpond_node.watchdog"}

# Started by the agent, and goes on when the agent's command has ended.
_START = """
mkdir -p /run/millpond /out
cd /repo
setsid sh -c 'while :; do python3 -m "$@" >>"/out/$0.log" 2>&1; sleep 1; done' "$@" </dev/null >/dev/null 2>&1 &
"""


class Field:
    """As a context manager it is up inside the block, with every disk taken in, and gone after it.

    Disks have ``disk_mib`` MiB each; ``mib`` says how many MiB of memory a node has, where it is not ``MEMORY_MIB``.
    """

    def __init__(self, kernel: str, *, disk_mib: int = DISK_MIB, mib: Mapping[str, int] | None = None) -> None:
        self.kernel = kernel
        self._disk_mib, self._mib = disk_mib, mib or {}
        self.plane = ControlPlane()
        self.nodes: dict[str, Guest] = {}
        self.operators: dict[str, processes.Recorded] = {}
        self.release = ""
        """Of the nodes' kernel, as it says itself."""
        self._lan = free_lan()
        self._silent: dict[str, float] = {}
        """Node → since when its kubelet would not be heard."""
        self._ended = threading.Event()
        self._operators = threading.RLock()
        self._kubelets = threading.Thread(target=self._be_kubelets, daemon=True)

    def __enter__(self) -> Field:
        self.plane.__enter__()
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._kubelets.is_alive():
            self._kubelets.join(timeout=30)
        for guest in self.nodes.values():
            guest.close()
        self.plane.__exit__()  # ends what it holds the records of: the operators too

    def _begin(self) -> None:
        self.cluster = Cluster(self.plane.kubeconfig, components.ensure("kubectl"))
        self.api = self.plane.api
        self._make_objects()
        server = f"https://{HOST_FROM_GUESTS}:{self.plane.port}"
        folder = self.plane.folder
        admin = Identity(folder / "admin.crt", folder / "admin.key")
        kubeconfig = self.plane.authority.kubeconfig("node", admin, server).read_bytes()
        for number, name in enumerate(NAMES, start=1):
            self.nodes[name] = Guest(
                kernel=self.kernel,
                name=name,
                disks=len(DISKS),
                disk_mib=self._disk_mib,
                mib=self._mib.get(name, MEMORY_MIB),
                lan=self._lan,
                number=number,
                files={"etc/kubernetes/kubeconfig": kubeconfig},
            )
        with step(f"Booting {len(NAMES)} storage nodes with kernel {self.kernel}", usually=60):
            for guest in self.nodes.values():
                guest.create()
                guest.start()
            for guest in self.nodes.values():
                guest.wait()
        self.release = self.run(NAMES[0], "uname", "-r").strip()
        self._kubelets.start()
        self.start_operator()
        with step("Starting the state managers", usually=60):
            for name in NAMES:
                self.start(name)
            self.cluster.apply(*(device(node, f"{node}-{disk}") for node in NAMES for disk in DISKS))
            wait_for(self._all_online, "every disk is taken in", seconds=300, every=1)

    def _make_objects(self) -> None:
        """What a new cluster has before any node's state manager speaks."""
        self.cluster.kubectl("apply", "-f", str(paths.REPOSITORY / "crds"))
        self.cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        self.cluster.kubectl("create", "namespace", NAMESPACE)
        for name in NAMES:
            self.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
            self._ready(name, "True")

    def _all_online(self) -> bool:
        found = self.items("storagedevices")
        return len(found) == len(NAMES) * len(DISKS) and all(d["status"].get("phase") == "Online" for d in found)

    # --- objects ---

    def get(self, plural: str, name: str, *, seconds: float = 10) -> Object:
        """LabError when there is no answer within ``seconds``."""
        found: Object = self.api.request("GET", f"{GROUP}/{plural}/{name}", seconds=seconds, missing={})
        return found

    def items(self, plural: str) -> list[Object]:
        found: list[Object] = self.api.request("GET", f"{GROUP}/{plural}")["items"]
        return [{"status": {}, **each} for each in found]

    def merge(self, plural: str, name: str, body: Object) -> None:
        """A merge patch, made until the API server takes it."""
        path = f"{GROUP}/{plural}/{name}"
        wait_for(lambda: bool(self.api.merge(path, body)), f"{plural}/{name} takes {body}", seconds=90)

    def delete(self, plural: str, name: str) -> None:
        """Ask for its deletion, until the API server takes it."""
        path = f"{GROUP}/{plural}/{name}"
        wait_for(lambda: self.api.request("DELETE", path, missing={}) is not None, f"{path} is deleted", seconds=90)

    # --- nodes: ``demo.faults.Faults`` but for what needs a kubelet ---

    def run(self, node: str, *argv: str, seconds: float = 60, check: bool = True) -> str:
        """Standard output of a command as root on the node."""
        guest = self.nodes[node]
        return guest.agent.run(argv, seconds=seconds, check=check, env=guest.environment()).stdout

    def start(self, node: str) -> None:
        """Start its state manager and watchdog."""
        for name, module in PROGRAMS.items():
            self.start_program(node, name, module)

    def start_program(self, node: str, name: str, *module: str) -> None:
        """Start one of our programs, a module and its arguments, and start it anew whenever it ends."""
        guest = self.nodes[node]
        env = guest.environment() | {
            "NODE_NAME": node,
            "NODE_IP": guest.address,
            "POD_NAMESPACE": NAMESPACE,
            "KUBECONFIG": "/etc/kubernetes/kubeconfig",
        }
        guest.agent.run(["sh", "-c", _START, "start", name, *module], env=env)

    def signal_program(self, node: str, program: str, number: signal.Signals) -> None:
        """A signal to its ``state-manager`` or ``watchdog``."""
        self.run(node, "pkill", f"-{number.value}", "-f", f"^python3 -m {PROGRAMS[program]}", check=False)

    def disk(self, node: str, disk: str) -> Disk:
        return next(each for each in self.nodes[node].disks if disk in (each.name, each.serial))

    def unplug(self, node: str, disk: str) -> None:
        self.nodes[node].machine.unplug(self.disk(node, disk))

    def plug(self, node: str, disk: str) -> None:
        machine, found = self.nodes[node].machine, self.disk(node, disk)
        if not machine.plugged(found):
            machine.plug(found)

    def plug_all(self) -> None:
        """Every pulled disk back, on the nodes that run."""
        for node, guest in self.nodes.items():
            for disk in DISKS:
                if guest.machine.alive():
                    self.plug(node, disk)

    def power_off(self, *nodes: str) -> None:
        """Cut their power."""
        for node in nodes:
            self.nodes[node].machine.power_off()
            self._silent.setdefault(node, time.monotonic())

    def power_on(self, *nodes: str, late: float = 0.0) -> None:
        """Switch on those that are off; their state managers begin ``late`` seconds after they run."""
        off = [node for node in nodes if not self.nodes[node].machine.alive()]
        for node in off:
            self.nodes[node].start()
        for node in off:
            self.nodes[node].wait()
        time.sleep(late)
        for node in off:
            self.start(node)
        for node in nodes:
            self._silent.pop(node, None)

    def throttle(self, node: str, disk: str, iops: int) -> None:
        """Let a disk do at most so many operations a second; 0: as many as it can."""
        self.nodes[node].machine.throttle(self.disk(node, disk), iops)

    def pause(self, node: str) -> None:
        self.nodes[node].machine.pause()
        self._silent.setdefault(node, time.monotonic())

    def resume(self, node: str) -> None:
        self.nodes[node].machine.resume()
        self._silent.pop(node, None)

    def link(self, node: str, *, lan: bool | None = None, wan: bool | None = None) -> None:
        """Cut or restore its links: to the other nodes, to the API server."""
        machine = self.nodes[node].machine
        if lan is not None:
            machine.set_link("nic-lan", up=lan)
        if wan is not None:
            machine.set_link("nic-wan", up=wan)
            if wan:
                self._silent.pop(node, None)
            else:
                self._silent.setdefault(node, time.monotonic())

    def image(self, node: str, disk: str) -> Path:
        """The bytes of a disk."""
        return self.nodes[node].machine.data(self.disk(node, disk))

    # --- the control plane ---

    def start_operator(self, name: str = "operator") -> None:
        """Start the operator, or a second one."""
        with self._operators:
            self.operators[name] = self.start_here(
                name, "millpond_operator.main", env={"HEALTH_PORT": "0", "FAILOVER": "Pods"}
            )

    def start_here(self, name: str, *module: str, env: Mapping[str, str] | None = None) -> processes.Recorded:
        """Start one of our programs, a module and its arguments, on this host; it ends with the field."""
        known = {
            "PYTHONPATH": os.pathsep.join(str(paths.REPOSITORY / root) for root in SOURCE_ROOTS),
            "KUBECONFIG": str(self.plane.kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": name,
        }
        argv: list[str | Path] = [sys.executable, "-m", *module]
        return processes.start(argv, self.plane.folder, name, env=known | dict(env or {}), with_us=True)

    def end_operator(self, name: str = "operator") -> None:
        """SIGKILL."""
        with self._operators:
            if name in self.operators:
                self.operators.pop(name).end(grace=0)

    def change_etcd(self, change: Callable[[Path], object], *, empty: bool = False) -> None:
        """Let ``change`` have etcd's folder while neither it nor the API server runs; the operator does not run
        afterwards either. ``empty``: nothing is left in it, and the cluster is a new one.
        """
        self.end_operator()
        self.plane.restart(change)
        if empty:
            self._make_objects()

    def signal_process(self, name: str, number: signal.Signals) -> None:
        """A signal to a process of the control plane: ``etcd``, ``kube-apiserver``, ``operator``."""
        found = next((each for each in processes.below(self.plane.folder) if each.name == name), None)
        if found is not None and found.alive():
            os.kill(found.pid, number)

    # --- what kubelets and kube-controller-manager do ---

    def _be_kubelets(self) -> None:
        said = dict.fromkeys(NAMES, "True")
        while not self._ended.wait(1.0):
            self._start_operators_anew()
            for name in NAMES:
                since = self._silent.get(name)
                now = "Unknown" if since is not None and time.monotonic() > since + KUBELET_SECONDS else "True"
                if said[name] != now:
                    with suppress(LabError):
                        self._ready(name, now)
                        said[name] = now

    def _start_operators_anew(self) -> None:
        for name, running in [*self.operators.items()]:
            with self._operators, suppress(LabError):
                if self.operators.get(name) is running and not running.alive():
                    say(f"   {name} has ended by itself, and is started anew:\n{tail(running.log)}")
                    self.start_operator(name)

    def _ready(self, node: str, status: str) -> None:
        ready = {"type": "Ready", "status": status, "reason": "Field", "message": "as the fault suite says"}
        self.api.merge(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [ready]}})

    # --- after a failure ---

    def collect(self, folder: Path) -> None:
        """Objects, logs, where our programs stand, each node's kernel and what its machine said, in files."""
        diagnostics.save_objects(self.cluster, folder)
        diagnostics.save(folder / "events.txt", partial(self.cluster.kubectl, "get", "events", "-A"))
        for log in self.plane.folder.glob("operator*.log"):
            diagnostics.save(folder / log.name, log.read_text)
        for node, guest in self.nodes.items():
            # First of all: a guest that has ended says nothing else.
            diagnostics.save(folder / f"{node}-qemu.log", guest.machine.log.read_text)
            diagnostics.save(folder / f"{node}-console.log", partial(guest.machine.console.read_text, errors="replace"))
            for program in PROGRAMS:
                text = partial(self.run, node, "cat", f"/out/{program}.log")
                diagnostics.save(folder / f"{node}-{program}.log", text)
            look = partial(self.run, node, "sh", "-c", diagnostics.KERNEL, seconds=180, check=False)
            diagnostics.save(folder / f"{node}-kernel.txt", look)
        self._collect_stacks(folder)

    def _collect_stacks(self, folder: Path) -> None:
        """Where the programs stand: they say so into their logs."""
        for name in self.operators:
            self.signal_process(name, signal.SIGUSR1)
        for node in self.nodes:
            with suppress(LabError):
                self.signal_program(node, "state-manager", signal.SIGUSR1)
        time.sleep(2.0)
        for name, operator in self.operators.items():
            diagnostics.save(folder / f"{name}-stacks.txt", partial(tail, operator.log, STACK_LINES))
        for node in self.nodes:
            text = partial(self.run, node, "tail", "-n", str(STACK_LINES), "/out/state-manager.log")
            diagnostics.save(folder / f"{node}-stacks.txt", text)

    @staticmethod
    def gist(folder: Path) -> str:
        """Of what was collected: the last words of each log, for whoever sees the output alone."""
        logs = [log for pattern in GIST for log in sorted(folder.glob(pattern))]
        return "\n".join(f"--- {log.name}\n{tail(log, lines=8)}" for log in logs)
