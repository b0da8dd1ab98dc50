"""The kernel tier: the adapters against a real kernel, as root inside a guest (``make test-kernel``).

Each test gets a ``volume``: legs on ramdisks, path, gate, array and front as in production, with names of its own.
A test breaks and heals legs, and says through the adapters what a state manager would. When it ends, every leg that
md calls in sync is compared byte by byte, whatever the test was about; then everything is taken down, also after a
failure, and a device left behind is a failure of its own.

Nothing here waits without a bound; ``--timeout`` in pyproject.toml is the last one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from millpond_adapters import modules, udev
from millpond_adapters.run import run
from millpond_core.units import MIB

sys.path.insert(0, str(Path(__file__).parent))

if not os.environ.get("MILLPOND_GUEST"):
    collect_ignore_glob = ["test_*"]
else:
    from rig import RAM_DISKS, RAM_MIB, Life, Volume, present

    @pytest.fixture(scope="session", autouse=True)
    def kernel() -> Iterator[None]:
        """Modules and ramdisks; at the end, whatever the kernel complained about meanwhile."""
        asyncio.run(modules.load())
        asyncio.run(udev.install())
        subprocess.run(["modprobe", "brd", f"rd_nr={RAM_DISKS}", f"rd_size={RAM_MIB * 1024}"], check=True, timeout=30)
        yield
        log = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=10, check=True).stdout
        complaints = [line for line in log.splitlines() if any(word in line for word in ("BUG:", "Oops", "hung_task"))]
        assert not complaints, complaints

    @pytest.fixture
    async def volume(request: pytest.FixtureRequest) -> AsyncIterator[Volume]:
        assert not present(), "an earlier test left devices behind"
        volume = Volume()
        try:
            yield volume
            await volume.compare()
        finally:
            await volume.close()
            assert not present(), f"left behind: {present()}"

    @pytest.fixture
    def life(monkeypatch: pytest.MonkeyPatch) -> Life:
        return Life(monkeypatch)

    @pytest.fixture
    async def cached(volume: Volume, tmp_path: Path) -> AsyncIterator[Volume]:
        """A volume whose legs lie on loop devices: they have a cache to be flushed, which ramdisks have not."""
        await run("modprobe", "loop")
        loops = []
        for leg in "ab":
            image = tmp_path / f"image-{leg}"
            with image.open("wb") as file:
                file.truncate(RAM_MIB * MIB)
            loops.append((await run("losetup", "--find", "--show", str(image))).decode().strip())
            volume.disks[leg] = loops[-1]
        try:
            yield volume
            await volume.compare()
        finally:
            volume.compare_at_end = False
            await volume.close()
            for loop in loops:
                await run("losetup", "--detach", loop)
