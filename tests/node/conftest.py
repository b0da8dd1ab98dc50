"""Asynchronous tests of the state manager are about kernels in memory: they run in simulated time."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

from simulated_time import SimulatedLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"simulated": SimulatedLoop}
