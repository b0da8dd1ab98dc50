"""One object, followed until it is gone: what is seen of it, how long nothing may be heard, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from millpond_cli.follow import versions
from millpond_core.model import ObjectMeta, StorageNode
from millpond_core.testing.kube import MemoryKube


class Watched(MemoryKube):
    """Counts the watches that are open."""

    open = 0

    async def watch(self, kind: type[Any], **selection: str) -> AsyncIterator[tuple[str, Any]]:  # type: ignore[override]
        self.open += 1
        try:
            async for event in super().watch(kind, **selection):
                yield event
        finally:
            self.open -= 1


@pytest.fixture
async def kube() -> Watched:
    made = Watched()
    for name in ("n1", "n2"):
        await made.create(StorageNode(metadata=ObjectMeta(name=name)))
    return made


async def said(kube: MemoryKube, name: str, message: str) -> None:
    await kube.apply_status(StorageNode, name, {"message": message}, manager="master")


async def test_each_version_is_seen_until_it_is_deleted(kube: Watched) -> None:
    seen = []
    async with asyncio.timeout(20), aclosing(versions(kube, StorageNode, "n1")) as nodes:
        async for node in nodes:
            seen.append((node.metadata.name, node.status.message))
            await said(kube, "n2", "of another")
            if not node.status.message:
                await said(kube, "n1", "well")
                kube.relist()
            else:
                await kube.delete(StorageNode, "n1")
    assert {*seen} == {("n1", ""), ("n1", "well")}
    assert kube.open == 0


async def test_what_was_gone_before_anyone_looked_is_not_waited_for(kube: Watched) -> None:
    await kube.delete(StorageNode, "n1")
    async with asyncio.timeout(20):
        assert [node async for node in versions(kube, StorageNode, "n1")] == []
    assert kube.open == 0


async def test_how_long_nothing_may_be_heard_follows_from_what_was_heard_last(kube: Watched) -> None:
    heard: list[str] = []

    def silence(node: StorageNode | None) -> float | None:
        heard.append(node.status.message if node else "nothing yet")
        return 0.05 if node and node.status.message else None

    async def listen() -> None:
        async for node in versions(kube, StorageNode, "n1", silence):
            if not node.status.message:
                await said(kube, "n1", "well")

    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            await listen()
    assert (heard[0], heard[-1]) == ("nothing yet", "well")
    assert kube.open == 0


async def test_who_is_stopped_leaves_no_watch_behind(kube: Watched) -> None:
    async def listen() -> None:
        async with aclosing(versions(kube, StorageNode, "n1")) as nodes:
            async for _ in nodes:
                pass

    async def give_up() -> None:
        async with aclosing(versions(kube, StorageNode, "n1")) as nodes:
            async for _ in nodes:
                assert kube.open == 1
                raise ValueError("enough")

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.05)
    assert kube.open == 1
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert kube.open == 0
    with pytest.raises(ValueError, match="enough"):
        await give_up()
    assert kube.open == 0
