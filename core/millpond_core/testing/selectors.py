"""Label and field selectors, as the API server reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from millpond_core.errors import Invalid

_TERM = re.compile(
    r"""\s*(?:
        (?P<negated>!)?(?P<exists>[\w./-]+)\s*$
      | (?P<key>[\w./-]+)\s*(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)\s*$
      | (?P<set>[\w./-]+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)\s*$
    )""",
    re.VERBOSE,
)


def matches_labels(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether ``labels`` satisfy every term: ``a``, ``!a``, ``a=b``, ``a!=b``, ``a in (b,c)``, ``a notin (b)``."""
    for term in re.split(r",(?![^(]*\))", selector) if selector else ():
        match = _TERM.match(term)
        if match is None:
            raise Invalid(f"{term!r} is no label selector")
        if not _satisfied(match, labels):
            return False
    return True


def _satisfied(match: re.Match[str], labels: Mapping[str, str]) -> bool:
    if match["exists"]:
        return (match["exists"] in labels) != bool(match["negated"])
    if match["key"]:
        same = labels.get(match["key"]) == match["value"]
        return same if match["op"] != "!=" else not same
    values = {value.strip() for value in match["values"].split(",")}
    return (labels.get(match["set"]) in values) == (match["how"] == "in")


def matches_fields(selector: str, document: Mapping[str, Any], selectable: frozenset[str]) -> bool:
    """Whether every ``path=value`` or ``path!=value`` holds; Invalid for a path outside ``selectable``."""
    for term in selector.split(",") if selector else ():
        path, equal, value = re.split(r"(!=|==?)", term, maxsplit=1) if "=" in term else (term, "", "")
        if not equal or path not in selectable:
            raise Invalid(f"{term!r}: field label not supported; there are {', '.join(sorted(selectable))}")
        found: Any = document
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        if (str(found or "") == value) == (equal == "!="):
            return False
    return True
