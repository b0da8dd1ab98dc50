"""Changes of a label's content: whoever writes one reads the newest, changes it here and writes it back."""

from __future__ import annotations

import msgspec

from millpond_core.errors import Invalid
from millpond_core.observed import Label, LabelLeg


def put(label: Label, entry: LabelLeg) -> Label:
    """With ``entry`` in place of what the label said of that leg. Invalid when its extents overlap another leg's."""
    others = tuple(e for e in label.legs if (e.volume, e.leg) != (entry.volume, entry.leg))
    for other in others:
        clash = overlap(other, entry)
        if clash is not None:
            raise Invalid(
                f"units {clash[0]}-{clash[1]} of device {label.device_name} belong to leg {other.leg} of "
                f"{other.volume_name or other.volume}: leg {entry.leg} of {entry.volume_name} cannot lie there"
            )
    return _next(label, (*others, entry))


def ready(label: Label, volume: str, leg: str, prepared_bytes: int) -> Label:
    """With the note that a leg is zeroed, for a volume of so many bytes. The same where the leg is not there."""
    legs = tuple(
        msgspec.structs.replace(e, zeroed=True, prepared_bytes=prepared_bytes if prepared_bytes != e.size_bytes else 0)
        if (e.volume, e.leg) == (volume, leg)
        else e
        for e in label.legs
    )
    return label if legs == label.legs else _next(label, legs)


def drop(label: Label, volume: str, leg: str) -> Label:
    """Without a leg."""
    return _next(label, tuple(e for e in label.legs if (e.volume, e.leg) != (volume, leg)))


def appeared(label: Label, *, boot_id: str, diskseq: int) -> Label:
    """After the disk came (back): one more attachment, so every leg on it has a new incarnation."""
    return msgspec.structs.replace(
        label, sequence=label.sequence + 1, attach_count=label.attach_count + 1, boot_id=boot_id, diskseq=diskseq
    )


def overlap(one: LabelLeg, other: LabelLeg) -> tuple[int, int] | None:
    """First and last unit of the first run that both claim; None: they are apart."""
    for _, start, length in one.extents:
        for _, begin, size in other.extents:
            first, end = max(start, begin), min(start + length, begin + size)
            if first < end:
                return first, end - 1
    return None


def _next(label: Label, legs: tuple[LabelLeg, ...]) -> Label:
    return msgspec.structs.replace(label, sequence=label.sequence + 1, legs=legs)
