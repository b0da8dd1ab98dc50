"""Objects of the chart, as Helm makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from lab import components

CHART = Path(__file__).parents[2] / "charts" / "millpond"


def rendered(namespace: str, *names: str) -> str:
    """A manifest of those with one of ``names``, without what runs pods."""
    argv = [str(components.ensure("helm")), "template", "millpond", str(CHART), "-n", namespace]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    objects = (each for each in yaml.safe_load_all(text) if each)
    wanted = [each for each in objects if each["metadata"]["name"] in names]
    return yaml.safe_dump_all([each for each in wanted if each["kind"] not in ("Deployment", "DaemonSet")])
