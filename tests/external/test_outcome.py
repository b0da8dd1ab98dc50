"""Ginkgo's JUnit file, read and judged: what failed, what was skipped for which reason, what did not run at all."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import pytest

from external import known, outcome
from external.parts import LEAST, SELECTION, SELECTION_LEAST, WHOLE, Part, least

DRIVER = "External Storage [Driver: csi.millpond.io]"
STORES = f"{DRIVER} [Testpattern: Dynamic PV (default fs)] volumes should store data"
GROWS = f"{DRIVER} [Testpattern: Dynamic PV (xfs)] volume-expand Verify if offline PVC expansion works [Slow]"
BLOCK = f"{DRIVER} [Testpattern: Dynamic PV (block volmode)] provisioning should provision storage with mount options"
TOPOLOGY = f"{DRIVER} [Testpattern: Dynamic PV (immediate binding)] topology should provision a volume"
POPULATED = (
    f"{DRIVER} [Testpattern: Dynamic PV (default fs)] provisioning "
    "should provision storage with any volume data source [Serial]"
)
OTHER = "[sig-storage] Projected secret should be consumable"
ANY, _, DISRUPTIVE, LEGS = WHOLE


def case(name: str, status: str = "passed", message: str = "", *, kind: str = "[It] ") -> str:
    inside = {"skipped": f"<skipped message={quoteattr(message or 'skipped')}/>"}.get(status, "")
    if status in ("failed", "timedout", "interrupted", "panicked"):
        inside = f"<failure message={quoteattr(message)}>{message}</failure>"
    return f"<testcase name={quoteattr(kind + name)} status={quoteattr(status)} time='61.5'>{inside}</testcase>"


def junit(*cases: str) -> bytes:
    return f"<testsuites><testsuite name='e2e'>{''.join(cases)}</testsuite></testsuites>".encode()


def skip(name: str, message: str) -> str:
    return case(name, "skipped", f"skipped - {message}")


def test_what_ran_and_what_did_not() -> None:
    found = outcome.read(
        junit(
            case("[SynchronizedBeforeSuite]", kind=""),
            case(STORES),
            case(GROWS, "failed", "no room"),
            skip(BLOCK, "Block volumes do not support mount options - skipping"),
            case(POPULATED, "skipped"),
            case(OTHER, "skipped"),
        ),
        ANY,
    )
    assert found.passed == {STORES: 61.5}
    assert found.failed == {GROWS: "failed: no room"}
    assert found.skipped == {BLOCK: "Block volumes do not support mount options - skipping"}
    assert found.left_out == [POPULATED]
    assert list(found.problems()) == [f"{GROWS}: failed: no room"]


@pytest.mark.parametrize("status", ["failed", "timedout", "interrupted", "panicked", "aborted"])
def test_whatever_is_not_passed_or_skipped_is_a_failure(status: str) -> None:
    assert list(outcome.read(junit(case(STORES, status, "why")), ANY).failed) == [STORES]


def test_a_suite_that_could_not_begin_is_a_failure() -> None:
    found = outcome.read(junit(case("[SynchronizedBeforeSuite]", "failed", "no nodes", kind="")), ANY)
    assert list(found.problems()) == ["[SynchronizedBeforeSuite]: failed: no nodes"]


def test_a_skip_that_nobody_knows_is_a_failure() -> None:
    found = outcome.read(junit(skip(STORES, "the moon is full")), ANY)
    (problem,) = found.problems()
    assert "not known: the moon is full" in problem


def test_a_skip_of_what_the_definition_has_is_a_failure() -> None:
    message = 'Driver "csi.millpond.io" does not support topology - skipping'
    assert list(outcome.read(junit(skip(TOPOLOGY, message)), ANY).problems()) == []
    (problem,) = outcome.read(junit(skip(TOPOLOGY, message)), LEGS).problems()
    assert "although the definition has topology" in problem


def test_one_that_was_chosen_and_never_came_is_a_failure() -> None:
    (problem,) = outcome.read(junit(case(STORES, "skipped")), ANY).problems()
    assert STORES in problem
    assert list(outcome.read(junit(case(STORES, "skipped")), LEGS).problems()) == []


def test_too_few_are_a_failure() -> None:
    few = outcome.Outcome(ANY, passed={f"{STORES} {number}": 1.0 for number in range(LEAST - 1)})
    assert outcome.problems([few], LEAST) == ["59 tests passed, 60 must at least"]
    assert outcome.problems([few, outcome.Outcome(LEGS, passed={TOPOLOGY: 1.0})], LEAST) == []
    assert (least(WHOLE), least(SELECTION)) == (LEAST, SELECTION_LEAST)


def test_parts_choose_by_name() -> None:
    assert ANY.chosen(STORES)
    assert ANY.chosen(TOPOLOGY)  # where it skips itself
    assert not ANY.chosen(POPULATED)
    assert not ANY.chosen(OTHER)
    assert LEGS.chosen(TOPOLOGY)
    assert DISRUPTIVE.chosen(f"{STORES} [Disruptive]")
    assert not ANY.chosen(f"{STORES} [Disruptive]")
    assert not LEGS.chosen(STORES)
    assert SELECTION[0].chosen(STORES)
    assert not SELECTION[0].chosen(GROWS)


def test_every_reason_is_one_of_ours_and_every_lack_a_capability() -> None:
    for each in (*known.SKIPPED, *known.LEFT_OUT):
        assert each.why
        assert not each.lacks or each.lacks in Part("", 1, ()).capabilities


@pytest.mark.parametrize(
    ("message", "lacks"),
    [
        ('Driver "x" does not support populating data from snapshot - skipping', "snapshotDataSource"),
        ('Driver "x" does not support volume snapshots - skipping', "snapshotDataSource"),
        ("Driver x doesn't specify snapshot stress test options -- skipping", "snapshotDataSource"),
        ("Driver x doesn't specify volume group snapshot stress test options -- skipping", "snapshotDataSource"),
        ('Driver "x" does not support group snapshots - skipping', "groupSnapshot"),
        ('Driver "x" does not support cloning - skipping', "pvcDataSource"),
        ('Driver "x" does not support volume clone - skipping', "pvcDataSource"),
        ("Driver x doesn't support RWX -- skipping", "RWX"),
        ("Driver x does not support volume limits", "volumeLimits"),
        ("Driver x doesn't publish storage capacity -- skipping", "capacity"),
        ("Driver supports dynamic provisioning, skipping PreprovisionedPV pattern", ""),
        ('Driver "x" does not support volume type "PreprovisionedPV" - skipping', ""),
        ('Driver "x" does not support volume type "CSIInlineVolume" - skipping', ""),
        ("Driver x doesn't support ext3 -- skipping", ""),
        ("raw block volumes cannot be read-only", ""),
        ("Filesystem volume case should be covered by block volume case -- skipping", ""),
    ],
)
def test_messages_of_the_suite_are_known(message: str, lacks: str) -> None:
    reason = known.skipped(message)
    assert reason is not None
    assert reason.lacks == lacks


@pytest.mark.parametrize(
    "message",
    [
        'Driver "x" does not support exec - skipping',
        'Driver "x" does not support block volume mode - skipping',
        'Driver "x" does not provide raw block - skipping',
        'Driver "x" does not support FsGroup - skipping',
        'Driver "x" does not support multiple concurrent pods - skipping',
        'Driver "x" does not support online volume expansion - skipping',
        'Driver "x" does not support offline volume expansion - skipping',
        'Driver "x" does not support volume expansion - skipping',
        'Driver "x" does not support VolumeAttributesClass tests - skipping',
        'Driver "x" doesn\'t support ReadWriteOncePod - skipping',
        'Driver "x" does not define supported mount option - skipping',
        "Driver x doesn't support xfs -- skipping",
        "Driver x doesn't specify stress test options -- skipping",
        "Not enough topologies in cluster -- skipping",
        "No SSH Key for provider skeleton: 'error reading SSH key'",
        "Driver x doesn't support Block -- skipping",
        "this driver does not support multiple PVs with the same volumeHandle",
    ],
)
def test_what_we_can_do_is_never_skipped(message: str) -> None:
    assert known.skipped(message) is None


def test_a_suite_s_name_comes_after_its_tags() -> None:
    slow = f"{DRIVER} [Testpattern: Dynamic PV (xfs)] [Slow] volume-expand should resize volume"
    assert outcome.suite(slow) == "volume-expand, Dynamic PV (xfs)"


def test_the_summary_names_suites_and_reasons() -> None:
    found = outcome.read(
        junit(case(STORES), case(POPULATED, "skipped"), skip(BLOCK, "Block volumes do not support mount options")), ANY
    )
    told = outcome.summary([found])
    assert "part any: 1 passed, 0 failed, 1 skipped themselves" in told
    assert "1  volumes, Dynamic PV (default fs)" in told
    assert "1  not for raw block" in told
    assert "1  left out: needs controllers of other projects" in told


def test_tests_that_passed_are_told_with_their_kinds_of_volume() -> None:
    slow = f"{DRIVER} [Testpattern: Dynamic PV (xfs)] [Slow] volumes [Feature:X] should store data [Slow]"
    found = outcome.read(junit(case(STORES), case(slow)), ANY)
    assert outcome.table([found]).splitlines()[2:] == ["| volumes should store data | (default fs), (xfs) |"]
