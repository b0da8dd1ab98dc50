"""A real control plane with the chart's rights and policies, and processes that work on it by their own accounts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from bench import metrics
from bench.nodes import Plan

from lab import components
from lab.controlplane import ControlPlane
from lab.ports import free_ports
from millpond_adapters.kube import ApiKube

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "millpond-bench"
TOKEN_SECONDS = 24 * 3600
ACCOUNTS = "/api/v1/namespaces/" + NAMESPACE + "/serviceaccounts"
RUNS_PODS = frozenset({"Deployment", "DaemonSet"})


def install(plane: ControlPlane) -> None:
    """CRDs, then everything of the chart but what runs pods."""
    _kubectl(plane, "apply", "-f", str(ROOT / "crds"))
    _kubectl(plane, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    _kubectl(plane, "create", "namespace", NAMESPACE)
    argv = [str(components.ensure("helm")), "template", "millpond", str(ROOT / "charts/millpond"), "-n", NAMESPACE]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    wanted = [each for each in yaml.safe_load_all(text) if each and each["kind"] not in RUNS_PODS]
    _kubectl(plane, "apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))


async def node_tokens(kube: ApiKube, nodes: list[str]) -> dict[str, str]:
    """For the state manager of each node one that is bound to a pod there, as the kubelet would mount it."""
    found = {}
    for node in nodes:
        spec = {
            "nodeName": node,
            "serviceAccountName": "millpond-node",
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "i"}],
        }
        name = f"node-{node}"
        await kube.raw("POST", "/api/v1/nodes", {"metadata": {"name": node}})
        await kube.raw("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", {"metadata": {"name": name}, "spec": spec})
        bound = {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name}}
        found[node] = await token(kube, "millpond-node", **bound)
    return found


async def token(kube: ApiKube, account: str, **spec: Any) -> str:
    """Of a ServiceAccount of the chart."""
    body = {"spec": {"expirationSeconds": TOKEN_SECONDS, **spec}}
    answer = await kube.raw("POST", f"{ACCOUNTS}/{account}/token", body)
    return str(answer["status"]["token"])


def _kubectl(plane: ControlPlane, *arguments: str, stdin: str = "") -> None:
    argv = [str(components.ensure("kubectl")), f"--kubeconfig={plane.kubeconfig}", *arguments]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")


class Operator:
    """The operator's real process."""

    def __init__(self, plane: ControlPlane, bearer: str, logs: Path) -> None:
        self._log = logs / "operator.log"
        self._kubeconfig = plane.folder / "operator.kubeconfig"
        config = yaml.safe_load(plane.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": bearer}
        self._kubeconfig.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.began = 0.0
        """When it was started (monotonic clock)."""

    def start(self) -> None:
        """Returns at once."""
        [self.port] = free_ports(1)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "HEALTH_PORT": str(self.port),
            "MALLOC_TRIM_THRESHOLD_": "131072",  # as the Containerfile has it
        }
        argv = [sys.executable, "-m", "millpond_operator.main"]
        with self._log.open("ab") as out:
            self.began = time.monotonic()
            self._process = subprocess.Popen(argv, env=environment, stdout=out, stderr=out, cwd=ROOT)

    def stop(self) -> None:
        """As its pod is ended: it gives its Lease up."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    async def looks(self) -> int:
        """How often it has looked at an object since it leads; 0: it does not lead, or has not read everything yet."""
        said = await asyncio.to_thread(self._metrics)
        if not metrics.total(said, "millpond_master_leading"):
            return 0
        return int(metrics.total(said, "millpond_master_total", what="looks"))

    def memory_mib(self) -> tuple[float, float]:
        """Resident now, and at most since it was started."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        resident, peak = (int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return resident, peak

    def _metrics(self) -> str:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the operator has ended: {self._log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return ""


class Nodes:
    """The processes in which the nodes live."""

    def __init__(self, plans: Mapping[str, Plan], secrets: Path, logs: Path) -> None:
        self._plans, self._secrets, self._logs = plans, secrets, logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._home = {node: name for name, plan in plans.items() for group in plan.groups for node in group}

    def start(self) -> None:
        """Returns when all have begun."""
        for name, plan in self._plans.items():
            path = self._secrets / f"{name}.json"
            path.touch(mode=0o600)
            path.write_bytes(msgspec.json.encode(plan))
            with (self._logs / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "bench.nodes", str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=ROOT,
                )
        for name in self._processes:
            if self._said(name) != "ready":
                raise RuntimeError(f"a process of nodes has ended: {self._logs / name}.log")

    async def do(self, what: str, node: str, slot: str) -> float:
        """``pull`` or ``plug`` a disk; when it was done (Unix time)."""
        return await asyncio.to_thread(self._do, what, node, slot)

    def stop(self) -> None:
        for process in self._processes.values():
            _end(process)
        self._processes.clear()

    def _do(self, what: str, node: str, slot: str) -> float:
        name = self._home[node]
        pipe = self._processes[name].stdin
        assert pipe is not None
        pipe.write(f"{what} {node} {slot}\n".encode())
        pipe.flush()
        return float(self._said(name))

    def _said(self, name: str) -> str:
        pipe = self._processes[name].stdout
        assert pipe is not None
        return pipe.readline().decode().strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


async def until_quiet(plane: ControlPlane, *, seconds: float, least: float = 2.0) -> metrics.Traffic:
    """Wait until nothing of our kinds is asked for between two looks; TimeoutError when that does not come about."""
    end = time.monotonic() + seconds
    before = await traffic(plane)
    while time.monotonic() < end:
        await asyncio.sleep(least)
        now = await traffic(plane)
        if now.requests == before.requests:
            return now
        before = now
    raise TimeoutError(f"the cluster was not quiet within {seconds:g} s")


async def traffic(plane: ControlPlane) -> metrics.Traffic:
    """What was asked of the API server so far about our kinds."""
    return metrics.traffic(await asyncio.to_thread(plane.api.request, "GET", "/metrics", seconds=30))
