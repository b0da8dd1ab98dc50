"""Who may make what go still: a person of one namespace, one who may choose anything, and the master, by the chart's
rights and its policy.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
from rendered import rendered, until_taken
from test_admission import nobody

from lab.controlplane import ControlPlane
from millpond_adapters.kube import ApiKube
from millpond_core import names
from millpond_core.errors import Forbidden
from millpond_core.master.steps import Find
from millpond_core.model import API_VERSION, ObjectMeta, Quiescence
from millpond_core.model.quiescence import ClaimScope, QuiescenceSpec, Scope
from millpond_operator import claims

NAMESPACE = "millpond-scope-test"
SHOP, OTHER = "scope-shop", "scope-other"
"""Of their own: nothing ends a namespace here, so one that another test has deleted stays."""
MADE_BY_MASTER = {names.LABEL_MADE_BY: names.MASTER}
NAMED = f"metadata: {{name: forgotten, labels: {{{names.LABEL_MADE_BY}: me}}}}"
REFUSED = f"{{apiVersion: {API_VERSION}, kind: Quiescence, {NAMED}, spec: {{scope: {{cluster: true}}}}}}"


class People(NamedTuple):
    """Our adapter as each of those who write."""

    keeper: ApiKube
    """Of claims in one namespace."""
    chief: ApiKube
    """May choose anything."""
    master: ApiKube
    admin: ApiKube


def claim(name: str, **labels: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


@pytest.fixture(scope="module")
def rights(kubectl: Callable[..., str]) -> Iterator[None]:
    roles = [f"millpond-quiesce-{what}" for what in ("claims", "namespace", "anything")]
    manifest = rendered(NAMESPACE, "millpond-scope", "millpond-operator", *roles)
    for namespace in (NAMESPACE, SHOP, OTHER):
        kubectl("create", "namespace", namespace)
    kubectl("apply", "-f", "-", stdin=manifest)
    for account, role in (("keeper", "claims"), ("chief", "anything")):
        kubectl("create", "serviceaccount", account, "-n", SHOP)
        who = (f"--clusterrole=millpond-quiesce-{role}", f"--serviceaccount={SHOP}:{account}")
        kubectl("create", "clusterrolebinding", f"{NAMESPACE}-{account}", *who)
    there = ("--clusterrole=millpond-quiesce-namespace", f"--serviceaccount={SHOP}:keeper", "-n", SHOP)
    kubectl("create", "rolebinding", "keeper", *there)
    yield
    kubectl("delete", "--wait=false", "-f", "-", stdin=manifest)
    for account in ("keeper", "chief"):
        kubectl("delete", "clusterrolebinding", f"{NAMESPACE}-{account}")
    kubectl("delete", "--wait=false", "namespace", NAMESPACE, SHOP, OTHER)
    until_taken(kubectl, REFUSED)


@pytest.fixture
async def people(
    rights: None, plane: ControlPlane, kube: ApiKube, kubectl: Callable[..., str]
) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:

        async def client(account: str, namespace: str = SHOP) -> ApiKube:
            bearer = kubectl("create", "token", account, "-n", namespace, "--duration=1h").strip()
            return await stack.enter_async_context(ApiKube(nobody(plane, bearer), component=account))

        keeper, chief = [await client(account) for account in ("keeper", "chief")]
        await in_force(keeper)
        yield People(keeper, chief, await client("millpond-operator", NAMESPACE), kube)


async def in_force(keeper: ApiKube) -> None:
    """Wait until the policy refuses what it must, and each of the keeper's rights is known."""
    async with asyncio.timeout(50):
        for attempt in itertools.count():
            try:
                await keeper.create(asked(f"probe-{attempt}", claims=[ClaimScope(namespace=OTHER)]))
            except Forbidden as refused:  # first for want of the right, which takes a moment too
                if "may not quiesce claims of all" in str(refused):
                    break
            await asyncio.sleep(0.1)
        while True:
            try:
                await keeper.create(asked("probe", claims=[ClaimScope(namespace=SHOP)]))
                break
            except Forbidden:
                await asyncio.sleep(0.1)


def asked(name: str, *, labels: dict[str, str] | None = None, reason: Any = "Manual", **wanted: Any) -> Quiescence:
    return Quiescence(
        metadata=ObjectMeta(name=name, labels=labels or {}), spec=QuiescenceSpec(scope=Scope(**wanted), reason=reason)
    )


async def test_a_person_of_a_namespace_quiesces_its_claims(people: People) -> None:
    made = await people.keeper.create(asked("mine", claims=[ClaimScope(namespace=SHOP, names=["db-0"])]))
    assert made.spec.scope.claims[0].names == ["db-0"]
    await people.keeper.merge(Quiescence, "mine", {"spec": {"release": True}})
    await people.keeper.delete(Quiescence, "mine")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            {"claims": [ClaimScope(namespace=SHOP), ClaimScope(namespace=OTHER)]},
            f"of all of these namespaces: {SHOP}, {OTHER}; that",
        ),
        ({"volumes": ["v1"]}, r"claims alone, not spec\.scope\.volumes: that"),
        (
            {"claims": [ClaimScope(namespace=SHOP)], "nodes": ["n1"], "devices": ["d1"]},
            r"scope\.devices, spec\.scope\.n",
        ),
        ({"cluster": True}, r"not spec\.scope\.cluster: that needs the verb quiesce on virtualvolumes"),
    ],
)
async def test_and_nothing_else(people: People, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(Forbidden, match=said):
        await people.keeper.create(asked("theirs", **wanted))
    await people.chief.create(asked("theirs", **wanted))
    attempts = (
        lambda: people.keeper.merge(Quiescence, "theirs", {"spec": {"release": True}}),
        lambda: people.keeper.delete(Quiescence, "theirs"),
    )
    for attempt in attempts:
        with pytest.raises(Forbidden, match=said):
            await attempt()
    await people.chief.merge(Quiescence, "theirs", {"spec": {"release": True}})


async def test_nobody_passes_for_the_master(people: People) -> None:
    await people.master.create(asked("masters", labels=MADE_BY_MASTER, reason="DeviceFailed", volumes=["v1"]))
    for kube in (people.keeper, people.chief, people.admin):
        shop = [ClaimScope(namespace=SHOP)]
        with pytest.raises(Forbidden, match="made-by is written by the master only"):
            await kube.create(asked("false", labels=MADE_BY_MASTER, claims=shop))
        with pytest.raises(Forbidden, match="reason DeviceFailed is given by the master only"):
            await kube.create(asked("false", reason="DeviceFailed", claims=shop))
    with pytest.raises(Forbidden, match="made-by is written by the master only"):
        await people.admin.merge(Quiescence, "masters", {"metadata": {"labels": None}})
    await people.admin.merge(Quiescence, "masters", {"spec": {"release": True}})
    await people.admin.delete(Quiescence, "masters")


async def test_the_master_finds_claims_by_their_labels(people: People) -> None:
    for namespace, name, labels in (
        (SHOP, "db-0", {"app.kubernetes.io/name": "db", "tier": "a"}),
        (SHOP, "db-1", {"app.kubernetes.io/name": "db", "tier": "b"}),
        (OTHER, "db-2", {"app.kubernetes.io/name": "db"}),
    ):
        await people.admin.raw("POST", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim(name, **labels))

    async def found(*labels: dict[str, str]) -> list[list[str]]:
        step = Find("u", tuple(ClaimScope(namespace=SHOP, match_labels=each) for each in labels))
        there = await claims.find(people.master, step, 7.0)
        assert (there.error, there.at) == ("", 7.0)
        return [sorted(each) for each in there.claims]

    db = {"app.kubernetes.io/name": "db"}
    assert await found(db, {**db, "tier": "b"}, {}) == [[f"{SHOP}/db-0", f"{SHOP}/db-1"], [f"{SHOP}/db-1"], []]
    refused = await claims.find(people.master, Find("u", (ClaimScope(namespace=SHOP, match_labels={"a&b": ""}),)), 7.0)
    assert "its labels cannot be asked for" in refused.error
