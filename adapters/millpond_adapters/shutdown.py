"""Whether the node is shutting down, as its service manager says: systemd, or nobody that we know."""

from __future__ import annotations

from pathlib import Path

from millpond_adapters.run import run
from millpond_core.errors import CommandFailed, DeadlineExceeded

ASK_SECONDS = 5.0
_LAST = "systemd-shutdow"
"""What process 1 becomes when every service has ended (systemd-shutdown(8), cut to the kernel's 15 characters)."""


async def begun(proc: Path = Path("/proc")) -> bool:
    """Whether it is. ``proc`` is the host's. Where nobody can say, it is not."""
    if (proc / "1" / "comm").read_text().strip() == _LAST:
        return True
    ask = ("systemctl", "show", "--property=SystemState", "--value")
    try:
        said = await run("nsenter", "--target=1", "--mount", "--", *ask, seconds=ASK_SECONDS)
    except (CommandFailed, DeadlineExceeded):
        return False
    return said.strip() == b"stopping"
