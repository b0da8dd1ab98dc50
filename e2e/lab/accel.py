"""KVM where a short boot proves that it works, TCG otherwise (``/dev/kvm`` may exist and hang a guest)."""

from __future__ import annotations

import os
from functools import cache as remember
from pathlib import Path

from lab import cache, debian, kernels, packages, paths
from lab.command import run
from lab.errors import LabError
from lab.progress import say, step

KVM = ("-accel", "kvm", "-cpu", "host")
SLOW_IN_SOFTWARE = ("erms", "smap", "smep", "avx", "avx2")
"""What makes a processor fast or safe, and TCG pays for: with erms the kernel copies and clears memory by rep movsb, a
turn of the emulator for each byte, smap ends a block of code at each access to a program's memory, and avx lets the C
library move registers that are two of the host's. Without them a boot and a few Python programs take a sixth less of
the host's processor.
"""
WRONG_IN_SOFTWARE = ("cx16",)
"""What QEMU 7.2 emulates wrongly: cmpxchg16b leaves an operand of an earlier instruction where the flags belong. Linux
allocates memory with it, and where an interrupt comes before the next comparison it goes on with those flags: trap,
direction and interrupt flag are an address's bits. tests/kernel/test_processor.py shows it.
"""
TCG = ("-accel", "tcg,thread=multi", "-cpu", ",-".join(("max", *SLOW_IN_SOFTWARE, *WRONG_IN_SOFTWARE)))
VARIABLE = "MILLPOND_ACCEL"
PROBE_SECONDS = 15.0


@remember
def flags() -> tuple[str, ...]:
    """QEMU's accelerator flags for this machine. ``$MILLPOND_ACCEL`` (``kvm`` or ``tcg``) overrides the probe."""
    asked = os.environ.get(VARIABLE)
    if asked:
        if asked not in ("kvm", "tcg"):
            raise LabError(f"{VARIABLE}={asked} is not known", next_step="set it to kvm or tcg, or unset it")
        return KVM if asked == "kvm" else TCG
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    return KVM if _answer() == "kvm" else TCG


def _answer() -> str:
    """The probe's result, remembered until this machine boots again."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path = paths.cache() / "accel" / cache.key(boot_id)
    with cache.locked(path.with_suffix(".lock"), "trying KVM"):
        if not path.exists():
            path.write_text("kvm" if _boots() else "tcg")
        return path.read_text()


def _boots() -> bool:
    packages.ensure("qemu-system-x86_64")
    boot = debian.root() / kernels.DEFAULT
    console = paths.scratch() / "kvm-console.log"
    with step("Trying whether KVM works, with a short boot", usually=3):
        argv: list[str | Path] = ["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"]
        argv += ["-machine", "q35", *KVM, "-smp", "2", "-m", "256", "-serial", f"file:{console}"]
        argv += ["-kernel", boot / "vmlinuz", "-initrd", boot / "initrd", "-append", "console=ttyS0 quiet lab.probe"]
        try:
            run(argv, seconds=PROBE_SECONDS)
            works = "lab-probe-ok" in console.read_text(errors="replace")
        except LabError:
            works = False
    say("  KVM works" if works else "  KVM does not work here; guests run under TCG, about ten times slower")
    return works
