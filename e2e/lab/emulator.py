"""QEMU, the same on every machine: Debian's backports, unpacked into a folder of its own and run from there.

Under TCG version 10 takes a sixth less time than the release's 7.2 for a boot and a few of our kernel tests (three runs
of each in turn: 44 to 47 s instead of 52 to 58), and whoever tries the lab needs no QEMU of the right age.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from lab import cache, debian
from lab.progress import step

PACKAGES = ("qemu-system-x86", "qemu-utils")
# Raised when the steps below change.
RECIPE = "1"


def program(name: str) -> list[str]:
    """How to run ``qemu-system-x86_64`` or ``qemu-img``: by its own C library, whatever this machine's is."""
    root = _root()
    libraries = ":".join(str(root / folder) for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    argv = [str(root / "lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, str(root / "usr/bin" / name)]
    firmware: Sequence[Path] = ()
    if name.startswith("qemu-system-"):
        firmware = [root / "usr/share" / folder for folder in ("qemu", "seabios")]
    return [*argv, *(word for folder in firmware for word in ("-L", str(folder)))]


@functools.cache
def _root() -> Path:
    lines = debian.sources()

    def build(scratch: Path) -> None:
        with step("Unpacking QEMU", usually=15):
            debian.bootstrap(scratch / "root", PACKAGES, lines, variant="extract", release=f"{debian.SUITE}-backports")

    return cache.entry("qemu", cache.key(RECIPE, *PACKAGES, *map(str, lines)), build) / "root"
