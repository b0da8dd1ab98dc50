"""What in a node does not come to an end, or has gone wrong in its kernel; runs in a guest, on the standard library.

    wedged.py [--hung]

Prints a line for each task that waits in the kernel all the time between two looks, if it is a process's or in md,
device mapper or NVMe; and what the kernel has complained of since this was asked last (or since it booted), with
``--hung`` of tasks that waited for two minutes, too. Nobody may be writing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

APART_SECONDS = 5.0
MARK = "fault suite: looked at"
COMPLAINTS = ("BUG:", "kernel BUG at", "Oops")
HUNG = "blocked for more than"
SLOW = "soft lockup"
"""An emulated processor that waits for its turn on a busy host looks so."""
OURS = re.compile(r"\b(md|raid1|dm|multipath|nvmet?|kmpathd|kdmflush)(_|\b|\d)")

Waits = dict[str, tuple[str, str]]
"""Task id → how often it has been taken off a processor, and what it is."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hung", action="store_true")
    given = parser.parse_args()
    if before := waits(Path("/proc")):
        time.sleep(APART_SECONDS)
        for what in stuck(before, waits(Path("/proc"))):
            print(what)
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=True).stdout
    for line in complaints(log, hung=given.hung):
        print(line)
    Path("/dev/kmsg").write_text(f"<6>{MARK}\n")


def waits(proc: Path) -> Waits:
    """Tasks that wait uninterruptibly now and are of a process, or a kernel's own that concern us."""
    found = {}
    for task in proc.glob("[0-9]*/task/[0-9]*"):
        try:
            comm, state, kernel = _stat((task / "stat").read_text())
            if state != "D":
                continue
            stack = (task / "stack").read_text() if (task / "stack").exists() else ""
            switches = " ".join(re.findall(r"ctxt_switches:\s*(\d+)", (task / "status").read_text()))
        except OSError:
            continue  # it has ended
        if not kernel or OURS.search(comm) or OURS.search(stack):
            where = ", ".join(line.split()[-1] for line in stack.splitlines()[:6])
            found[task.name] = (switches, f"{comm} ({task.name}) waits in {where or 'the kernel'}")
    return found


def stuck(before: Waits, after: Waits) -> Iterator[str]:
    """Those of ``before`` that have waited ever since."""
    for task, (switches, what) in after.items():
        if task in before and before[task][0] == switches:
            yield what


def complaints(log: str, *, hung: bool) -> list[str]:
    """Lines of the kernel's log since it was marked last."""
    words = (*COMPLAINTS, HUNG) if hung else COMPLAINTS
    since = log.rpartition(MARK)[2].splitlines()
    return [line for line in since if any(word in line for word in words) and SLOW not in line]


PF_KTHREAD = 0x00200000


def _stat(text: str) -> tuple[str, str, bool]:
    """Name, state, and whether it is the kernel's own; proc(5)."""
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, fields[0], bool(int(fields[6]) & PF_KTHREAD)


if __name__ == "__main__":
    main()
