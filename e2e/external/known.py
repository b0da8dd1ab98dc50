"""What is left out or skipped, and why: the list that ``docs/conformance.md`` has in words.

``LEFT_OUT`` are names of tests that we do not have run. The rest is skipped by the tests themselves, with a message of
their own; each message is known by a pattern. Where it says that the driver lacks a capability, the definition must say
so, too: a test of something that we can do is never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BEGIN = "External Storage [Driver: "
"""What the names of the tests begin with."""


@dataclass(frozen=True)
class Known:
    """A reason for which tests do not run. ``pattern``: of the tests' own message, or of names that are left out."""

    pattern: str
    why: str
    lacks: str = ""
    """The capability that the definition must not have, by its name there."""


LEFT_OUT = (
    Known(
        r"should provision storage with any volume data source",
        "needs controllers of other projects (a populator and a validator of its objects), which are what it tests",
    ),
    Known(r"\[Feature:SELinux\]", "the guests' kernels run without SELinux"),
)

SKIPPED = (
    # --- by what the driver does not have
    Known(r"doesn't support (Inline|Preprovisioned)", "of a kind that definitions of drivers outside have none of"),
    Known(r'does not support volume type "(Inline|Preprovisioned)', "of a kind that such definitions have none of"),
    Known(r"supports dynamic provisioning, skipping", "of a kind that is not for drivers that make volumes"),
    Known(r'does not support volume type "CSIInline', "inline volumes of a pod: Millpond's outlive their pod"),
    Known(r"doesn't support (ext3|ntfs)", "a volume has ext4 or xfs"),
    Known(r"Distro .* doesn't support ntfs", "a volume has ext4 or xfs"),
    Known(r'does not support "(ext3|ntfs)" fs type', "a volume has ext4 or xfs"),
    Known(r"populating data from snapshot|volume snapshots|support snapshots", "snapshots", "snapshotDataSource"),
    Known(r"snapshot stress test options", "snapshots", "snapshotDataSource"),
    Known(r"snapshot metadata", "snapshots", "snapshotMetadata"),
    Known(r"group snapshots?( |$)", "snapshots", "groupSnapshot"),
    Known(r"cloning|volume clone", "a volume made from another", "pvcDataSource"),
    Known(r"doesn't support RWX", "pods on several nodes at once", "RWX"),
    Known(r"ROX access mode", "pods on several nodes at once", "capReadOnlyMany"),
    Known(r"volume limits", "the chart sets no bound", "volumeLimits"),
    Known(r"SELinuxMount", "mounting with an SELinux label", "seLinuxMount"),
    Known(r"support topology", "part `legs` runs these, with a class of access LegNodes", "topology"),
    Known(r"publish storage capacity", "part `legs` runs these, on a chart that publishes it", "capacity"),
    Known(r"performance test options", "how fast is measured by `bench`, not by these"),
    # --- by what the tests themselves are not for
    Known(r"[Bb]lock volumes (do not|cannot|is not)", "not for raw block"),
    Known(r"read only raw block volumes", "not for raw block"),
    Known(r"not valid for Block|non-filesystem volume mode|for block mode", "not for raw block"),
    Known(r'Suite ".*" does not support', "not for volumes of that kind"),
    Known(r"should be covered by block volume case", "the same test runs with raw block"),
    Known(r"doesn't work with pre-provisioned volume", "not for volumes of that kind"),
    Known(r"Skipping .* test for expansion", "not for volumes of that kind"),
    Known(r"volume type .* is (not )?ephemeral", "not for volumes of that kind"),
    Known(r"WaitForFirstConsumer binding mode currently not supported", "not for a class that waits for a pod"),
    Known(r"[Ii]mmediate (is not compatible|binding may)", "not where volumes are not reached from everywhere"),
)


def left_out(name: str) -> Known | None:
    """Why the test of that name does not run; None: it is to run."""
    return next((known for known in LEFT_OUT if re.search(known.pattern, name)), None)


def skipped(message: str) -> Known | None:
    """Why a test skipped itself; None: for a reason that nobody knows."""
    return next((known for known in SKIPPED if re.search(known.pattern, message)), None)


def unexplained(messages: Mapping[str, str], capabilities: Mapping[str, bool]) -> Iterator[str]:
    """A line for each test of ``messages`` (what each said when it skipped itself, by name) that was to run."""
    for name, message in messages.items():
        known = skipped(message)
        if known is None:
            yield f"{name}: skipped for a reason that is not known: {message}"
        elif known.lacks and capabilities.get(known.lacks):
            yield f"{name}: skipped although the definition has {known.lacks}: {message}"
