"""What must hold after each answer. A rule yields a sentence for each fault that it finds."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fuzz import words
from fuzz.plan import Step
from fuzz.world import World
from millpond_csi.server import snake_case

SLACK_SECONDS = 10.0
"""Over a deadline, on a machine with much else to do. A hang is longer."""

LONGEST_MESSAGE = 2048
"""Characters. HTTP/2 peers refuse header lists of more than 8 KiB, and the text is percent-encoded on its way."""

LONGEST_LINE = 4096
CALLER_GONE = "ERROR grpc._cython.cygrpc ExecuteBatchError raised in core by servicer method"
"""gRPC's own line when the caller hung up in the very moment in which it was to be answered."""

NEVER = ("UNKNOWN", "INTERNAL", "DATA_LOSS", "UNAUTHENTICATED")
FINAL = (
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
)
"""Codes that the same request gets again while nothing changes."""

VARIES = ("GetCapacity",)
"""Whose answer is allowed to be another one: it looks anew every few seconds."""


@dataclass
class Answer:
    """What came back: the code's name, the message of an error, the response of a success, after so many seconds."""

    code: str
    details: str
    response: Any
    seconds: float
    from_server: bool = True
    """False: the channel gave up by itself."""


def answered(step: Step, answer: Answer, world: World) -> Iterator[str]:
    """Rules of one answer."""
    if answer.seconds > step.seconds + SLACK_SECONDS:
        yield f"took {answer.seconds:.1f} s of {step.seconds:g} s"
    if answer.code in NEVER:
        yield f"{answer.code}: {answer.details[:300]!r}"
    served = hasattr(world.services[step.service], snake_case(step.method))
    if answer.code not in ("CANCELLED", "DEADLINE_EXCEEDED") and served == (answer.code == "UNIMPLEMENTED"):
        yield f"is {'' if served else 'not '}served and answers {answer.code}"
    if answer.code == "OK":
        if words.MARKER.encode() in answer.response.SerializeToString():
            yield "a secret is in the response"
    elif answer.from_server and served:  # what gRPC says itself of a call that is not served is a word
        yield from message(answer.details)


def message(text: str) -> Iterator[str]:
    """Of an error: there is one, it is not long, nothing in it moves a terminal's cursor, no secret."""
    if not text.strip():
        yield "an error without a message"
    if len(text) > LONGEST_MESSAGE:
        yield f"a message of {len(text)} characters: {text[:100]!r}"
    if odd := control(text):
        yield f"control characters {odd} in the message {text[:300]!r}"
    if words.MARKER in text:
        yield f"a secret is in the message {text[:300]!r}"


def control(text: str) -> list[str]:
    """Characters that are not to be shown: controls, separators of lines, changes of direction."""
    return sorted({repr(c) for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")})


def logged(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Of the log: no secret, one line each, nothing that the driver calls its own fault."""
    for level, line in lines:
        if words.MARKER in line:
            yield f"a secret is in the log: {line[:300]!r}"
        if line.startswith(CALLER_GONE):
            continue
        if level >= logging.ERROR:
            yield f"an error in the log: {line[:1500]!r}"
        elif odd := control(line):
            yield f"control characters {odd} in the log: {line[:300]!r}"
        if len(line) > LONGEST_LINE and level < logging.ERROR:
            yield f"{len(line)} characters in one line of the log: {line[:100]!r}"


def touched(world: World, calls: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Of the node: every path that was worked on is in the kubelet's folder, and what must stay has stayed."""
    for verb, *arguments in calls:
        places = {"make": arguments[:1], "remove": arguments, "unmount": arguments, "usage": arguments}
        for path in places.get(verb, arguments[:2] if verb in ("mount", "bind") else ()):
            inside = path.startswith((f"{world.root}/", "/dev/dm-"))
            if not inside or {"..", ".", ""} & set(path[1:].split("/")):
                yield f"{verb} {path[:200]!r}"
    if world.real:
        yield from world.lost()


def again(step: Step, first: Answer, second: Answer) -> Iterator[str]:
    """The same request, with nothing in between: the same answer."""
    if first.code not in FINAL or second.code not in FINAL:
        return
    if first.code != second.code:
        yield f"{first.code}, and again: {second.code} {second.details[:200]!r}"
    elif first.code == "OK" and step.method not in VARIES and first.response != second.response:
        yield f"two answers: {first.response} and {second.response}"
