"""A Quiescence from its making to its end, as a person at a terminal follows it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from millpond_cli.follow import versions
from millpond_core import quiesce
from millpond_core.errors import DeadlineExceeded, MillpondError, NotFound
from millpond_core.model import Quiescence
from millpond_core.ports import Kube

REASONS = ("Manual", "Maintenance", "Snapshot", "Shutdown")
"""What people may give; the others are the master's."""

DONE, ABORTED, EXPIRED = 0, 3, 4
"""Exit statuses."""

RELEASE_SECONDS = 60.0
"""For so long what was released is waited for."""

BEGIN_SECONDS = 30.0
"""A quiescence of which the operator has said nothing yet is waited for so long."""

QUEUE_SECONDS = 700.0
"""One that waits for others hears of them at least so often: none lasts longer than ten minutes."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How it stands, and the exit status that says so."""

    quiescence: Quiescence
    status: int


async def hold(kube: Kube, made: Quiescence, command: Sequence[str], tell: Tell) -> Outcome:
    """Wait until all is still; run ``command``, if there is one, and release. Released too when it is given up."""
    name = made.metadata.name
    try:
        q = await _until(kube, made, lambda q: q.status.phase == "Quiesced" or _over(q), tell)
        if _over(q):
            return Outcome(q, EXPIRED if q.status.phase == "Expired" else ABORTED)
        if not command:
            tell(f"it ends with: kubectl millpond release {name}")
            return Outcome(q, DONE)
        status = await _run(command, name, tell)
        outcome = await release(kube, name, tell)
        if outcome.quiescence.status.phase == "Released":
            return Outcome(outcome.quiescence, status)
        tell("it was over before the command ended: what that has seen may not be of one moment")
        return outcome
    except (asyncio.CancelledError, MillpondError):
        # What nobody waits for any more is not to come about later, and hold.
        with suppress(MillpondError):
            await asyncio.shield(_ask_to_release(kube, name, tell))
        raise


async def release(kube: Kube, name: str, tell: Tell) -> Outcome:
    """Ask for the end, and wait for it. Raises NotFound; what is over already is no error."""
    q = await kube.merge(Quiescence, name, {"spec": {"release": True}})
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            q = await _until(kube, q, _over, lambda _: None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"quiescence {name} is asked to end, and is {q.status.phase or 'new'} after {RELEASE_SECONDS:.0f} s: does "
            "the operator run? Each node ends its hold at the deadline all the same"
        ) from None
    return Outcome(q, {"Expired": EXPIRED, "Aborted": ABORTED}.get(q.status.phase, DONE))


async def _ask_to_release(kube: Kube, name: str, tell: Tell) -> None:
    tell(f"releasing {name}")
    await kube.merge(Quiescence, name, {"spec": {"release": True}})


async def _until(kube: Kube, made: Quiescence, enough: Callable[[Quiescence], bool], tell: Tell) -> Quiescence:
    """The first version of ``made`` that is enough; each new sentence is told. Raises NotFound when it is deleted, and
    DeadlineExceeded when nobody does anything about it.
    """
    if enough(made):
        return made
    name, said = made.metadata.name, ""
    last: Quiescence | None = None
    try:
        async with aclosing(versions(kube, Quiescence, name, _patience)) as seen:
            async for q in seen:
                last = q
                if (sentence := f"{q.status.phase or 'Pending'}: {q.status.message}") != said and q.status.message:
                    said = sentence
                    tell(sentence)
                if enough(q):
                    return q
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing has become of quiescence {name} in {_patience(last):.0f} s: does the operator run?"
        ) from None
    raise NotFound(f"quiescence {name} was deleted: everything goes on")


def _patience(q: Quiescence | None) -> float:
    return QUEUE_SECONDS if q is not None and q.status.message else BEGIN_SECONDS


def _over(q: Quiescence) -> bool:
    return q.status.phase in quiesce.OVER


async def _run(command: Sequence[str], name: str, tell: Tell) -> int:
    """Its exit status; 127: it could not be started."""
    try:
        child = await asyncio.create_subprocess_exec(*command, env={**os.environ, "MILLPOND_QUIESCENCE": name})
    except OSError as error:
        tell(f"{command[0]} could not be started: {error.strerror}")
        return 127
    try:
        return await child.wait()
    except asyncio.CancelledError:
        child.terminate()
        raise
