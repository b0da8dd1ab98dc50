"""In a guest of ``bench.datapath``: builds one stack over partitions and prints its device node.

python3 -m bench.stacks <stack> <partition> [<second partition>]                on the node n1 that reads and writes
python3 -m bench.stacks <stack> <partition> <address of n1> <address of n2>     there, of a stack over both nodes
python3 -m bench.stacks serve <stack> <partition> <address of n1> <of n2>       on n2, first
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from millpond_adapters.dm import DeviceMapper
from millpond_adapters.md import MdRaid
from millpond_adapters.nvme_host import NvmeTcpHost
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_core import layout, names
from millpond_core.units import KIB, MIB, SECTOR

VOLUME_BYTES = 128 * MIB
_LOCAL, _REMOTE, _OPEN, _FINE, _NONE, _QUEUE, _INLINE, _UNCOUNTED = (
    f"00000000-0000-4000-8000-{n:012}" for n in range(1, 9)
)
_INLINE_PORT = names.NVME_PORT + 1
_INLINE_BYTES = 256 * KIB
_HOST, _HOST_ID = names.host_nqn("bench", "n1"), names.host_id("bench", "n1")
_META_SECTORS = 8 * MIB // SECTOR
_DATA_SECTORS = VOLUME_BYTES // SECTOR

dm, md = DeviceMapper(), MdRaid()


def main() -> None:
    """Entry point; whatever goes wrong is a traceback, which the host shows."""
    what, *arguments = sys.argv[1:]
    os.environ["DM_DISABLE_UDEV"] = "1"  # as in our containers: device nodes are made by whoever makes the device
    if what == "serve":
        SERVED[arguments[0]](*arguments[1:])
    else:
        print(STACKS[what](*arguments))


# --- what others use ----------------------------------------------------------------------------------------------


def raw(partition: str) -> str:
    return partition


def linear(partition: str, sectors: int = _DATA_SECTORS, start: int = 0, name: str = "linear") -> str:
    return _dm(f"bench-{name}", f"0 {sectors} linear {partition} {start}")


def gate(partition: str, name: str) -> str:
    table = layout.gate_table(partition, VOLUME_BYTES, holding=True)
    return _dm(f"bench-gate-{name}", table)


def mdadm(first: str, second: str, name: str = "10") -> str:
    device = f"/dev/md{name}"
    _run("mdadm", "--create", device, "--run", "--level=1", "--raid-devices=2", "--bitmap=internal", "--assume-clean",
         "--metadata=1.2", first, second)  # fmt: skip
    return device


def gated(first: str, second: str) -> str:
    return mdadm(gate(first, "a"), gate(second, "b"), "11")


def dm_raid(first: str, second: str) -> str:
    pairs = []
    for leg, partition in (("a", first), ("b", second)):
        meta = linear(partition, _META_SECTORS, 0, f"meta-{leg}")
        _run("dd", "if=/dev/zero", f"of={meta}", "bs=1M", "count=8", "oflag=direct")
        pairs += [meta, linear(partition, _DATA_SECTORS, _META_SECTORS, f"data-{leg}")]
    return _dm("bench-raid", f"0 {_DATA_SECTORS} raid raid1 4 0 nosync region_size 2048 2 {' '.join(pairs)}")


def lvm(first: str, second: str) -> str:
    apart = ["--config", "activation{monitoring=0} devices{use_devicesfile=0}"]
    _run("vgcreate", *apart, "bench", first, second)
    _run("lvcreate", *apart, "--yes", "--type=raid1", "--mirrors=1", "--nosync", "--wipesignatures=n", "--zero=n",
         f"--size={VOLUME_BYTES}b", "--name=raid1", "bench")  # fmt: skip
    return "/dev/mapper/bench-raid1"


def drbd(partition: str, *addresses: str) -> str:
    _drbd(partition, *addresses)
    _run("drbdadm", "wait-connect", "r0")
    # Both are empty: nothing needs to be copied first.
    _run("drbdadm", "new-current-uuid", "--clear-bitmap", "r0/0")
    _run("drbdadm", "primary", "r0")
    return "/dev/drbd0"


def _drbd(partition: str, first: str, second: str) -> None:
    # Its users are counted by a server of its makers' unless it is told not to.
    Path("/etc/drbd.d/global_common.conf").write_text("global { usage-count no; }\n")
    hosts = f"on n1 {{ address {first}:7789; }}\non n2 {{ address {second}:7789; }}"
    Path("/etc/drbd.d/r0.res").write_text(
        f"resource r0 {{ protocol C; device /dev/drbd0; disk {partition}; meta-disk internal;\n{hosts}\n}}\n"
    )
    _run("modprobe", "drbd")
    _run("drbdadm", "create-md", "--force", "r0")
    _run("drbdadm", "up", "r0")


# --- Millpond -----------------------------------------------------------------------------------------------------


def local(first: str, second: str) -> str:
    """Two legs on this node."""
    return asyncio.run(_millpond(_LOCAL, [(first, False), (second, False)]))


def remote(
    partition: str, _: str, peer: str, *, uuid: str = _REMOTE, port: int = names.NVME_PORT, bitmap: bool = True
) -> str:
    """One leg here, one on ``peer``."""

    async def made() -> str:
        nqn, namespace = _export_names(uuid)
        controller = await NvmeTcpHost().connect(
            nqn, f"{peer}:{port}", host_nqn=_HOST, host_id=_HOST_ID, namespace_uuid=namespace
        )
        (found,) = controller.namespaces
        return await _millpond(uuid, [(partition, False), (found.major_minor, True)], bitmap=bitmap)

    return asyncio.run(made())


def _export(partition: str, _: str, address: str, *, uuid: str = _REMOTE, port: int = names.NVME_PORT) -> None:
    async def made() -> None:
        await _leg(uuid, "b", partition)
        nqn, namespace = _export_names(uuid)
        await NvmeTcpTarget().export(
            nqn,
            names.dm_path(names.leg(uuid, "b")),
            namespace_uuid=namespace,
            serial=names.serial(uuid, "b"),
            host_nqn=_HOST,
            address=address,
            port=port,
        )

    asyncio.run(made())


# --- Millpond but for one thing -----------------------------------------------------------------------------------


def open_(first: str, second: str) -> str:
    """No gates: what they cost."""
    return asyncio.run(_millpond(_OPEN, [(first, False), (second, False)], gates=False))


def uncounted(first: str, second: str) -> str:
    """What the statistics of the array and of all layers below the front cost."""
    made = asyncio.run(_millpond(_UNCOUNTED, [(first, False), (second, False)]))
    within = [names.dm_path(layer(_UNCOUNTED, leg)) for layer in (names.leg, names.path, names.gate) for leg in "ab"]
    for device in [*within, f"/dev/md_{names.array(_UNCOUNTED)}"]:
        number = Path(device).stat().st_rdev
        Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/iostats").write_text("0")
    return made


def fine(partition: str, own: str, peer: str) -> str:
    """A bitmap of a bit for each 64 KiB: what a shorter delta costs."""
    with mock.patch("millpond_adapters.md.bitmap_chunk_bytes", return_value=64 * KIB):
        return remote(partition, own, peer, uuid=_FINE)


def queue(partition: str, own: str, peer: str) -> str:
    """One connection, as DRBD has for data."""
    with mock.patch("millpond_adapters.nvme_host.MAX_QUEUES", 1):
        return remote(partition, own, peer, uuid=_QUEUE)


def _export_inline(partition: str, own: str, address: str) -> None:
    # Beyond 16 KiB the target has to ask for the data of a write: a round trip more. Fixed before a port is used.
    port = Path("/sys/kernel/config/nvmet/ports/2")
    port.mkdir()
    for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("trsvcid", _INLINE_PORT), ("traddr", address)):
        (port / f"addr_{name}").write_text(str(value))
    (port / "param_inline_data_size").write_text(str(_INLINE_BYTES))
    _export(partition, own, address, uuid=_INLINE, port=_INLINE_PORT)


def _export_names(uuid: str) -> tuple[str, str]:
    return names.subsystem_nqn(uuid, "b", 1, "0123456789ab"), names.namespace_uuid(uuid, "b", 1, "0123456789ab")


async def _leg(uuid: str, leg: str, partition: str) -> str:
    name, sectors = names.leg(uuid, leg), layout.leg_sectors(VOLUME_BYTES)
    made = await dm.create(name, names.dm_uuid(name), f"0 {sectors} linear {_number(partition)} 0")
    return made.major_minor


async def _millpond(uuid: str, places: list[tuple[str, bool]], *, gates: bool = True, bitmap: bool = True) -> str:
    """The stack as a state manager builds it: leg, path, gate, array, front. ``places``: where a leg is, and whether
    that is a namespace of another node.
    """
    members = []
    for slot, (place, away) in enumerate(places):
        leg = "ab"[slot]
        number = place if away else await _leg(uuid, leg, place)
        path, gate_ = names.path(uuid, leg), names.gate(uuid, leg)
        made = await dm.create(path, names.dm_uuid(path), layout.path_table(number, VOLUME_BYTES))
        if gates:
            table = layout.gate_table(made.major_minor, VOLUME_BYTES, holding=True)
            made = await dm.create(gate_, names.dm_uuid(gate_), table)
        members.append((slot, made.major_minor, away))
    array = await md.assemble(
        names.array(uuid),
        raid_disks=len(members),
        component_sectors=layout.component_sectors(VOLUME_BYTES),
        members=members,
    )
    await md.acknowledge(names.array(uuid))
    if not bitmap:
        Path(f"/sys/block/md_{names.array(uuid)}/md/bitmap/location").write_text("none")
    front = names.front(uuid)
    await dm.create(front, names.dm_uuid(front), layout.front_table(array.major_minor, VOLUME_BYTES))
    return names.dm_path(front)


# --- helpers ------------------------------------------------------------------------------------------------------


def _number(device: str) -> str:
    found = re.fullmatch(r"\d+:\d+", device)
    return device if found else Path(f"/sys/class/block/{Path(device).resolve().name}/dev").read_text().strip()


def _dm(name: str, table: str) -> str:
    _run("dmsetup", "create", name, "--table", table)
    return names.dm_path(name)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")


STACKS: dict[str, Callable[..., str]] = {
    "raw": raw,
    "linear": linear,
    "mdadm": mdadm,
    "gated": gated,
    "dm-raid": dm_raid,
    "lvm": lvm,
    "local": local,
    "remote": remote,
    "drbd": drbd,
    "open": open_,
    "uncounted": uncounted,
    "fine": fine,
    "none": partial(remote, uuid=_NONE, bitmap=False),
    "queue": queue,
    "inline": partial(remote, uuid=_INLINE, port=_INLINE_PORT),
}
SERVED: dict[str, Callable[[str, str, str], None]] = {
    "remote": _export,
    "drbd": _drbd,
    "fine": partial(_export, uuid=_FINE),
    "none": partial(_export, uuid=_NONE),
    "queue": partial(_export, uuid=_QUEUE),
    "inline": _export_inline,
}

if __name__ == "__main__":
    main()
