"""What programs of a node take, by /proc, and how long the state manager takes to be back; runs in a guest.

    programs.py look MODULE ...             JSON: {module: {...}, "node": {...}}
    programs.py restart MODULE SIGNAL N     JSON: {"down": s, "adopted": s, "cpu": s}

A module is found as whoever runs ``python3 -m MODULE``. The standard library alone: a look must cost little itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 0.2
BACK_SECONDS = 900.0
WATCHED = "/md/array_state"
"""The state manager has this file of an array open once it has looked at its volume, planned and reported
(``Volumes._watch_array``): what it has adopted."""


def find(module: str, proc: Path = Path("/proc")) -> int:
    """The process that runs it; 0: none does."""
    for folder in proc.glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue  # it has ended
        if "python" in words[0] and words[1:3] == ["-m", module]:
            return int(folder.name)
    return 0


def usage(stat: str, status: str, limits: str) -> dict[str, float]:
    """Of a process, from its files in /proc: ``own`` and ``all`` CPU seconds (``all``: with the children that it has
    waited for), ``resident`` KiB, ``began`` (seconds since boot) and ``files``, how many it may have open.
    """
    words = stat.rpartition(")")[2].split()  # from the third field on
    user, system, children_user, children_system = map(int, words[11:15])
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    files = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open files"))
    return {
        "own": (user + system) / TICK,
        "all": (user + system + children_user + children_system) / TICK,
        "resident": float(lines["VmRSS"].split()[0]),
        "began": int(words[19]) / TICK,
        "may": float(files),
    }


def used_kib(meminfo: str) -> int:
    """Memory of the node that is not available, kernel's and all."""
    lines = dict(line.split(":", 1) for line in meminfo.splitlines())
    return int(lines["MemTotal"].split()[0]) - int(lines["MemAvailable"].split()[0])


def of(pid: int) -> dict[str, float]:
    """Its ``usage`` now, and how many files it has open."""
    folder = Path(f"/proc/{pid}")
    stat, status, limits = ((folder / name).read_text() for name in ("stat", "status", "limits"))
    return {**usage(stat, status, limits), "files": sum(1 for _ in (folder / "fd").iterdir())}


def look(modules: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {module: of(find(module)) for module in modules}
    used = used_kib(Path("/proc/meminfo").read_text())
    return {**found, "node": {"at": time.clock_gettime(time.CLOCK_BOOTTIME), "used": used}}


def adopted(pid: int) -> int:
    """How many arrays it watches."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(file.readlink()).endswith(WATCHED)
        except OSError:
            continue  # closed meanwhile
    return found


def restart(module: str, number: int, arrays: int) -> dict[str, float]:
    """Signal it; seconds until its successor is executed, and from there until it has adopted so many arrays.

    TimeoutError after ``BACK_SECONDS``.
    """
    before, killed = find(module), time.clock_gettime(time.CLOCK_BOOTTIME)
    os.kill(before, number)
    while time.clock_gettime(time.CLOCK_BOOTTIME) < killed + BACK_SECONDS:
        time.sleep(LOOK_SECONDS)
        try:
            pid = find(module)
            if pid not in (0, before) and adopted(pid) >= arrays:
                now, found = time.clock_gettime(time.CLOCK_BOOTTIME), of(pid)
                return {"down": found["began"] - killed, "adopted": now - found["began"], "cpu": found["all"]}
        except OSError:
            continue  # it has ended between two looks
    raise TimeoutError(f"{module} watches fewer than {arrays} arrays after {BACK_SECONDS:.0f} s")


def main(argv: list[str]) -> None:
    match argv:
        case ["look", *modules]:
            found: object = look(modules)
        case ["restart", module, number, arrays]:
            found = restart(module, int(number), int(arrays))
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
