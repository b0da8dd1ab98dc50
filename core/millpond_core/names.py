"""Every name that Millpond gives to something in a kernel or on the wire, derived from identities.

dm and md names are global to a kernel, so each carries the volume and the role. Nothing else in the code base spells
such a name.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import uuid

DRIVER = "csi.millpond.io"
TOPOLOGY_KEY = "topology.millpond.io/node"
NQN_PREFIX = "nqn.2026-11.io.millpond:"
DM_PREFIX = "millpond-"
MD_PREFIX = "mp"
NVME_PORT = 4420

ANNOTATION_QUIESCE = "millpond.io/quiesce"
ANNOTATION_ALLOCATED = "millpond.io/allocated"
ANNOTATION_CLAIM = "millpond.io/claim"
ANNOTATION_ACCEPT_DATA_LOSS = "millpond.io/accept-data-loss"
ANNOTATION_FROM_CLUSTER = "millpond.io/from-cluster"
"""On a StorageDevice: uid of the cluster that its label may be taken over from, because that one is no more."""
FINALIZER = "millpond.io/storage"
TAINT = "millpond.io/unavailable"
"""On a Node whose pods are moved off it: Kubernetes starts none there, even while it takes the kubelet for Ready."""
NODE_LABEL_PREFIX = "node.millpond.io/"
LABEL_MADE_BY = "millpond.io/made-by"
"""On a Quiescence that the master made, with ``MASTER`` as its value: it prunes only those."""

MASTER = "millpond-master"
"""The operator's leader: its Lease, its field manager, its mark on what it makes."""

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAMESPACE = uuid.UUID("7d3c4b52-53b6-5d0c-9a35-2d1c8d8f7a10")


def node_label(node: str) -> str:
    """Label on each VirtualVolume that concerns ``node``: its state manager watches by it.

    The name part of a label is at most 63 characters; a longer node name is replaced by its hash.
    """
    part = node if len(node) <= 63 else hashlib.sha256(node.encode()).hexdigest()[:40]
    return NODE_LABEL_PREFIX + part


def node_manager(node: str) -> str:
    """Field manager of ``node``'s state manager (at most 128 characters), and the name of its heartbeat Lease."""
    return f"millpond-node-{node if len(node) <= 100 else hashlib.sha256(node.encode()).hexdigest()[:40]}"


def unique_volume(volume: str) -> str:
    """What a Node's status calls the VirtualVolume with that name (Kubernetes' plug-in, driver, ^, volume handle)."""
    return f"kubernetes.io/csi/{DRIVER}^{volume}"


def leg_id(number: int) -> str:
    """Id of the ``number``-th leg ever allocated (from 0): a … z, ba, bb …"""
    digits = ""
    while True:
        number, rest = divmod(number, 26)
        digits = chr(ord("a") + rest) + digits
        if number == 0:
            return digits


def leg_number(leg: str) -> int:
    """The inverse of ``leg_id``."""
    number = 0
    for digit in leg:
        number = number * 26 + ord(digit) - ord("a")
    return number


def parse_dm(name: str) -> tuple[str, str, str] | None:
    """(volume, role, leg) of a dm name below: front, wall, leg, path or gate; None when it is none of ours."""
    match = re.fullmatch(f"{DM_PREFIX}({_UUID})(?:-(wall)|-(leg|path|gate)-([a-z]+))?", name)
    return (match[1], match[2] or match[3] or "front", match[4] or "") if match else None


def front(volume: str) -> str:
    """dm name of what the pod uses. ``volume`` is spec.uuid, here and below."""
    return f"{DM_PREFIX}{volume}"


def leg(volume: str, leg: str) -> str:
    """dm name of a leg on its leg node."""
    return f"{DM_PREFIX}{volume}-leg-{leg}"


def path(volume: str, leg: str) -> str:
    """dm name of the path to a leg on the attach node: never changes its number."""
    return f"{DM_PREFIX}{volume}-path-{leg}"


def gate(volume: str, leg: str) -> str:
    """dm name of the gate in front of a leg on the attach node."""
    return f"{DM_PREFIX}{volume}-gate-{leg}"


def wall(volume: str) -> str:
    """dm name of what is put under a front that shall reach nothing any more."""
    return f"{DM_PREFIX}{volume}-wall"


def dm_uuid(name: str) -> str:
    """dm UUID that belongs to one of the names above: the prefix keeps LVM and multipathd away."""
    return f"MILLPOND-{name.removeprefix(DM_PREFIX)}"


def dm_path(name: str) -> str:
    """Device node of a dm device."""
    return f"/dev/mapper/{name}"


def array(volume: str) -> str:
    """md name of a volume; the kernel's node is ``/dev/md_<name>``.

    A gendisk's name has at most 31 characters (DISK_NAME_LEN - 1), ``md_`` included, so the uuid's 16 bytes stand in
    base32.
    """
    packed = base64.b32encode(uuid.UUID(volume).bytes).decode().rstrip("=").lower()
    return f"{MD_PREFIX}{packed}"


def subsystem_nqn(volume: str, leg: str, epoch: int, incarnation: str) -> str:
    """NQN of a leg's export: one subsystem per (volume, leg, epoch, incarnation)."""
    return f"{NQN_PREFIX}{volume}:{leg}:e{epoch}:{incarnation}"


def parse_nqn(nqn: str) -> tuple[str, str, int, str] | None:
    """(volume, leg, epoch, incarnation) of a leg's export; None when the NQN names none of ours."""
    parts = nqn.removeprefix(NQN_PREFIX).split(":")
    if not nqn.startswith(NQN_PREFIX) or len(parts) != 4 or not re.fullmatch("e[0-9]+", parts[2]):
        return None
    return parts[0], parts[1], int(parts[2][1:]), parts[3]


def namespace_uuid(volume: str, leg: str, epoch: int, incarnation: str) -> str:
    """Identity of the export's namespace: two with the same would be joined as paths of one."""
    return str(uuid.uuid5(_NAMESPACE, subsystem_nqn(volume, leg, epoch, incarnation)))


def serial(volume: str, leg: str) -> str:
    """Serial of a leg's subsystem, 20 characters at most (NVMe base specification, Identify Controller)."""
    return hashlib.sha256(f"{volume}:{leg}".encode()).hexdigest()[:20]


@functools.lru_cache(maxsize=1024)
def host_nqn(cluster: str, node: str) -> str:
    """NQN under which a node connects. Made of the cluster's uid and the node's name: it outlives the StorageNode."""
    return f"{NQN_PREFIX}host:{uuid.uuid5(_NAMESPACE, f'{cluster}/{node}')}"


@functools.lru_cache(maxsize=1024)
def host_id(cluster: str, node: str) -> str:
    """NVMe host identifier that belongs to ``host_nqn``."""
    return str(uuid.uuid5(_NAMESPACE, host_nqn(cluster, node)))


def incarnation(boot_id: str, attach_counts: list[tuple[str, int]]) -> str:
    """Names the life of a leg: the leg node's boot and the attach count of each device under it.

    Two equal values mean that no cache below the leg can have been lost in between.
    """
    text = boot_id + "".join(f"/{device}={count}" for device, count in sorted(attach_counts))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
