"""A step: a request with how it is sent, as plain data. JSON of it is one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from google.protobuf import message_factory

from millpond_csi.stubs import csi

SERVICES: Mapping[str, Any] = csi.DESCRIPTOR.services_by_name
_SYMBOL = re.compile(r"@(root|outside|uuid|epoch)(?::([^@]*))?@")

Meaning = Callable[[str, str], str]
"""What ``@word:argument@`` stands for."""


@dataclass
class Step:
    """``seconds``: the caller's deadline. ``cut``: seconds after which the caller hangs up, negative: it does not.

    ``mangle``: (position in thousandths of the message, byte) put over what is sent; a byte of -1 ends it there.
    """

    service: str
    method: str
    fields: dict[str, Any]
    seconds: float = 0.25
    cut: float = -1.0
    repeat: bool = False
    mangle: list[tuple[int, int]] = field(default_factory=list)

    def json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def path(self) -> str:
        return f"/{SERVICES[self.service].full_name}/{self.method}"

    @property
    def descriptor(self) -> Any:
        return SERVICES[self.service].methods_by_name[self.method]


def read(line: str) -> Step:
    """What ``Step.json`` wrote."""
    return Step(**json.loads(line))


def resolve(value: Any, meaning: Meaning) -> Any:
    """``value`` with every symbol replaced, in keys and in values."""
    if isinstance(value, str):
        return _SYMBOL.sub(lambda found: meaning(found[1], found[2] or ""), value) if "@" in value else value
    if isinstance(value, dict):
        return {resolve(key, meaning): resolve(child, meaning) for key, child in value.items()}
    if isinstance(value, list):
        return [resolve(child, meaning) for child in value]
    return value


def message(step: Step, meaning: Meaning) -> Any:
    """The request."""
    kind = message_factory.GetMessageClass(step.descriptor.input_type)
    return kind(**resolve(step.fields, meaning))


def wire(step: Step, request: Any) -> bytes:
    """What is sent of it."""
    sent = bytearray(request.SerializeToString(deterministic=True))
    for place, byte in step.mangle:
        at = place * len(sent) // 1000
        if byte < 0:
            del sent[at:]
        elif at < len(sent):
            sent[at] = byte
    return bytes(sent)
