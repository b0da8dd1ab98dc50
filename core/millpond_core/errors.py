"""What can go wrong, by category. One table per edge maps these to gRPC codes, conditions and retries."""

from __future__ import annotations


class MillpondError(Exception):
    """An error with a sentence for people: what happened, why, what to do next."""

    retryable = True


class Busy(MillpondError):
    """Someone else holds it now; the same call may succeed later."""


class NotFound(MillpondError):
    """It does not exist, or not any more."""


class Conflict(MillpondError):
    """What was to be replaced is not there any more: read again, compare, decide anew."""


class Invalid(MillpondError):
    """The request can never succeed as it is."""

    retryable = False


class Forbidden(MillpondError):
    """The API server does not allow it."""

    retryable = False


class DeadlineExceeded(MillpondError):
    """No answer within the deadline; the outcome is unknown."""


class Unavailable(MillpondError):
    """The other side could not be reached; the outcome is unknown."""


class CommandFailed(MillpondError):
    """A tool or a sysfs write failed."""

    def __init__(self, argv: tuple[str, ...], code: int, stderr: str) -> None:
        self.argv, self.code, self.stderr = argv, code, stderr
        super().__init__(f"{' '.join(argv)} failed with exit status {code}: {stderr.strip() or 'no message'}")


class IOFailed(MillpondError):
    """A device answered with an error."""
