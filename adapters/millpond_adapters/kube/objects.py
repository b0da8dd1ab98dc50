"""Kinds on the wire: paths, envelopes and decoders, for any struct with ``plural`` and ``metadata``."""

from __future__ import annotations

import functools
import re
from typing import Any, Generic

import msgspec

from millpond_core.errors import Invalid
from millpond_core.model import API_VERSION, ObjectMeta
from millpond_core.model.meta import Wire
from millpond_core.ports import Kind

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Version(msgspec.Struct, rename="camel", frozen=True):
    """The metadata that every object has, whatever else it holds."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""


class Head(msgspec.Struct):
    """An object of which only the metadata is read."""

    metadata: Version = Version()


class ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "continued": "continue"}):
    """Where a list stands in time, and where its next page begins."""

    resource_version: str = ""
    continued: str = ""


class Page(msgspec.Struct):
    """One page of a list; its items are decoded one by one."""

    metadata: ListMeta
    items: list[msgspec.Raw]


class WatchEvent(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class Codec(Generic[Kind]):
    """Reads and writes one kind."""

    def __init__(self, kind: type[Kind]) -> None:
        self.kind = kind
        self.collection = f"/apis/{API_VERSION}/{kind.plural}"  # type: ignore[attr-defined]
        self._decoder = msgspec.json.Decoder(kind)

    def path(self, name: str) -> str:
        """Path of the object. Invalid for what is no name: an empty one would mean all of them."""
        if len(name) > 253 or not _NAME.fullmatch(name):
            raise Invalid(
                f"{name[:80]!r} is no name of a {self.kind.__name__}: lower case letters, digits, '-' and '.'"
            )
        return f"{self.collection}/{name}"

    def decode(self, data: bytes | msgspec.Raw) -> Kind:
        """Invalid when the object is not what this version's model says."""
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            name = _head.decode(data).metadata.name
            raise Invalid(f"{self.kind.__name__} {name!r} cannot be read: {error}") from error

    def named(self, name: str, uid: str) -> Kind:
        """The object of which nothing else is known, since it is gone."""
        return self.kind(metadata=ObjectMeta(name=name, uid=uid))

    def encode(self, **content: Any) -> bytes:
        """An object of this kind with ``content`` beside its type."""
        return msgspec.json.encode({"apiVersion": API_VERSION, "kind": self.kind.__name__, **content})


_head = msgspec.json.Decoder(Head)
page = msgspec.json.Decoder(Page).decode
watch_event = msgspec.json.Decoder(WatchEvent).decode
head = _head.decode


@functools.cache
def _codec(kind: Any) -> Codec[Any]:
    return Codec(kind)


def codec(kind: type[Kind]) -> Codec[Kind]:
    """The codec of a kind; made once."""
    return _codec(kind)


def metadata(obj: Wire) -> Any:
    """``obj.metadata``, which every kind has."""
    return obj.metadata  # type: ignore[attr-defined]
