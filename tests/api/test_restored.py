"""etcd goes back to what it was an hour ago, or is empty: who watches is told, as of any other change."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, runner

from lab.controlplane import ControlPlane
from millpond_adapters.kube import ApiKube, load
from millpond_core.errors import NotFound
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import VirtualVolumeSpec

BOUND_SECONDS = 60.0


@pytest.fixture
def alone() -> Iterator[ControlPlane]:
    """A control plane that nobody else uses."""
    with ControlPlane() as plane:
        made(plane)
        yield plane


def made(plane: ControlPlane) -> None:
    run = runner(plane)
    run("apply", "-f", str(ROOT / "crds"))
    run("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")


def volume(name: str) -> VirtualVolume:
    return VirtualVolume(metadata=ObjectMeta(name=name), spec=VirtualVolumeSpec(size="1Gi"))


async def until(events: AsyncIterator[tuple[str, VirtualVolume]], wanted: Callable[[str, str], bool]) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        async for event, obj in events:
            if wanted(event, obj.metadata.name):
                return


async def test_a_watch_hears_of_what_a_restored_backup_does_not_know(alone: ControlPlane, tmp_path: Path) -> None:
    async with ApiKube(load(str(alone.kubeconfig)), component="millpond-before") as kube:
        await kube.create(volume("kept"))
    alone.restart(lambda etcd: shutil.copytree(etcd, tmp_path / "etcd"))
    async with ApiKube(load(str(alone.kubeconfig)), component="millpond-watches") as kube:
        for number in range(20):
            await kube.create(volume(f"new-{number}"))
        watch = kube.watch(VirtualVolume)
        await until(watch, lambda event, _: event == "SYNCED")

        def put_back(etcd: Path) -> None:
            shutil.rmtree(etcd)
            shutil.copytree(tmp_path / "etcd", etcd)

        alone.restart(put_back)
        await until(watch, lambda event, name: (event, name) == ("DELETED", "new-19"))
        with pytest.raises(NotFound):
            await kube.get(VirtualVolume, "new-19")
        assert (await kube.get(VirtualVolume, "kept")).spec.size == "1Gi"


async def test_a_watch_hears_of_a_database_that_is_made_anew(alone: ControlPlane) -> None:
    async with ApiKube(load(str(alone.kubeconfig)), component="millpond-watches") as kube:
        await kube.create(volume("lost"))
        watch = kube.watch(VirtualVolume)
        await until(watch, lambda event, _: event == "SYNCED")
        alone.restart(shutil.rmtree)
        await asyncio.to_thread(made, alone)
        await until(watch, lambda event, name: (event, name) == ("DELETED", "lost"))
        await kube.create(volume("another"))
        await until(watch, lambda event, name: (event, name) == ("ADDED", "another"))
