"""``millpond-labels``: every Millpond label on this node's disks, and what of Millpond stands in its kernel, as JSON.

Reads only, and every read has a deadline: safe beside a state manager, and without one. What ``kubectl millpond vdb``
runs in each state manager's pod; where none runs, a person may, and passes the output with ``--from``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec

from millpond_adapters.block import BlockDevices
from millpond_adapters.dm import DeviceMapper
from millpond_adapters.label import LabelArea
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_core.errors import MillpondError
from millpond_core.observed import BlockDisk
from millpond_core.ports import Block, Dm, Labels, Nvmet
from millpond_core.vdb.seen import DiskRead, NodeSeen

SECONDS = 45.0
"""All of it takes no longer; what has not answered by then is told as a problem."""


async def look(node: str, *, block: Block, labels: Labels, dm: Dm, nvmet: Nvmet) -> NodeSeen:
    """One look. Raises MillpondError only when the node's disks cannot even be listed."""
    disks = await block.disks()
    read = await asyncio.gather(*(_read(labels, disk) for _, disk in sorted(disks.items())))
    problems: list[str] = []
    standing: dict[str, int] = {}
    exports: tuple[str, ...] = ()
    try:
        standing = {name: device.open_count for name, device in (await dm.list()).items()}
        exports = tuple(sorted(await nvmet.list()))
    except MillpondError as error:
        problems.append(f"its kernel cannot be looked at: {error}")
    told = tuple(disk for disk in read if disk.label is not None or disk.problem)
    return NodeSeen(node=node, disks=told, dm=standing, exports=exports, problems=tuple(problems))


async def _read(labels: Labels, disk: BlockDisk) -> DiskRead:
    try:
        async with asyncio.timeout(SECONDS):
            return DiskRead(path=disk.path, label=await labels.read(disk.path))
    except TimeoutError:
        return DiskRead(path=disk.path, problem=f"it has not answered within {SECONDS:.0f} s")
    except MillpondError as error:
        return DiskRead(path=disk.path, problem=str(error))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``millpond-labels``."""
    given = list(sys.argv[1:] if argv is None else argv)
    node = given[0] if given else os.environ.get("NODE_NAME", "")
    if len(given) > 1 or not node or node.startswith("-"):
        sys.exit("millpond-labels [NODE]: name of this node, or $NODE_NAME; prints its Millpond labels as JSON")
    try:
        ports = {"block": BlockDevices(), "labels": LabelArea(), "dm": DeviceMapper(), "nvmet": NvmeTcpTarget()}
        seen = asyncio.run(look(node, **ports))  # type: ignore[arg-type]
    except MillpondError as error:
        sys.exit(f"millpond-labels: {error}")
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")


if __name__ == "__main__":
    main()
