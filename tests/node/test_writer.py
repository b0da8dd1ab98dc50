"""Reports on their way to the API server: how many at a time, and which never wait for others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from millpond_core.model import ObjectMeta, StorageNode, VirtualVolume
from millpond_core.testing.kube import MemoryKube
from millpond_node.writer import AT_ONCE, Writer


class Slow(MemoryKube):
    """Answers reports of volumes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def apply_status(self, kind: Any, name: str, status: Mapping[str, Any], *, manager: str) -> Any:
        self.asked.append((name, status))
        if kind is VirtualVolume:
            await self.go.wait()
        return kind(metadata=ObjectMeta(name=name))


async def test_a_nodes_own_report_does_not_stand_in_line_behind_those_of_its_volumes() -> None:
    kube = Slow()
    writer = Writer(kube, "n1")  # type: ignore[arg-type]
    for number in range(50):
        writer.write(VirtualVolume, f"v{number}", {"phase": "old"})
    await asyncio.sleep(0)
    writer.write(StorageNode, "n1", {"version": "1"})
    writer.write(VirtualVolume, "v49", {"phase": "new"})
    for _ in range(10):
        await asyncio.sleep(0)
    assert [name for name, _ in kube.asked] == [*(f"v{number}" for number in range(AT_ONCE)), "n1"]
    kube.go.set()
    await writer.settle()
    assert len(kube.asked) == 51
    assert kube.asked[-1] == ("v49", {"phase": "new"}), "the newest only"
