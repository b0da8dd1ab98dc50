"""The main thread on the API server in memory: from a claim to a rebuilt copy, and what goes wrong on the way."""

from __future__ import annotations

from harness import Cluster, attached, remote

from millpond_core import names
from millpond_core.model import VirtualVolume


async def test_a_volume_is_mapped_prepared_and_ready(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1")
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    assert volume.status.copies == "2/2"
    assert volume.status.mapping.generation == 1
    assert {leg.state for leg in volume.status.mapping.legs} == {"InSync"}
    assert len({leg.node for leg in volume.status.mapping.legs}) == 2
    assert volume.metadata.annotations[names.ANNOTATION_ALLOCATED] == volume.spec.uuid
    labels = {label for label in volume.metadata.labels if label.startswith(names.NODE_LABEL_PREFIX)}
    assert labels == {names.node_label(leg.node) for leg in volume.status.mapping.legs}


async def test_it_is_attached_and_detached_under_rising_epochs(cluster: Cluster) -> None:
    await attached(cluster)
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n1", 1)
    assert not volume.status.attachment.clean
    await cluster.nodes.want("v1", "")
    await cluster.settle()
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.clean) == ("", True)
    await cluster.nodes.want("v1", "n3")
    await cluster.settle()
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n3", 2)
    assert {leg.state for leg in volume.status.mapping.legs} == {"InSync"}, "a clean detach needs no source"


async def test_a_lost_leg_that_returns_in_time_is_taken_back(cluster: Cluster) -> None:
    await attached(cluster)
    lost = remote(await cluster.volume())
    cluster.nodes.pull(lost.extents[0].device)
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Degraded"
    assert "waits for it until" in volume.status.message
    assert volume.status.copies == "1/2"
    assert not volume.status.spares, "within the grace period nothing is replaced"
    cluster.nodes.nodes["n1"].slow_rebuild = True
    await cluster.later(20)
    cluster.nodes.plug(lost.extents[0].device)
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.mapping.generation == 2
    assert next(leg for leg in volume.status.mapping.legs if leg.id == lost.id).state == "Rebuilding"
    cluster.nodes.nodes["n1"].slow_rebuild = False
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    [q] = await cluster.quiescences()
    assert (q.spec.reason, q.status.phase, q.status.acks) == ("Reconfigure", "Released", "1/1")


async def test_a_lost_leg_that_does_not_return_is_replaced(cluster: Cluster) -> None:
    await attached(cluster)
    lost = remote(await cluster.volume())
    cluster.nodes.pull(lost.extents[0].device)
    await cluster.later(70)
    volume = await cluster.volume()
    assert volume.status.phase == "Ready", volume.status.message
    assert volume.status.mapping.generation == 2
    old = next(leg for leg in volume.status.mapping.legs if leg.id == lost.id)
    assert (old.state, old.releasing) == ("Failed", True), "its device is gone, so nobody can say that it is released"
    new = next(leg for leg in volume.status.mapping.legs if leg.id == "c")
    assert new.state == "InSync"
    assert not volume.status.spares
    [q] = await cluster.quiescences()
    assert (q.spec.reason, q.status.phase) == ("DeviceFailed", "Released")
    assert [entry.phase for entry in q.status.timeline] == [
        "Instructed",
        "Draining",
        "Quiesced",
        "Reconfigured",
        "Released",
    ]
    assert (q.status.generations[0].before, q.status.generations[0].after) == (1, 2)
    node = await cluster.node("n1")
    assert names.ANNOTATION_QUIESCE not in node.metadata.annotations, "the doorbell is silent again"

    # The disk comes back for good: what was on it is given back, and its room is free.
    cluster.nodes.plug(lost.extents[0].device)
    await cluster.settle()
    volume = await cluster.volume()
    assert [leg.id for leg in volume.status.mapping.legs if leg.releasing] == []
    device = await cluster.device(lost.extents[0].device)
    assert (device.status.legs, device.status.phase) == (0, "Online")


async def test_two_devices_are_lost_one_after_the_other(cluster: Cluster) -> None:
    await attached(cluster, grace=10)
    first = await cluster.volume()
    for leg in first.status.mapping.legs:
        cluster.nodes.pull(leg.extents[0].device)
        await cluster.later(20)
        volume = await cluster.volume()
        assert volume.status.phase == "Ready", volume.status.message
    assert volume.status.mapping.generation == 3
    live = [leg for leg in volume.status.mapping.legs if not leg.releasing]
    assert {leg.id for leg in live}.isdisjoint({leg.id for leg in first.status.mapping.legs})


async def test_without_room_for_a_spare_it_says_so_and_takes_it_when_there_is(cluster: Cluster) -> None:
    await attached(cluster, size="700Mi", grace=0)
    volume = await cluster.volume()
    for name in cluster.nodes.disks:
        if name not in {leg.extents[0].device for leg in volume.status.mapping.legs}:
            await cluster.kube.merge(type(await cluster.device(name)), name, {"spec": {"pool": "other"}})
    cluster.nodes.pull(remote(volume).extents[0].device)
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Degraded"
    assert "no spare can be placed" in volume.status.message
    assert any(event.reason == "NoRoom" for event in cluster.kube.events)
    await cluster.nodes.add_device("n3-d3", "n3")
    await cluster.later(35)
    assert (await cluster.volume()).status.phase == "Ready"


async def test_what_does_not_fit_waits_with_a_reason_and_is_placed_when_there_is_room(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1", size="5Gi")
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Pending"
    ready = next(c for c in volume.status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "NoRoom")
    assert "short" in ready.message
    assert any(event.reason == "NoRoom" and event.warning for event in cluster.kube.events)
    for node in ("n1", "n2"):
        await cluster.nodes.add_device(f"{node}-big", node, units=2000)
    await cluster.settle()
    assert (await cluster.volume()).status.phase == "Ready"


async def test_a_detached_volume_gets_its_spare_through_a_quiescence_without_participants(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1", grace=10)
    await cluster.settle()
    lost = (await cluster.volume()).status.mapping.legs[0]
    cluster.nodes.pull(lost.extents[0].device)
    await cluster.later(15)
    volume = await cluster.volume()
    assert volume.status.mapping.generation == 2
    assert volume.status.phase == "Degraded"
    assert "rebuilt when the volume is attached" in volume.status.message
    await cluster.nodes.want("v1", "n3")
    await cluster.settle()
    assert (await cluster.volume()).status.phase == "Ready"


async def test_after_an_unclean_end_one_leg_is_the_source_in_the_same_commit(cluster: Cluster) -> None:
    await attached(cluster)
    cluster.nodes.nodes["n1"].slow_rebuild = True
    cluster.nodes.reboot("n1")
    await cluster.settle()
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n1", 2)
    states = {leg.node: leg.state for leg in volume.status.mapping.legs}
    assert states.pop("n1") == "InSync", "the local leg is the source"
    assert set(states.values()) == {"Rebuilding"}


async def test_a_deleted_volume_gives_its_legs_back_before_it_goes(cluster: Cluster) -> None:
    await attached(cluster)
    await cluster.kube.delete(VirtualVolume, "v1")
    await cluster.settle()
    assert (await cluster.volume()).status.phase == "Deleting"
    assert "still wanted on n1" in (await cluster.volume()).status.message
    await cluster.nodes.want("v1", "")
    await cluster.settle()
    assert await cluster.kube.list(VirtualVolume) == []
    assert (await cluster.device("n1-d1")).status.legs == 0


async def test_a_volume_that_lost_its_mapping_is_never_allocated_again(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1")
    note = {names.ANNOTATION_ALLOCATED: "4f1c0000-0000-4000-8000-000000000001"}
    await cluster.kube.merge(VirtualVolume, "v1", {"metadata": {"annotations": note}})
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.phase == "Faulted"
    assert volume.status.mapping.generation == 0
    assert any(event.reason in ("MappingLost", "Faulted") for event in cluster.kube.events)
