"""The kernel's parts that Millpond stands on."""

from __future__ import annotations

from pathlib import Path

from millpond_adapters.run import run
from millpond_core.errors import CommandFailed, Unavailable

MODULES = ("dm_mod", "dm_multipath", "dm_round_robin", "md_mod", "raid1", "nvme_tcp", "nvmet", "nvmet_tcp")
_CONFIGFS = Path("/sys/kernel/config")


async def load() -> None:
    """Load what is missing and mount configfs. Idempotent.

    Raises Unavailable, naming what the kernel lacks.
    """
    try:
        await run("modprobe", "-a", *MODULES, seconds=60)
        if not (_CONFIGFS / "nvmet").is_dir():
            await run("mount", "-t", "configfs", "configfs", str(_CONFIGFS))
    except CommandFailed as error:
        raise Unavailable(
            f"this node's kernel cannot carry volumes: {error.stderr.strip()}; Millpond needs the modules "
            f"{', '.join(MODULES)} and the host's /lib/modules to load them from"
        ) from error
