"""Every CEL rule of the model, with what it refuses and what it lets through, on the real API server.

Each case is tried on the API server in memory too: both must give the same verdict. A rule without a case fails the
last test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from millpond_adapters.kube import ApiKube
from millpond_core.errors import Invalid
from millpond_core.model import KINDS, Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.schema import schema
from millpond_core.ports import Kube
from millpond_core.testing.kube import MemoryKube

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
Patch = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """``given`` is created, then ``bad`` is refused with ``says`` about ``field``, and ``good`` is let through."""

    name: str
    says: str
    field: str
    kind: type[Any]
    bad: Patch
    good: Patch
    given: Patch = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def of_volume(name: str, says: str, at: str, bad: Patch, good: Patch, **given: Any) -> Case:
    given = {"spec": {"size": "1Gi", **given}}
    return Case(name, says, f"spec.{at}", VirtualVolume, {"spec": bad}, {"spec": good}, given)


def leg(name: str, state: str, **more: Any) -> Patch:
    extents = [{"device": "d", "deviceUuid": UUID, "start": 0, "length": 1}]
    return {"id": name, "node": f"n-{name}", "state": state, "extents": extents, **more}


def record(generation: int, sequence: int, *legs: Patch) -> Patch:
    return {"mapping": {"generation": generation, "recordSeq": sequence, "legs": list(legs)}}


A = leg("a", "InSync")
GIVEN = record(1, 5, A, leg("b", "Stale"), leg("c", "Failed", releasing=True), leg("d", "Rebuilding"))
REST = GIVEN["mapping"]["legs"][1:]


def of_size(name: str, says: str, status: Patch) -> Case:
    bad, good = {"spec": {"size": "1069547520"}}, {"spec": {"size": "1069547521"}}
    return Case(name, says, "spec.size", VirtualVolume, bad, good, {"spec": {"size": "2Gi"}, "status": status})


def of_status(name: str, says: str, at: str, bad: Patch, good: Patch, given: Patch = GIVEN) -> Case:
    given = {"spec": {"size": "1Gi"}, "status": given}
    return Case(name, says, f"status.{at}", VirtualVolume, {"status": bad}, {"status": good}, given)


def of_leg(name: str, says: str, at: str, bad: Patch, good: Patch) -> Case:
    """``bad`` and ``good`` are what leg b becomes."""

    def changed(to: Patch) -> Patch:
        return record(1, 6, A, {**REST[0], **to}, *REST[1:])

    return of_status(name, says, f"mapping.legs[1].{at}", changed(bad), changed(good))


def of_quiescence(at: str, bad: Any, says: str = "is immutable", **given: Any) -> Case:
    scope = {"volumes": ["v"], "nodes": []}
    return Case(
        f"quiescence {at}",
        f"spec.{at} {says}",
        f"spec.{at}",
        Quiescence,
        {"spec": {at: bad}},
        {"spec": {"release": True}},
        {"spec": {"scope": scope, **given}},
    )


def of_device(name: str, says: str, at: str, bad: Patch) -> Case:
    given = {"spec": {"nodeName": "n1", "identity": {"serial": "s1"}}}
    return Case(name, says, f"spec.{at}", StorageDevice, {"spec": bad}, {"spec": {"pool": "fast"}}, given)


CASES = [
    Case(
        "reboot without an end",
        "says when the node is back",
        "spec.maintenance.until",
        StorageNode,
        {"spec": {"maintenance": {"intent": "Reboot"}}},
        {"spec": {"maintenance": {"intent": "Reboot", "until": "2027-01-15T08:00:00Z"}}},
        {"spec": {}},
    ),
    Case(
        "shutdown of no boot in particular",
        "says which boot a Shutdown ends",
        "spec.maintenance.bootId",
        StorageNode,
        {"spec": {"maintenance": {"intent": "Shutdown"}}},
        {"spec": {"maintenance": {"intent": "Shutdown", "bootId": "0b1f"}}},
        {"spec": {}},
    ),
    of_volume("stripe size 5000", "must be a power of two", "layout.stripeSize", {"layout": {"stripeSize": 5000}}, {}),
    of_volume(
        "stripes",
        "spec.layout.stripes is immutable",
        "layout.stripes",
        {"layout": {"stripes": 2}},
        {"layout": {"copies": 2}},
    ),
    of_volume(
        "stripe size",
        "spec.layout.stripeSize is immutable",
        "layout.stripeSize",
        {"layout": {"stripeSize": 4096}},
        {"layout": {"stripeSize": 8192}},
        layout={"stripeSize": 8192},
    ),
    of_volume(
        "selector",
        "a key that no label can have",
        "placement.nodeSelector",
        {"placement": {"nodeSelector": {"no label": "x"}}},
        {"placement": {"nodeSelector": {"disk.example.com/type": "ssd"}}},
    ),
    of_volume("uuid", "immutable once set", "uuid", {"uuid": OTHER}, {"uuid": UUID}, uuid=UUID),
    of_volume("uuid away", "immutable once set", "uuid", {"uuid": None}, {"size": "2Gi"}, uuid=UUID),
    of_volume("uuid set later", "spec.size must be", "size", {"size": "1Mi"}, {"uuid": UUID}),
    of_volume("too small", "from 4Mi to 256Ti", "size", {"size": "4194303"}, {"size": "1073741824"}),
    of_volume("too large", "from 4Mi to 256Ti", "size", {"size": "257Ti"}, {"size": "256Ti"}),
    # By a unit: the mapping's bytes are rounded up. What is larger than it was given may be taken back.
    of_size("shrunk", "below what the volume has", {"sizeBytes": 1 << 30}),
    of_size("shrunk while it grows", "is being given", {"sizeBytes": 1 << 29, "growth": {"sizeBytes": 1 << 30}}),
    of_volume(
        "minInSync",
        "must not exceed spec.layout.copies",
        "onFailure.minInSync",
        {"onFailure": {"minInSync": 2}},
        {"onFailure": {"minInSync": 2}, "layout": {"copies": 2}},
    ),
    of_volume(
        "attached elsewhere",
        "names another node already",
        "attachment.node",
        {"attachment": {"node": "n2"}},
        {"attachment": {"node": ""}},
        attachment={"node": "n1"},
    ),
    of_leg("stale", "through Rebuilding only", "state", {"state": "InSync"}, {"state": "Rebuilding"}),
    of_leg("node", "a leg's node is immutable", "node", {"node": "elsewhere"}, {"complete": True}),
    of_leg("extents", "extents only grow", "extents", {"extents": []}, {"extents": [*A["extents"], *A["extents"]]}),
    of_status(
        "failed",
        "through Rebuilding only",
        "mapping.legs[2].state",
        record(1, 6, A, REST[0], {**REST[1], "state": "InSync"}, REST[2]),
        record(1, 6, A, *REST[:2], {**REST[2], "state": "InSync"}),
    ),
    of_status(
        "releasing",
        "releasing cannot be taken back",
        "mapping.legs[2].releasing",
        record(1, 6, A, REST[0], {**REST[1], "releasing": False}, REST[2]),
        record(1, 6, A, REST[0], REST[2]),
    ),
    of_status(
        "generation",
        "generation never falls",
        "mapping.generation",
        record(0, 6, A, *REST),
        record(2, 6, A, *REST),
    ),
    of_status(
        "recordSeq", "recordSeq never falls", "mapping.recordSeq", record(1, 4, A, *REST), record(1, 5, A, *REST)
    ),
    of_status(
        "recordSeq unchanged",
        "must rise with every change",
        "mapping.recordSeq",
        record(2, 5, A, *REST),
        record(2, 6, A, *REST),
    ),
    *(
        of_status(
            f"joins {state}",
            "it starts as Rebuilding",
            "mapping.legs",
            record(2, 6, A, leg("e", state)),
            record(2, 6, A, leg("e", "Rebuilding")),
        )
        for state in ("InSync", "Stale", "Failed")
    ),
    of_status(
        "last leg stale", "the last leg in sync stays", "mapping.legs", record(1, 6, leg("a", "Stale")), record(1, 6, A)
    ),
    of_status("last leg gone", "the last leg in sync stays", "mapping.legs", record(2, 6, *REST), record(2, 6, A)),
    of_status(
        "last leg released",
        "the last leg in sync stays",
        "mapping.legs",
        record(2, 6, {**A, "releasing": True}),
        {"phase": "Deleting", **record(2, 6, {**A, "releasing": True})},
    ),
    of_status(
        "mapped size",
        "sizeBytes never falls",
        "mapping.sizeBytes",
        {"mapping": {**record(2, 6, A)["mapping"], "sizeBytes": 1 << 29}},
        {"mapping": {**record(2, 6, A)["mapping"], "sizeBytes": 1 << 31}},
        {"mapping": {**record(1, 5, A)["mapping"], "sizeBytes": 1 << 30}},
    ),
    of_status("mapping lost", "generation never falls", "mapping.generation", {"mapping": None}, {"message": "kept"}),
    of_status("leg ids", "a leg's id is never reused", "nextLeg", {"nextLeg": 2}, {"nextLeg": 4}, {"nextLeg": 3}),
    of_status(
        "epoch",
        "epoch never falls",
        "attachment.epoch",
        {"attachment": {"epoch": 4}},
        {"attachment": {"epoch": 5, "node": "", "clean": True}},
        {"attachment": {"epoch": 5, "node": "n1", "clean": False}},
    ),
    of_status(
        "same epoch elsewhere",
        "must rise with each attach",
        "attachment.epoch",
        {"attachment": {"node": "n2"}},
        {"attachment": {"node": "n2", "epoch": 6}},
        {"attachment": {"epoch": 5, "node": "n1", "clean": False}},
    ),
    of_status(
        "clean while attached",
        "must be false while a node is named",
        "attachment.clean",
        {"attachment": {"epoch": 1, "node": "n1"}},
        {"attachment": {"epoch": 1, "node": "n1", "clean": False}},
        {},
    ),
    of_device("two identities", "exactly one of", "identity", {"identity": {"wwn": "w"}}),
    of_device("no identity", "exactly one of", "identity", {"identity": {"serial": None}}),
    of_device("another disk", "spec.identity is immutable", "identity", {"identity": {"serial": "s2"}}),
    of_device("another node", "spec.nodeName is immutable", "nodeName", {"nodeName": "n2"}),
    of_quiescence("reason", "Shutdown"),
    of_quiescence("scope", {"volumes": ["v", "w"]}),
    of_quiescence("scope", {"volumes": []}, "names nothing"),
    of_quiescence("holdIo", True),
    of_quiescence("deadlineSeconds", 60),
    of_quiescence("message", "another"),
    of_quiescence("release", False, "cannot be taken back", release=True),
]


async def put(kube: Kube, case: Case, patch: Mapping[str, Any]) -> None:
    for part in ("spec", "status"):
        if part in patch:
            await kube.merge(case.kind, "x", {part: patch[part]}, status=part == "status")


async def given(kube: Kube, case: Case) -> None:
    await kube.create(msgspec.convert({"metadata": {"name": "x"}, "spec": case.given["spec"]}, case.kind))
    await put(kube, case, {name: part for name, part in case.given.items() if name == "status"})


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_rule(case: Case, kube: ApiKube) -> None:
    for server in (kube, MemoryKube()):
        await given(server, case)
        with pytest.raises(Invalid) as refused:
            await put(server, case, case.bad)
        assert f"{case.field}: Invalid value" in str(refused.value)
        assert case.says in str(refused.value)
        await put(server, case, case.good)


def messages(part: Mapping[str, Any]) -> Iterator[str]:
    yield from (rule["message"] for rule in part.get("x-kubernetes-validations", ()))
    for child in [*part.get("properties", {}).values(), part.get("items"), part.get("additionalProperties")]:
        if child:
            yield from messages(child)


def test_every_rule_has_a_case() -> None:
    untried = {m for kind in KINDS for m in messages(schema(kind)) if not any(case.says in m for case in CASES)}
    assert untried == set()
