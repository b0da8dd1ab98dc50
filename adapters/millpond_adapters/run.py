"""The one place where children are started: an argument list, a deadline, a typed error.

A child that does not end is killed; one that cannot be killed, because it sleeps uninterruptibly in the kernel
("D"), is abandoned: nobody here ever waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from millpond_core.errors import CommandFailed, DeadlineExceeded

# libdevmapper waits for udev through semaphores of its own IPC namespace and would hang in a pod; C messages are parsed
_ENVIRONMENT = {"DM_DISABLE_UDEV": "1", "LC_ALL": "C"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GRACE_SECONDS = 0.5


async def run(*argv: str, seconds: float = 10.0, stdin: bytes = b"") -> bytes:
    """Run ``argv`` and return what it printed.

    Raises CommandFailed when it ends with anything but 0 (127: there is no such program) and DeadlineExceeded when it
    has not ended after ``seconds``: its effect is unknown then.
    """
    environment = {"PATH": os.environ.get("PATH") or _PATH, **_ENVIRONMENT}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C at our terminal is no reason for a half-done change
        )
    except OSError as error:
        raise CommandFailed(argv, 127, f"cannot start {argv[0]}: {error.strerror}") from error
    talk = asyncio.ensure_future(process.communicate(stdin or None))
    try:
        output, complaint = await asyncio.wait_for(asyncio.shield(talk), seconds)
    except TimeoutError:
        await _abandon(process, talk)
        raise DeadlineExceeded(
            f"{' '.join(argv)} did not end within {seconds:g} s; whether it took effect is unknown"
        ) from None
    except asyncio.CancelledError:
        await _abandon(process, talk)
        raise
    if process.returncode != 0:
        raise CommandFailed(argv, process.returncode or 0, complaint.decode(errors="replace"))
    return output


async def _abandon(process: asyncio.subprocess.Process, talk: asyncio.Future[tuple[bytes, bytes]]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await asyncio.wait([talk], timeout=_GRACE_SECONDS)
    if not talk.done():
        talk.cancel()
        # Closes our ends of the pipes; asyncio's watcher reaps the child whenever the kernel lets go of it.
        process._transport.close()  # type: ignore[attr-defined]
