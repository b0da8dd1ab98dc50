"""The conformance tier: the driver against the published interface and its published test.

csi-sanity and the published descriptors come as Go modules, through the lab. Run together with e2e/tests, one cluster
serves both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from demo.session import Session, shared
from lab import components


@pytest.fixture(scope="session")
def csi_sanity_program() -> Path:
    """csi-sanity, built by the lab, or what $CSI_SANITY names."""
    named = os.environ.get("CSI_SANITY")
    return Path(named) if named else components.ensure("csi-sanity")


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    """The cluster with Millpond installed."""
    return shared(pytestconfig.add_cleanup)
