"""Steps from the descriptor, by hypothesis. ``python -m fuzz.draw SEED FIRST COUNT`` prints them, one a line.

They come in blocks, each with a seed of its own: any of them can be drawn without those before it. Of each request a
level is drawn first: how many of its fields are hostile. Half of them are sane throughout, or nothing would ever be
staged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz import words
from fuzz.plan import SERVICES, Step
from millpond_csi.controller import ControllerService
from millpond_csi.identity import Identity
from millpond_csi.node import NodeService
from millpond_csi.server import snake_case
from millpond_csi.stubs import csi

BLOCK = 100
"""Steps with one seed."""

SERVED = {"Identity": Identity, "Controller": ControllerService, "Node": NodeService}
LEVELS = (0, 0, 0, 0, 1, 1, 2, 8)
"""Eighths of the fields that are hostile."""

Draw = Callable[[Any], Any]
_SECRET = csi.DESCRIPTOR.extensions_by_name["csi_secret"]
_EIGHTH = st.sampled_from(range(8))
_INTS = {
    Field.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    Field.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    Field.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    Field.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


def methods() -> list[tuple[str, str]]:
    """(service, method), each as often as its weight: what is served and takes arguments comes most."""
    weighted = []
    for service, descriptor in SERVICES.items():
        for method in descriptor.methods:
            served = hasattr(SERVED.get(service), snake_case(method.name))
            weight = 8 if served and method.input_type.fields else 1
            weighted += [(service, method.name)] * weight
    return weighted


class Request:
    """Draws one request. ``volume``: the name of the volume that it is about."""

    def __init__(self, draw: Draw, volume: str, level: int) -> None:
        self._draw, self._level = draw, level
        self._texts, self._maps = words.sane_texts(volume), words.sane_maps(volume)

    def message(self, descriptor: Any) -> dict[str, Any]:
        """Fields by name; those that are left out have their defaults."""
        chosen = {}
        for oneof in descriptor.oneofs:
            members = [field.name for field in oneof.fields]
            keep = self._draw(st.sampled_from(members))
            chosen.update({name: name == keep for name in members})
            if self._hostile():
                chosen[keep] = False
        made = {}
        for field in descriptor.fields:
            if chosen.get(field.name, True) and (field.name in chosen or self._present(field)):
                made[field.name] = self.field(field)
        return made

    def field(self, field: Any) -> Any:
        if field.message_type and field.message_type.GetOptions().map_entry:
            return self._map(field)
        if not field.is_repeated:
            return self._one(field)
        if field.cpp_type == Field.CPPTYPE_STRING and not self._hostile():
            return [self._one(field) for _ in range(self._draw(st.sampled_from((0, 0, 0, 1, 2))))]
        many = self._draw(st.sampled_from((0, 2, 3, 200))) if self._hostile() else 1
        return [self._one(field) for _ in range(min(many, 3))] * (many // 3 or 1)

    def _hostile(self) -> bool:
        return self._level > 0 and self._draw(_EIGHTH) < self._level

    def _present(self, field: Any) -> bool:
        if self._hostile():
            return bool(self._draw(st.booleans()))
        if field.name in words.SANE_ABSENT:
            return False
        return field.name not in words.OFTEN_ABSENT or bool(self._draw(st.booleans()))

    def _one(self, field: Any) -> Any:
        if field.cpp_type == Field.CPPTYPE_MESSAGE:
            return self.message(field.message_type)
        if field.cpp_type == Field.CPPTYPE_STRING:
            return self._text(field)
        if field.cpp_type == Field.CPPTYPE_BOOL:
            return bool(self._draw(_EIGHTH) == 7)
        if field.cpp_type == Field.CPPTYPE_ENUM:
            known = tuple(field.enum_type.values_by_number)
            sane = words.SANE_NUMBERS.get(field.name, known)
            return self._draw(st.sampled_from((*known, 99, -1) if self._hostile() else sane))
        low, high = _INTS[field.cpp_type]  # what has another type here needs words of its own
        if self._hostile():
            return self._draw(st.sampled_from([low, high, *(each for each in words.NUMBERS if low <= each <= high)]))
        return self._draw(st.sampled_from(words.SANE_NUMBERS.get(field.name, (0, 1))))

    def _text(self, field: Any) -> str:
        if _secret(field):
            return words.MARKER
        sane: str = self._draw(st.sampled_from(self._texts.get(field.name, ("", "some"))))
        return self._evil(field.name, sane) if self._hostile() else sane

    def _evil(self, name: str, sane: str) -> str:
        how = self._draw(_EIGHTH)
        if how < 3 and "path" in name:
            return str(self._draw(st.sampled_from(words.PATHS)))
        if how < 6:
            return str(self._draw(st.sampled_from(words.TEXTS)))
        if how == 6:
            return "".join(self._draw(st.lists(st.sampled_from(words.ALPHABET), max_size=12)))
        near = (sane[:-1], sane + "\n", f" {sane}", sane.upper(), f"{sane}/", f"{sane}\0", sane * 2, f"{sane}/..")
        return str(self._draw(st.sampled_from(near)))

    def _map(self, field: Any) -> dict[str, str]:
        if _secret(field):
            return {"key": words.MARKER, words.MARKER: "x" + words.MARKER}
        made = dict(self._draw(st.sampled_from(self._maps.get(field.name, ({}, {"key": "value"})))))
        if self._hostile():
            for _ in range(self._draw(st.sampled_from((1, 1, 2)))):
                known = (*words.KEYS, *made)
                key = self._draw(st.sampled_from(known)) if self._draw(st.booleans()) else self._evil("", "uuid")
                made[key] = self._evil("", made.get(key, "1"))
            if self._draw(_EIGHTH) == 7:
                made |= {f"key-{i}": "x" * 100 for i in range(500)}
        return made


def _secret(field: Any) -> bool:
    return bool(field.GetOptions().Extensions[_SECRET])


_METHODS = methods()
_BYTES = (-1, 0, 1, 0x7F, 0x80, 0xFF, 0x0A)


@st.composite
def steps(draw: Any) -> Step:
    """Any step."""
    service, method = draw(st.sampled_from(_METHODS))
    descriptor = SERVICES[service].methods_by_name[method]
    name = draw(st.sampled_from((*words.VOLUMES[:2] * 2, *words.VOLUMES)))
    made = Request(draw, name, draw(st.sampled_from(LEVELS)))
    step = Step(service, method, made.message(descriptor.input_type))
    match draw(st.sampled_from(range(40))):
        case 1:
            step.cut = draw(st.sampled_from((0.0, 0.001, 0.01)))
        case 2:
            step.mangle = draw(
                st.lists(st.tuples(st.sampled_from(range(1000)), st.sampled_from(_BYTES)), min_size=1, max_size=8)
            )
        case 3:
            step.seconds = 0.01
        case 4:
            step.seconds = 1.0
        case value if value > 30:
            step.repeat = True
    return step


def block(name: str, number: int) -> list[Step]:
    """Block ``number``, from 0, of the seed called ``name``.

    hypothesis goes on from what it drew last, and likes to say it again: of twice as many as are wanted each is taken
    once, in any order. Where that is not enough the first come again.
    """
    made: dict[str, Step] = {}

    @seed(f"{name}/{number}")
    @settings(
        max_examples=2 * BLOCK,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(steps())
    def collect(step: Step) -> None:
        made.setdefault(step.json(), step)

    collect()
    drawn = list(made.values())
    Random(f"{name}/{number}").shuffle(drawn)
    return (drawn * BLOCK)[:BLOCK]


def main() -> int:
    name, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    while count > 0:
        number, at = divmod(first, BLOCK)
        for step in block(name, number)[at : at + count]:
            print(step.json())
        sys.stdout.flush()
        first, count = first + BLOCK - at, count - (BLOCK - at)
    return 0


if __name__ == "__main__":
    sys.exit(main())
