"""Tells what is going on, with the time since the beginning, and remembers when what happened and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from demo.cluster import Object
from demo.errors import DemoError
from demo.moments import Moment, moments


@dataclass(frozen=True)
class Seen:
    """A moment and when it was seen here (seconds, ``time.monotonic``)."""

    moment: Moment
    at: float


class Story:
    """One telling. ``changed`` is called by a watch's thread, the rest by the one who acts."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._began = time.monotonic()
        self._last: dict[tuple[str, str], Object] = {}
        self.seen: list[Seen] = []
        self.phases: dict[str, float] = {}
        self.lines: list[str] = []

    def say(self, text: str, at: float | None = None) -> None:
        """One line, with the time."""
        seconds = (at or time.monotonic()) - self._began
        line = f"{int(seconds) // 60:2d}:{seconds % 60:04.1f}  {text}"
        self.lines.append(line)
        print(line, file=self._out, flush=True)

    @contextmanager
    def phase(self, name: str, headline: str) -> Iterator[None]:
        """A part of the story: its headline now, its seconds for the report."""
        print(f"\n== {headline}", file=self._out, flush=True)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(time.monotonic() - began, 1)

    def changed(self, plural: str, found: Object) -> None:
        """An object as the watch shows it: tells what is new about it."""
        now = time.monotonic()
        key = (plural, found["metadata"]["name"])
        for moment in moments(plural, self._last.get(key), found):
            self.seen.append(Seen(moment, now))
            self.say(moment.text, now)
        self._last[key] = found

    def object(self, plural: str, name: str) -> Object:
        """An object as it was seen last; empty when it was not seen yet."""
        return self._last.get((plural, name), {})

    def find(self, kind: str, *, subject: str = "", since: float = 0.0) -> Seen | None:
        """The first moment of that kind (about ``subject``, when given) since then."""
        return next((each for each in list(self.seen) if _matches(each, kind, subject) and each.at >= since), None)

    def wait(self, kind: str, what: str, *, seconds: float, since: float, subject: str = "") -> Seen:
        """Wait for a moment; DemoError with ``what`` when it does not come in time."""
        deadline = time.monotonic() + seconds
        while (found := self.find(kind, subject=subject, since=since)) is None:
            if time.monotonic() > deadline:
                raise DemoError(f"{what}: not after {seconds:.0f} s", next_step=self._hint(subject))
            time.sleep(0.1)
        return found

    def _hint(self, subject: str) -> str:
        status: Any = self.object("virtualvolumes", subject).get("status", {})
        told = [status.get("message", ""), *(node.get("message", "") for node in status.get("nodes", ()))]
        said = "; ".join(text for text in told if text)
        return f"the volume says: {said}" if said else "read the pods' logs"


def _matches(each: Seen, kind: str, subject: str) -> bool:
    return each.moment.kind == kind and (not subject or each.moment.subject == subject)
