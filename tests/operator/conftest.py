"""A cluster of three nodes with two devices each; see ``harness``."""

from __future__ import annotations

import pytest
from harness import Cluster, MasterKube


@pytest.fixture
async def cluster() -> Cluster:
    """Three nodes, two devices of 1 GiB each."""
    MasterKube.budget = None
    made = Cluster()
    for node in ("n1", "n2", "n3"):
        await made.nodes.add_node(node)
        for number in (1, 2):
            await made.nodes.add_device(f"{node}-d{number}", node)
    return made
