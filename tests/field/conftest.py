"""Three storage nodes on real kernels, one boot for all tests of the session (``e2e/faults`` says what they are).

Each test leaves the volume whole and written to. Run with ``-x``: after one that does not, the next would only show the
same again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from faults.field import Field
from faults.suite import Suite
from lab import kernels, paths
from lab.progress import say

BUILD = paths.REPOSITORY / "build" / "faults"


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends the guests
    with Field(os.environ.get("MILLPOND_KERNEL", kernels.DEFAULT)) as field:
        made = Suite(field, BUILD / "tests")
        made.begin()
        yield made


@pytest.fixture(autouse=True)
def collected(request: pytest.FixtureRequest, suite: Suite) -> Iterator[None]:
    """After a failure: what an engineer wants to see, while it is fresh."""
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before:
        folder = BUILD / request.node.name.replace("/", "-")
        suite.field.collect(folder)
        say(suite.field.gist(folder))
