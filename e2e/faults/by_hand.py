"""A quiescence that a person asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from demo.install import API_VERSION
from faults.field import Object
from faults.volume import Volume
from lab.api import wait_for
from millpond_core import quiesce

BOUND_SECONDS = 180.0


class ByHand:
    """One of them."""

    def __init__(self, volume: Volume, name: str) -> None:
        self._field, self.name = volume.field, name

    def status(self) -> Object:
        """Empty: the master has said nothing yet."""
        status: Object = self._field.get("quiescences", self.name).get("status", {})
        return status

    def phase(self) -> str:
        return str(self.status().get("phase", "Pending"))

    def becomes(self, phase: str) -> None:
        """Wait until it is ``phase``; fails at once when it is over another way."""

        def there() -> bool:
            now = self.phase()
            assert now == phase or now not in quiesce.OVER, f"{self.name} is {now}: {self.status().get('message')}"
            return now == phase

        wait_for(there, f"{self.name} is {phase}", seconds=BOUND_SECONDS, every=0.1)

    def release(self) -> None:
        self._field.merge("quiescences", self.name, {"spec": {"release": True}})
        self.becomes("Released")


@contextmanager
def by_hand(volume: Volume, name: str, *, hold: bool = True, seconds: int) -> Iterator[ByHand]:
    """Of one volume. It ends after so many seconds at the latest, and is deleted in the end."""
    spec = {"scope": {"volumes": [volume.name]}, "holdIo": hold, "deadlineSeconds": seconds}
    made = {"apiVersion": API_VERSION, "kind": "Quiescence", "metadata": {"name": name}, "spec": spec}
    volume.field.cluster.apply(made)
    try:
        yield ByHand(volume, name)
    finally:
        volume.field.delete("quiescences", name)
