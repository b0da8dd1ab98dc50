"""One guest without Kubernetes, for the kernel tier: a stock Debian kernel, NVMe disks, the work tree at ``/repo``.

Tests run inside it as root. It ends with the process that started it, and leaves nothing behind.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from lab import cache, debian, kernels, paths, processes, seed, wheels
from lab.command import isolated, run, tail
from lab.errors import LabError
from lab.progress import step
from lab.qemu import Disk, Machine, Spec, new_agent

REQUIREMENTS = paths.LAB / "guest-requirements.txt"
BOOT_SECONDS = 180.0
LIBRARY = "/mnt/ro-0"
SOURCE_ROOTS = ("core", "adapters", "statemanager", "csidriver", "operator", "cli", "e2e")


class Guest:
    """A running guest; use it as a context manager.

    ``disks`` NVMe disks of ``disk_mib`` MiB with serials ``guest-disk1`` and on; ``mib`` of memory.
    """

    def __init__(
        self, *, kernel: str = kernels.DEFAULT, disks: int = 4, disk_mib: int = 1024, mib: int = 1536, cpus: int = 2
    ) -> None:
        self.kernel = kernels.check(kernel)
        self.folder = paths.cache() / "labs" / f".guest-{os.getpid()}-{os.urandom(3).hex()}"
        self.disks = [Disk(f"disk{n}", f"guest-disk{n}", disk_mib) for n in range(1, disks + 1)]
        self.agent = new_agent("the guest")
        self.machine = Machine(self.folder, "the guest", self.agent)
        self._mib = mib
        self._cpus = cpus

    def __enter__(self) -> Guest:
        root, boot, library = debian.disk(), debian.root() / self.kernel, python_library()
        sweep()
        self.folder.mkdir(parents=True)
        processes.record_self(self.folder)
        try:
            files = seed.agent_files("guest", self.agent.token)
            files["usr/local/sbin/guest-init"] = (paths.GUEST_FILES / "guest-init").read_bytes()
            seed.write(self.folder / "seed.tar", files, [("repo", paths.REPOSITORY)])
            spec = Spec(
                name=self.folder.name.lstrip("."),
                boot=boot,
                root=root,
                seed=self.folder / "seed.tar",
                init="/usr/local/sbin/guest-init",
                disks=self.disks,
                read_only=[library],
                mib=self._mib,
                cpus=self._cpus,
                with_us=True,
                own_monitor=True,
            )
            with step(f"Booting a guest with kernel {self.kernel}", usually=20):
                self.machine.create(spec)
                self.machine.start(spec)
                self.agent.wait(seconds=BOOT_SECONDS, alive=self.machine.alive)
        except LabError as error:
            error_with_console = LabError(f"{error}\nlast words of its console:\n{tail(self.machine.console)}")
            self.close()
            raise error_with_console from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Power it off and remove its folder."""
        self.machine.power_off()
        shutil.rmtree(self.folder, ignore_errors=True)

    def fetch(self, folder: str, target: Path) -> None:
        """Copy what is in a folder of the guest into ``target`` on the host."""
        archive = io.BytesIO()
        self.agent.run(["tar", "-C", folder, "-cf", "-", "."], seconds=120, stdout=archive.write)
        archive.seek(0)
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(target, filter="data")


def run_in_guest(guest: Guest, argv: Sequence[str], *, seconds: float, out: Path | None) -> int:
    """Run ``argv`` at ``/repo``, its output on ours; then copy the guest's ``/out`` and console into ``out``.

    Returns the exit status; 124 after ``seconds``.
    """
    library = ":".join([*(f"/repo/{root}" for root in SOURCE_ROOTS), LIBRARY])
    env = {"PYTHONPATH": library, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8", "HOME": "/root"}
    env |= {"MILLPOND_GUEST": guest.kernel, "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"}
    try:
        code = guest.agent.run(
            argv, seconds=seconds, env=env, cwd="/repo", stdout=_stdout, stderr=_stderr, check=False
        ).returncode
    except LabError as error:
        print(f"{error}\nlast words of its console:\n{tail(guest.machine.console)}", file=sys.stderr)
        code = 124
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if guest.machine.alive():
            guest.fetch("/out", out)
        shutil.copy(guest.machine.console, out / "console.log")
    return code


def python_library() -> Path:
    """An ext4 image with the Python packages of ``guest-requirements.txt``, compiled by the guest's own Python."""

    def build(scratch: Path) -> None:
        with step("Fetching the kernel tier's Python packages", usually=15):
            target = scratch / "library"
            wheels.library(REQUIREMENTS, target)
            compile_all = f"mount --bind {target} {system}/mnt && chroot {system} python3 -m compileall"
            run(isolated(["sh", "-c", f"{compile_all} -q -s /mnt -p {LIBRARY} /mnt"]), seconds=300)
            debian.make_ext4(scratch / "library.img", target, gib=0.5)
            cache.remove(target)

    system = debian.root() / "root"
    key = cache.key(REQUIREMENTS, wheels.pins(), system.parent.name, "2")
    return cache.entry("guest-python", key, build) / "library.img"


def sweep() -> None:
    """Remove what guests left behind whose process was killed."""
    processes.sweep(paths.cache() / "labs", ".guest-*")


def _stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _stderr(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
