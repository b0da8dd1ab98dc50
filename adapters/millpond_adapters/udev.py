"""Keep the node's scanners off Millpond's devices.

udev reads every new block device for signatures. Behind a gate that holds, such a read sleeps until the leg is back;
and a leg carries the user's filesystem, whose uuid would get a by-uuid link to a leg instead of to the front, or whose
volume group LVM would activate. Nothing of udev's is needed for our devices: dmsetup makes its own nodes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from millpond_adapters.run import run
from millpond_core import names
from millpond_core.errors import MillpondError

# After 10-dm.rules, which imports flags of its own, and before all that read a device.
_NAME = "11-millpond.rules"
_OFF = (
    'ENV{DM_UDEV_DISABLE_DISK_RULES_FLAG}="1", ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}="1", '
    'ENV{DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG}="1", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1", '
    'ENV{DM_MULTIPATH_DEVICE_PATH}="0", ENV{SYSTEMD_READY}="0", OPTIONS:="nowatch"'
)
RULES = f"""# Written by Millpond's state manager: scanners would hang on a held device or find a filesystem twice.
ACTION=="remove", GOTO="millpond_end"
SUBSYSTEM!="block", GOTO="millpond_end"
KERNEL=="dm-*", ATTR{{dm/uuid}}=="MILLPOND-*", {_OFF}
KERNEL=="md_{names.MD_PREFIX}*", {_OFF}
KERNEL=="nvme*", ATTRS{{subsysnqn}}=="{names.NQN_PREFIX}*", {_OFF}
LABEL="millpond_end"
"""


async def install(run_folder: Path = Path("/run/udev")) -> bool:
    """Give the rules to the node's udev for as long as it is up. False: there is no udev to give them to.

    Idempotent. ``run_folder`` is the host's ``/run/udev``.
    """
    if not run_folder.is_dir():
        return False
    rules = run_folder / "rules.d" / _NAME
    if not rules.exists() or rules.read_text() != RULES:
        rules.parent.mkdir(exist_ok=True)
        rules.write_text(RULES)
    with contextlib.suppress(MillpondError):  # without it udevd looks by itself, a little later
        await run("udevadm", "control", "--reload")
    return True
