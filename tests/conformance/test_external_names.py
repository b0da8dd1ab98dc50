"""The definition for Kubernetes' tests of storage drivers, against the structs that read it.

They ignore what they do not know: a name with a typo would silently leave tests out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from external import definition, images
from lab import components

pytestmark = pytest.mark.timeout(600)  # the module may have to be fetched first


@pytest.fixture(scope="module")
def sources() -> Path:
    return components.module("kubernetes-e2e", "k8s.io/kubernetes") / "test"


def fields(text: str, struct: str) -> set[str]:
    """The names of a struct's fields."""
    (body,) = re.findall(rf"^type {struct} struct {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^\t([A-Z]\w*)\s", body, re.MULTILINE))


def test_every_capability_is_said(sources: Path) -> None:
    """Also those that a newer Kubernetes has: whoever raises it decides about each. One speaks of snapshots alone."""
    text = (sources / "e2e/storage/framework/testdriver.go").read_text()
    known = set(re.findall(r'Capability\s+= "(\w+)"', text))
    assert len(known) > 20
    assert known - set(definition.CAPABILITIES) == {"FSResizeFromSourceNotSupported"}
    assert set(definition.CAPABILITIES) <= known


def test_every_field_is_known(sources: Path) -> None:
    framework = (sources / "e2e/storage/framework/testdriver.go").read_text()
    made = definition.definition(definition.LEGS_CLASS)
    driver = made["DriverInfo"]
    assert set(driver) <= fields(framework, "DriverInfo")
    for options in ("StressTestOptions", "VolumeModifyStressTestOptions"):
        assert set(driver[options]) == fields(framework, options)
    sizes = (sources / "e2e/framework/volume/fixtures.go").read_text()
    assert set(driver["SupportedSizeRange"]) <= fields(sizes, "SizeRange")
    assert set(made) <= fields((sources / "e2e/storage/external/external.go").read_text(), "driverDefinition")
    timeouts = (sources / "e2e/framework/timeouts.go").read_text()
    assert set(made["Timeouts"]) <= fields(timeouts, "TimeoutContext")


def test_every_registry_is_mapped_but_the_one_that_must_not_answer(sources: Path) -> None:
    text = (sources / "utils/image/manifest.go").read_text()
    assert set(re.findall(r'yaml:"(\w+)"', text)) - set(images.REGISTRIES) == {"invalidRegistry"}
