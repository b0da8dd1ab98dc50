"""The Debian system of every guest: one root folder, two stock kernels, and the disk image made from them.

The mirror is the one that apt on this machine uses (or ``$MILLPOND_DEBIAN_MIRROR``). Needs root once: files of a
root file system belong to root.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import cache, kernels, packages, paths
from lab.command import isolated, run
from lab.errors import LabError
from lab.progress import step

SUITE = "bookworm"
MIRROR_VARIABLE = "MILLPOND_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# fmt: off
PACKAGES = (
    "systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps", "iproute2", "ethtool", "iptables", "nftables",
    "conntrack", "socat", "ca-certificates", "runc", "containernetworking-plugins", "dmsetup", "nvme-cli",
    "e2fsprogs", "xfsprogs", "util-linux", "mount", "fio", "python3", "busybox-static",
)
# fmt: on

# Raised when the steps below change in a way that the key's other parts do not show.
RECIPE = "3"


@dataclass(frozen=True)
class Source:
    """One line of apt: where ``suite`` is to be had on the mirror that this machine uses."""

    uri: str
    suite: str

    def __str__(self) -> str:
        return f"deb {self.uri} {self.suite} main"


def root(more: Sequence[str] = ()) -> Path:
    """The folder with ``root/`` (the system), ``6.1/`` and ``6.12/`` (``vmlinuz``, ``initrd``); built when missing.

    ``more``: packages that this system has besides.
    """
    lines, names = sources(), (*PACKAGES, *more)
    key = cache.key(RECIPE, *names, *map(str, lines), paths.GUEST_FILES / "initramfs-init", kernels.FINGERPRINT)
    return cache.entry("debian", key, lambda scratch: _build(scratch, names, lines))


def disk(more: Sequence[str] = ()) -> Path:
    """A raw ext4 image (sparse, 8 GiB) of that root folder, to be booted through an overlay."""
    system = root(more)

    def build(scratch: Path) -> None:
        with step("Making the guests' disk image", usually=15):
            make_ext4(scratch / "disk.img", system / "root", gib=8)

    return cache.entry("debian-disk", cache.key(system.name, "1"), build) / "disk.img"


def make_ext4(image: Path, folder: Path, *, gib: float) -> None:
    """A sparse raw image of ``gib`` GiB with an ext4 that holds a copy of ``folder``."""
    packages.ensure("mke2fs")
    with image.open("wb") as handle:
        handle.truncate(int(gib * (1 << 30)))
    lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", lazy, "-d", folder, image], seconds=600)


def sources(apt: Path = Path("/etc/apt")) -> list[Source]:
    """Main, updates, security and backports of ``SUITE``, from the mirrors in this machine's apt sources."""
    found = list(_host_sources(apt))
    main = os.environ.get(MIRROR_VARIABLE) or next(
        (s.uri for s in found if s.suite == SUITE),
        next((s.uri for s in found if s.uri.rstrip("/").endswith("/debian") and "-security" not in s.suite), None),
    )
    if not main:
        raise LabError(
            "no Debian mirror is known: apt on this machine has none",
            next_step=f"set {MIRROR_VARIABLE} to the address of a Debian mirror, as in a sources.list",
        )
    lines = [Source(main, SUITE), Source(main, f"{SUITE}-backports")]
    security = next((s.uri for s in found if s.suite.endswith("-security") and "debian" in s.uri), None)
    if security:
        lines.append(Source(security, f"{SUITE}-security"))
    return lines


def _host_sources(apt: Path) -> Iterator[Source]:
    for path in sorted([apt / "sources.list", *apt.glob("sources.list.d/*.list")]):
        for line in path.read_text().splitlines() if path.exists() else []:
            words = [word for word in line.split("#")[0].split() if not word.startswith(("[", "signed-by", "arch="))]
            if len(words) >= 3 and words[0] == "deb":
                yield Source(words[1].rstrip("]"), words[2])
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            fields = dict(
                line.split(":", 1) for line in stanza.splitlines() if ":" in line and not line.startswith("#")
            )
            for uri in fields.get("URIs", "").split():
                for suite in fields.get("Suites", "").split():
                    yield Source(uri, suite)


def bootstrap(
    target: Path, names: Sequence[str], lines: Sequence[Source], *, variant: str, hooks: Sequence[str] = ()
) -> None:
    """Run mmdebstrap: a folder or tar ``target`` with ``names`` installed, without manuals and translations."""
    packages.ensure("mmdebstrap", "unshare")
    if not KEYRING.exists():
        packages.install(["debian-archive-keyring"], why="to check what comes from the Debian mirror")
    if os.geteuid() != 0:
        raise LabError(
            "building the guests' system needs root, once (its files belong to root)",
            next_step="run the same command with sudo -E; later runs take it from the cache",
        )
    log = paths.logs() / "mmdebstrap.log"
    argv: list[str | Path] = ["mmdebstrap", "--mode=root", f"--variant={variant}", "--components=main"]
    argv += [f"--include={','.join(names)}", f"--aptopt={_proxies()}", f"--keyring={KEYRING}"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "locale", "doc", "info")]
    argv += [f"--customize-hook={hook}" for hook in hooks]
    next_step = "is the Debian mirror reachable (apt-get update)?"
    run(isolated([*argv, SUITE, target, *map(str, lines)]), seconds=1800, log=log, next_step=next_step)


def _build(scratch: Path, names: Sequence[str], lines: list[Source]) -> None:
    debs = scratch / "debs"
    debs.mkdir()
    with step(f"Bootstrapping Debian {SUITE} with its kernels for the guests", usually=100):
        bootstrap(scratch / "root", names, lines, variant="minbase", hooks=[_download_hook(debs)])
    with step("Unpacking the kernels", usually=25):
        for kernel in kernels.KERNELS:
            kernels.unpack(debs / kernel, scratch / "root", scratch / kernel)
    cache.remove(debs)


def _download_hook(debs: Path) -> str:
    # Downloaded, not installed: the package would make an initrd of its own, which takes long and is not used.
    return f"""set -eu; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
        for kernel in {" ".join(kernels.KERNELS)}; do
            mkdir {shlex.quote(str(debs))}/$kernel; cd {shlex.quote(str(debs))}/$kernel
            version=$(apt-cache madison linux-image-amd64 | awk '{{print $3}}' | grep "^$kernel[.]" | head -n 1)
            package=$(apt-cache show linux-image-amd64=$version | sed -n 's/^Depends: \\(linux-image-[^ ]*\\).*/\\1/p')
            apt-get download -o APT::Sandbox::User=root $package
        done"""


def _proxies() -> str:
    dump = run(["apt-config", "dump", '--format=%f "%v";%n'], seconds=30)
    lines = [line for line in dump.splitlines() if line.startswith(("Acquire::http::Proxy", "Acquire::https::Proxy"))]
    return " ".join(lines) or 'Acquire::Languages "none";'
