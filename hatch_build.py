"""Makes the gRPC stubs before a wheel is built: they are not in git, and belong in the wheel all the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Calls what ``tools/generate.py stubs`` calls."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        sys.path.insert(0, str(root / "tools"))
        try:
            import generate_stubs  # noqa: PLC0415 (found after the path is set)

            generate_stubs.write(root)
        finally:
            sys.path.remove(str(root / "tools"))
