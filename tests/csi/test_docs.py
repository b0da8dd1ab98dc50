"""docs/storageclass.md lists the parameters that there are, in the words of the table in the code."""

from __future__ import annotations

import re
from pathlib import Path

from millpond_csi.attributes import MUTABLE
from millpond_csi.parameters import PARAMETERS, volume_class
from millpond_csi.validation import fs_type

DOC = Path(__file__).resolve().parents[2] / "docs" / "storageclass.md"


def test_the_documented_parameters_are_the_known_ones() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.*) \| (.+) \|$", DOC.read_text(), re.MULTILINE)
    assert rows == [(name, one.values.told, one.default, one.help) for name, one in PARAMETERS.items()]


def test_the_documented_defaults_are_what_a_class_without_parameters_gets() -> None:
    given = {name: parameter.default for name, parameter in PARAMETERS.items() if parameter.default}
    filesystem = given.pop("csi.storage.k8s.io/fstype")
    assert volume_class(given) == volume_class({})
    assert filesystem == fs_type("")


def test_the_documented_mutable_parameters_are_those_that_may_change() -> None:
    text = DOC.read_text()
    said = text[text.index("## What may change later") : text.index("may change while a volume is")]
    assert tuple(re.findall(r"`([^`]+)`", said)) == MUTABLE
