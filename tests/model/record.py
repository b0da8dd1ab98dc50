"""The API server as the model has it: the volume's object, changed by JSON Patch and by reports, or lost.

A patch is the very list of operations that ``core`` makes (``nodeplan.record``, ``master``); ``testing.patches``
applies it and ``testing.structural`` refuses what the CRD's CEL rules refuse. Of a report only what others decide by is
kept.
"""

from __future__ import annotations

from typing import Any

import msgspec
from state import LEGS, NODES, Interned, Size

from millpond_core import names
from millpond_core.errors import Conflict
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.meta import Condition
from millpond_core.model.record import Attachment, Extent, Leg, Mapping
from millpond_core.model.schema import schema
from millpond_core.model.virtualvolume import NodeReport, PathReport, VirtualVolumeStatus
from millpond_core.model.volumespec import DesiredAttachment, Layout, VirtualVolumeSpec
from millpond_core.patches import json_patch
from millpond_core.testing.structural import fill, violations

UUID = "0f1c87f4-4f40-4a0a-9c71-3f6f25a0a3ce"
NAME = "v"
SIZE_BYTES = 4 * 1024 * 1024


DEGRADED = Condition(
    type="Degraded", status="True", reason="Degraded", last_transition_time="1970-01-01T00:16:40Z", message=""
)
"""Noted when the first leg was lost (``master.LOST_AT``); it stands from the start, as no one asks before."""


def device(index: int) -> str:
    """The StorageDevice under a leg: each has its own disk."""
    return f"disk-{LEGS[index]}"


def device_uuid(index: int) -> str:
    return f"00000000-0000-4000-8000-00000000000{index}"


def allocated(size: Size) -> VirtualVolume:
    """A volume as it is once its legs are prepared: wanted on n1, attached nowhere."""
    count = len(size.places) - size.spare
    legs = [
        Leg(
            id=LEGS[index],
            node=NODES[place],
            state="InSync" if index < count else "Rebuilding",
            complete=index < count,
            extents=[Extent(device=device(index), device_uuid=device_uuid(index), start=0, length=2)],
        )
        for index, place in enumerate(size.places)
    ]
    return VirtualVolume(
        metadata=ObjectMeta(
            name=NAME,
            uid="1",
            resource_version="1",
            labels={names.node_label(node): "" for node in NODES},
            annotations={names.ANNOTATION_ALLOCATED: UUID},
            finalizers=[names.FINALIZER],
        ),
        spec=VirtualVolumeSpec(
            uuid=UUID, size="4Mi", layout=Layout(copies=count), attachment=DesiredAttachment(node=NODES[0])
        ),
        status=VirtualVolumeStatus(
            phase="Ready",
            size_bytes=SIZE_BYTES,
            mapping=Mapping(generation=1, record_seq=1, legs=legs[:count]),
            spares=legs[count:],
            next_leg=len(legs),
            attachment=Attachment(),
            conditions=[DEGRADED],
        ),
    )


class Api:
    """Patches and reports, each worked out once."""

    def __init__(self, objects: Interned) -> None:
        self.objects = objects
        self.tests, self.rules = True, True
        self._patched: dict[tuple[int, str], int] = {}
        self._reported: dict[tuple[int, int], int] = {}

    def patch(self, volume: int, operations: list[dict[str, Any]]) -> int:
        """The volume as patched; 0: refused."""
        key = (volume, repr(operations))
        if key not in self._patched:
            self._patched[key] = self._patch(volume, operations)
        return self._patched[key]

    def _patch(self, volume: int, operations: list[dict[str, Any]]) -> int:
        before = msgspec.to_builtins(self.objects[volume])
        if not self.tests:
            operations = [one for one in operations if one["op"] != "test"]
        try:
            after = fill(schema(VirtualVolume), json_patch(before, operations))
        except Conflict:
            return 0
        old = fill(schema(VirtualVolume), before)
        if self.rules and any(violations(schema(VirtualVolume), after, old)):
            return 0
        return self.objects(msgspec.convert(after, VirtualVolume))

    def wanted(self, volume: int, node: str) -> int:
        """What CSI writes; from one node to another only through empty, which is done in one go here."""
        there: VirtualVolume = self.objects[volume]
        spec = msgspec.structs.replace(there.spec, attachment=DesiredAttachment(node=node))
        return self.objects(msgspec.structs.replace(there, spec=spec))

    def lost(self, volume: int) -> int:
        """What an old backup of etcd knows: the object, annotated as allocated, with no record in it."""
        there: VirtualVolume = self.objects[volume]
        status = VirtualVolumeStatus(phase=there.status.phase, size_bytes=SIZE_BYTES)
        return self.objects(msgspec.structs.replace(there, status=status))

    def report(self, volume: int, report: NodeReport) -> int:
        """The volume with one node's entry as it is said now."""
        key = (volume, self.objects(normal(report)))
        if key not in self._reported:
            there: VirtualVolume = self.objects[volume]
            entries = {entry.node: entry for entry in there.status.nodes} | {report.node: self.objects[key[1]]}
            status = msgspec.structs.replace(there.status, nodes=[entries[node] for node in sorted(entries)])
            self._reported[key] = self.objects(msgspec.structs.replace(there, status=status))
        return self._reported[key]


def normal(report: NodeReport) -> NodeReport:
    """Without what nobody decides by: sentences, progress, devices' names, what a path is apart from up."""
    legs = [msgspec.structs.replace(leg, message="") for leg in report.legs]
    paths = [PathReport(id=path.id, path="Up") for path in report.paths if path.path == "Up"]
    return msgspec.structs.replace(
        report, boot_id="", device="", legs=legs, paths=paths, progress=[], longest_hold_ms=0, message=""
    )
