"""The documents name what there is: files, headings, ``make`` targets with their variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()

DOCUMENTS = [str(path.relative_to(ROOT)) for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])]


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: str) -> Iterator[str]:
    """Links within the repository that lead nowhere."""
    path = ROOT / document
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", path.read_text()):
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    assert list(broken(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_are_there(document: str) -> None:
    named = re.findall(r"`((?:tests|e2e|tools|bench)/[\w/]+\.py)", (ROOT / document).read_text())
    assert [file for file in named if not (ROOT / file).is_file()] == []


def commands(text: str) -> Iterator[list[str]]:
    """The words of each ``make`` between backticks or in an example."""
    examples = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for said in re.findall(r"`make ([^`]+)`", text) + re.findall(r"^ *make (.+)$", "".join(examples), re.MULTILINE):
        yield shlex.split(said, comments=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_knows_its_targets_and_their_variables(document: str) -> None:
    for words in commands((ROOT / document).read_text()):
        for word in words:
            name, assigned, _ = word.partition("=")
            known = rf"\$\({name}\)" if assigned else rf"^{name}:"
            assert re.search(known, MAKEFILE, re.MULTILINE), f"make {' '.join(words)}"
