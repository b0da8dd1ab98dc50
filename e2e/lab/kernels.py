"""Stock Debian kernels for the guests: modules into the root, ``vmlinuz``, and an initramfs small enough for TCG.

Debian's own initrd takes most of a minute to unpack and run under TCG; ours loads four modules and switches root.
"""

from __future__ import annotations

import lzma
import shutil
import stat
from pathlib import Path

from lab import cache, paths
from lab.command import run
from lab.errors import LabError

KERNELS = ("6.1", "6.12")
DEFAULT = "6.12"

# What it takes to reach the root file system; udev loads everything else.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")  # ext4 asks for crc32c by name

# Drivers for hardware that no guest has, left out to keep the image small.
# fmt: off
PRUNED = (
    "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/staging", "drivers/iio", "drivers/hid",
    "drivers/usb", "drivers/isdn", "drivers/bluetooth", "drivers/net/wireless", "drivers/net/ethernet",
    "drivers/net/can", "drivers/input", "drivers/video", "drivers/comedi", "drivers/thunderbolt",
    "drivers/platform", "sound",
)
# fmt: on

FINGERPRINT = cache.key(*KERNELS, *BOOT_MODULES, *PRUNED)


def check(kernel: str) -> str:
    """``kernel`` itself if it is one of ours, else a LabError that names them."""
    if kernel not in KERNELS:
        raise LabError(f"no kernel {kernel!r} in the lab", next_step=f"choose one of {', '.join(KERNELS)}")
    return kernel


def unpack(debs: Path, root: Path, boot: Path) -> None:
    """Put the modules of the kernel package in folder ``debs`` into ``root``; ``vmlinuz``, ``initrd`` into ``boot``."""
    (deb,) = debs.glob("*.deb")
    tree = debs / "tree"
    run(["dpkg-deb", "-x", deb, tree], seconds=300)
    (modules,) = (tree / "lib/modules").iterdir()
    (vmlinuz,) = (tree / "boot").glob("vmlinuz-*")
    for name in PRUNED:
        cache.remove(modules / "kernel" / name)
    for packed in modules.rglob("*.ko.xz"):  # unpacking them in the guest would be slow
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    target = root / "usr/lib/modules" / modules.name
    target.parent.mkdir(exist_ok=True)
    shutil.move(modules, target)
    run(["chroot", root, "depmod", "-a", modules.name], seconds=120)
    boot.mkdir()
    shutil.copy(vmlinuz, boot / "vmlinuz")
    (boot / "initrd").write_bytes(_initramfs(root, target))


def _initramfs(root: Path, modules: Path) -> bytes:
    folders = ("bin", "dev", "proc", "sys", "modules", "root")
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(folders, (stat.S_IFDIR | 0o755, b""))
    files["bin/busybox"] = (stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes())
    files["init"] = (stat.S_IFREG | 0o755, (paths.GUEST_FILES / "initramfs-init").read_bytes())
    order = _load_order(modules)
    for index, path in enumerate(order):
        files[f"modules/{index:02}-{Path(path).name}"] = (stat.S_IFREG | 0o644, (modules / path).read_bytes())
    return _cpio(files)


def _load_order(modules: Path) -> list[str]:
    depends = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        module, _, needs = line.partition(":")
        depends[module] = needs.split()
    by_name = {_module_name(path): path for path in depends}
    built_in = {_module_name(path) for path in (modules / "modules.builtin").read_text().split()}
    order: list[str] = []
    for name in BOOT_MODULES:
        if name not in built_in:
            path = by_name[name]
            # depmod lists what is needed first last
            order += [module for module in [*reversed(depends[path]), path] if module not in order]
    return order


def _module_name(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


def _cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """An uncompressed "newc" archive, the format that the kernel unpacks."""
    out = bytearray()
    for inode, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], start=1):
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
