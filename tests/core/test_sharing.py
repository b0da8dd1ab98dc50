"""What the master keeps of thousands of objects that say the same."""

from __future__ import annotations

import tracemalloc

import msgspec
from master_world import mapped, world

from millpond_core.model import VirtualVolume
from millpond_core.model.sharing import share, untouched

MANY = 300


def decoded(number: int) -> VirtualVolume:
    raw = msgspec.json.encode(mapped()).replace(b'"name":"v1"', f'"name":"volume-{number}"'.encode())
    return msgspec.json.decode(raw, type=VirtualVolume)


def test_objects_say_what_they_said() -> None:
    one, other = decoded(1), decoded(1)
    share(one)
    assert one == other
    assert msgspec.json.encode(one) == msgspec.json.encode(other)
    assert untouched()


def test_what_the_world_keeps_of_many_volumes_is_smaller() -> None:
    def size(*, kept: bool) -> int:
        there = world()
        tracemalloc.start()
        volumes = [decoded(number) for number in range(MANY)]
        for volume in volumes if kept else ():
            there.put(volume)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(there.volumes) == (MANY if kept else 0)
        return used

    alone, kept = size(kept=False), size(kept=True)
    assert kept < 0.9 * alone, f"{kept / MANY:.0f} bytes each, {alone / MANY:.0f} as they are decoded"
