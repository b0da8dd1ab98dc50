"""Container images without a registry: built here, baked into the disk that becomes the nodes' ``/var/lib/containerd``.

Unpacking in a guest under TCG takes ten times as long as on the host, three times over; so a containerd on the host
unpacks them once, into a folder, and the folder becomes a disk image.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lab import cache, components, debian, oci, packages, paths, wheels
from lab.command import isolated, run
from lab.progress import step

PAUSE = "localhost/pause:lab"
BASE = "localhost/millpond-base:lab"
MILLPOND = "localhost/millpond:lab"
SIDECARS = {
    "csi-provisioner": "localhost/csi-provisioner:lab",
    "csi-attacher": "localhost/csi-attacher:lab",
    "csi-resizer": "localhost/csi-resizer:lab",
}
# What our containers call: see docs/architecture.md. No package manager, no manual pages.
BASE_PACKAGES = ("python3", "dmsetup", "nvme-cli", "e2fsprogs", "xfsprogs", "util-linux", "mount", "kmod", "udev")
NAMESPACE = "k8s.io"


def pause() -> Path:
    """The archive of the sandbox image: busybox that sleeps."""
    system = debian.root()

    def build(scratch: Path) -> None:
        oci.layer_of(scratch / "layer.tar", {"bin/busybox": system / "root/bin/busybox"}, {"bin/sleep": "busybox"})
        oci.write(scratch / "image.tar", PAUSE, scratch / "layer.tar", entrypoint=["/bin/sleep", "infinity"])
        (scratch / "layer.tar").unlink()

    return cache.entry("images", "pause-" + cache.key(system.name, PAUSE, "2"), build) / "image.tar"


def sidecar(program: str) -> Path:
    """The archive of one of Kubernetes' sidecars: one static Go program, that is started."""
    binary, called = components.ensure(program), SIDECARS[program]

    def build(scratch: Path) -> None:
        oci.layer_of(scratch / "layer.tar", {program: binary})
        oci.write(scratch / "image.tar", called, scratch / "layer.tar", entrypoint=[f"/{program}"])
        (scratch / "layer.tar").unlink()

    return cache.entry("images", f"{program}-" + cache.key(str(binary), called, "2"), build) / "image.tar"


def base() -> Path:
    """The archive of the Debian that our own image stands on: Python and the tools that our containers call."""
    lines = debian.sources()

    def build(scratch: Path) -> None:
        with step("Bootstrapping the base of our container image", usually=40):
            debian.bootstrap(scratch / "layer.tar", BASE_PACKAGES, lines, variant="essential")
            oci.write(scratch / "image.tar", BASE, scratch / "layer.tar")
            (scratch / "layer.tar").unlink()

    return cache.entry("images", "base-" + cache.key(*BASE_PACKAGES, *map(str, lines), BASE, "1"), build) / "image.tar"


def millpond() -> Path:
    """The archive of our own image, built by buildah from the ``Containerfile`` and the work tree as it is now."""
    foundation, dependencies, ours = base(), wheels.runtime(), wheels.own()
    containerfile = paths.REPOSITORY / "Containerfile"

    def build(scratch: Path) -> None:
        packages.ensure("buildah", "unshare")
        context = scratch / "context"
        shutil.copytree(dependencies, context / "wheels")
        shutil.copytree(ours, context / "wheels", dirs_exist_ok=True)
        (wheel,) = ours.glob("*.whl")
        log = paths.logs() / "buildah.log"
        buildah: list[str | Path] = ["buildah", "--root", scratch / "storage", "--runroot", scratch / "run"]
        buildah += ["--storage-driver", "vfs"]
        arguments = [f"--build-arg=BASE=oci-archive:{foundation}", f"--build-arg=VERSION={wheel.name.split('-')[1]}"]
        with step("Building our container image", usually=40):
            argv = [*buildah, "build", "--isolation=chroot", "--tag", MILLPOND, *arguments]
            run(isolated([*argv, "--file", containerfile, context]), seconds=900, log=log)
            push = [*buildah, "push", "--disable-compression", MILLPOND, f"oci-archive:{scratch}/image.tar:{MILLPOND}"]
            run(isolated(push), seconds=300, log=log)
        for left in ("context", "storage", "run"):
            cache.remove(scratch / left)

    key = cache.key(containerfile, foundation.parent.name, dependencies.name, ours.name, MILLPOND, "1")
    return cache.entry("images", f"millpond-{key}", build) / "image.tar"


def store(archives: Sequence[Path]) -> Path:
    """A disk image for ``/var/lib/containerd`` that holds those images, unpacked."""
    programs = components.ensure_all(["containerd", "ctr"])

    def build(scratch: Path) -> None:
        with step(f"Unpacking {len(archives)} container images for the nodes", usually=20):
            _import(programs, archives, scratch / "root")
            debian.make_ext4(scratch / "disk.img", scratch / "root", gib=8)
            cache.remove(scratch / "root")

    key = cache.key(*(str(path) for path in (*archives, *programs.values())), "1")
    return cache.entry("image-store", key, build) / "disk.img"


def _import(programs: dict[str, Path], archives: Sequence[Path], root: Path) -> None:
    """Let a containerd whose root is the folder ``root`` import the archives; its mounts and socket end with it."""
    packages.ensure("unshare")
    config = root.with_suffix(".toml")
    cri = [f"io.containerd.{part}" for part in ("grpc.v1.cri", "cri.v1.images", "cri.v1.runtime")]
    config.write_text(
        f'version = 3\nroot = "{root}"\nstate = "/run/millpond"\ndisabled_plugins = {cri}\n'
        '[grpc]\naddress = "/run/millpond.sock"\n'
    )
    script = """set -eu
        containerd=$1 ctr="$2 -a /run/millpond.sock -n k8s.io" config=$3; shift 3
        mount -t tmpfs tmpfs /run
        $containerd -c "$config" & daemon=$!
        tries=0; until $ctr version; do tries=$((tries + 1)); [ $tries -lt 150 ]; sleep 0.2; done
        for archive; do $ctr images import --snapshotter overlayfs "$archive"; done
        kill $daemon; wait $daemon"""
    log = paths.logs() / "image-import.log"
    argv: list[str | Path] = ["sh", "-c", script, "import", programs["containerd"], programs["ctr"], config, *archives]
    run(isolated(argv), seconds=900, log=log)
    config.unlink()
    shutil.rmtree(root / "tmpmounts", ignore_errors=True)
