"""What a quiescence of people's is for, and what of it is refused."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest
from master_world import NOW, leg, legs, mapped, meta, quiescence, world

from millpond_core import names
from millpond_core.master import planner, scope
from millpond_core.master.steps import Act, Find, Patch, Wait
from millpond_core.master.world import Found, World
from millpond_core.model import Quiescence, VirtualVolume
from millpond_core.model.quiescence import ClaimScope, Scope
from millpond_core.model.storagenode import NodeQuiescence


def volume(name: str, claim: str, *nodes: str, at: str = "n1") -> VirtualVolume:
    """Of ``nodes``' first devices, attached to ``at``."""
    made = mapped(mapping=legs(*(leg(chr(ord("a") + i), node) for i, node in enumerate(nodes))))
    attachment = msgspec.structs.replace(made.status.attachment, node=at)
    return msgspec.structs.replace(
        made,
        metadata=meta(name, annotations={names.ANNOTATION_CLAIM: claim} if claim else {}),
        spec=msgspec.structs.replace(made.spec, uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name))),
        status=msgspec.structs.replace(made.status, attachment=attachment),
    )


THERE = (
    volume("v-db0", "shop/db-0", "n1", "n2"),
    volume("v-db1", "shop/db-1", "n2", "n3", at="n2"),
    volume("v-log", "logs/log", "n1", "n3"),
    volume("v-dns", "kube-system/dns", "n1", "n2"),
    volume("v-bare", "", "n2", "n3", at=""),
)


def asked(*, hold_io: bool = False, **wanted: Any) -> Quiescence:
    made = quiescence("q", "Pending", own=False, reason="Manual", volumes=[])
    return msgspec.structs.replace(
        made, spec=msgspec.structs.replace(made.spec, scope=Scope(**wanted), hold_io=hold_io)
    )


def shop(**more: Any) -> ClaimScope:
    return ClaimScope(namespace="shop", **more)


def entered(there: World, name: str = "q") -> dict[str, Any]:
    """The status that the next step writes."""
    decision = planner.decide(there, there.quiescences[name], NOW)
    assert isinstance(decision, Act), decision
    assert isinstance(decision.step, Patch), decision
    return dict(decision.step.operations[-1]["value"])


@pytest.mark.parametrize(
    ("wanted", "volumes", "participants"),
    [
        ({"volumes": ["v-log"]}, ["v-log"], ["n1"]),
        ({"claims": [shop()]}, ["v-db0", "v-db1"], ["n1", "n2"]),
        ({"claims": [shop(names=["db-1"])]}, ["v-db1"], ["n2"]),
        ({"claims": [shop(names=["db-1"]), ClaimScope(namespace="logs")]}, ["v-db1", "v-log"], ["n1", "n2"]),
        ({"devices": ["n3-d1"]}, ["v-bare", "v-db1", "v-log"], ["n1", "n2"]),
        ({"nodes": ["n2"]}, ["v-db1"], ["n2"]),
        ({"nodes": ["n2"], "volumes": ["v-log"]}, ["v-db1", "v-log"], ["n1", "n2"]),
        ({"cluster": True}, ["v-bare", "v-db0", "v-db1", "v-dns", "v-log"], ["n1", "n2"]),
    ],
)
def test_a_scope_names_volumes_in_many_ways(
    wanted: dict[str, Any], volumes: list[str], participants: list[str]
) -> None:
    status = entered(world(*THERE, asked(**wanted)))
    assert status["phase"] == "Instructed"
    assert status["volumes"] == volumes
    assert status["participants"] == participants


@pytest.mark.parametrize(
    ("hold_io", "wanted", "said"),
    [
        (False, {"volumes": ["v-log", "v-lgo"]}, "there is no volume v-lgo"),
        (False, {"devices": ["n9-d1"], "nodes": ["n9"]}, "there is no device n9-d1, no node n9"),
        (False, {"claims": [shop(names=["db-0", "db-7"])]}, "no volume of ours serves claim shop/db-7"),
        (False, {"claims": [ClaimScope(namespace="empty")]}, "no volume is in its scope"),
        (False, {"nodes": ["n3"]}, "no volume is in its scope"),
        (True, {"cluster": True}, "it would hold reads and writes of kube-system/dns"),
        (True, {"volumes": ["v-dns"]}, "leave that out, or do without holdIo"),
    ],
)
def test_what_is_refused_says_why(hold_io: bool, wanted: dict[str, Any], said: str) -> None:
    status = entered(world(*THERE, asked(hold_io=hold_io, **wanted)))
    assert status["phase"] == "Aborted"
    assert status["message"].startswith("refused: ")
    assert said in status["message"]
    assert not status["volumes"]


def test_too_many_volumes_are_refused() -> None:
    many = [volume(f"v{number:04}", "", "n1", "n2") for number in range(scope.MOST + 1)]
    assert f"{scope.MOST + 1} volumes are in its scope" in entered(world(*many, asked(cluster=True)))["message"]


def test_the_masters_own_are_not_refused_for_what_is_gone() -> None:
    there = world(*THERE, quiescence("q", "Pending", volumes=["v-gone"]))
    assert entered(there)["phase"] == "Released"


def test_labels_are_asked_for_when_its_turn_comes_and_again_when_that_is_old() -> None:
    q = asked(claims=[shop(match_labels={"app": "db"}), ClaimScope(namespace="logs")])
    there = world(*THERE, q)
    decision = planner.decide(there, q, NOW)
    assert isinstance(decision, Act)
    assert decision.step == Find(q.metadata.uid, tuple(q.spec.scope.claims))

    there.found[q.metadata.uid] = Found([frozenset({"shop/db-1", "logs/log"}), frozenset()], NOW - 1)
    assert entered(there)["volumes"] == ["v-db1", "v-log"]
    there.found[q.metadata.uid] = Found([frozenset({"shop/db-1"}), frozenset()], NOW - scope.FOUND_SECONDS)
    decision = planner.decide(there, q, NOW)
    assert isinstance(decision, Act)
    assert isinstance(decision.step, Find)
    there.remove(q)
    assert not there.found


def test_labels_that_nobody_can_ask_for_are_refused() -> None:
    q = asked(claims=[shop(match_labels={"app": "db"})])
    there = world(*THERE, q)
    there.found[q.metadata.uid] = Found(at=NOW, error="its labels cannot be asked for: no")
    assert "cannot be asked for" in entered(there)["message"]


def test_it_waits_for_those_with_a_volume_in_common_that_came_before() -> None:
    before = quiescence("before", "Quiesced", own=False, volumes=["v-db0"])
    waiting = quiescence("apart", "Pending", own=False, volumes=["v-log"], created=NOW - 5)
    q = asked(claims=[shop()])
    assert entered(world(*THERE, before, waiting, q))["message"] == "waits for before, with a volume in common"


def test_how_long_it_was_held_is_noted_when_the_last_node_has_let_go() -> None:
    q = quiescence("q", "Released", own=False, volumes=["v-db0"])
    there = world(*THERE, q)
    node = there.nodes["n1"]
    answer = NodeQuiescence(uid=q.metadata.uid, name="q", phase="Released", held_ms=3070)
    status = msgspec.structs.replace(node.status, quiescences=[answer])
    there.put(msgspec.structs.replace(node, status=status))
    noted = entered(there)
    assert (noted["phase"], noted["longestHoldMs"], noted["held"]) == ("Released", 3070, "3070ms")
    there.put(msgspec.structs.replace(q, status=msgspec.structs.replace(q.status, longest_hold_ms=3070)))
    assert isinstance(planner.decide(there, there.quiescences["q"], NOW), Wait)
