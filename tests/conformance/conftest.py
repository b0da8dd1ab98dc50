"""The conformance tier: the driver against the published interface and its published test.

csi-sanity and the interface's own descriptor come as Go modules, pinned where the lab pins everything else.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def csi_sanity_program() -> Path:
    """csi-sanity, built by the lab, or what $CSI_SANITY names."""
    if named := os.environ.get("CSI_SANITY"):
        return Path(named)
    from lab import components  # noqa: PLC0415 (only where it is needed)

    return components.ensure("csi-sanity")
