"""Points in time as they stand in objects (RFC 3339) and as decisions reckon with them (seconds since the epoch)."""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(at: float) -> str:
    """RFC 3339 with microseconds, UTC, such as ``2026-11-22T14:02:11.250000Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_stamp(at: float) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time`` has it: conditions take nothing finer."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str | None) -> float | None:
    """Seconds since the epoch; None for no time, or for a text that is none (old writers never stop a decision)."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def clock(at: float) -> str:
    """The time of day in UTC for a sentence, such as ``14:02:11``."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def span(seconds: float) -> str:
    """A duration for a sentence, such as ``250 ms``, ``8 s``, ``4 min`` or ``2.5 h``; never negative."""
    seconds = max(seconds, 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
