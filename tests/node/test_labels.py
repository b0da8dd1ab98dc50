"""``millpond-labels``: everything of Millpond's on a node, whatever one disk of it does."""

from __future__ import annotations

from pathlib import Path

import msgspec
from node_cluster import Cluster

from millpond_core import names
from millpond_core.errors import Unavailable
from millpond_core.testing.world import Disk
from millpond_core.units import MIB
from millpond_core.vdb.seen import NodeSeen
from millpond_node import labels


async def looked(cluster: Cluster, node: str) -> NodeSeen:
    p = cluster.world.ports(node)
    seen = await labels.look(node, block=p.block, labels=p.labels, dm=p.dm, nvmet=p.nvmet)
    return msgspec.json.decode(msgspec.json.encode(seen), type=NodeSeen)


async def test_labels_and_what_stands_are_told_and_nothing_is_changed(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            disk = await cluster.disk(node, "nvme1")
        cluster.machine("n2").add_disk("nvme9", Disk("BLANK", 64 * MIB))
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n1")
        uuid, written = cluster.vvol("v").spec.uuid, len(disk.labels)
        one, two = await looked(cluster, "n1"), await looked(cluster, "n2")
        assert len(disk.labels) == written
    assert one.opened(uuid) == 0
    assert set(one.dm) >= {names.front(uuid), names.leg(uuid, "a"), names.gate(uuid, "b")}
    [entry] = [entry for found in two.disks if found.label for entry in found.label.legs]
    assert (len(two.disks), entry.leg, entry.state) == (1, "b", "InSync")
    assert [names.parse_nqn(nqn)[:3] for nqn in two.exports] == [(uuid, "b", 1)]  # type: ignore[index]


async def test_a_damaged_label_and_a_mute_kernel_are_told(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        (await cluster.disk("n1", "nvme1")).label_damaged = True
        await cluster.disk("n1", "nvme2")
        p = cluster.world.ports("n1")

        class Mute:
            async def list(self) -> dict[str, object]:
                raise Unavailable("nobody answers")

        seen = await labels.look("n1", block=p.block, labels=p.labels, dm=Mute(), nvmet=p.nvmet)  # type: ignore[arg-type]
    problems = [disk.problem for disk in seen.disks if disk.problem]
    assert len(seen.disks) == 2
    assert len(problems) == 1
    assert seen.problems == ("its kernel cannot be looked at: nobody answers",)
