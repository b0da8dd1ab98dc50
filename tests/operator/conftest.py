"""A cluster of three nodes with two devices each; see ``harness``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
from harness import Cluster, three_nodes
from simulated_time import SimulatedLoop

from millpond_core.model import sharing

SIMULATED = {"test_whole.py", "test_growth.py", "test_scrub.py", "test_vdb.py"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The whole on kernels in memory runs in simulated time; the rest talks to servers, or has no timers."""
    return {"simulated": SimulatedLoop} if item.path.name in SIMULATED else {"ordinary": asyncio.SelectorEventLoop}


@pytest.fixture(autouse=True)
def shared() -> Iterator[None]:
    """Nobody changes an object that the world keeps: it shares its empty lists with all others."""
    yield
    assert sharing.untouched()


@pytest.fixture
async def cluster() -> Cluster:
    """Three nodes, two devices of 1 GiB each."""
    return await three_nodes(2, 2, 2)
