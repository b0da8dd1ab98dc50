"""A volume is made larger, and otherwise: sizes that can be had and that cannot, and what a class may change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millpond_core.errors import Conflict, Invalid, NotFound
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.meta import Condition
from millpond_core.model.virtualvolume import (
    Attachment,
    DesiredAttachment,
    Growth,
    NodeReport,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_csi import volumes
from millpond_csi.attributes import MUTABLE
from millpond_csi.errors import NotReady, OutOfRange, Refused
from millpond_csi.testing import block_capability, mount_capability
from millpond_csi.waiting import Wait

MIB = 1 << 20


async def expand(driver: Any, required: int = 0, seconds: float = 2.0, **fields: Any) -> Any:
    fields.setdefault("capacity_range", {"required_bytes": required})
    return await driver.call("controller_expand_volume", seconds, **{"volume_id": "pvc-1", **fields})


async def modify(driver: Any, seconds: float = 2.0, volume_id: str = "pvc-1", **parameters: str) -> Any:
    return await driver.call("controller_modify_volume", seconds, volume_id=volume_id, mutable_parameters=parameters)


async def stored(driver: Any) -> VirtualVolume:
    return await driver.kube.get(VirtualVolume, "pvc-1")


async def poke(driver: Any) -> None:
    """The scripted master looks again when something happens, and has looked when this returns."""
    await driver.kube.merge(VirtualVolume, "pvc-1", {"metadata": {"annotations": {"poke": "1"}}})
    await asyncio.sleep(0.1)


# --- larger ---


@pytest.mark.parametrize(
    ("capability", "node"), [({"volume_capability": mount_capability()}, True), ({}, True)], ids=["mount", "not-said"]
)
async def test_a_volume_gets_its_bytes_and_the_filesystem_is_still_to_follow(
    driver: Any, capability: dict[str, Any], node: bool
) -> None:
    await driver.create()
    answer = await expand(driver, 130 * MIB, **capability)
    assert (answer.capacity_bytes, answer.node_expansion_required) == (132 * MIB, node)
    assert (await stored(driver)).spec.size == "132Mi"


async def test_raw_block_is_larger_with_that(driver: Any) -> None:
    await driver.create(volume_capabilities=[block_capability()])
    answer = await expand(driver, 128 * MIB, volume_capability=block_capability())
    assert not answer.node_expansion_required


async def test_what_is_that_large_already_is_answered_at_once_and_left_alone(driver: Any) -> None:
    await driver.create(size=128 * MIB)
    generation = (await stored(driver)).metadata.generation
    for required in (64 * MIB, 127 * MIB, 128 * MIB):
        assert (await expand(driver, required)).capacity_bytes == 128 * MIB
    assert (await expand(driver, capacity_range={"limit_bytes": 200 * MIB})).capacity_bytes == 128 * MIB
    assert (await stored(driver)).metadata.generation == generation


async def test_an_attached_volume_is_waited_for_until_its_front_has_grown(driver: Any) -> None:
    await driver.attach(await driver.create())
    driver.master.stuck.add("enlarge")
    with pytest.raises(NotReady, match="node n1 is enlarging it"):
        await expand(driver, 128 * MIB, 0.3)
    driver.master.stuck.clear()
    await poke(driver)
    assert (await expand(driver, 128 * MIB)).capacity_bytes == 128 * MIB
    [front] = driver.mounts.devices.values()
    assert front.size == 128 * MIB


async def test_growth_that_takes_too_long_is_waited_for_again(driver: Any) -> None:
    await driver.create()
    driver.master.stuck.add("grow")
    with pytest.raises(NotReady, match=f"it has {64 * MIB} of {128 * MIB} bytes"):
        await expand(driver, 128 * MIB, 0.3)
    driver.master.stuck.clear()
    await poke(driver)
    assert (await expand(driver, 128 * MIB)).capacity_bytes == 128 * MIB


async def test_without_room_it_stays_wanted_and_comes_by_itself(driver: Any) -> None:
    await driver.create()
    for _ in range(2):
        with pytest.raises(
            OutOfRange, match=r"has 64Mi and cannot have 2Gi as things are: .* are free; it stays wanted"
        ):
            await expand(driver, 2048 * MIB)
        assert (await stored(driver)).spec.size == "2Gi"
    driver.master.room = 4096 * MIB
    await poke(driver)
    assert (await expand(driver, 2048 * MIB)).capacity_bytes == 2048 * MIB


async def test_less_takes_back_what_could_not_be_had(driver: Any) -> None:
    await driver.create()
    with pytest.raises(OutOfRange):
        await expand(driver, 2048 * MIB)
    assert (await expand(driver, 512 * MIB)).capacity_bytes == 512 * MIB
    assert (await stored(driver)).spec.size == "512Mi"


async def test_an_old_word_about_another_size_counts_for_nothing(driver: Any) -> None:
    await driver.create()
    with pytest.raises(OutOfRange):
        await expand(driver, 2048 * MIB)
    driver.master.stuck.add("grow")
    with pytest.raises(NotReady):
        await expand(driver, 512 * MIB, 0.3)


async def test_someone_else_who_writes_meanwhile_is_no_fault(driver: Any) -> None:
    await driver.create()
    driver.kube.fail_next("patch", Conflict("the object has been modified"))
    assert (await expand(driver, 512 * MIB)).capacity_bytes == 512 * MIB


@pytest.mark.parametrize(
    ("fields", "error", "complaint"),
    [
        ({"capacity_range": None}, Invalid, "capacity_range is missing"),
        ({"capacity_range": {}}, Invalid, "says no size"),
        ({"capacity_range": {"required_bytes": -1}}, Invalid, "negative"),
        ({"capacity_range": {"required_bytes": 9 * MIB, "limit_bytes": 8 * MIB}}, Invalid, "at most"),
        ({"capacity_range": {"required_bytes": 129 * MIB, "limit_bytes": 130 * MIB}}, OutOfRange, "whole units"),
        ({"capacity_range": {"limit_bytes": 32 * MIB}}, OutOfRange, "do not shrink"),
        ({"capacity_range": {"required_bytes": 1 << 50}}, OutOfRange, "256Ti"),
        ({"volume_id": "other"}, NotFound, "there is no volume other"),
        ({"volume_capability": {"access_mode": {"mode": 1}}}, Invalid, "volume_capability"),
    ],
)
async def test_a_size_that_can_never_be(
    driver: Any, fields: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    await driver.create()
    if fields.get("capacity_range", ...) is None:
        with pytest.raises(error, match=complaint):
            await driver.call("controller_expand_volume", volume_id="pvc-1")
        return
    with pytest.raises(error, match=complaint):
        await expand(driver, 128 * MIB, **fields)
    assert (await stored(driver)).spec.size == "64Mi"


async def test_a_volume_that_is_being_deleted_does_not_grow(driver: Any) -> None:
    await driver.create()
    driver.master.stuck.add("release")
    await driver.kube.delete(VirtualVolume, "pvc-1")
    with pytest.raises(NotFound, match="is being deleted"):
        await expand(driver, 128 * MIB)


UUID = "0c6f8a3e-7f0e-4d7e-9a53-1d2a5a4f7b10"


def growing(
    size: str, have: int, reason: str = "", *, seen: int = 3, growth: int = 0, front: int | None = None
) -> VirtualVolume:
    """A volume of ``have`` MiB in its third generation, attached when it has a ``front``."""
    said = Condition(
        type="Resized",
        status="False",
        reason=reason or "x",
        message="m",
        last_transition_time="",
        observed_generation=seen,
    )
    node = "" if front is None else "n1"
    return VirtualVolume(
        metadata=ObjectMeta(name="pvc-1", generation=3),
        spec=VirtualVolumeSpec(uuid=UUID, size=size, attachment=DesiredAttachment(node=node)),
        status=VirtualVolumeStatus(
            size_bytes=have * MIB,
            growth=Growth(size_bytes=growth * MIB) if growth else None,
            attachment=Attachment(node=node, epoch=2),
            nodes=[NodeReport(node="n1", epoch=2, front="Active", size_bytes=front * MIB)] if front else [],
            conditions=[said] if reason else [],
        ),
    )


@pytest.mark.parametrize(
    ("volume", "outcome"),
    [
        pytest.param(growing("64Mi", 64), 128, id="raised"),
        pytest.param(growing("126Mi", 64), "it has 67108864", id="asked-for-already-but-for-the-rounding"),
        pytest.param(growing("130Mi", 64), "it has 67108864 of 134217728 bytes", id="more-is-on-its-way"),
        pytest.param(growing("128Mi", 64, "Growing"), "bytes (m)", id="under-way"),
        pytest.param(growing("128Mi", 64, "Degraded"), "bytes (m)", id="waits-for-copies"),
        pytest.param(growing("128Mi", 64, "NoRoom"), OutOfRange, id="no-room"),
        pytest.param(growing("128Mi", 64, "Invalid"), OutOfRange, id="needs-a-new-volume"),
        pytest.param(growing("128Mi", 64, "NoRoom", seen=2), "bytes", id="judged-from-an-older-spec"),
        pytest.param(growing("256Mi", 64, "NoRoom"), 128, id="taken-back"),
        pytest.param(growing("256Mi", 64, "Growing"), "bytes (m)", id="not-taken-back-while-it-is-under-way"),
        pytest.param(growing("256Mi", 64, "NoRoom", growth=192), 192, id="not-below-what-it-is-being-given"),
        pytest.param(growing("256Mi", 132, "Invalid"), 132, id="nor-below-what-it-has"),
        pytest.param(growing("126Mi", 128), None, id="rounded-up"),
        pytest.param(growing("128Mi", 128), None, id="done"),
        pytest.param(growing("128Mi", 128, front=128), None, id="done-and-the-front-too"),
        pytest.param(growing("128Mi", 128, front=64), "node n1 is enlarging it", id="the-front-is-to-follow"),
        pytest.param(growing("128Mi", 128, front=0), "node n1 is enlarging it", id="nothing-heard-of-the-front"),
    ],
)
def test_what_comes_of_a_wish_for_128_mebibytes(volume: VirtualVolume, outcome: Any) -> None:
    if outcome is OutOfRange:
        with pytest.raises(OutOfRange, match="m; "):
            volumes.grown(volume, 128 * MIB)
        return
    step = volumes.grown(volume, 128 * MIB)
    if outcome is None:
        assert step is volume
    elif isinstance(outcome, int):
        assert step == volumes.Resize(volume, outcome * MIB)
    else:
        assert isinstance(step, Wait)
        assert outcome in step.reason


def test_a_front_that_is_being_taken_down_is_not_waited_for() -> None:
    volume = growing("128Mi", 128)
    leaving = VirtualVolumeStatus(size_bytes=128 * MIB, attachment=Attachment(node="n1", epoch=2))
    detaching = VirtualVolume(metadata=volume.metadata, spec=volume.spec, status=leaving)
    assert volumes.grown(detaching, 128 * MIB) is detaching


# --- otherwise ---


async def test_policies_are_in_force_as_soon_as_they_are_written(driver: Any) -> None:
    await driver.create(parameters={"copies": "2", "holdSeconds": "7"})
    await modify(driver, gracePeriodSeconds="5", unrecorded="Fail", minInSync="2", maxRebuildRate="1000")
    spec = (await stored(driver)).spec
    failure = spec.on_failure
    assert (failure.hold_seconds, failure.grace_period_seconds) == (7, 5), "what is not named stays as it is"
    assert (failure.unrecorded, failure.min_in_sync, spec.rebuild.max_rate) == ("Fail", 2, 1000)


async def test_the_same_class_again_and_an_empty_one_change_nothing(driver: Any) -> None:
    await driver.create()
    await modify(driver, holdSeconds="5")
    written = driver.kube.calls.count(("merge", "VirtualVolume"))
    await modify(driver, holdSeconds="5")
    await modify(driver)
    assert driver.kube.calls.count(("merge", "VirtualVolume")) == written


async def test_what_csi_resizer_adds_of_its_own_is_no_parameter(driver: Any) -> None:
    await driver.create()
    await modify(driver, **{"holdSeconds": "5", "csi.storage.k8s.io/pvc/name": "db-0"})
    assert (await stored(driver)).spec.on_failure.hold_seconds == 5


async def test_more_copies_are_answered_when_each_has_its_place(driver: Any) -> None:
    await driver.create()
    await modify(driver, copies="3")
    volume = await stored(driver)
    assert volume.spec.layout.copies == 3
    assert [leg.state for leg in volume.status.spares] == ["Rebuilding"] * 2, "nobody waits for a rebuild"


async def test_copies_without_a_place_stay_wanted_and_are_said_to_lack_it(driver: Any) -> None:
    await driver.create()
    driver.master.spares = 1
    for _ in range(2):
        with pytest.raises(Refused, match="has 2 of 4 copies: no spare can be placed: no other node; the others stay"):
            await modify(driver, copies="4")
    assert (await stored(driver)).spec.layout.copies == 4
    driver.master.spares = 3
    await poke(driver)
    await modify(driver, copies="4")


async def test_people_may_go_back_to_what_there_is(driver: Any) -> None:
    await driver.create()
    driver.master.spares = 0
    with pytest.raises(Refused):
        await modify(driver, copies="2")
    await modify(driver, copies="1")
    assert (await stored(driver)).spec.layout.copies == 1


async def test_a_master_that_says_nothing_is_waited_for_again(driver: Any) -> None:
    await driver.create()
    driver.master.stuck.add("grow")
    driver.master.spares = 0
    with pytest.raises(NotReady, match="1 of 2 copies have a place"):
        await modify(driver, 0.3, copies="2")
    driver.master.stuck.clear()
    with pytest.raises(Refused):
        await modify(driver, copies="3")
    driver.master.stuck.add("grow")
    with pytest.raises(NotReady):  # what it said was about what was asked before
        await modify(driver, 0.3, copies="4")


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"colour": "blue"}, "'colour' is unknown; mutable: copies"),
        ({"pool": "fast"}, "'pool' is one of a StorageClass only; mutable: copies"),
        ({"copies": "5"}, "VolumeAttributesClass parameter copies is '5': must be a whole number from 1 to 4"),
        ({"minInSync": "2"}, "minInSync would be 2, copies only 1"),
        ({"holdSeconds": "-1"}, "VolumeAttributesClass parameter holdSeconds is '-1'"),
    ],
)
async def test_a_class_that_can_never_be_is_refused_whole(
    driver: Any, parameters: dict[str, str], complaint: str
) -> None:
    await driver.create()
    before = await stored(driver)
    with pytest.raises(Invalid, match=complaint):
        await modify(driver, **{"gracePeriodSeconds": "5", **parameters})
    assert (await stored(driver)).spec == before.spec
    with pytest.raises(Invalid, match=complaint.replace("would be 2", "is 2")):
        await driver.create("pvc-2", mutable_parameters=parameters)
    assert len(await driver.kube.list(VirtualVolume)) == 1


async def test_fewer_copies_than_must_be_in_sync_are_refused(driver: Any) -> None:
    await driver.create(parameters={"copies": "2", "minInSync": "2"})
    with pytest.raises(Invalid, match=r"minInSync would be 2, copies only 1.* name both"):
        await modify(driver, copies="1")
    await modify(driver, copies="1", minInSync="1")


async def test_no_volume_no_change(driver: Any) -> None:
    with pytest.raises(NotFound, match="there is no volume pvc-9"):
        await modify(driver, volume_id="pvc-9", holdSeconds="5")


async def test_a_volume_is_made_by_its_storage_class_and_what_the_attributes_say_otherwise(driver: Any) -> None:
    asked = {"parameters": {"copies": "1", "holdSeconds": "7"}, "mutable_parameters": {"copies": "2", "minInSync": "2"}}
    first = await driver.create(**asked)
    spec = (await stored(driver)).spec
    assert (spec.layout.copies, spec.on_failure.min_in_sync, spec.on_failure.hold_seconds) == (2, 2, 7)
    assert await driver.create(**asked) == first
    for mutable, confirmed in (({"copies": "2"}, True), ({"copies": "3"}, False), ({"pool": "fast"}, False)):
        answer = await driver.call(
            "validate_volume_capabilities",
            volume_id="pvc-1",
            volume_capabilities=[mount_capability()],
            mutable_parameters=mutable,
        )
        assert answer.HasField("confirmed") is confirmed
        assert dict(answer.confirmed.mutable_parameters) == (mutable if confirmed else {})


def test_what_may_change() -> None:
    assert set(MUTABLE) == {"copies", "holdSeconds", "gracePeriodSeconds", "unrecorded", "minInSync", "maxRebuildRate"}
