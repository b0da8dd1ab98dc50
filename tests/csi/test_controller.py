"""The Controller service: idempotence, refusals, waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millpond_core import names
from millpond_core.errors import Conflict, Invalid, NotFound, Unavailable
from millpond_core.model import ObjectMeta, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import (
    Attachment,
    Leg,
    Mapping,
    NodeReport,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_csi import volumes
from millpond_csi.errors import AlreadyExists, NoRoom, NotReady, OutOfRange, Refused
from millpond_csi.stubs import csi
from millpond_csi.testing import Mode, block_capability, mount_capability

MIB = 1 << 20
HOSTILE = ["..", "a/b", "a\0", "a" * 5000]


def on(*nodes: str) -> Any:
    topologies = [csi.Topology(segments={"topology.millpond.io/node": node}) for node in nodes]
    return csi.TopologyRequirement(requisite=topologies, preferred=topologies)


# --- create ---


async def test_the_same_call_again_finds_the_same_volume(driver: Any) -> None:
    first = await driver.create(parameters={"copies": "2"})
    again = await driver.create(parameters={"copies": "2"}, accessibility_requirements=on("n2"))
    assert first == again
    assert len(await driver.kube.list(VirtualVolume)) == 1


@pytest.mark.parametrize(
    "fields",
    [{"size": 128 * MIB}, {"parameters": {"copies": "3"}}, {"capacity_range": {"limit_bytes": 32 * MIB}}],
)
async def test_another_volume_of_the_same_name_is_refused(driver: Any, fields: dict[str, Any]) -> None:
    await driver.create()
    with pytest.raises(AlreadyExists, match=r"pvc-1 exists and differs: .+"):
        await driver.create(**fields)


async def test_a_name_that_is_no_id_is_kept_as_an_annotation(driver: Any) -> None:
    volume = await driver.create("Sanity ÄÖ-01")
    stored = await driver.kube.get(VirtualVolume, volume.volume_id)
    annotations = {key: text for key, text in stored.metadata.annotations.items() if key != names.ANNOTATION_ALLOCATED}
    assert annotations == {"millpond.io/requested-name": "Sanity ÄÖ-01"}


async def test_no_room_is_said_with_the_masters_reason_and_leaves_nothing(driver: Any) -> None:
    with pytest.raises(NoRoom, match="1073741824 are free on n1"):
        await driver.create(size=2048 * MIB)
    await driver.call("delete_volume", volume_id="pvc-1")
    assert await driver.kube.list(VirtualVolume) == []
    assert (await driver.create(size=64 * MIB)).volume_id == "pvc-1"


async def test_a_volume_that_is_not_ready_in_time_is_waited_for_again(driver: Any) -> None:
    driver.master.stuck.add("allocate")
    with pytest.raises(NotReady, match="is the operator running"):
        await driver.call(
            "create_volume", 0.3, name="pvc-1", volume_capabilities=[mount_capability()], parameters={"copies": "2"}
        )
    uuid = (await driver.kube.get(VirtualVolume, "pvc-1")).spec.uuid
    driver.master.stuck.clear()
    await driver.kube.merge(VirtualVolume, "pvc-1", {"metadata": {"annotations": {"poke": "1"}}})
    volume = await driver.create(capacity_range={}, parameters={"copies": "2"})
    assert volume.volume_context["uuid"] == uuid


async def test_a_claim_is_bound_before_the_legs_are_zeroed(driver: Any) -> None:
    """Which for a large volume takes minutes; attaching it waits, and says for what."""
    driver.master.stuck.add("prepare")
    volume = await driver.create()
    stored = await driver.kube.get(VirtualVolume, volume.volume_id)
    assert (stored.status.phase, stored.status.mapping.generation) == ("Preparing", 1)
    asked = {"volume_id": volume.volume_id, "node_id": "n1", "volume_capability": mount_capability()}
    with pytest.raises(NotReady, match="the master has not attached it yet"):
        await driver.call("controller_publish_volume", 0.3, **asked)
    driver.master.stuck.clear()
    await driver.kube.merge(VirtualVolume, "pvc-1", {"metadata": {"annotations": {"poke": "1"}}})
    assert (await driver.attach(volume))["epoch"] == "1"


async def test_a_volume_that_is_being_deleted_is_not_taken_for_the_new_one(driver: Any) -> None:
    await driver.create()
    driver.master.stuck.add("release")
    with pytest.raises(NotReady):
        await driver.call("delete_volume", 0.3, volume_id="pvc-1")
    with pytest.raises(NotReady, match="still being deleted"):
        await driver.call(
            "create_volume",
            0.3,
            name="pvc-1",
            volume_capabilities=[mount_capability()],
            capacity_range={"required_bytes": 64 * MIB},
        )


async def test_the_first_preferred_node_is_preferred(driver: Any) -> None:
    await driver.create(accessibility_requirements=on("n2", "n1"))
    assert (await driver.kube.get(VirtualVolume, "pvc-1")).spec.placement.preferred_node == "n2"


async def test_with_access_any_a_volume_is_reachable_from_everywhere(driver: Any) -> None:
    assert list((await driver.create(accessibility_requirements=on("n3"))).accessible_topology) == []


async def test_with_leg_nodes_only_a_volume_is_reachable_from_its_legs(driver: Any) -> None:
    volume = await driver.create(parameters={"access": "LegNodes"}, accessibility_requirements=on("n1", "n2"))
    assert [dict(t.segments) for t in volume.accessible_topology] == [{"topology.millpond.io/node": "n1"}]


async def test_with_leg_nodes_only_a_leg_elsewhere_is_no_room(driver: Any) -> None:
    with pytest.raises(NoRoom, match="may run on n3, but there was room on n1 only"):
        await driver.create(parameters={"access": "LegNodes"}, accessibility_requirements=on("n3"))
    await driver.call("delete_volume", volume_id="pvc-1")
    assert await driver.kube.list(VirtualVolume) == []


@pytest.mark.parametrize("used", [False, True], ids=["ready", "attached-before"])
async def test_a_volume_that_was_there_before_is_never_deleted(driver: Any, used: bool) -> None:
    """Equal in all parameters but out of reach for this pod: whoever got it from the first call may have used it."""
    volume = await driver.create(parameters={"access": "LegNodes"}, accessibility_requirements=on("n1"))
    if used:
        await driver.attach(volume)
        await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id="n1")
    with pytest.raises(AlreadyExists, match=r"pvc-1 exists and is not what is asked for: .* may run on n3"):
        await driver.create(parameters={"access": "LegNodes"}, accessibility_requirements=on("n3"))
    assert (await driver.kube.get(VirtualVolume, "pvc-1")).metadata.deletion_timestamp is None


async def test_what_an_earlier_call_left_unready_goes_when_there_is_no_room(driver: Any) -> None:
    driver.master.stuck.add("allocate")
    asked = {"parameters": {"access": "LegNodes"}, "accessibility_requirements": on("n3")}
    with pytest.raises(NotReady):
        await driver.call(
            "create_volume",
            0.3,
            name="pvc-1",
            volume_capabilities=[mount_capability()],
            capacity_range={"required_bytes": 64 * MIB},
            **asked,
        )
    driver.master.stuck.clear()
    waiting = asyncio.ensure_future(driver.create(**asked))
    await asyncio.sleep(0.1)
    await driver.kube.merge(VirtualVolume, "pvc-1", {"metadata": {"annotations": {"poke": "1"}}})
    with pytest.raises(NoRoom, match="may run on n3"):
        await waiting
    await driver.call("delete_volume", volume_id="pvc-1")
    assert await driver.kube.list(VirtualVolume) == []


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"parameters": {"colour": "blue"}}, "unknown StorageClass parameter 'colour'; known: pool, copies"),
        ({"volume_capabilities": []}, "volume_capabilities are missing"),
        ({"volume_capabilities": [block_capability(Mode.MULTI_NODE_MULTI_WRITER)]}, "one node at a time"),
        ({"volume_content_source": {"snapshot": {"snapshot_id": "s"}}}, "volume_content_source"),
        ({"mutable_parameters": {"a": "b"}}, "VolumeAttributesClass"),
        ({"capacity_range": {"required_bytes": 2, "limit_bytes": 1}}, "capacity_range"),
        ({"accessibility_requirements": {"preferred": [{"segments": {"zone": "a"}}]}}, "topology has the keys"),
        ({"name": "x" * 129}, "128 bytes"),
    ],
)
async def test_a_claim_that_can_never_be_is_refused(driver: Any, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        await driver.create(**fields)
    assert await driver.kube.list(VirtualVolume) == []


async def test_a_range_without_a_whole_unit_is_out_of_range(driver: Any) -> None:
    with pytest.raises(OutOfRange):
        await driver.create(capacity_range={"required_bytes": 5 * MIB, "limit_bytes": 6 * MIB})


# --- delete ---


async def test_delete_is_done_when_there_is_nothing(driver: Any) -> None:
    await driver.call("delete_volume", volume_id="never-there")


async def test_delete_waits_for_the_release(driver: Any) -> None:
    await driver.create()
    driver.master.stuck.add("release")
    with pytest.raises(NotReady, match="given back"):
        await driver.call("delete_volume", 0.3, volume_id="pvc-1")


async def test_a_volume_in_use_is_not_deleted(driver: Any) -> None:
    volume = await driver.create()
    await driver.attach(volume)
    with pytest.raises(Refused, match="attached to node n1"):
        await driver.call("delete_volume", volume_id="pvc-1")
    assert (await driver.kube.get(VirtualVolume, "pvc-1")).metadata.deletion_timestamp is None


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "method",
    [
        "delete_volume",
        "controller_publish_volume",
        "controller_unpublish_volume",
        "controller_expand_volume",
        "controller_modify_volume",
        "validate_volume_capabilities",
    ],
)
async def test_a_hostile_id_never_reaches_the_api_server(driver: Any, method: str, value: str) -> None:
    before = list(driver.kube.calls)
    with pytest.raises(Invalid, match="volume_id"):
        await driver.call(method, volume_id=value)
    assert [call for call in driver.kube.calls if call not in before] == []


# --- attachment ---


async def test_attaching_again_to_the_same_node_is_done(driver: Any) -> None:
    volume = await driver.create()
    assert await driver.attach(volume) == await driver.attach(volume)


async def test_attaching_elsewhere_names_the_holder(driver: Any) -> None:
    volume = await driver.create()
    await driver.attach(volume, "n1")
    with pytest.raises(Refused, match="attached to node n1"):
        await driver.attach(volume, "n2")


async def test_attach_answers_only_when_the_front_is_there_under_the_new_epoch(driver: Any) -> None:
    volume = await driver.create()
    await driver.attach(volume)
    await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id="n1")
    driver.master.stuck.add("attach")
    waiting = asyncio.ensure_future(driver.attach(volume))
    while not (await driver.kube.get(VirtualVolume, "pvc-1")).spec.attachment.node:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    stale = {"attachment": {"node": "n1", "epoch": 2, "clean": False}}
    await driver.kube.merge(VirtualVolume, "pvc-1", {"status": stale}, status=True)
    said = {"node": "n1", "epoch": 1, "front": "Active"}
    await driver.kube.merge(VirtualVolume, "pvc-1", {"status": {"nodes": [said]}}, status=True)
    await asyncio.sleep(0.1)
    assert not waiting.done(), "the front of an older epoch was taken for the new one"
    await driver.kube.merge(VirtualVolume, "pvc-1", {"status": {"nodes": [{**said, "epoch": 2}]}}, status=True)
    assert (await asyncio.wait_for(waiting, 2))["epoch"] == "2"


async def test_an_attach_that_takes_too_long_says_what_it_waits_for(driver: Any) -> None:
    volume = await driver.create()
    driver.master.stuck.add("attach")
    message = {"status": {"message": "n3 has not confirmed the epoch"}}
    await driver.kube.merge(VirtualVolume, "pvc-1", message, status=True)
    with pytest.raises(NotReady, match="n3 has not confirmed the epoch"):
        await driver.call(
            "controller_publish_volume",
            0.3,
            volume_id=volume.volume_id,
            node_id="n1",
            volume_capability=mount_capability(),
        )


async def test_attaching_where_there_is_no_storagenode_or_no_volume(driver: Any) -> None:
    volume = await driver.create()
    with pytest.raises(NotFound, match="node n9 has no StorageNode"):
        await driver.attach(volume, "n9")
    volume.volume_id = "other"
    with pytest.raises(NotFound, match="there is no volume other"):
        await driver.attach(volume)


async def test_a_context_of_another_volume_is_refused(driver: Any) -> None:
    volume = await driver.create()
    volume.volume_context["uuid"] = "0c6f8a3e-7f0e-4d7e-9a53-1d2a5a4f7b10"
    with pytest.raises(Invalid, match="volume_context"):
        await driver.attach(volume)


async def test_of_two_who_attach_at_once_one_wins(driver: Any) -> None:
    volume = await driver.create()
    results = await asyncio.gather(
        driver.attach(volume, "n1"), driver.attach(volume, "n2"), driver.attach(volume, "n3"), return_exceptions=True
    )
    losers = [each for each in results if isinstance(each, Exception)]
    assert len(losers) == 2
    assert all(isinstance(each, Conflict | Refused) for each in losers)


async def test_detach_waits_for_the_teardown(driver: Any) -> None:
    volume = await driver.create()
    await driver.attach(volume)
    driver.master.stuck.add("detach")
    with pytest.raises(NotReady, match="taking it down"):
        await driver.call("controller_unpublish_volume", 0.3, volume_id="pvc-1", node_id="n1")
    assert (await driver.kube.get(VirtualVolume, "pvc-1")).spec.attachment.node == ""


@pytest.mark.parametrize("node", ["n1", ""])
async def test_detach_is_done_when_there_is_nothing_to_do(driver: Any, node: str) -> None:
    await driver.call("controller_unpublish_volume", volume_id="never-there", node_id=node)
    volume = await driver.create()
    await driver.call("controller_unpublish_volume", volume_id=volume.volume_id, node_id=node)


async def test_detach_from_another_node_leaves_the_holder_alone(driver: Any) -> None:
    volume = await driver.create()
    await driver.attach(volume, "n1")
    await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id="n2")
    assert (await driver.kube.get(VirtualVolume, "pvc-1")).spec.attachment.node == "n1"
    await driver.call("controller_unpublish_volume", volume_id="pvc-1")
    assert (await driver.kube.get(VirtualVolume, "pvc-1")).spec.attachment.node == ""


def said(node: str, epoch: int, front: Any = "None", **fields: Any) -> NodeReport:
    return NodeReport(node=node, epoch=epoch, front=front, **fields)


def three_legs(at: Attachment, nodes: list[NodeReport]) -> VirtualVolume:
    there = [Leg(id=each, node=node, state="InSync") for each, node in (("a", "n1"), ("b", "n2"), ("c", "n3"))]
    mapping = Mapping(generation=1, record_seq=1, legs=there)
    return VirtualVolume(
        metadata=ObjectMeta(name="pvc-1", finalizers=[names.FINALIZER]),
        spec=VirtualVolumeSpec(uuid="0c6f8a3e-7f0e-4d7e-9a53-1d2a5a4f7b10", size="64Mi"),
        status=VirtualVolumeStatus(phase="Ready", attachment=at, nodes=nodes, mapping=mapping),
    )


ACTIVE = said("n1", 4, "Active")


@pytest.mark.parametrize(
    ("at", "nodes", "answer"),
    [
        pytest.param(Attachment(node="n1", epoch=4, clean=False), [ACTIVE], "n1 is taking it down", id="standing"),
        pytest.param(Attachment(epoch=4), [said("n1", 4, clean_epoch=4)], "", id="torn-down"),
        pytest.param(Attachment(epoch=4, clean=False), [said("n1", 4, ended_epoch=4)], "", id="ended-uncleanly"),
        pytest.param(
            Attachment(epoch=5, clean=False),
            [ACTIVE, said("n2", 4), said("n3", 5)],
            "n2 did not confirm epoch 5 yet",
            id="fenced-waits-for-each-leg-node",
        ),
        pytest.param(
            Attachment(epoch=5, clean=False), [ACTIVE], "n2, n3 did not confirm", id="also-for-one-that-says-nothing"
        ),
        pytest.param(
            Attachment(epoch=5, clean=False), [ACTIVE, said("n2", 5), said("n3", 6)], "", id="fenced-by-all-others"
        ),
        pytest.param(
            Attachment(node="n3", epoch=6, clean=False),
            [ACTIVE, said("n2", 5), said("n3", 6, "Active")],
            "n2 did not confirm epoch 6 yet",
            id="fenced-and-wanted-elsewhere",
        ),
        pytest.param(
            Attachment(epoch=5, clean=False),
            [said("n1", 4), said("n2", 4), said("n3", 5)],
            "n2 did not confirm",
            id="fenced-before-it-told-of-its-front",
        ),
        pytest.param(
            Attachment(epoch=5, clean=False), [said("n1", 5), said("n2", 4)], "", id="back-and-nothing-stands-there"
        ),
        pytest.param(
            Attachment(node="n3", epoch=6, clean=False), [said("n3", 6, "Active")], "", id="never-there-held-elsewhere"
        ),
        pytest.param(Attachment(), [], "", id="never-anywhere"),
    ],
)
def test_when_a_node_counts_as_detached(at: Attachment, nodes: list[NodeReport], answer: str) -> None:
    verdict = volumes.detached(three_legs(at, nodes), "n1")
    assert (answer in verdict.reason) if answer else verdict is True


async def test_a_fence_is_waited_for_but_not_the_word_of_a_leg_node_that_has_failed_too(driver: Any) -> None:
    driver.kube.seed(three_legs(Attachment(epoch=5, clean=False), [ACTIVE, said("n3", 5)]))
    for named in ("n1", ""):
        with pytest.raises(NotReady, match="n2 did not confirm epoch 5 yet"):
            await driver.call("controller_unpublish_volume", 0.3, volume_id="pvc-1", node_id=named)
    for failed in ("n1", "n2"):
        await driver.kube.merge(StorageNode, failed, {"status": {"phase": "Failed"}}, status=True)
    for named in ("n1", ""):
        await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id=named)


async def test_an_outage_is_unavailable_not_an_answer(driver: Any) -> None:
    volume = await driver.create()
    with driver.kube.outage():
        with pytest.raises(Unavailable):
            await driver.attach(volume)
        with pytest.raises(Unavailable):
            await driver.call("delete_volume", volume_id="pvc-1")
        with pytest.raises(Unavailable):
            await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id="n1")


# --- the rest ---


async def test_lists_come_in_pages_and_say_where_volumes_are(driver: Any) -> None:
    made = [await driver.create(f"pvc-{i}") for i in range(5)]
    await driver.attach(made[3])
    seen, token = [], ""
    for _ in range(3):
        page = await driver.call("list_volumes", max_entries=2, starting_token=token)
        seen += [(entry.volume.volume_id, list(entry.status.published_node_ids)) for entry in page.entries]
        token = page.next_token
    assert seen == [(f"pvc-{i}", ["n1"] if i == 3 else []) for i in range(5)]
    assert token == ""


async def test_a_page_goes_on_though_its_last_volume_was_deleted(driver: Any) -> None:
    for i in range(3):
        await driver.create(f"pvc-{i}")
    page = await driver.call("list_volumes", max_entries=1)
    await driver.call("delete_volume", volume_id="pvc-0")
    rest = await driver.call("list_volumes", starting_token=page.next_token)
    assert [entry.volume.volume_id for entry in rest.entries] == ["pvc-1", "pvc-2"]


async def test_a_foreign_token_starts_over(driver: Any) -> None:
    with pytest.raises(Conflict, match="none of ours"):
        await driver.call("list_volumes", starting_token="invalid-token")
    with pytest.raises(Invalid, match="negative"):
        await driver.call("list_volumes", max_entries=-1)


async def test_capabilities_are_confirmed_or_refused_with_a_reason(driver: Any) -> None:
    volume = await driver.create()
    good = await driver.call(
        "validate_volume_capabilities", volume_id=volume.volume_id, volume_capabilities=[block_capability()]
    )
    assert good.HasField("confirmed")
    for fields in (
        {"volume_capabilities": [block_capability(Mode.MULTI_NODE_MULTI_WRITER)]},
        {"volume_capabilities": [block_capability()], "parameters": {"copies": "4"}},
        {"volume_capabilities": [block_capability()], "volume_context": {"uuid": "x"}},
    ):
        bad = await driver.call("validate_volume_capabilities", volume_id=volume.volume_id, **fields)
        assert not bad.HasField("confirmed")
        assert bad.message


async def test_capacity_needs_a_topology_of_ours(driver: Any) -> None:
    assert (await driver.call("get_capacity")).available_capacity == 0
    with pytest.raises(Invalid, match="topology"):
        await driver.call("get_capacity", accessible_topology={"segments": {"zone": "a"}})


async def test_many_who_ask_for_capacity_cost_one_look(driver: Any) -> None:
    before = driver.kube.calls.count(("list", "StorageDevice"))
    await asyncio.gather(*(driver.call("get_capacity", parameters={"copies": str(n)}) for n in (1, 2, 3, 4)))
    assert driver.kube.calls.count(("list", "StorageDevice")) == before + 1
