"""A guest without Kubernetes: a stock Debian kernel, NVMe disks, the work tree at ``/repo``.

The kernel tier's tests run inside one, as root; the fault suite has three of them on a LAN. It ends with the process
that started it, and leaves nothing behind.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import cache, debian, kernels, paths, processes, seed, wheels
from lab.command import isolated, run, tail
from lab.errors import LabError
from lab.noderecord import address
from lab.progress import step
from lab.qemu import Disk, Machine, Spec, new_agent

REQUIREMENTS = paths.LAB / "guest-requirements.txt"
BOOT_SECONDS = 180.0
LIBRARY = "/mnt/ro-0"
SOURCE_ROOTS = ("core", "adapters", "statemanager", "csidriver", "operator", "cli", "e2e")


class Guest:
    """A guest; as a context manager it runs inside the block.

    ``disks`` NVMe disks of ``disk_mib`` MiB with serials ``<name>-disk1`` and on; ``mib`` of memory. ``files`` go over
    its root; ``packages`` are installed besides. Guests that share a ``lan`` (``group:port``) reach each other there by
    ``number`` (:func:`lab.noderecord.address`).
    """

    def __init__(
        self,
        *,
        kernel: str = kernels.DEFAULT,
        name: str = "guest",
        disks: int = 4,
        disk_mib: int = 1024,
        mib: int = 1536,
        cpus: int = 2,
        lan: str = "",
        number: int = 1,
        files: Mapping[str, bytes | str] | None = None,
        packages: Sequence[str] = (),
    ) -> None:
        self.kernel = kernels.check(kernel)
        self.name = name
        self.address = address(number)
        self.folder = paths.cache() / "labs" / f".guest-{os.getpid()}-{os.urandom(3).hex()}"
        self.disks = [Disk(f"disk{n}", f"{name}-disk{n}", disk_mib) for n in range(1, disks + 1)]
        self.agent = new_agent(name if lan else "the guest")
        self.machine = Machine(self.folder, self.agent.name, self.agent)
        self._files = dict(files or {})
        self._spec = Spec(
            name=self.folder.name.lstrip("."),
            boot=debian.root(packages) / self.kernel,
            root=debian.disk(packages),
            seed=self.folder / "seed.tar",
            init="/usr/local/sbin/guest-init",
            disks=self.disks,
            read_only=[python_library()],
            lan=lan,
            number=number,
            mib=mib,
            cpus=cpus,
            with_us=True,
            own_monitor=not lan,
        )

    def __enter__(self) -> Guest:
        try:
            with step(f"Booting a guest with kernel {self.kernel}", usually=20):
                self.create()
                self.power_on()
        except BaseException:
            self.close()
            raise
        return self

    def create(self) -> None:
        """Make its folder, its disks and its seed; what guests of killed processes have left goes."""
        sweep()
        self.folder.mkdir(parents=True)
        processes.record_self(self.folder)
        files = seed.agent_files(self.name, self.agent.token) | self._files
        files["etc/lab/address"] = self.address + "\n"
        files["usr/local/sbin/guest-init"] = (paths.GUEST_FILES / "guest-init").read_bytes()
        seed.write(self._spec.seed, files, [("repo", paths.REPOSITORY)])
        self.machine.create(self._spec)

    def power_on(self) -> None:
        """Switch it on; returns when it runs commands."""
        self.start()
        self.wait()

    def start(self) -> None:
        """Switch it on. It ends with the thread that calls this, the process's first one for choice."""
        self.machine.start(self._spec)

    def wait(self) -> None:
        """Until it runs commands."""
        self.machine.wait(self._spec, seconds=BOOT_SECONDS)

    def environment(self) -> dict[str, str]:
        """In which the work tree's programs run there."""
        library = ":".join([*(f"/repo/{root}" for root in SOURCE_ROOTS), LIBRARY])
        env = {"PYTHONPATH": library, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8", "HOME": "/root"}
        return env | {"MILLPOND_GUEST": self.kernel, "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"}

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
    env = guest.environment()
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
        with step("Fetching the guests' Python packages", usually=15):
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
