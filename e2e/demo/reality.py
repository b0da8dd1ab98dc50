"""Compares what a VirtualVolume says with what the nodes' kernels do: dm tables, md's sysfs, the front.

The expected tables come from the core's own arithmetic; device numbers are looked up on the node, not believed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from demo.cluster import Cluster, Object
from demo.faults import Shell
from millpond_core import names
from millpond_core.layout import (
    BITMAP_SECTORS,
    component_sectors,
    front_table,
    gate_holds,
    gate_table,
    leg_table,
    path_table,
    same_table,
)
from millpond_core.model.virtualvolume import Extent

# One JSON object a node: tables and numbers of our dm devices, md arrays with their members, disks by serial number,
# and the namespaces of remote legs by NQN.
LOOK = r"""
import glob, json, os, subprocess
def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
def out(*argv):
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout
found = {"dm": {}, "md": {}, "disks": {}, "namespaces": {}}
for line in out("dmsetup", "table").splitlines():
    name, _, table = line.partition(": ")
    if name.startswith("millpond-"):
        found["dm"].setdefault(name, {"table": []})["table"].append(table)
columns = ["--noheadings", "--separator", " ", "-o", "name,major,minor,suspended"]
for line in out("dmsetup", "info", "-c", *columns).splitlines():
    name, major, minor, state = (line.split() + [""] * 4)[:4]
    if name in found["dm"]:
        found["dm"][name].update(number=major + ":" + minor, suspended=state == "Suspended")
for block in glob.glob("/sys/block/*"):
    kernel, number = os.path.basename(block), read(block + "/dev")
    if not number:
        continue  # one path of an NVMe disk that may have several, as nvme0c0n1: no device of its own
    if kernel.startswith("md_"):
        members = {}
        for member in glob.glob(block + "/md/dev-*"):
            fields = ("state", "slot", "offset", "recovery_start")
            members[read(member + "/block/dev")] = {field: read(member + "/" + field) for field in fields}
        fields = ("array_state", "component_size", "metadata_version", "raid_disks", "degraded", "sync_action")
        array = {field: read(block + "/md/" + field) for field in fields}
        found["md"][kernel] = dict(array, number=number, members=members)
    nqn = read(block + "/device/subsysnqn")
    serial = read(block + "/device/serial")
    if nqn.startswith("nqn.2026-11.io.millpond:"):
        found["namespaces"][nqn] = number
    elif serial:
        found["disks"][serial] = number
print(json.dumps(found))
"""

Kernel = Mapping[str, Any]


def look(faults: Shell, node: str) -> Kernel:
    """What a node's kernel has of ours."""
    kernel: Kernel = json.loads(faults.run(node, "python3", "-c", LOOK))
    return kernel


def discrepancies(cluster: Cluster, faults: Shell, volume: Object) -> list[str]:
    """Everything in which the nodes' kernels are not what the volume's mapping says; empty: they agree."""
    devices = {each["metadata"]["name"]: each for each in cluster.items("storagedevices")}
    kernels = {node["metadata"]["name"]: look(faults, node["metadata"]["name"]) for node in cluster.items("nodes")}
    return [*_legs(volume, devices, kernels), *_assembly(volume, kernels), *_strays(volume, kernels)]


def _legs(volume: Object, devices: Mapping[str, Object], kernels: Mapping[str, Kernel]) -> Iterator[str]:
    """Each leg that is in use, on its leg node."""
    stripes = volume["spec"].get("layout", {}).get("stripes", 1)
    size = volume["spec"].get("layout", {}).get("stripeSize", 65536)
    for leg in _in_use(volume):
        kernel = kernels[leg["node"]]
        found = kernel["dm"].get(names.leg(_uuid(volume), leg["id"]))
        if found is None:
            yield f"{leg['node']} has no device for leg {leg['id']}"
            continue
        serials = {e["deviceUuid"]: _serial(devices[e["device"]]) for e in leg["extents"]}
        numbers = {uuid: kernel["disks"].get(serial, "gone") for uuid, serial in serials.items()}
        extents = [
            Extent(device=e["device"], device_uuid=e["deviceUuid"], start=e["start"], length=e["length"])
            for e in leg["extents"]
        ]
        wanted = leg_table(extents, numbers, stripes=stripes, stripe_bytes=size)
        if not same_table(_table(found), wanted):
            yield f"leg {leg['id']} on {leg['node']} is mapped {_table(found)!r}, its extents say {wanted!r}"


def _assembly(volume: Object, kernels: Mapping[str, Kernel]) -> Iterator[str]:
    """Paths, gates, array and front on the attach node."""
    uuid, bytes_ = _uuid(volume), int(volume["status"]["sizeBytes"])
    node = volume["status"].get("attachment", {}).get("node", "")
    if not node:
        return
    dm, md = kernels[node]["dm"], kernels[node]["md"]
    array = md.get(f"md_{names.array(uuid)}")
    if array is None:
        yield f"{node} has no array"
        return
    if 2 * int(array["component_size"]) != component_sectors(bytes_):
        yield f"the array has {array['component_size']} KiB, the volume {bytes_} bytes"
    wanted_front = front_table(array["number"], bytes_)
    front = dm.get(names.front(uuid))
    if front is None or not same_table(_table(front), wanted_front):
        yield f"the front is {front and _table(front)!r}, not {wanted_front!r}"
    expected = set()
    for leg in _in_use(volume):
        path, gate = dm.get(names.path(uuid, leg["id"])), dm.get(names.gate(uuid, leg["id"]))
        if leg["state"] in ("Stale", "Failed"):
            continue
        if path is None or gate is None:
            yield f"{node} has no path or gate for leg {leg['id']} ({leg['state']})"
            continue
        expected.add(gate["number"])
        under = _under(volume, leg, node, kernels)
        if under and not same_table(_table(path), path_table(under, bytes_)):
            yield f"the path to leg {leg['id']} is {_table(path)!r}, not {path_table(under, bytes_)!r}"
        holding = leg["state"] == "InSync"
        if not same_table(_table(gate), gate_table(path["number"], bytes_, holding=holding)):
            yield f"the gate of leg {leg['id']} is {_table(gate)!r}"
        if gate_holds(_table(gate)) != holding:
            yield f"the gate of leg {leg['id']} ({leg['state']}) is {'holding' if not holding else 'failing'}"
        yield from _member(leg, array["members"].get(gate["number"]))
    for number in array["members"].keys() - expected:
        yield f"the array has a member {number} that no leg of the mapping stands for"


def _member(leg: Mapping[str, Any], member: Mapping[str, str] | None) -> Iterator[str]:
    if member is None:
        yield f"leg {leg['id']} ({leg['state']}) is not in the array"
        return
    flags = member["state"].split(",")
    if leg["state"] == "InSync" and "in_sync" not in flags:
        yield f"leg {leg['id']} is recorded InSync, md says {member['state']}"
    if "faulty" in flags:
        yield f"leg {leg['id']} is recorded {leg['state']}, md says {member['state']}"
    if int(member["offset"]) != BITMAP_SECTORS:
        yield f"the data of leg {leg['id']} begins at sector {member['offset']}, not {BITMAP_SECTORS}"


def _strays(volume: Object, kernels: Mapping[str, Kernel]) -> Iterator[str]:
    """Devices of this volume that the mapping does not explain."""
    uuid, attach = _uuid(volume), volume["status"].get("attachment", {}).get("node", "")
    in_use = {(leg["node"], names.leg(uuid, leg["id"])) for leg in volume["status"]["mapping"]["legs"]}
    in_use |= {(leg["node"], names.leg(uuid, leg["id"])) for leg in volume["status"].get("spares", ())}
    for node, kernel in kernels.items():
        for name in kernel["dm"]:
            if not name.startswith(names.front(uuid)) or (node, name) in in_use:
                continue
            if node != attach:
                yield f"{node} has {name}, but the mapping puts nothing of the kind there"
        if node != attach and f"md_{names.array(uuid)}" in kernel["md"]:
            yield f"{node} has an array of a volume that is attached on {attach or 'no node'}"


def _under(volume: Object, leg: Mapping[str, Any], node: str, kernels: Mapping[str, Kernel]) -> str:
    """What the path to a leg must lead to: the local leg's device, or the namespace that the leg node exports."""
    if leg["node"] == node:
        local = kernels[node]["dm"].get(names.leg(_uuid(volume), leg["id"]), {})
        return str(local.get("number", ""))
    for report in volume["status"].get("nodes", ()):
        for each in report.get("legs", ()):
            if report["node"] == leg["node"] and each["id"] == leg["id"]:
                return str(kernels[node]["namespaces"].get(each.get("nqn", ""), ""))
    return ""


def _in_use(volume: Object) -> list[Mapping[str, Any]]:
    """Legs that are part of the volume and whose disk is not given up."""
    found = volume["status"]["mapping"]["legs"]
    return [leg for leg in found if not leg.get("releasing") and leg["state"] != "Failed"]


def _table(device: Mapping[str, Any]) -> str:
    return "\n".join(device["table"])


def _uuid(volume: Object) -> str:
    uuid: str = volume["spec"]["uuid"]
    return uuid


def _serial(device: Object) -> str:
    serial: str = device["spec"]["identity"].get("serial") or device["status"]["observation"]["serial"]
    return serial
