"""One case after another on one field; each must end with a volume that is whole and has everything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

from demo.errors import DemoError
from faults.field import NAMES, Field
from faults.kinds import Strike
from faults.plan import Case
from faults.report import Outcome, report
from faults.volume import Volume
from lab.errors import LabError
from lab.progress import say

VOLUME_MIB = 32
WHOLE_SECONDS = 420.0
"""The bound within which a volume is whole again after a fault is undone; guests under TCG are ten times slow."""
ATTACH_SECONDS = 240.0
SOME = 20
"""Writes that show that a pod writes."""
HELD_SECONDS = 60.0
"""Beyond that a fault may have writes held so long that a kernel speaks of it, after two minutes."""
FIRST_LOOK_SECONDS = 0.5
"""After a fault has struck; the next looks come at twice the distance each."""


def interrupted(outcome: Outcome) -> list[str]:
    """What was noticed of a fault that no pod was to notice."""
    told = [f"{outcome.pods_ended} pods ended"] if outcome.pods_ended else []
    told += [f"{outcome.errors} errors"] if outcome.errors else []
    return [f"interrupted: {what} although a good leg was in reach" for what in told]


class Suite:
    """Cases on a field, all on one volume. ``folder`` gets what an engineer wants to see after a violation."""

    def __init__(self, field: Field, folder: Path) -> None:
        self.field, self.volume = field, Volume(field, "v1", mib=VOLUME_MIB)
        self.outcomes: list[Outcome] = []
        self._folder = folder

    def begin(self) -> None:
        """Attach the volume and begin to write."""
        self.volume.attach("n1", seconds=ATTACH_SECONDS)
        self.volume.begin("n1")

    def run(self, cases: Iterable[Case]) -> bool:
        """Until the first violation; whether there was none."""
        self.begin()
        for case in cases:
            if self.case(case).violations:
                self.field.collect(self._folder / f"case-{case.number}")
                return False
        return True

    def case(self, case: Case) -> Outcome:
        """Run one case; the volume is whole and written to before and, if there was no violation, after it."""
        say(str(case))
        volume, outcome = self.volume, Outcome(str(case), case.kind.name, case.phase.name, case.seconds)
        self.outcomes.append(outcome)
        count, errors = volume.ledger.count, volume.ledger.errors
        volume.ledger.gap()
        strike, home = self._strike(case), volume.node()
        undone = False
        try:
            case.phase.begin(volume, strike.node)
            case.kind.begin(strike)
            self.watch(case.seconds, outcome)
            undone = True
            self._undo(case, strike)
            began = time.monotonic()
            outcome.pods_ended = self.make_whole()
            outcome.whole_seconds = time.monotonic() - began
            soon_over = case.seconds <= HELD_SECONDS and not case.may_end_pods(strike.node, home)
            outcome.violations += self.look(nobody_waits=soon_over)
        except (LabError, DemoError) as error:
            outcome.violations.append(f"wedged: {error}")
        finally:
            if not undone:
                self._undo(case, strike)
        outcome.acknowledged, outcome.errors = volume.ledger.count - count, volume.ledger.errors - errors
        outcome.longest_gap_seconds = volume.ledger.gap()
        if not case.may_end_pods(strike.node, home):
            outcome.violations += interrupted(outcome)
        self._tell(outcome)
        return outcome

    def watch(self, seconds: float, outcome: Outcome) -> None:
        """Let the fault last, and see that legs recorded InSync have what is acknowledged meanwhile: record before
        degrade. Soon, at growing distances, and just before it is undone; not once nobody answers for the record.
        """
        end, pause = time.monotonic() + seconds, FIRST_LOOK_SECONDS
        while not outcome.violations:
            time.sleep(max(0.0, min(pause, end - time.monotonic())))
            pause *= 2
            try:
                looked_at, found = self.volume.lacking()
            except LabError:
                break
            outcome.legs_looked_at += looked_at
            outcome.violations += found
            if time.monotonic() >= end:
                break
        time.sleep(max(0.0, end - time.monotonic()))

    def make_whole(self) -> int:
        """Wait for the volume to be whole and written to, beginning pods anew as their controller would.

        Returns how many pods had ended.
        """
        volume, ended = self.volume, 0
        deadline = time.monotonic() + WHOLE_SECONDS
        wanted = volume.ledger.count + SOME
        while True:
            missing = self._missing()
            if volume.pod is not None and (not volume.pod.alive() or self._fenced(volume.pod.node)):
                ended += 1
                say(f"   the pod on {volume.pod.node} ends: {volume.pod.end or 'it is fenced'}")
                volume.end()
            elif not missing and volume.pod is None:
                volume.begin(volume.node())
                wanted = volume.ledger.count + SOME  # its own: what the one before was told unheard counts too by now
            elif not missing and volume.ledger.count >= wanted:
                return ended
            if volume.pod is None and volume.wanted() and self._fenced(volume.wanted()):
                volume.want("")
            elif volume.pod is None and not volume.wanted() and not volume.node():
                volume.want(self._somewhere())
            if time.monotonic() > deadline:
                missing = missing or f"{wanted - volume.ledger.count} of {SOME} writes are to come"
                raise LabError(f"not whole after {WHOLE_SECONDS:.0f} s: {missing}")
            time.sleep(0.5)

    def look(self, *, nobody_waits: bool = False) -> list[str]:
        """With nobody writing: what is lost, wrong, unequal, not as recorded or wedged. Then the pod writes on.

        ``nobody_waits``: nor had anybody reason to wait for two minutes, a good leg in reach.
        """
        volume = self.volume
        volume.end()
        volume.wait(volume.not_whole, "it stays whole", seconds=WHOLE_SECONDS)
        found = volume.check() + self.wedged(nobody_waits=nobody_waits)
        volume.begin(volume.node())
        return found

    def wedged(self, *, nobody_waits: bool) -> list[str]:
        """On each node: what waits and does not end, and what its kernel has complained of since it was asked last."""
        argv = ["python3", "-IS", "/repo/e2e/faults/wedged.py"]
        argv += ["--hung"] if nobody_waits else []
        return [
            f"wedged: {node}: {line}" for node in self.field.nodes for line in self.field.run(node, *argv).splitlines()
        ]

    def _strike(self, case: Case) -> Strike:
        volume = self.volume
        attach = volume.node()
        legs = {leg["node"]: leg["extents"][0]["device"] for leg in volume.legs("InSync")}
        match case.role:
            case "attach":
                node = attach
            case "leg":
                node = next(each for each in legs if each != attach)
            case "other":
                node = next((each for each in NAMES if each not in legs and each != attach), attach)
            case "plane":
                node = ""
        disk = legs.get(node) or (f"{node}-disk1" if node else "")
        return Strike(self.field, volume, node, disk)

    def _undo(self, case: Case, strike: Strike) -> None:
        case.kind.undo(strike)
        case.phase.after(self.volume)

    def _fenced(self, node: str) -> bool:
        try:
            return self.volume.fenced(node)
        except LabError:
            return False  # nobody can be asked: nobody ends pods either

    def _missing(self) -> str:
        try:
            volume = self.volume
            return volume.not_whole() or (
                volume.not_there(volume.node()) if volume.node() else "it is attached nowhere"
            )
        except (LabError, DemoError) as error:
            return str(error)

    def _somewhere(self) -> str:
        """A node that runs: where a scheduler would put the pod."""
        return next(name for name, guest in self.field.nodes.items() if guest.machine.alive())

    def _tell(self, outcome: Outcome) -> None:
        if outcome.violations:
            say("   VIOLATION\n     " + "\n     ".join(outcome.violations[:20]))
            return
        say(
            f"   whole after {outcome.whole_seconds:.0f} s; {outcome.acknowledged} acknowledged, longest pause "
            f"{outcome.longest_gap_seconds:.1f} s, {outcome.errors} errors, {outcome.pods_ended} pods ended"
        )

    def report(self, seed: int, revision: str) -> Path:
        """Write ``report.json``; returns its path. ``revision``: of the work tree that was tested."""
        self._folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, str | int] = {
            "kernel": self.field.kernel,
            "release": self.field.release,
            "seed": seed,
            "revision": revision,
        }
        path = self._folder / "report.json"
        path.write_text(json.dumps(report(self.outcomes, **about), indent=1))
        return path
