"""From exceptions to gRPC status: one table.

What a code makes the callers do (CSI specification, "Error Scheme", and the sidecars' sources): ABORTED, UNAVAILABLE,
DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED are tried again with growing pauses while the volume counts as "perhaps made";
the others are final for this attempt, and a claim may be scheduled anew.
"""

from __future__ import annotations

import grpc

from millpond_core.errors import (
    Busy,
    CommandFailed,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Invalid,
    IOFailed,
    MillpondError,
    NotFound,
    Unavailable,
)


class NotReady(MillpondError):
    """It is under way: the same call will find it further on."""


class AlreadyExists(MillpondError):
    """There is one of that name, and it is another."""

    retryable = False


class NoRoom(MillpondError):
    """No devices could take it, for the reason given."""


class OutOfRange(MillpondError):
    """No size within the asked range is possible."""

    retryable = False


class Refused(MillpondError):
    """The state of things does not allow it; the message says what would."""


STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (Invalid, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (NoRoom, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OutOfRange, grpc.StatusCode.OUT_OF_RANGE),
    (Refused, grpc.StatusCode.FAILED_PRECONDITION),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Busy, grpc.StatusCode.ABORTED),
    (NotReady, grpc.StatusCode.ABORTED),
    (Conflict, grpc.StatusCode.ABORTED),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (CommandFailed, grpc.StatusCode.INTERNAL),
    (IOFailed, grpc.StatusCode.INTERNAL),
)


LONGEST_MESSAGE = 2000
"""Bytes. Clients refuse headers of more than 8 KiB, and a message is percent-encoded on its way."""


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The code and the sentence that the caller gets. What the table does not know is a fault of ours: INTERNAL."""
    for kind, code in STATUS:
        if isinstance(error, kind):
            return code, one_line(str(error))
    return grpc.StatusCode.INTERNAL, one_line(f"unexpected {type(error).__name__}: {error}; the driver's log has more")


def one_line(text: str) -> str:
    """``text`` with control characters escaped, cut off where it is longer than a message may be."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:LONGEST_MESSAGE])
    cut = shown.encode(errors="replace")[:LONGEST_MESSAGE].decode(errors="ignore")
    return cut if len(cut) == len(shown) and len(text) <= LONGEST_MESSAGE else f"{cut}… ({len(text)} characters)"
