"""What came of the tests: Ginkgo's JUnit file read, judged, and told."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from external import known
from external.parts import Part

_IT = "[It] "
_TAG = re.compile(r" ?\[[^]]*\]")
"""``[Slow]``, wherever it stands."""
_SKIPPED = "skipped - "
"""Before a test's own message. Without one it was not chosen."""


@dataclass
class Outcome:
    """What a part found, by names of tests."""

    part: Part
    passed: dict[str, float] = field(default_factory=dict)
    """The seconds that each took."""
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """The message of each that skipped itself."""
    left_out: list[str] = field(default_factory=list)
    """Those that were not to run."""

    def problems(self) -> Iterator[str]:
        """What must not be; nothing: all is well."""
        yield from (f"{name}: {why}" for name, why in self.failed.items())
        yield from known.unexplained(self.skipped, self.part.capabilities)
        for name in self.left_out:
            if self.part.chosen(name):
                yield f"{name}: did not run, and nothing says why (was the part out of time?)"


def problems(found: Sequence[Outcome], must_pass: int) -> list[str]:
    """What must not be, all parts taken together; so many tests must have passed."""
    bad = [problem for each in found for problem in each.problems()]
    passed = sum(len(each.passed) for each in found)
    return bad if passed >= must_pass else [*bad, f"{passed} tests passed, {must_pass} must at least"]


def read(junit: bytes, part: Part) -> Outcome:
    """A JUnit file that Ginkgo wrote; of tests of other things than drivers it has the names alone."""
    outcome = Outcome(part)
    for case in ET.fromstring(junit).iter("testcase"):
        title, status = case.get("name", ""), case.get("status", "")
        name = title.removeprefix(_IT)
        if not title.startswith(_IT):
            # what goes before all tests and after them
            if status not in ("passed", "skipped", ""):
                outcome.failed[title] = f"{status}: {_end(case)}"
        elif not name.startswith(known.BEGIN):
            continue
        elif status == "passed":
            outcome.passed[name] = float(case.get("time", 0))
        elif status in ("skipped", "pending"):
            element = case.find("skipped")
            message = element.get("message", "") if element is not None else ""
            if message.startswith(_SKIPPED):
                outcome.skipped[name] = message.removeprefix(_SKIPPED)
            else:
                outcome.left_out.append(name)
        else:
            outcome.failed[name] = f"{status}: {_end(case)}"
    return outcome


def _end(case: ET.Element) -> str:
    return "".join(case.itertext()).strip()[-2000:]


def summary(outcomes: Iterable[Outcome]) -> str:
    """For people: counts by part and by suite, and what did not run, by its reason."""
    lines = []
    for each in outcomes:
        seconds = sum(each.passed.values())
        counts = f"{len(each.passed)} passed, {len(each.failed)} failed, {len(each.skipped)} skipped themselves"
        lines.append(f"part {each.part.name}: {counts} ({seconds / 60:.0f} min of tests)")
        suites = Counter(map(suite, each.passed))
        lines += [f"  {count:4}  {name}" for name, count in sorted(suites.items())]
        lines += ["  did not run:", *reasons(each)]
    return "\n".join(lines)


def reasons(of: Outcome) -> list[str]:
    """A line for each reason for which tests did not run, with their number."""
    counts: Counter[str] = Counter()
    for message in of.skipped.values():
        reason = known.skipped(message)
        counts[reason.why if reason else f"NOT KNOWN: {message}"] += 1
    for name in of.left_out:
        found = known.left_out(name)
        counts[f"left out: {found.why}" if found else "of another part"] += 1
    return [f"  {count:4}  {reason}" for reason, count in counts.most_common()]


def table(outcomes: Iterable[Outcome]) -> str:
    """The tests that passed, each with its kinds of volume, as a table in Markdown, for ``docs/conformance.md``."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for name in {name for each in outcomes for name in each.passed}:
        words, pattern = _parts(name)
        kinds[words].add(pattern.removeprefix("Dynamic PV "))
    rows = [f"| {test} | {', '.join(sorted(those))} |" for test, those in sorted(kinds.items())]
    return "\n".join(["| test | kinds of volume |", "| --- | --- |", *rows])


def suite(name: str) -> str:
    """The suite and the kind of volume of a test: ``subPath, Dynamic PV (default fs)``."""
    words, pattern = _parts(name)
    return f"{words.split(' ')[0]}, {pattern}"


def _parts(name: str) -> tuple[str, str]:
    """The words of a test without its tags, which begin with the suite's name, and its kind of volume."""
    pattern, _, words = name.partition("[Testpattern: ")[2].partition("] ")
    return _TAG.sub("", words).strip(), pattern
