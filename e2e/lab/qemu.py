"""One virtual machine: its command line, its start and end, its monitor.

Disks are raw files on PCIe ports of their own (``device_del`` is a pulled disk), with QEMU's caching left to the
host's page cache: what the guest has flushed is what a reader of the file on the host sees.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from lab import accel, counter, packages, processes, qmp
from lab.agent import GUEST_PORT, Agent
from lab.command import run, tail
from lab.errors import LabError
from lab.ports import free_ports
from lab.progress import say

MONITOR = "monitor.sock"
BROKEN_BOOT = "Oops: int3"
"""Linux patches its code under a breakpoint, which QEMU lets a second processor meet after it was taken away."""

UNNEEDED = ("kvm", "kvm_amd", "kvm_intel", "ccp", "iTCO_wdt", "intel_pmc_bxt", "i2c_i801", "lpc_ich", "ahci", "libahci")


@dataclass(frozen=True)
class Disk:
    """An NVMe disk of a guest. ``name`` is its QEMU device id, ``serial`` what the guest reads."""

    name: str
    serial: str
    mib: int


@dataclass(frozen=True)
class Spec:
    """What a machine is made of. ``root`` is the image under its overlay, ``seed`` the tar unpacked over it at boot."""

    name: str
    boot: Path
    root: Path
    seed: Path
    init: str
    disks: Sequence[Disk] = ()
    read_only: Sequence[Path] = ()  # further images, /dev/vdc and on
    overlays: Sequence[Path] = ()  # further writable images, after those
    forwards: Sequence[tuple[int, int]] = ()  # (port of the host's loopback, port in the guest)
    loopback: str = "127.0.0.1"  # the host's address for those
    lan: str = ""  # "group:port" of a multicast LAN, shared by the machines that have the same
    number: int = 1  # last byte of the MAC addresses
    uuid: str = ""  # of the machine, as its firmware tells
    mib: int = 1536
    cpus: int = 2
    with_us: bool = False  # the machine ends when the lab's process does
    own_monitor: bool = False  # give the guest its own monitor on a virtio port
    extra: Sequence[str] = field(default_factory=tuple)


class Machine:
    """A machine in a folder of its own; the folder is all the state there is."""

    def __init__(self, folder: Path, name: str, agent: Agent) -> None:
        self.folder = folder
        self.name = name
        self.agent = agent

    @property
    def console(self) -> Path:
        """What the guest's kernel and services print."""
        return self.folder / "console.log"

    @property
    def log(self) -> Path:
        """What QEMU itself says; mostly nothing."""
        return self.folder / "qemu.log"

    @property
    def process(self) -> processes.Recorded | None:
        record = self.folder / ("qemu" + processes.SUFFIX)
        return processes.read(record) if record.exists() else None

    def alive(self) -> bool:
        process = self.process
        return process is not None and process.alive()

    def require_process(self) -> processes.Recorded:
        """The record of its QEMU; LabError when it was never started."""
        process = self.process
        if process is None:
            raise LabError(f"{self.name} is not running", next_step="power it on")
        return process

    def create(self, spec: Spec) -> None:
        """Make the overlay and the disks (sparse, empty)."""
        packages.ensure("qemu-system-x86_64", "qemu-img")
        self.folder.mkdir(parents=True, exist_ok=True)
        for image, overlay in ((spec.root, "root.qcow2"), *self._overlays(spec)):
            backing: list[str | Path] = ["-b", image, "-F", "raw"]
            run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, self.folder / overlay], seconds=60)
        for disk in spec.disks:
            with (self.folder / f"{disk.name}.img").open("wb") as handle:
                handle.truncate(disk.mib << 20)

    def start(self, spec: Spec) -> None:
        """Power on; returns when QEMU runs (the guest is only beginning to boot)."""
        process = processes.start(self._argv(spec), self.folder, "qemu", with_us=spec.with_us)
        deadline = time.monotonic() + 20
        while not (self.folder / MONITOR).exists():
            if not process.alive():
                raise processes.failure(process, f"QEMU did not start for {self.name}")
            if time.monotonic() > deadline:
                raise LabError(f"QEMU has no monitor after 20 s for {self.name}", log=process.log)
            time.sleep(0.02)

    def wait(self, spec: Spec, *, seconds: float) -> None:
        """Until it runs commands. LabError with QEMU's and its console's last words when it does not.

        A boot that the emulator broke is begun once more (docs/decisions/0010-the-lab.md).
        """
        for again in (True, False):
            try:
                self.agent.wait(seconds=seconds, alive=self.alive)
                return
            except LabError as error:
                console = tail(self.console)
                if not again or self.alive() or BROKEN_BOOT not in self.console.read_text(errors="replace"):
                    said = f"{tail(self.log)}\nlast words of its console:\n{console}"
                    raise LabError(f"{error}\nQEMU's own words:\n{said}") from error
            say(f"  {self.name} is started once more: the emulator broke its boot ({BROKEN_BOOT})")
            self.power_off()
            self.start(spec)

    def monitor(self, *, seconds: float = 10) -> AbstractContextManager[qmp.Monitor]:
        """A conversation with QEMU."""
        return qmp.connect(self.folder / MONITOR, seconds=seconds)

    def power_off(self) -> None:
        """Cut the power: what the guest had not written to its disks is lost."""
        process = self.process
        if process is not None:
            process.end(grace=0)
        (self.folder / MONITOR).unlink(missing_ok=True)

    def unplug(self, disk: Disk) -> None:
        """Pull a disk out; returns when the guest has let go of it. What it holds stays in its file."""
        with self.monitor() as monitor:
            qmp.unplug(monitor, disk.name)
        self._pulled(disk).touch()

    def plug(self, disk: Disk) -> None:
        """Put a pulled disk back on its port, as it was."""
        with self.monitor() as monitor:
            qmp.plug(monitor, disk.name, disk.serial)
        self._pulled(disk).unlink(missing_ok=True)

    def warn(self, disk: Disk, bits: int) -> None:
        """Have the disk warn of its own end, or take it back (``qmp.warn``)."""
        with self.monitor() as monitor:
            qmp.warn(monitor, disk.name, bits)

    def plugged(self, disk: Disk) -> bool:
        """Whether the disk is on its port (for a machine that is off: will be when it is on)."""
        return not self._pulled(disk).exists()

    def _pulled(self, disk: Disk) -> Path:
        return self.folder / f"{disk.name}.pulled"

    def set_link(self, nic: str, *, up: bool) -> None:
        """Cut or restore a link: ``nic-lan`` to the other machines, ``nic-wan`` to the host."""
        with self.monitor() as monitor:
            monitor.command("set_link", {"name": nic, "up": up})

    def pause(self) -> None:
        """Stop the machine's time: nothing in it runs, its links and its peers' connections stand."""
        with self.monitor() as monitor:
            monitor.command("stop")

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        with self.monitor() as monitor:
            monitor.command("cont")

    def throttle(self, disk: Disk, iops: int, mib: int = 0) -> None:
        """Let the disk do at most so many operations and mebibytes a second; 0: as many as it can."""
        limits = {"iops-total": iops, "bps-total": mib << 20}
        where = {"path": f"/objects/throttle-{disk.name}", "property": "limits"}
        with self.monitor() as monitor:
            monitor.command("qom-set", {**where, "value": limits})

    def data(self, disk: Disk) -> Path:
        """The disk's raw file on the host; holds what the guest has written and flushed."""
        return self.folder / f"{disk.name}.img"

    def _argv(self, spec: Spec) -> list[str]:
        words = "console=ttyS0 quiet mitigations=off net.ifnames=0 panic=1 random.trust_cpu=on"
        # Self-tests of the ciphers and drivers of the chip set take seconds under TCG, and nothing here needs them.
        words += f" cryptomgr.notests=1 module_blacklist={','.join(UNNEEDED)}"
        # One counter serves all of TCG's cores. Unless told so the kernel distrusts it, and each look at the clock, of
        # which Go and Python take many, becomes an exit to an emulated HPET behind QEMU's one big lock.
        words += " tsc=reliable"
        if (khz := counter.khz()) and accel.flags() == accel.TCG:
            words += f" tsc_early_khz={khz}"
        argv = ["qemu-system-x86_64", "-name", spec.name, "-nodefaults", "-no-reboot", "-display", "none"]
        argv += ["-machine", "q35", *accel.flags(), "-smp", str(spec.cpus), "-m", str(spec.mib)]
        argv += ["-kernel", str(spec.boot / "vmlinuz"), "-initrd", str(spec.boot / "initrd")]
        argv += ["-append", f"{words} lab.init={spec.init}"]
        argv += ["-serial", "file:console.log", "-qmp", f"unix:{MONITOR},server=on,wait=off"]
        argv += ["-device", "virtio-rng-pci", *(["-uuid", spec.uuid] if spec.uuid else [])]
        argv += _virtio_disk("root", self.folder / "root.qcow2", "qcow2")
        argv += _virtio_disk("seed", spec.seed, "raw", read_only=True)
        for index, image in enumerate(spec.read_only):
            argv += _virtio_disk(f"ro-{index}", image, "raw", read_only=True)
        for _, overlay in self._overlays(spec):
            argv += _virtio_disk(overlay.removesuffix(".qcow2"), self.folder / overlay, "qcow2")
        for index, disk in enumerate(spec.disks, start=1):
            argv += ["-object", f"throttle-group,id=throttle-{disk.name}"]
            argv += ["-blockdev", _blockdev(f"{disk.name}-raw", self.folder / f"{disk.name}.img", "raw")]
            throttle = f"driver=throttle,node-name={disk.name}-data,throttle-group=throttle-{disk.name}"
            argv += ["-blockdev", f"{throttle},file={disk.name}-raw"]
            argv += ["-device", f"pcie-root-port,id=port-{disk.name},chassis={index},slot={index}"]
            if self.plugged(disk):
                device = qmp.nvme_device(disk.name, disk.serial)
                argv += ["-device", ",".join(f"{key}={value}" for key, value in device.items())]
        forwards = "".join(f",hostfwd=tcp:{spec.loopback}:{host}-:{guest}" for host, guest in spec.forwards)
        forwards += f",hostfwd=tcp:127.0.0.1:{self.agent.port}-:{GUEST_PORT}"
        argv += ["-netdev", f"user,id=wan{forwards}"]
        argv += ["-device", f"virtio-net-pci,id=nic-wan,netdev=wan,romfile=,mac=52:54:00:aa:00:{spec.number:02x}"]
        if spec.lan:
            argv += ["-netdev", f"socket,id=lan,mcast={spec.lan},localaddr=127.0.0.1"]
            argv += ["-device", f"virtio-net-pci,id=nic-lan,netdev=lan,romfile=,mac=52:54:00:bb:00:{spec.number:02x}"]
        if spec.own_monitor:  # QEMU is both ends of this socket
            argv += ["-chardev", "socket,id=inner,path=inner.sock,server=on,wait=off"]
            argv += ["-chardev", "socket,id=port,path=inner.sock,server=off"]
            argv += ["-mon", "chardev=inner,mode=control", "-device", "virtio-serial-pci"]
            argv += ["-device", f"virtserialport,chardev=port,name={qmp.GUEST_PORT.name}"]
        return [*argv, *spec.extra]

    @staticmethod
    def _overlays(spec: Spec) -> list[tuple[Path, str]]:
        return [(image, f"overlay{index}.qcow2") for index, image in enumerate(spec.overlays)]


def new_agent(name: str) -> Agent:
    """An agent for a new machine: a free port and a fresh token."""
    return Agent(name, free_ports(1)[0], secrets.token_hex(16))


def _virtio_disk(name: str, image: Path, form: str, *, read_only: bool = False) -> list[str]:
    node = _blockdev(name, image, form, read_only=read_only)
    return ["-blockdev", node, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _blockdev(name: str, image: Path, form: str, *, read_only: bool = False) -> str:
    # no-flush: flushing the host's own disk would only cost time; a power failure of the guest does not lose host pages
    options = f"driver={form},node-name={name},cache.no-flush=on,read-only={'on' if read_only else 'off'}"
    options += ",discard=unmap" if not read_only else ""
    return f"{options},file.driver=file,file.filename={str(image).replace(',', ',,')},file.locking=off"
