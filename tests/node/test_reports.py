"""What is told of a volume, and when: what others act on at once, mere words and numbers seldom."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from node_cluster import Cluster

from millpond_core import names
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import Layout, Mapping, VirtualVolumeSpec
from millpond_core.telling import WORDS_SECONDS
from millpond_core.units import MIB


async def begin(cluster: Cluster) -> None:
    for node in cluster.nodes:
        await cluster.disk(node, "nvme1")
    await cluster.volume("v", "n1", "n2")


def written(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Reports of volumes, as they are written from now on."""
    found: list[Any] = []
    real = cluster.kube.apply_status

    async def apply(kind: Any, name: str, status: Any, *, manager: str) -> Any:
        if kind is VirtualVolume:
            found.extend(status["nodes"])
        return await real(kind, name, status, manager=manager)

    monkeypatch.setattr(cluster.kube, "apply_status", apply)
    return found


async def test_seconds_that_are_left_are_not_counted_in_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await begin(cluster)
        await cluster.kill("n2")
        reports = written(cluster, monkeypatch)
        await cluster.attach("v", "n1", wait=False)
        await cluster.pass_time(WORDS_SECONDS + 1)
        said, before = cluster.report("v", "n1").message, len(reports)
        assert said.startswith("leg b: n2 has not confirmed epoch 1 yet; given up in "), said
        assert said.count("has not confirmed") == 1
        await cluster.pass_time(30)
        assert cluster.report("v", "n1").message != said, "now and then"
        assert before <= 4
        assert len(reports) - before <= 3


async def test_nothing_is_told_of_what_was_looked_at_before_there_was_a_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        looker, reports = cluster.managers["n2"].volumes._looker, written(cluster, monkeypatch)
        real = looker.kernel

        async def slow(*args: Any) -> Any:
            await asyncio.sleep(0.5)
            return await real(*args)

        monkeypatch.setattr(looker, "kernel", slow)
        labels = {names.node_label(node): "" for node in cluster.nodes}
        spec = VirtualVolumeSpec(uuid=str(uuid.uuid4()), size="16Mi", layout=Layout(copies=1))
        cluster.kube.seed(VirtualVolume(metadata=ObjectMeta(name="v", labels=labels), spec=spec))
        await asyncio.sleep(0.2)
        leg = cluster.new_leg("a", "n2", 16, state="InSync")
        await cluster.change("v", mapping=Mapping(generation=1, record_seq=1, legs=[leg]), sizeBytes=16 * MIB)
        await cluster.until(lambda: cluster.prepared("v", leg))
        assert all(report.get("legs") for report in reports if report["node"] == "n2"), reports


async def test_nobody_looks_at_a_volume_for_what_others_say_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await begin(cluster)
        await cluster.attach("v", "n1")
        await cluster.pass_time(30)
        looker, looks = cluster.managers["n2"].volumes._looker, 0
        real = looker.kernel

        async def look(*args: Any) -> Any:
            nonlocal looks
            looks += 1
            return await real(*args)

        monkeypatch.setattr(looker, "kernel", look)
        await cluster.change("v", message="all is well", copies="2/2")
        await asyncio.sleep(0.2)
        assert cluster.managers["n2"].volumes.volumes["v"].volume.status.message == "all is well"
        assert not looks
        await cluster.change("v", message="it is attached elsewhere", attachment={"node": "", "epoch": 1})
        await asyncio.sleep(0.2)
        assert looks


async def test_what_the_database_has_lost_is_told_again(tmp_path: Path) -> None:
    """An object that is restored from a backup has another uid, and reports of then."""
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        await begin(cluster)
        await cluster.attach("v", "n1")
        await cluster.pass_time(5)
        saved = cluster.vvol("v")
        await cluster.kube.delete(VirtualVolume, "v")
        await cluster.pass_time(2)
        metadata = replace(saved.metadata, uid="", resource_version="")
        cluster.kube.seed(replace(saved, metadata=metadata, status=replace(saved.status, nodes=[])))
        await cluster.pass_time(5)
        assert cluster.vvol("v").metadata.uid != saved.metadata.uid
        assert cluster.report("v", "n1").front == "Active"
        assert cluster.report("v", "n2").legs
