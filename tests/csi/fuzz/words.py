"""Strings for the fields of requests: sane ones, which reach deep, and hostile ones.

``@root@`` and ``@outside@`` stand for the kubelet's folder and one beside it, ``@uuid:ID@`` and ``@epoch:ID@`` for what
the volume ID has at the time of sending: ``plan.resolve`` puts them in.
"""

from __future__ import annotations

from collections.abc import Mapping

from millpond_core import names
from millpond_csi.validation import name_to_id

MARKER = "tops3cret-marker"
"""In every secret, and nowhere else."""

NODE = "n1"
"""The node whose service is called."""

VOLUMES = ("pvc-a", "pvc-b", "Data of Ärger", "x" * 63)
"""Names. The first two come more often."""

PODS = ("p1", "p2")
CSI = "@root@/plugins/kubernetes.io/csi"


def staging(volume: str) -> str:
    return f"{CSI}/{names.DRIVER}/{volume}/globalmount"


def target(volume: str, pod: str = PODS[0]) -> str:
    return f"@root@/pods/{pod}/volumes/kubernetes.io~csi/{volume}/mount"


def sane_texts(name: str) -> dict[str, tuple[str, ...]]:
    """By field, what a caller who means well says about the volume called ``name``."""
    volume = name_to_id(name)
    return {
        "volume_id": (volume,),
        "source_volume_id": (volume,),
        "name": (name,),
        "node_id": (NODE, NODE, NODE, "n2", ""),
        "staging_target_path": (staging(volume),),
        "target_path": tuple(target(volume, pod) for pod in PODS),
        "volume_path": (target(volume), staging(volume)),
        "fs_type": ("", "ext4", "ext4", "xfs"),
        "mount_flags": ("noatime", "ro", "nosuid,nodev"),
        "starting_token": ("", "", f"after:{volume}"),
    }


def sane_maps(name: str) -> dict[str, tuple[Mapping[str, str], ...]]:
    """The same for maps."""
    volume = name_to_id(name)
    uuid = {"uuid": f"@uuid:{volume}@"}
    return {
        "volume_context": (uuid,),
        "publish_context": ({**uuid, "epoch": f"@epoch:{volume}@"},),
        "parameters": (
            {},
            {},
            {},
            {"copies": "1", "csi.storage.k8s.io/fstype": "ext4"},
            {"copies": "2", "stripes": "2", "stripeSize": "64Ki", "access": "LegNodes"},
            {
                "csi.storage.k8s.io/pvc/name": "data",
                "csi.storage.k8s.io/pvc/namespace": "shop",
                "csi.storage.k8s.io/pv/name": name,
            },
        ),
        "mutable_parameters": ({}, {}, {}, {"maxRebuildRate": "1000"}, {"holdSeconds": "20"}),
        "segments": ({names.TOPOLOGY_KEY: NODE}, {names.TOPOLOGY_KEY: "n2"}),
    }


LONG = 5000
PATHS = (
    "@root@",
    "@root@/",
    "@root@//pods/p1",
    "@root@/./pods/p1",
    "@root@/pods/../../outside/empty",
    "@root@/../outside/file",
    "@outside@/empty",
    "@outside@/file",
    "@outside@/new",
    "@root@/pods/out",
    "@root@/pods/out/empty",
    "@root@/pods/out/new/mount",
    "@root@/pods/file-link",
    "@root@/pods/dangling",
    "@root@/pods/loop/x",
    "@root@/pods/in/x",
    "@root@/pods/kept",
    "@root@/pods/kept/file",
    "@root@/pods/kept/socket",
    "@root@/config.yaml",
    "@root@/config.yaml/mount",
    "@root@/pods",
    "@root@/pods/new folder/mount",
    "@root@/pods/line\nfeed/mount",
    "@root@/pods/\x0b\u2028\x85/mount",
    "@root@/pods/\x1b[31m/mount",
    "@root@/pods/-rf",
    "@root@/pods/" + "a" * 300,
    "@root@/pods/" + "é" * 200,
    "@root@/" + "a/" * 1500 + "a",
    "@root@/" + "ä/" * 1300 + "a",
    "@root@/pods\0/mount",
    "@root@-beside/x",
    f"@root@/plugins/{names.DRIVER}/csi.sock",
    f"@root@/plugins/{names.DRIVER}/formatting",
    f"{CSI}/{names.DRIVER}/pvc-b/globalmount",
    target("pvc-b"),
    "pods/p1/mount",
    "/proc/self/root/etc",
    "/",
    "/etc/passwd",
    "/dev/null",
)
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    ".",
    "..",
    "../..",
    "../../etc/passwd",
    "a/b",
    "-rf",
    "--help",
    "$(reboot)",
    "`id`",
    "; reboot",
    "'\"\\",
    "%s%n%d",
    "{0.__class__}",
    "null",
    "0",
    "-1",
    "1e999999999",
    "9" * 100,
    "NaN",
    "٣",
    "0x10",
    "4Ki\n",
    "pvc-a\n",
    "pvc-a ",
    "PVC-A",
    "-pvc",
    "pvc-a/../pvc-b",
    "pvc-b",
    "nobody",
    "n2",
    "n9",
    "vol-" + "a" * 40,
    "a" * 64,
    "a" * 128,
    "a" * 129,
    "é" * 64,
    "é" * 65,
    "a" * LONG,
    "ä" * LONG,
    "\U0001f4a5" * 2000,
    "a" * 200_000,
    "\r\n2026-01-01 ERROR millpond.csi forged",
    "\x1b[2J",
    "\u202egnp",
    "\u2028",
    "\x85",
    "\ufeff",
    "\ud7ff\ue000\uffff",
    "@uuid:pvc-a@",
    "@uuid:pvc-b@",
    "@uuid:pvc-a@\n",
    "after:",
    "after:zzz",
    "bind",
    "remount,rw",
    "X-mount.mkdir=0777",
    "loop=/dev/loop7",
    "ro,rw,ro",
    "uuid",
    "copies",
    "csi.storage.k8s.io/fstype",
    "csi.storage.k8s.io/pvc/name",
    names.TOPOLOGY_KEY,
)
ALPHABET = "aZ09-_./ \0\n\x7f\u00e9\u2028\U0001f4a5"
KEYS = ("uuid", "epoch", "copies", "stripes", "stripeSize", "pool", "nodeSelector", "minInSync", names.TOPOLOGY_KEY)
"""Of maps, where a hostile value is to meet its reader."""

NUMBERS = (0, 1, -1, 2, 4095, 4 << 20, (4 << 20) + 1, 300 << 20, 1 << 30, 1 << 40, 1 << 48, (1 << 48) + 1, 1 << 62)
SANE_NUMBERS: Mapping[str, tuple[int, ...]] = {
    "required_bytes": (64 << 20, 64 << 20, 64 << 20, 64 << 20, 0, 512 << 20),
    "limit_bytes": (0, 0, 0, 1 << 30),
    "max_entries": (0, 0, 1, 2, 100),
    # VolumeCapability.AccessMode: what one node at a time may have.
    "mode": (1, 1, 1, 1, 2, 6, 7, 5),
}
SANE_ABSENT = ("volume_content_source",)
"""Messages that a caller who means well leaves out."""

OFTEN_ABSENT = ("accessibility_requirements", "accessible_topology", "secrets")
