"""Objects of the chart, as Helm makes them; and the wait for its policies to be forgotten."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from lab import components

CHART = Path(__file__).parents[2] / "charts" / "millpond"


def rendered(namespace: str, *names: str, pods: bool = False) -> str:
    """A manifest of those with one of ``names``, without what runs pods unless ``pods``."""
    argv = [str(components.ensure("helm")), "template", "millpond", str(CHART), "-n", namespace]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    objects = (each for each in yaml.safe_load_all(text) if each)
    wanted = [each for each in objects if each["metadata"]["name"] in names]
    return yaml.safe_dump_all([each for each in wanted if pods or each["kind"] not in ("Deployment", "DaemonSet")])


def until_taken(kubectl: Callable[..., str], manifest: str, *, seconds: float = 50) -> None:
    """Until the API server takes ``manifest``, in a dry run: it forgets a policy a moment after that is deleted."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            kubectl("create", "-f", "-", "--dry-run=server", stdin=manifest)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.1)
