"""The kernel's files: sysfs, procfs, configfs.

Reading does not block. Writing can, uninterruptibly and for as long as a dead device pleases (a rebuild told to stop
while its source is held, say), so each write is made by a child with a deadline. ``dd`` is that child because it is
everywhere, starts in a millisecond and says which errno it got.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from millpond_adapters.run import run
from millpond_core.errors import Busy, CommandFailed, MillpondError, NotFound

log = logging.getLogger(__name__)
_CATEGORIES: dict[str, type[MillpondError]] = {
    "Device or resource busy": Busy,
    "No such file or directory": NotFound,
    "No such device": NotFound,
}
_ATTRIBUTE_BYTES = 65536  # more than an attribute has: a page at most


def read(path: Path | str) -> str:
    """An attribute's content without surrounding white space. Raises NotFound when it, or what it speaks of, is gone.

    In one read: the kernel answers a second one from a content made anew, so that an attribute that has grown meanwhile
    would end with a piece of the new one (md's ``sync_completed``: ``0 / 63488`` and then ``488``).

    Hundreds are read each second, so by the bare calls, and by strings where it counts: ``Path.read_text`` takes more
    than three times as long, and was most of what an idle state manager spent.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(file, _ATTRIBUTE_BYTES)
        finally:
            os.close(file)
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from error
    return content.decode(errors="replace").strip()


def lines(path: Path | str) -> list[str]:
    """Of a list in procfs, which may take several reads; none when it is not there."""
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def peek(path: Path | str, default: str = "") -> str:
    """Like ``read``, with a default for what is not there."""
    try:
        return read(path)
    except NotFound:
        return default


def entries(path: Path | str) -> list[str]:
    """Sorted names in a folder; none when there is no such folder."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208
    except OSError:
        return []


def number_of(node: Path) -> str:
    """``major:minor`` of a block device node; empty when there is none."""
    try:
        found = node.stat()
    except OSError:
        return ""
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if stat.S_ISBLK(found.st_mode) else ""


async def write(path: Path, value: str, *, seconds: float = 5.0) -> None:
    """Write ``value`` in one go.

    Raises Busy, NotFound or CommandFailed by what the kernel answered, DeadlineExceeded when it did not answer.
    """
    argv = ("dd", f"of={path}", "bs=64k", "count=1", "iflag=fullblock", "conv=notrunc,nocreat", "status=none")
    try:
        await run(*argv, seconds=seconds, stdin=value.encode())
    except CommandFailed as error:
        raise explain(error, f"writing {value.strip()!r} to {path}") from error


async def write_all(writes: Sequence[tuple[Path, str]], *, seconds: float = 10.0) -> None:
    """Make ``writes`` in their order, with one child for all; the first that fails ends it and is raised."""
    while writes:
        words = [word for path, value in writes for word in (str(path), value)]
        try:
            await run("sh", "-c", _WRITE_ALL, "write", *words, seconds=seconds)
            return
        except CommandFailed as error:
            done = error.stderr.strip().rpartition("\n")[2]
            if not done.isdigit():
                raise
            # The shell knows that it failed, not why; dd does. If it even succeeds now, so be it.
            await write(*writes[int(done)])
            writes = writes[int(done) + 1 :]


_WRITE_ALL = """done=0
while [ $# -gt 0 ]; do
    printf %s "$2" >"$1" || { echo "$done" >&2; exit 1; }
    done=$((done + 1)); shift 2
done"""


def explain(error: CommandFailed, doing: str) -> MillpondError:
    """The error of a child as one of ours, by the last words of its message."""
    reason = error.stderr.strip().rpartition("\n")[2].rpartition(": ")[2]
    category = _CATEGORIES.get(reason)
    if category is None:
        return CommandFailed(tuple(doing.split(" ")), error.code, reason or error.stderr)
    return category(f"{doing} failed: {reason}")


def watch(paths: Iterable[Path], changed: Callable[[], None]) -> Callable[[], None]:
    """Call ``changed`` in the running loop when the kernel notifies of any of these attributes.

    Returns what ends the watch. A file that vanishes counts as a change, once. sysfs says POLLPRI for a change and
    POLLIN always, which is all that asyncio can wait for: hence an epoll of our own, itself waited for by the loop.
    """
    loop = asyncio.get_running_loop()
    epoll = select.epoll()
    files: set[int] = set()
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # such as: too many open files
                log.warning("%s is not watched, only polled: %s", path, error.strerror)
            continue
        files.add(file)
        os.read(file, 4096)  # a change is what comes after a read
        epoll.register(file, select.EPOLLPRI | select.EPOLLERR)

    def wake() -> None:
        for file, _ in epoll.poll(0):
            try:
                os.pread(file, 4096, 0)
            except OSError:
                epoll.unregister(file)
                files.discard(file)
                os.close(file)
        changed()

    def stop() -> None:
        if not epoll.closed:
            loop.remove_reader(epoll.fileno())
            epoll.close()
            for file in files:
                os.close(file)

    loop.add_reader(epoll.fileno(), wake)
    return stop
