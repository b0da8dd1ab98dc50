# pathlib would be a tenth of this process's memory.
# ruff: noqa: PTH123, PTH208
"""The watchdog: ends holds at their deadline and answers md's harmless waits, whatever became of everyone else.

It needs no API server, no operator and no state manager, and imports next to nothing: a suspended front whose keeper
died would hang its pods for ever, and a write that md holds for a state manager that restarts would wait that long.

* A hold whose deadline (CLOCK_BOOTTIME) has passed: the front is resumed, on whatever is in force. One that is still
  suspended ``LEAK_SECONDS`` later is noted as leaked, which the state manager reports.
* A front that is suspended although no hold says so: resumed, after a second look.
* An array that waits (``write-pending``) although no member's failure waits for a record: ``active``, the same rule as
  the state manager's. Whoever stops an array keeps the watchdog silent with a lock (``holds.Answering``).

Each of these is done in a thread of its own: one that hangs in the kernel delays no other.

Environment: RUN_DIR (/run/millpond).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

from millpond_node import holds

FRONT = "millpond-"
ARRAY = "md_mp"
LOOK_SECONDS = 0.5
RESUME_SECONDS = 10.0
LEAK_SECONDS = 5.0
_UUID_LENGTH = 36


class Watchdog:
    """One look after another. ``resume`` and the folders are the node's, or a test's."""

    def __init__(
        self,
        run_dir: str,
        system: str = "/sys",
        *,
        boot_id: str,
        boottime: Callable[[], float],
        resume: Callable[[str], None],
    ) -> None:
        self._holds, self._locks, self._block = f"{run_dir}/holds", f"{run_dir}/arrays", f"{system}/block"
        self._leaks = f"{run_dir}/leaks"
        self._boot_id, self._boottime, self._resume = boot_id, boottime, resume
        self._busy: set[str] = set()
        self._unheld: set[str] = set()
        self._poll = select.poll()
        self._watched: dict[str, int] = {}
        self._fronts: dict[tuple[str, int], str] = {}
        """The front that each device-mapper device is ("": none), by the kernel's name for it and its inode in sysfs:
        the next device of that name has another.
        """

    def look(self) -> None:
        """Do what is due."""
        self._end_holds()
        self._watch_arrays()
        self._answer(list(self._watched))

    def wait(self, seconds: float) -> None:
        """So long; an array that begins to wait meanwhile is answered at once."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            # Arrays tell much while they are written to: that is no cause to look at all the others.
            told = {handle for handle, _ in self._poll.poll(left * 1000)}
            if told:
                self._answer([array for array, handle in self._watched.items() if handle in told])

    def _answer(self, arrays: list[str]) -> None:
        for array in arrays:
            if self._state(array) == "write-pending":
                self._beside(f"answer {array}", self.answer, array)

    # --- holds ---

    def _end_holds(self) -> None:
        now, suspended = self._boottime(), self._suspended()
        known = holds.read(self._holds)
        for hold in known:
            if hold.boot_id and hold.boot_id != self._boot_id:
                holds.forget(self._holds, hold.front)
            elif now >= hold.deadline:
                self._beside(f"resume {hold.front}", self._end, hold.front)
        for hold in known:
            late = now - hold.deadline
            beyond = hold.boot_id == self._boot_id and late >= LEAK_SECONDS and hold.front in suspended
            if beyond and holds.leaked(self._leaks, hold):
                say(f"{hold.front} is still suspended {late:.0f} s after the deadline of its hold")
        held = {hold.front for hold in known}
        for front in suspended & self._unheld - held:
            say(f"{front} is suspended and no hold says why: resuming it")
            self._beside(f"resume {front}", self._end, front)
        self._unheld = suspended - held

    def _end(self, front: str) -> None:
        say(f"the hold of {front} is over: reads and writes go on")
        before = {hold.front: hold for hold in holds.read(self._holds)}.get(front)
        self._resume(front)
        if {hold.front: hold for hold in holds.read(self._holds)}.get(front) == before:
            holds.forget(self._holds, front)  # else another hold has begun meanwhile

    def end_all(self) -> None:
        """End every hold, due or not."""
        for hold in holds.read(self._holds):
            try:
                self._end(hold.front)
            except OSError as error:
                say(f"{hold.front} could not be resumed: {error}")

    def _suspended(self) -> set[str]:
        """Fronts that are suspended."""
        found, fronts = set(), {}
        for entry, inode in _devices(self._block):
            front = self._fronts.get((entry, inode))
            if front is None:
                name = _read(f"{self._block}/{entry}/dm/name")
                if not name:
                    continue  # it goes, or has just begun to be
                front = name if name.startswith(FRONT) and len(name) == len(FRONT) + _UUID_LENGTH else ""
            fronts[entry, inode] = front
            if front and _read(f"{self._block}/{entry}/dm/suspended") == "1":
                found.add(front)
        self._fronts = fronts
        return found

    # --- arrays ---

    def _watch_arrays(self) -> None:
        there = {entry for entry in _entries(self._block) if entry.startswith(ARRAY)}
        for array in there - self._watched.keys():
            try:
                handle = os.open(f"{self._block}/{array}/md/array_state", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            self._watched[array] = handle
            self._poll.register(handle, select.POLLPRI | select.POLLERR)
        for array in self._watched.keys() - there:
            self._forget(array)

    def _forget(self, array: str) -> None:
        handle = self._watched.pop(array)
        self._poll.unregister(handle)
        os.close(handle)

    def _state(self, array: str) -> str:
        """array_state; reading it arms the next wait."""
        try:
            return os.pread(self._watched[array], 64, 0).decode().strip()
        except OSError:
            # Stopped, and perhaps made anew under its name: what was opened is another's, and deaf for good.
            self._forget(array)
            return ""

    def answer(self, array: str) -> bool:
        """Let writes go on, unless a member's failure waits for its record. False: nothing done."""
        with holds.Answering(self._locks, array.removeprefix("md_")) as mine:
            if not mine.taken:
                return False
            md = f"{self._block}/{array}/md"
            for entry in _entries(md):
                if entry.startswith("dev-") and "blocked" in _read(f"{md}/{entry}/state").split(","):
                    return False
            if _read(f"{md}/array_state") != "write-pending":
                return False
            try:
                with open(f"{md}/array_state", "w", encoding="ascii") as file:
                    file.write("active")
            except OSError as error:
                say(f"{array} waits and could not be answered: {error}")
                return False
        return True

    def _beside(self, key: str, work: Callable[[str], object], what: str) -> None:
        if key in self._busy:
            return
        self._busy.add(key)

        def run() -> None:
            try:
                work(what)
            except Exception as error:  # whatever it is: it is tried again at the next look
                say(f"{key} failed: {error}")
            finally:
                self._busy.discard(key)

        threading.Thread(target=run, name=key, daemon=True).start()


def resume(front: str) -> None:
    """``dmsetup resume``, in a child with a deadline. Raises OSError when it did not work."""
    environment = {**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C"}
    child = os.posix_spawnp("dmsetup", ["dmsetup", "resume", front], environment)
    until = time.monotonic() + RESUME_SECONDS
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            raise OSError(f"dmsetup resume {front} did not end within {RESUME_SECONDS:.0f} s")
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise OSError(f"dmsetup resume {front} ended with {code}")


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _devices(folder: str) -> list[tuple[str, int]]:
    """Device-mapper devices in /sys/block, with their inodes."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.inode()) for entry in entries if entry.name.startswith("dm-")]
    except OSError:
        return []


def _read(path: str) -> str:
    """A small sysfs file; empty when it is not there (any more). By bare calls: hundreds are read a second."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 4096).decode(errors="replace").strip()
        finally:
            os.close(file)
    except OSError:
        return ""


def say(sentence: str) -> None:
    """To the log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}Z millpond-watchdog: {sentence}\n")


def main() -> None:
    """Entry point of ``millpond-watchdog``: until SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    watchdog = Watchdog(
        os.environ.get("RUN_DIR", "/run/millpond"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        boottime=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        resume=resume,
    )
    say("watching holds and arrays")
    while not stopped.is_set():
        watchdog.look()
        watchdog.wait(LOOK_SECONDS)
    # Nobody keeps the deadlines from here on.
    watchdog.end_all()
    say("stopped")


if __name__ == "__main__":
    main()
