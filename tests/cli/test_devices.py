"""``kubectl millpond plan``, ``drain``, ``retire``, ``replace`` and ``undrain``, with the operator's own master behind
the API server in memory, and nodes that do as they are told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from harness import Cluster, attached, leg_on, remote, three_nodes

from millpond_cli import account, devices, emptying, main, terminal
from millpond_core import names
from millpond_core.errors import Invalid, NotFound
from millpond_core.instants import clock
from millpond_core.master import foresight
from millpond_core.model import StorageDevice, VirtualVolume

Invoke = Callable[..., Coroutine[Any, Any, int]]


@pytest.fixture
async def cluster() -> Cluster:
    """Three nodes with one device of 1 GiB each."""
    return await three_nodes(1, 1, 1)


@pytest.fixture
def invoke(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """The exit status of a command line, with the cluster's API server."""
    works: list[Any] = []
    monkeypatch.setattr(devices, "run", lambda _, work: works.append(work))
    monkeypatch.setattr(terminal, "run", lambda _, work: works.append(work))
    monkeypatch.setattr(devices, "SystemClock", lambda: cluster.clock)
    monkeypatch.setattr("time.time", cluster.clock.now)

    async def invoked(*arguments: str) -> int:
        parsed = CliRunner().invoke(main.cli, [*arguments])
        if not works:
            return parsed.exit_code
        async with asyncio.timeout(60):
            return await works.pop()(cluster.kube) or 0

    return invoked


@asynccontextmanager
async def everyone_acts(cluster: Cluster, meanwhile: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """The operator and the nodes, as time passes."""

    async def act() -> None:
        while True:
            meanwhile()
            await cluster.turn()
            await cluster.nodes.act()
            cluster.clock.pass_(0.25)

    task = asyncio.create_task(act())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def claimed(cluster: Cluster, claim: str = "shop/db-0", **volume: Any) -> str:
    """The device of the leg that is not on n1, or of the only one."""
    await attached(cluster, **volume)
    await cluster.kube.merge(VirtualVolume, "v1", {"metadata": {"annotations": {names.ANNOTATION_CLAIM: claim}}})
    await cluster.settle()
    legs = (await cluster.volume()).status.mapping.legs
    leg = remote(await cluster.volume()) if len(legs) > 1 else legs[0]
    return leg.extents[0].device


async def pod(cluster: Cluster, name: str, claim: str) -> None:
    namespace = "shop"
    body = {"metadata": {"name": name}, "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": claim}}]}}
    await cluster.kube.raw("POST", f"/api/v1/namespaces/{namespace}/pods", body)


# --- the plan ---------------------------------------------------------------------------------------------------------


async def test_a_plan_says_every_step_and_who_is_concerned(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster)
    await pod(cluster, "db-0", "db-0")
    await pod(cluster, "web-0", "pictures")
    assert device == "n2-d1"
    assert await invoke("plan", "drain", device, "--rate", "50Mi") == 0
    assert capsys.readouterr().out.splitlines() == [
        "drain n2-d1 on n2: 1 volume, 400Mi to copy, about 8 s",
        "  reckoned with 50Mi/s where no spec.rebuild.maxRate is lower, one copy after the other",
        "  shop/db-0 (v1): 400Mi from leg a on n1, about 8 s; used by shop/db-0",
        "    2/2  as it is",
        "    2/2  spare c on n3 (n3-d1) is allocated",
        "    2/2  leg c on n3 (n3-d1) joins, to be copied",
        "    3/2  leg c on n3 (n3-d1) is copied and in sync",
        "    2/2  leg b on n2 (n2-d1) is given up",
        "    2/2  leg b on n2 (n2-d1) is gone, its room free",
        "in the end n2-d1 is Drained",
    ]
    assert (await cluster.device(device)).spec.desired_state == "InService", "a plan does nothing"


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
async def test_a_plan_for_a_program(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str], form: str, load: Callable[[str], Any]
) -> None:
    device = await claimed(cluster)
    assert await invoke("plan", "replace", device, "-o", form) == 0
    plan = load(capsys.readouterr().out)
    assert (plan["kind"], plan["deed"], plan["device"], plan["ends"]) == ("Plan", "Replace", device, "Deleted")
    assert (plan["bytes"], plan["losses"], plan["atRisk"]) == (400 << 20, [], [])
    [move] = plan["moves"]
    assert (move["claim"], move["leg"], move["source"], move["copies"]) == ("shop/db-0", "b", "a on n1", 2)
    assert [step["event"] for step in move["steps"]] == ["Allocated", "Joined", "Copied", "GivenUp", "Released"]
    assert [step["copies"] for step in move["steps"]] == [2, 2, 3, 2, 2]


async def test_a_plan_names_what_is_in_the_way(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster)
    await cluster.kube.merge(StorageDevice, "n3-d1", {"spec": {"desiredState": "Drained"}})
    await cluster.settle()
    assert await invoke("plan", "retire", device) == 0
    shown = capsys.readouterr().out
    assert "in the way: no spare can be placed: needs 404Mi on each of 1 more node(s), 0 found" in shown
    assert "in the end n2-d1 is Draining: 0/1 legs replaced" in shown


async def test_a_plan_of_work_on_a_node_says_what_is_left_meanwhile(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    await claimed(cluster)
    await pod(cluster, "db-0", "db-0")
    assert await invoke("plan", "maintain", "n2", "--intent", "reboot", "--for", "30m") == 0
    until = clock(cluster.clock.now() + 1800)
    assert capsys.readouterr().out.splitlines() == [
        "reboot n2: 1 volume, nothing to copy",
        "  reckoned with what is written meanwhile, which is all that a leg gets that was away",
        "  shop/db-0 (v1): no copy; used by shop/db-0",
        "    2/2  as it is",
        "    1/2  while n2 is away",
        f"in the end n2 is CopiesElsewhere: it may be away until {until}: "
        "each volume with a leg here has a copy in sync elsewhere",
        "on one copy or none meanwhile: shop/db-0 (v1)",
    ]
    assert (await cluster.node("n2")).spec.maintenance.intent == "None", "a plan does nothing"
    assert await invoke("plan", "maintain", "n2", "--intent", "retire", "--rate", "50Mi") == 0
    shown = capsys.readouterr().out
    assert "retire n2: 1 volume, 400Mi to copy, about 8 s" in shown
    assert "in the end n2 is Empty: no leg lies here any more" in shown


async def test_a_plan_of_a_reboot_needs_its_length(invoke: Invoke) -> None:
    assert await invoke("plan", "maintain", "n2", "--intent", "reboot") == 2


async def test_a_device_that_nobody_knows(cluster: Cluster, invoke: Invoke) -> None:
    with pytest.raises(NotFound, match="there is no StorageDevice nowhere: kubectl get sdev lists them"):
        await invoke("plan", "drain", "nowhere")


# --- the acts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "ends"), [("drain", "Drained"), ("retire", "Retired"), ("replace", "Deleted")])
async def test_an_act_shows_its_plan_and_is_followed_to_its_end(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str], command: str, ends: str
) -> None:
    device = await claimed(cluster)
    async with everyone_acts(cluster):
        assert await invoke(command, device) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"n2-d1 is {ends}: 1 leg given up, 400Mi copied", "as planned"]
    progress = said.err.splitlines()
    assert progress[0] == f"{command} n2-d1 on n2: 1 volume, 400Mi to copy, about 4 s"
    told = [line for line in progress if line.startswith(("shop/db-0: spare", "shop/db-0: leg")) and "(" in line]
    assert told == [
        "shop/db-0: spare c on n3 (n3-d1) is allocated",
        "shop/db-0: leg c on n3 (n3-d1) joins, to be copied",
        "shop/db-0: leg c on n3 (n3-d1) is copied and in sync",
        "shop/db-0: leg b on n2 (n2-d1) is given up",
        "shop/db-0: leg b on n2 (n2-d1) is gone, its room free",
    ]
    assert "n2-d1: 0/1 legs replaced" in progress
    assert {leg.node for leg in (await cluster.volume()).status.mapping.legs} == {"n1", "n3"}


async def test_a_watch_of_the_volumes_that_lags_makes_no_departure(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster)
    watch = cluster.kube.watch

    async def lagging(kind: Any, **which: Any) -> AsyncIterator[Any]:
        async for event, obj in watch(kind, **which):
            if kind is VirtualVolume and event == "MODIFIED":
                await asyncio.Event().wait()
            yield event, obj

    cluster.kube.watch = lagging  # type: ignore[method-assign]
    async with everyone_acts(cluster):
        assert await invoke("drain", device) == 0
    assert capsys.readouterr().out.splitlines() == ["n2-d1 is Drained: 1 leg given up, 400Mi copied", "as planned"]


async def test_a_device_that_is_gone_before_anyone_looks_is_done(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await claimed(cluster)
    ask = emptying.ask

    async def asked(*what: Any) -> None:
        await ask(*what)
        await cluster.settle()

    monkeypatch.setattr(emptying, "ask", asked)
    assert await invoke("replace", "n3-d1") == 0
    assert capsys.readouterr().out.splitlines() == ["n3-d1 is Deleted: 0 legs given up, 0 copied", "as planned"]


async def test_a_dead_disk_that_is_drained_is_to_be_replaced(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot say that it is Drained; its last leg is given up, and gone with the device alone."""
    device = await claimed(cluster, grace=2)
    cluster.nodes.pull(device)
    await cluster.settle()
    async with everyone_acts(cluster):
        assert await invoke("drain", device) == 0
    said = capsys.readouterr()
    why = "its leg is given up; its disk is not there: it is given back when the StorageDevice is deleted (replace)"
    assert f"    in the way: {why}" in said.err.splitlines()
    ended, account = said.out.splitlines()
    assert "nothing needs it any more: kubectl millpond replace n2-d1 deletes it" in ended
    assert account == "as planned"


async def test_where_it_departs_from_the_plan_it_says_so(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the spare is copied its disk is pulled: the leg goes to another, which is copied once more."""
    device = await claimed(cluster, grace=1)
    await cluster.nodes.add_device("n2-d2", "n2", units=150)
    cluster.nodes.nodes["n1"].slow_rebuild = True

    def pull() -> None:
        node = cluster.nodes.nodes["n1"]
        if node.slow_rebuild and any(path == ("v1", "c") for path in node.paths):
            cluster.nodes.pull("n3-d1")
            node.slow_rebuild = False

    async with everyone_acts(cluster, pull):
        assert await invoke("drain", device, "-o", "json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["kind"], outcome["plan"]["device"], outcome["left"]) == ("Outcome", device, [])
    assert "planned, and not seen: v1: leg c on n3 (n3-d1) is copied and in sync" in outcome["departures"]
    assert "not planned: v1: leg d on n2 (n2-d2) is copied and in sync" in outcome["departures"]
    assert outcome["bytes"] == 400 << 20


async def test_who_does_not_wait_is_told_where_to_look(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster)
    assert await invoke("drain", device, "--no-wait") == 0
    assert capsys.readouterr().out == "n2-d1: asked for; kubectl get sdev n2-d1 shows how far it is\n"
    assert (await cluster.device(device)).spec.desired_state == "Drained"


async def test_the_rest_of_a_drain_waits_for_what_the_plan_named(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster)
    await cluster.nodes.want("v1", "")
    await cluster.settle()
    async with everyone_acts(cluster):
        assert await invoke("drain", device) == 4
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "n2-d1 is as empty as it can be now; the operator goes on when this is no more: v1: it is not attached, and "
        "nothing is copied before it is: start a pod that uses it"
    )
    assert second == "as planned"


async def test_nobody_waits_for_ever(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await claimed(cluster)
    monkeypatch.setattr(emptying, "SILENT_SECONDS", 0.2)
    assert await invoke("drain", device) == 4
    assert "nothing has become of n2-d1 in 200 ms: does the operator run?" in capsys.readouterr().out


# --- what would be lost -----------------------------------------------------------------------------------------------


async def last_copy_on_a_dead_disk(cluster: Cluster) -> str:
    device = await claimed(cluster, copies=1)
    cluster.nodes.pull(device)
    await cluster.settle()
    return device


@pytest.mark.parametrize("accepted", [(), ("--accept-data-loss=v2",)])
async def test_an_act_that_would_leave_a_volume_without_a_copy_is_refused(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str], accepted: tuple[str, ...]
) -> None:
    device = await last_copy_on_a_dead_disk(cluster)
    for command in ("drain", "retire", "replace"):
        assert await invoke(command, device, *accepted) == 3
        *plan, refusal = capsys.readouterr().err.splitlines()
        assert plan[0] == f"{command} n1-d1 on n1: 1 volume, nothing to copy"
        assert "without n1-d1 no copy is left of: shop/db-0 (v1)" in plan
        assert refusal.startswith("refused: n1-d1 has the last copy in reach of v1;")
        assert refusal.endswith("say --accept-data-loss=v1")
    there = await cluster.device(device)
    assert (there.spec.desired_state, there.metadata.deletion_timestamp) == ("InService", None)


async def test_a_dead_disk_with_a_last_copy_goes_when_its_loss_is_accepted(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """v2 has another copy, which is made two again first: its leg is not given up by what is said of v1."""
    device = await claimed(cluster, copies=1)
    await cluster.nodes.add_volume("v2", 2, preferred_node="n1", grace=2)
    await cluster.settle()
    await cluster.nodes.want("v2", "n1")
    await cluster.settle()
    assert leg_on(await cluster.volume("v2"), "n1").extents[0].device == device
    cluster.nodes.pull(device)
    await cluster.settle()
    replaced_first: list[bool] = []
    merge = cluster.kube.merge

    async def merged(kind: Any, name: str, patch: Any, **how: Any) -> Any:
        if patch.get("metadata", {}).get("annotations", {}).get(names.ANNOTATION_ACCEPT_DATA_LOSS):
            legs = (await cluster.volume("v2")).status.mapping.legs
            replaced_first.append(all(leg.releasing or leg.node != "n1" for leg in legs))
        return await merge(kind, name, patch, **how)

    cluster.kube.merge = merged  # type: ignore[method-assign]
    async with everyone_acts(cluster):
        assert await invoke("replace", device, "--accept-data-loss", "v1", "--accept-data-loss", "v2") == 0
    assert replaced_first == [True]
    said = capsys.readouterr()
    assert "the loss of v1 is accepted, as was said" in said.err
    assert said.out.splitlines()[0] == "n1-d1 is Deleted: 1 leg given up, 400Mi copied"
    with pytest.raises(NotFound):
        await cluster.device(device)
    assert (await cluster.volume("v2")).status.copies == "2/2"


async def test_a_drain_leaves_a_last_copy_where_it_is_when_that_is_accepted(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster, copies=1)
    await cluster.nodes.want("v1", "")
    await cluster.settle()
    async with everyone_acts(cluster):
        assert await invoke("drain", device, "--accept-data-loss=v1") == 0
    assert capsys.readouterr().out.splitlines() == [
        "n1-d1 is emptied but for v1, as was accepted: 0 legs given up, 0 copied",
        "as planned",
    ]
    assert names.ANNOTATION_ACCEPT_DATA_LOSS not in (await cluster.device(device)).metadata.annotations
    assert leg_on(await cluster.volume(), "n1").state == "InSync"


async def test_what_was_accepted_some_time_ago_gives_nothing_up(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """The only copy, which can be moved: the annotation alone would have let the device go with it."""
    device = await claimed(cluster, copies=1)
    uuid = (await cluster.device(device)).status.observation.device_uuid
    old = {"metadata": {"annotations": {names.ANNOTATION_ACCEPT_DATA_LOSS: uuid}}}
    await cluster.kube.merge(StorageDevice, device, old)
    async with everyone_acts(cluster):
        assert await invoke("replace", device) == 0
    assert capsys.readouterr().out.splitlines() == ["n1-d1 is Deleted: 1 leg given up, 400Mi copied", "as planned"]
    [leg] = (await cluster.volume()).status.mapping.legs
    assert (leg.id, leg.state) == ("b", "InSync")


async def test_a_volume_that_is_deleted_and_made_again_meanwhile_is_another(
    cluster: Cluster,
) -> None:
    device = await claimed(cluster)
    world = await emptying.look(cluster.kube)
    story = account.Story(world, foresight.plan(world, "Drain", device, cluster.clock.now()), lambda _: None)
    there = await cluster.volume()
    story.see("DELETED", there)
    story.see("ADDED", there)
    assert (story.left(), story.steps) == (set(), [])


async def test_an_acceptance_needs_someone_who_waits(invoke: Invoke) -> None:
    assert await invoke("replace", "n1-d1", "--no-wait", "--accept-data-loss=v1") == 2


# --- another in its place, and back -----------------------------------------------------------------------------------


async def test_a_dead_disk_is_replaced_by_one_command(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    device = await claimed(cluster, grace=5)
    cluster.nodes.pull(device)
    await cluster.settle()
    await cluster.nodes.add_device("n2-new", "n2", units=1024)
    await cluster.settle()
    async with everyone_acts(cluster):
        assert await invoke("replace", device, "--with", "n2-new") == 0
    said = capsys.readouterr()
    assert "0 of 1 new legs go to n2-new" in said.err, "its node is doubted, so n3 is taken while there is room"
    assert said.out.splitlines() == ["n2-d1 is Deleted: 1 leg given up, 400Mi copied", "as planned"]


async def test_a_dead_disk_is_replaced_once_the_copy_is_made(
    cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its StorageDevice goes at once, as nothing can be given back."""
    device = await claimed(cluster, grace=3600)
    cluster.nodes.pull(device)
    await cluster.settle()
    cluster.nodes.nodes["n1"].slow_rebuild = True
    looks = 0

    def later() -> None:
        nonlocal looks
        looks += 1
        cluster.nodes.nodes["n1"].slow_rebuild = looks < 200

    async with everyone_acts(cluster, later):
        assert await invoke("replace", device) == 0
    assert {leg.state for leg in (await cluster.volume()).status.mapping.legs} == {"InSync"}
    said = capsys.readouterr().out
    assert "1 leg given up, 400Mi copied" in said
    assert "as planned" in said


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("nowhere", "there is no StorageDevice nowhere"),
        ("n2-d1", "n2-d1 cannot take its own place"),
        ("n2-fast", "n2-fast belongs to pool fast, n2-d1 to pool default"),
        ("n2-sick", "nothing can be placed on n2-sick: not online"),
    ],
)
async def test_what_cannot_take_its_place_is_refused(cluster: Cluster, invoke: Invoke, new: str, why: str) -> None:
    await claimed(cluster)
    await cluster.nodes.add_device("n2-fast", "n2", pool="fast")
    await cluster.nodes.add_device("n2-sick", "n2")
    cluster.nodes.pull("n2-sick")
    await cluster.settle()
    with pytest.raises((Invalid, NotFound), match=why):
        await invoke("replace", "n2-d1", "--with", new)
    assert (await cluster.device("n2-d1")).metadata.deletion_timestamp is None


async def test_a_drain_is_taken_back(cluster: Cluster, invoke: Invoke, capsys: pytest.CaptureFixture[str]) -> None:
    device = await claimed(cluster)
    assert await invoke("drain", device, "--no-wait") == 0
    assert await invoke("undrain", device) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("n2-d1 is in service again")
    await cluster.settle()
    assert (await cluster.device(device)).status.phase == "Online"
    await cluster.kube.delete(StorageDevice, device)
    with pytest.raises(Invalid, match="n2-d1 is being deleted, which cannot be taken back"):
        await invoke("undrain", device)
