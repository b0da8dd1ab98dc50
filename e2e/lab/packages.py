"""What the host needs, installed with apt after saying so."""

from __future__ import annotations

import importlib.util
import os
import shutil

from lab import paths
from lab.command import run, search_path
from lab.errors import LabError
from lab.progress import say, step

# command -> Debian package
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
    "openssl": "openssl",
    "buildah": "buildah",
    "git": "git",
}


def ensure(*commands: str) -> None:
    """Install the packages of those ``commands`` that are missing. Raises LabError where apt cannot do it."""
    missing = [command for command in commands if not shutil.which(command, path=search_path())]
    if not missing:
        return
    names = sorted({PACKAGES[command] for command in missing})
    install(names, why=f"for the commands {', '.join(missing)}")


def ensure_pip() -> None:
    """Make sure that this Python has pip."""
    if importlib.util.find_spec("pip") is None:
        install(["python3-pip"], why="to fetch Python packages")


def install(names: list[str], *, why: str) -> None:
    """``apt-get install`` those packages, saying first what and why."""
    command = f"apt-get install --no-install-recommends {' '.join(names)}"
    if not shutil.which("apt-get"):
        raise LabError(
            f"missing on this machine: {', '.join(names)} ({why})",
            next_step="install them with this system's package manager and start again",
        )
    if os.geteuid() != 0:
        raise LabError(f"missing on this machine: {', '.join(names)} ({why})", next_step=f"run: sudo {command}")
    say(f"This machine lacks {', '.join(names)} ({why}); installing with apt-get.")
    log = paths.logs() / "apt.log"
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"apt-get install {' '.join(names)}", usually=60):
        lock = ["-o", "DPkg::Lock::Timeout=600"]
        next_step = "is apt set up on this machine?"
        run(["apt-get", *lock, "update"], seconds=900, log=log, env=env, with_us=False, next_step=next_step)
        run(
            ["apt-get", *lock, "install", "-y", "--no-install-recommends", *names],
            seconds=1800,
            log=log,
            env=env,
            with_us=False,
            next_step=f"try by hand: {command}",
        )
