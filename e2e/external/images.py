"""The images that pods of the tests use, made from what the lab has; no registry is asked for any.

``e2e.test --list-images`` says their names, of which those below ``REGISTRY`` cannot be pulled from anywhere: it is the
loopback's. Pods use what their node has (IfNotPresent), so a missing one shows as a pod that cannot pull it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab import cache, components, debian, images, oci
from lab.command import run

REGISTRY = "localhost/kubernetes-e2e"
REGISTRIES = (
    "promoterE2eRegistry",
    "buildImageRegistry",
    "gcEtcdRegistry",
    "gcRegistry",
    "sigStorageRegistry",
    "privateRegistry",
    "dockerLibraryRegistry",
    "cloudProviderGcpRegistry",
)
"""Keys of the file that ``KUBE_TEST_REPO_LIST`` names (``test/utils/image``)."""

SHELL = ("busybox", "nginx")
"""Of these the tests want a shell and the usual commands alone."""
AGNHOST = ("agnhost",)
"""The same, and the program of that name: pods that execute something on their node, or wait for a signal."""
COREUTILS = ("glibc-dns-testing",)
"""``dd`` that knows ``nocache``."""
NAMES = (*SHELL, *AGNHOST, *COREUTILS)

RECIPE = "1"


def registries(folder: Path) -> dict[str, str]:
    """The environment that has the tests take their images from ``REGISTRY``; its file is written into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "registries.json"
    path.write_text(json.dumps(dict.fromkeys(REGISTRIES, REGISTRY)))
    return {"KUBE_TEST_REPO_LIST": str(path)}


def listed(program: Path, folder: Path) -> list[str]:
    """What ``e2e.test`` may want, all of its tests taken together."""
    return run([program, "--list-images"], seconds=120, env=registries(folder)).split()


def wanted(every: Iterable[str]) -> dict[str, list[str]]:
    """Of those images the ones that tests of storage drivers use, in all their versions, by ``NAMES``.

    ValueError when one is not listed any more: a newer Kubernetes uses another.
    """
    found: dict[str, list[str]] = {name: [] for name in NAMES}
    for image in sorted(set(every)):
        name = image.removeprefix(f"{REGISTRY}/").rpartition(":")[0]
        if image.startswith(f"{REGISTRY}/") and name in found:
            found[name].append(image)
    missing = sorted(name for name, images in found.items() if not images)
    if missing:
        raise ValueError(f"e2e.test does not list {', '.join(missing)}: what do its pods use instead?")
    return found


def archives(program: Path, folder: Path) -> list[Path]:
    """An archive for each kind of image; ``program`` is ``e2e.test``."""
    found = wanted(listed(program, folder))
    return [
        _shell([image for name in SHELL for image in found[name]], {}),
        _shell([image for name in AGNHOST for image in found[name]], {"agnhost": components.ensure("agnhost")}),
        _renamed(images.base(), [image for name in COREUTILS for image in found[name]]),
    ]


def _shell(called: list[str], programs: Mapping[str, Path]) -> Path:
    """Busybox with all of its applets, beside those programs; the last of them is what the image starts."""
    system = debian.root()
    busybox = system / "root/bin/busybox"

    def build(scratch: Path) -> None:
        applets = [name for name in run([busybox, "--list"], seconds=30).split() if name != "busybox"]
        oci.layer_of(
            scratch / "layer.tar",
            {"bin/busybox": busybox, **programs},
            {f"bin/{name}": "busybox" for name in applets},
            texts={"etc/passwd": "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", "etc/group": "root:x:0:\n"},
            folders={"bin": 0o755, "etc": 0o755, "mnt": 0o755, "opt": 0o755, "tmp": 0o1777},
        )
        entry = [f"/{name}" for name in programs]
        start = {"entrypoint": entry, "command": ["pause"]} if entry else {"command": ["/bin/sh"]}
        oci.write(scratch / "one.tar", called[0], scratch / "layer.tar", **start)
        oci.rename(scratch / "one.tar", scratch / "image.tar", called)
        for left in ("layer.tar", "one.tar"):
            (scratch / left).unlink()

    key = cache.key(system.name, *map(str, programs.values()), *called, RECIPE)
    return cache.entry("images", f"{'-'.join(programs) or 'shell'}-{key}", build) / "image.tar"


def _renamed(archive: Path, called: list[str]) -> Path:
    def build(scratch: Path) -> None:
        oci.rename(archive, scratch / "image.tar", called)

    key = cache.key(archive.parent.name, *called, RECIPE)
    return cache.entry("images", f"coreutils-{key}", build) / "image.tar"
