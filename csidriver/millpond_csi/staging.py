"""Whether a device may be formatted: the one decision of the node service that could destroy data."""

from __future__ import annotations

from typing import Literal, NamedTuple

from millpond_core.observed import Contents

Action = Literal["Format", "Check", "Refuse"]


class Verdict(NamedTuple):
    """What to do before mounting, and for a refusal why."""

    action: Action
    reason: str = ""


def prepare(contents: Contents, wanted: str, *, readonly: bool, format_interrupted: bool) -> Verdict:
    """What is to happen to a device with ``contents`` that is to be mounted as ``wanted``.

    A device is formatted only if it is really blank: no signature of anything, and zeroes where a filesystem would
    begin and end (legs are zeroed when they are allocated, so that whatever else is there was written by a user). The
    one exception is ``format_interrupted``: a format of ours was cut off within this very attachment, so that nobody
    can have used the device since; and even then no signature is written over.
    """
    if contents.kind == "Filesystem":
        if contents.fs_type == wanted:
            return Verdict("Check")
        return Verdict("Refuse", f"it holds {contents.detail or contents.fs_type}, not the {wanted} that was asked for")
    if readonly:
        return Verdict("Refuse", f"it is to be mounted read-only and holds no {wanted}")
    if contents.kind == "Blank" or (format_interrupted and not contents.fs_type):
        return Verdict("Format")
    return Verdict(
        "Refuse",
        f"it holds {contents.detail or 'something unknown'} and no filesystem; it is never formatted over. Use it as "
        "a raw block volume to see what it is",
    )
