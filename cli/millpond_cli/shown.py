"""What programs read: objects as they stand on the wire."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import yaml

from millpond_core.model import API_VERSION
from millpond_core.model.meta import Wire

Format = Literal["text", "json", "yaml"]
FORMATS: tuple[Format, ...] = ("text", "json", "yaml")


def formatted(obj: Wire, form: Format) -> str:
    """As JSON or YAML; empty for text, which each command makes itself."""
    return document({"apiVersion": API_VERSION, "kind": type(obj).__name__, **msgspec.to_builtins(obj)}, form)


def document(document: dict[str, Any] | list[Any], form: Format) -> str:
    """The same of anything that JSON can say."""
    match form:
        case "json":
            return json.dumps(document, indent=2)
        case "yaml":
            return str(yaml.safe_dump(document, sort_keys=False)).rstrip()
        case _:
            return ""
