"""Etcd, kube-apiserver and, for a cluster, controller-manager and scheduler as processes of the host, on its loopback.

``with ControlPlane() as plane: ... plane.kubeconfig`` gives the API tier a real API server within seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import components, paths, pki, processes
from lab.api import Api, wait_for
from lab.command import run, tail
from lab.errors import Ended, LabError
from lab.ports import free_ports
from lab.progress import step

HOST_FROM_GUESTS = "10.0.2.2"  # how guests reach this host's loopback (QEMU's user network)
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
READY_SECONDS = 90.0
ATTEMPTS = 3


@dataclass(frozen=True)
class _Ports:
    etcd: int
    peer: int
    api: int


class ControlPlane:
    """A control plane in a folder. As a context manager it is private to the process and gone with it.

    ``controllers`` adds kube-controller-manager and kube-scheduler.
    """

    def __init__(self, folder: Path | None = None, *, controllers: bool = False) -> None:
        self._private = folder is None
        self.folder = folder or paths.cache() / "labs" / f".api-{os.getpid()}-{os.urandom(3).hex()}"
        self.authority = pki.Authority(self.folder)
        self.controllers = controllers

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator."""
        return self.folder / "admin.kubeconfig"

    @property
    def api(self) -> Api:
        return Api(self.kubeconfig)

    @property
    def port(self) -> int:
        """The API server's port on the loopback."""
        return self.api.server.port or 0

    def __enter__(self) -> ControlPlane:
        sweep()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns when the API server is ready."""
        names = ["etcd", "kube-apiserver"]
        names += ["kube-controller-manager", "kube-scheduler"] if self.controllers else []
        programs = components.ensure_all(names)
        with step("Starting the control plane", usually=5):
            self._identities()
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._start_api(programs, _Ports(*free_ports(3)))
                    break
                except LabError:  # most likely another process took one of the ports in between
                    self._end()
                    if attempt == ATTEMPTS:
                        raise
            if self.controllers:
                self._start_controllers(programs)

    def restart(self, change: Callable[[Path], object]) -> None:
        """Stop etcd and the API server, let ``change`` have etcd's folder, and start both again where they were.

        What else runs below this folder ends with them, and stays so.
        """
        self._end()
        change(self._at("etcd"))
        self._run_api(components.ensure_all(["etcd", "kube-apiserver"]))

    def stop(self) -> None:
        """End the processes; a private control plane's folder goes too."""
        self._end()
        if self._private:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        # etcd last, so that the others do not spend their last seconds complaining
        daemons = processes.below(self.folder)
        processes.end_all([d for d in daemons if d.name != "etcd"], grace=0 if self._private else 5)
        processes.end_all([d for d in daemons if d.name == "etcd"], grace=5)

    def _identities(self) -> None:
        self.authority.create()
        if self._private:
            processes.record_self(self.folder)
        hosts = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc")]
        hosts += ["DNS:localhost", "IP:127.0.0.1", f"IP:{HOST_FROM_GUESTS}", f"IP:{API_SERVICE}"]
        self.authority.issue("apiserver", "kube-apiserver", hosts=hosts)
        for name, user, group in (
            ("admin", "admin", "system:masters"),
            ("kube-controller-manager", "system:kube-controller-manager", ""),
            ("kube-scheduler", "system:kube-scheduler", ""),
        ):
            self.authority.issue(name, user, group=group)
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self._at("sa.key")], seconds=30)
        run(["openssl", "ec", "-in", self._at("sa.key"), "-pubout", "-out", self._at("sa.pub")], seconds=30)

    def _start_api(self, programs: dict[str, Path], ports: _Ports) -> None:
        for name in ("admin", "kube-controller-manager", "kube-scheduler"):
            identity = pki.Identity(self._at(f"{name}.crt"), self._at(f"{name}.key"))
            self.authority.kubeconfig(name, identity, f"https://127.0.0.1:{ports.api}")
        shutil.rmtree(self._at("etcd"), ignore_errors=True)
        self._ports = ports
        self._run_api(programs)

    def _run_api(self, programs: Mapping[str, Path]) -> None:
        ports = self._ports
        etcd = f"http://127.0.0.1:{ports.etcd}"
        peer = f"http://127.0.0.1:{ports.peer}"
        self._daemon(
            programs["etcd"],
            f"--name=lab --data-dir=etcd --unsafe-no-fsync --log-level=warn"
            f" --listen-client-urls={etcd} --advertise-client-urls={etcd}"
            f" --listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster=lab={peer}",
        )
        server = self._daemon(
            programs["kube-apiserver"],
            f"--etcd-servers={etcd} --bind-address=127.0.0.1 --secure-port={ports.api}"
            f" --advertise-address={HOST_FROM_GUESTS} --endpoint-reconciler-type=lease"
            f" --service-cluster-ip-range={SERVICE_RANGE} --allow-privileged=true"
            " --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction"
            " --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --client-ca-file=ca.crt"
            " --service-account-issuer=https://kubernetes.default.svc"
            " --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key"
            " --kubelet-client-certificate=admin.crt --kubelet-client-key=admin.key"
            " --kubelet-certificate-authority=ca.crt --kubelet-preferred-address-types=ExternalIP,InternalIP",
        )
        api = self.api

        def ready() -> bool:
            if not server.alive():
                raise Ended(f"kube-apiserver has ended\n{tail(server.log)}", log=server.log)
            return bool(api.request("GET", "/readyz", seconds=2) == "ok")

        wait_for(ready, "the API server is ready", seconds=READY_SECONDS, every=0.1)

    def _start_controllers(self, programs: dict[str, Path]) -> None:
        for name, more in (
            (
                "kube-controller-manager",
                "--service-account-private-key-file=sa.key --root-ca-file=ca.crt --use-service-account-credentials"
                f" --allocate-node-cidrs --cluster-cidr={POD_RANGE}",
            ),
            ("kube-scheduler", ""),
        ):
            config = f"{name}.kubeconfig"
            self._daemon(
                programs[name],
                f"--kubeconfig={config} --authentication-kubeconfig={config} --authorization-kubeconfig={config}"
                f" --leader-elect=false --secure-port=0 {more}",
            )

    def _daemon(self, program: Path, flags: str) -> processes.Recorded:
        return processes.start([program, *flags.split()], self.folder, program.name, with_us=self._private)

    def _at(self, name: str) -> Path:
        return self.folder / name


def sweep() -> None:
    """Remove what private control planes left behind whose process was killed."""
    processes.sweep(paths.cache() / "labs", ".api-*")
