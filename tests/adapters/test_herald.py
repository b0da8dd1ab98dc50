"""Events told beside the work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millpond_adapters import herald
from millpond_adapters.herald import AT_ONCE, Herald
from millpond_core.model import ObjectMeta, VirtualVolume

VOLUME = VirtualVolume(metadata=ObjectMeta(name="v1"))


class Slow:
    """An API server that answers no Event before it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()

    async def event(self, *_: object, **__: object) -> None:
        self.asked += 1
        await self.may.wait()


async def test_a_few_are_told_at_a_time_and_too_many_are_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(herald, "WAITING", AT_ONCE + 2)
    kube: Any = Slow()
    teller = Herald(kube)
    for number in range(AT_ONCE + 3):
        teller.tell(VOLUME, "Ready", f"number {number}")
    await asyncio.sleep(0.01)
    assert kube.asked == AT_ONCE
    assert f"one more is lost (Ready: number {AT_ONCE + 2})" in caplog.text
    kube.may.set()
    await asyncio.sleep(0.01)
    assert kube.asked == AT_ONCE + 2
    await teller.stop()
