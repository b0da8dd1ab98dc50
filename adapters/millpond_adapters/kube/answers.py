"""What the API server's refusals mean: HTTP status → ``MillpondError``. One table, one place."""

from __future__ import annotations

import msgspec

from millpond_core.errors import (
    Busy,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Invalid,
    MillpondError,
    NotFound,
    Unavailable,
)

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Gone(MillpondError):
    """410: the resource version is too old; list again."""


class Cause(msgspec.Struct):
    """One reason in a Status."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, rename="camel"):
    """The part of a Status for machines."""

    causes: list[Cause] = []
    retry_after_seconds: int = 0


class Status(msgspec.Struct):
    """``meta/v1`` Status: why a request was refused."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


_BY_CODE: dict[int, type[MillpondError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    406: Invalid,
    408: DeadlineExceeded,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: Busy,
    504: DeadlineExceeded,
}
_status = msgspec.json.Decoder(Status)


def status(code: int, body: bytes) -> Status:
    """The Status in a refusal; one made up where a proxy or a dying server answered something else."""
    try:
        found = _status.decode(body)
    except msgspec.MsgspecError:
        found = Status(message=body[:200].decode(errors="replace").strip())
    found.code = found.code or code
    return found


def error(found: Status, request: str, *, json_patch: bool = False) -> MillpondError:
    """The error to raise for a refusal of ``request`` (method and path)."""
    causes = found.details.causes if found.details else []
    if found.code == 422 and json_patch and not causes:
        # A failed `test`, and a path that leads nowhere, come without any detail; refused values name their fields.
        return Conflict(f"{request}: a test failed, or what was to be replaced is not there; read it again and compare")
    kind = _BY_CODE.get(found.code, Unavailable if found.code >= 500 else Invalid)
    # Before an unknown field's name the API server prints the whole object.
    message = found.message.rpartition("strict decoding error: ")[2] or found.reason or "no message"
    return kind(f"{request}: {message} ({found.code})")
