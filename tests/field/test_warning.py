"""A disk that warns of its own end, while it still reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from faults.by_hand import BOUND_SECONDS
from faults.field import Object
from faults.suite import Suite
from lab.api import wait_for

pytestmark = pytest.mark.timeout(1200)

SPARE_LOW = 0b1


@contextmanager
def warns(suite: Suite, node: str, device: str) -> Iterator[None]:
    """Meanwhile the disk says that few spare blocks are left."""
    machine, disk = suite.field.nodes[node].machine, suite.field.disk(node, device)
    machine.warn(disk, SPARE_LOW)
    try:
        yield
    finally:
        machine.warn(disk, 0)


def test_a_disk_that_warns_of_its_end_is_emptied_while_a_pod_writes(suite: Suite) -> None:
    volume = suite.volume
    leaves = next(leg for leg in volume.legs("InSync") if leg["node"] != volume.node())
    device = leaves["extents"][0]["device"]

    def status() -> Object:
        found: Object = suite.field.get("storagedevices", device)["status"]
        return found

    with warns(suite, leaves["node"], device):
        wait_for(lambda: status()["phase"] == "Failing", f"{device} is Failing", seconds=BOUND_SECONDS)
        fewest = 2

        def gone() -> bool:
            nonlocal fewest
            fewest = min(fewest, len(volume.legs("InSync")))
            return leaves["id"] not in {leg["id"] for leg in volume.legs()} and not status().get("legs")

        wait_for(gone, f"no leg lies on {device}", seconds=BOUND_SECONDS)
        assert fewest == 2, "the leg left before another copy was in sync"
        volume.writes(seconds=BOUND_SECONDS)
    wait_for(lambda: status()["phase"] == "Online", f"{device} is Online again", seconds=BOUND_SECONDS)
    suite.make_whole()
    assert suite.look() == []
