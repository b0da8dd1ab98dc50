"""The programs of the cluster, built from pinned Go modules: a folder in ``components/`` per group."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab import cache, golang, paths
from lab.progress import step

BUILD_SECONDS = 2400.0
KUBERNETES = ("kubernetes", "kubernetes-e2e")
"""Groups of one version: their programs tell it, and the tests are those of the cluster that they run against."""


@dataclass(frozen=True)
class Program:
    """One program: the group whose ``go.mod`` pins it, its package, and the seconds a first build usually takes.

    A package of our own lies in the group's folder (``./name``). ``test``: it is the package's tests, compiled.
    """

    group: str
    package: str
    usually: float
    test: bool = False


_KUBERNETES = "k8s.io/kubernetes/cmd"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
PROGRAMS = {
    "etcd": Program("etcd", "go.etcd.io/etcd/server/v3", 25),
    "kube-apiserver": Program("kubernetes", f"{_KUBERNETES}/kube-apiserver", 130),
    "kubectl": Program("kubernetes", f"{_KUBERNETES}/kubectl", 20),
    "kube-controller-manager": Program("kubernetes", f"{_KUBERNETES}/kube-controller-manager", 40),
    "kube-scheduler": Program("kubernetes", f"{_KUBERNETES}/kube-scheduler", 15),
    "kubelet": Program("kubernetes", f"{_KUBERNETES}/kubelet", 40),
    "kube-proxy": Program("kubernetes", f"{_KUBERNETES}/kube-proxy", 15),
    "containerd": Program("containerd", f"{_CONTAINERD}/containerd", 40),
    "containerd-shim-runc-v2": Program("containerd", f"{_CONTAINERD}/containerd-shim-runc-v2", 10),
    "ctr": Program("containerd", f"{_CONTAINERD}/ctr", 10),
    "csi-attacher": Program("csi", "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher", 60),
    "csi-resizer": Program("csi", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer", 30),
    "csi-sanity": Program("csi", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", 20),
    "csi-provisioner": Program(
        "csi-provisioner", "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner", 70
    ),
    "helm": Program("helm", "helm.sh/helm/v4/cmd/helm", 90),
    "e2e.test": Program("kubernetes-e2e", "k8s.io/kubernetes/test/e2e", 500, test=True),
    "agnhost": Program("kubernetes-e2e", "k8s.io/kubernetes/test/images/agnhost", 40),
    "ginkgo": Program("kubernetes-e2e", "github.com/onsi/ginkgo/v2/ginkgo", 15),
    "bastion": Program("kubernetes-e2e", "./bastion", 5),
}


def ensure(name: str) -> Path:
    """The built program ``name``; from the cache unless its pins, its flags or the minor version of Go changed."""
    program = PROGRAMS[name]
    group = paths.COMPONENTS / program.group
    flags = _flags(program.group)
    ours = [group / program.package] if program.package.startswith("./") else []
    key = cache.key(name, group / "go.mod", group / "go.sum", *ours, *flags, ".".join(map(str, golang.NEEDED)))

    def build(scratch: Path) -> None:
        log = paths.logs() / f"build-{name}.log"
        go = golang.ensure()
        # one at a time: two builds would only fight for cores and for Go's own locks
        alone = cache.locked(paths.cache() / "components" / ".lock", "a build")
        with alone, step(f"Building {name}", usually=program.usually):
            command = ["test", "-c"] if program.test else ["build"]
            argv: list[str | Path] = [*command, *flags, "-o", scratch / name, program.package]
            go.run(*argv, seconds=BUILD_SECONDS, cwd=group, log=log)

    return cache.entry("components", f"{name}-{key}", build) / name


def ensure_all(names: Iterable[str]) -> dict[str, Path]:
    """Several programs by name."""
    return {name: ensure(name) for name in names}


def module(group: str, path: str) -> Path:
    """The folder with the source of a Go module that ``group`` pins (fetched when missing)."""
    go = golang.ensure()
    folder = paths.COMPONENTS / group
    go.run("mod", "download", path, seconds=300, cwd=folder)
    return Path(go.run("list", "-m", "-f", "{{.Dir}}", path, seconds=60, cwd=folder).strip())


def kubernetes_version() -> str:
    """The pinned version, for example ``v1.36.3``."""
    match = re.search(r"k8s\.io/kubernetes (v\S+)", (paths.COMPONENTS / "kubernetes" / "go.mod").read_text())
    assert match is not None, "components/kubernetes/go.mod pins no k8s.io/kubernetes"
    return match.group(1)


def _flags(group: str) -> list[str]:
    linker = "-s -w"
    if group in KUBERNETES:
        linker += f" -X k8s.io/component-base/version.gitVersion={kubernetes_version()}"
    return ["-trimpath", "-ldflags", linker]
