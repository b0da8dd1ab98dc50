"""Nodes that fall silent, quiescences that do not come about, people's own, and devices that are to go."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Cluster, MasterKube, attached, leg_on, remote

from millpond_core import names
from millpond_core.errors import Invalid
from millpond_core.master.adoption import Policy
from millpond_core.master.world import RebuildLimits
from millpond_core.model import Quiescence, StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.quiescence import ClaimScope, Scope
from millpond_core.units import KIB
from millpond_operator.agenda import Key


async def test_a_silent_state_manager_is_not_a_dead_node(cluster: Cluster) -> None:
    await attached(cluster, grace=5)
    leg = remote(await cluster.volume())
    await cluster.set_kubelet(leg.node, ready=True)
    cluster.nodes.nodes["n1"].records = False
    cluster.nodes.nodes[leg.node].silent = True
    cluster.nodes.reachable.add(leg.node)
    await cluster.later(60)
    node = await cluster.node(leg.node)
    assert node.status.phase == "StateManagerDown"
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.mapping.generation, volume.status.spares) == ("Ready", 1, [])
    cluster.nodes.nodes[leg.node].silent = False
    await cluster.settle()
    assert (await cluster.node(leg.node)).status.phase == "Ready"


@pytest.mark.parametrize("witness", ["kubelet", "attach node"])
async def test_a_silent_node_that_a_second_witness_gives_up_has_failed(cluster: Cluster, witness: str) -> None:
    await attached(cluster, grace=5)
    leg = remote(await cluster.volume())
    await cluster.set_kubelet(leg.node, ready=witness != "kubelet")
    if witness == "attach node":
        cluster.nodes.nodes["n1"].records = False  # the path is Down, the leg still InSync on record
    else:
        cluster.nodes.reachable.add(leg.node)
    cluster.nodes.nodes[leg.node].silent = True
    await cluster.later(26)
    node = await cluster.node(leg.node)
    assert node.status.phase == "Failed"
    assert (await cluster.device(leg.extents[0].device)).status.phase == "Offline"
    cluster.nodes.reachable.clear()
    cluster.nodes.nodes["n1"].records = True
    await cluster.later(30)
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    assert volume.status.mapping.generation == 2
    [q] = await cluster.quiescences()
    assert q.spec.reason == "NodeFailed"


async def test_who_has_fewest_copies_has_the_next_turn(cluster: Cluster) -> None:
    """One rebuild at a time: while that of z goes on, a (two copies left) and b (one left) wait for theirs."""
    cluster.master.world.rebuild_limits = RebuildLimits(per_cluster=1)
    await cluster.nodes.add_node("n4")
    for number, (name, copies, at) in enumerate((("z", 2, "n4"), ("a", 3, "n1"), ("b", 2, "n1")), start=1):
        for node in ("n1", "n2", "n3", "n4"):
            await cluster.nodes.add_device(f"{name}-{node}", node, pool=name)
        cluster.nodes.nodes[at].slow_rebuild = True
        await cluster.nodes.add_volume(name, number, copies=copies, grace=0, pool=name, preferred_node=at)
        await cluster.settle()
        await cluster.nodes.want(name, at)
        await cluster.settle()

    async def rebuilding() -> list[str]:
        volumes = [await cluster.volume(name) for name in ("a", "b", "z")]
        return [v.metadata.name for v in volumes if any(leg.state == "Rebuilding" for leg in v.status.mapping.legs)]

    for name, at in (("z", "n4"), ("a", "n1"), ("b", "n1")):
        cluster.nodes.pull(remote(await cluster.volume(name), at).extents[0].device)
        await cluster.later(30)
    assert await rebuilding() == ["z"]
    cluster.nodes.nodes["n4"].slow_rebuild = False
    await cluster.later(30)
    assert await rebuilding() == ["b"]


async def test_those_that_are_rebuilt_share_a_limit_and_who_is_left_has_it_all(cluster: Cluster) -> None:
    cluster.master.world.rebuild_limits = RebuildLimits(rate_per_node=1000)
    await cluster.nodes.add_node("n4")
    for number, (name, at) in enumerate((("a", "n1"), ("b", "n4")), start=1):
        for node in (at, "n2"):
            await cluster.nodes.add_device(f"{name}-{node}", node, pool=name)
        cluster.nodes.nodes[at].slow_rebuild = True
        await cluster.nodes.add_volume(name, number, grace=0, pool=name, preferred_node=at)
        await cluster.settle()
        await cluster.nodes.want(name, at)
        await cluster.settle()
    for name in ("a", "b"):
        await cluster.nodes.add_device(f"{name}-n3", "n3", pool=name)
        cluster.nodes.pull(f"{name}-n2")
    await cluster.later(30)

    async def limits() -> list[int]:
        volumes = [await cluster.volume(name) for name in ("a", "b")]
        return [one.max_rate for volume in volumes for one in volume.status.operations]

    assert await limits() == [500 * KIB, 500 * KIB], "both copy to the node that had none"
    cluster.nodes.nodes["n4"].slow_rebuild = False
    await cluster.later(30)
    assert await limits() == [1000 * KIB]


async def test_many_silent_nodes_at_once_are_our_own_blindness(cluster: Cluster) -> None:
    await attached(cluster, grace=0)
    for name in ("n2", "n3"):
        await cluster.set_kubelet(name, ready=False)
        cluster.nodes.nodes[name].silent = True
        cluster.nodes.reachable.add(name)
    cluster.nodes.nodes["n1"].records = False
    await cluster.later(60)
    for name in ("n2", "n3"):
        assert (await cluster.node(name)).status.phase == "StateManagerDown"
    assert (await cluster.volume()).status.mapping.generation == 1


async def test_a_state_manager_that_says_it_restarts_is_waited_for(cluster: Cluster) -> None:
    await attached(cluster)
    leg = remote(await cluster.volume())
    await cluster.set_kubelet(leg.node, ready=False)
    cluster.nodes.reachable.add(leg.node)
    until = {"restartingUntil": "2027-01-15T09:00:00Z"}
    await cluster.kube.apply_status(StorageNode, leg.node, until, manager="restarting")
    cluster.nodes.nodes[leg.node].silent = True
    await cluster.later(60)
    assert (await cluster.node(leg.node)).status.phase == "Ready"


async def test_a_detached_volume_waits_for_a_failed_node_until_it_is_attached(cluster: Cluster) -> None:
    await cluster.nodes.add_volume("v1", grace=5, preferred_node="n1")
    await cluster.settle()
    leg = remote(await cluster.volume())
    await cluster.set_kubelet(leg.node, ready=False)
    cluster.nodes.nodes[leg.node].silent = True
    await cluster.later(60)
    volume = await cluster.volume()
    assert volume.status.phase == "Degraded"
    assert "replaced if it is not back when attached" in volume.status.message
    assert (volume.status.mapping.generation, volume.status.spares) == (1, []), "a reboot is no reason to copy"
    await cluster.nodes.want("v1", "n1")
    await cluster.later(20)
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.mapping.generation) == ("Ready", 2)


async def test_a_volume_is_taken_from_a_failed_node_by_a_higher_epoch(cluster: Cluster) -> None:
    await attached(cluster)
    await cluster.set_kubelet("n1", ready=False)
    cluster.nodes.nodes["n1"].silent = True
    await cluster.later(26)
    await cluster.nodes.want("v1", "")
    await cluster.settle()
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch, volume.status.attachment.clean) == (
        "",
        2,
        False,
    )
    other = remote(volume)
    assert next(entry for entry in volume.status.nodes if entry.node == other.node).epoch == 2, "fenced"
    assert names.node_label("n1") in volume.metadata.labels, "it is to find what it still has standing"
    await cluster.nodes.want("v1", "n3")
    await cluster.settle()
    volume = await cluster.volume()
    assert (volume.status.attachment.node, volume.status.attachment.epoch) == ("n3", 3)
    states = {leg.node: leg.state for leg in volume.status.mapping.legs}
    assert states["n1"] == "Rebuilding", "what the failed node wrote to its own leg was never acknowledged"
    assert states[other.node] == "InSync"


async def test_a_quiescence_that_not_everyone_joins_is_aborted_and_tried_again_with_growing_pauses(
    cluster: Cluster,
) -> None:
    await attached(cluster, grace=0)
    cluster.nodes.nodes["n1"].restless = True
    cluster.nodes.pull(remote(await cluster.volume()).extents[0].device)
    await cluster.later(36)
    [first] = await cluster.quiescences()
    assert first.status.phase == "Aborted"
    assert "n1" in first.status.message
    assert names.ANNOTATION_QUIESCE not in (await cluster.node("n1")).metadata.annotations
    assert (await cluster.volume()).status.mapping.generation == 1, "nothing was changed"
    await cluster.later(90)
    assert len(await cluster.quiescences()) == 3
    cluster.nodes.nodes["n1"].restless = False
    await cluster.later(60)
    assert (await cluster.volume()).status.phase == "Ready"


async def test_a_second_failure_inside_a_running_quiescence_is_taken_in(cluster: Cluster) -> None:
    await attached(cluster, copies=3, grace=0)
    node = cluster.nodes.nodes["n1"]
    node.restless = True
    volume = await cluster.volume()
    lost = [leg for leg in volume.status.mapping.legs if leg.node != "n1"]
    cluster.nodes.pull(lost[0].extents[0].device)
    await cluster.settle()
    cluster.nodes.pull(lost[1].extents[0].device)
    await cluster.settle()
    assert len(await cluster.quiescences()) == 1
    node.restless = False
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.mapping.generation == 2, "one commit for both"
    assert {leg.id for leg in volume.status.mapping.legs if leg.releasing} == {leg.id for leg in lost}
    assert volume.status.phase == "Ready"


async def test_a_participant_that_dies_is_not_waited_for_for_ever(cluster: Cluster) -> None:
    await attached(cluster, grace=0)
    await cluster.set_kubelet("n1", ready=False)
    cluster.nodes.nodes["n1"].restless = True
    cluster.nodes.pull(remote(await cluster.volume()).extents[0].device)
    await cluster.settle()
    cluster.nodes.nodes["n1"].silent = True
    await cluster.later(60)
    assert all(q.status.phase in ("Aborted", "Released") for q in await cluster.quiescences())


async def test_a_persons_quiescence_is_held_until_it_is_released(cluster: Cluster) -> None:
    await attached(cluster)
    await cluster.manual("pause", reason="Manual", hold_io=True, deadline_seconds=300)
    await cluster.settle()
    [q] = await cluster.quiescences()
    assert (q.status.phase, q.status.acks, q.status.held) == ("Quiesced", "1/1", "7ms")
    assert (await cluster.node("n1")).metadata.annotations[names.ANNOTATION_QUIESCE] == "pause"
    await cluster.nodes.want("v1", "")
    await cluster.later(30)
    await cluster.kube.merge(Quiescence, "pause", {"spec": {"release": True}})
    await cluster.settle()
    [q] = await cluster.quiescences()
    assert q.status.phase == "Released"
    assert next(c for c in q.status.conditions if c.type == "Complete").status == "True"


async def test_a_persons_quiescence_ends_at_its_deadline_and_its_deletion_releases_it(cluster: Cluster) -> None:
    await attached(cluster)
    await cluster.manual("short", deadline_seconds=20)
    await cluster.later(25)
    [q] = await cluster.quiescences()
    assert q.status.phase == "Expired"
    await cluster.manual("long", deadline_seconds=600)
    await cluster.settle()
    await cluster.kube.delete(Quiescence, "long")
    await cluster.settle()
    assert names.ANNOTATION_QUIESCE not in (await cluster.node("n1")).metadata.annotations


async def test_overlapping_quiescences_queue_and_a_failure_goes_first(cluster: Cluster) -> None:
    await attached(cluster, grace=0)
    await cluster.manual("a-first", deadline_seconds=60)
    await cluster.settle()
    await cluster.manual("b-second", deadline_seconds=60)
    cluster.nodes.pull(remote(await cluster.volume()).extents[0].device)
    await cluster.settle()
    by_name = {q.metadata.name: q.status.phase for q in await cluster.quiescences()}
    assert by_name["a-first"] == "Quiesced"
    assert by_name["b-second"] == "Pending"
    await cluster.kube.merge(Quiescence, "a-first", {"spec": {"release": True}})
    await cluster.settle()
    started = {
        q.metadata.name: next((e.at for e in q.status.timeline if e.phase == "Instructed"), "")
        for q in await cluster.quiescences()
    }
    [failure] = [name for name in started if name.startswith("q-")]
    assert started[failure] < started["b-second"]
    assert (await cluster.volume()).status.phase == "Ready"


async def test_claims_are_asked_for_by_their_labels_when_a_quiescences_turn_comes(cluster: Cluster) -> None:
    await attached(cluster)
    claim = {"metadata": {"name": "data", "labels": {"app": "db"}}, "spec": {}}
    await cluster.kube.raw("POST", "/api/v1/namespaces/shop/persistentvolumeclaims", claim)
    annotations = {names.ANNOTATION_CLAIM: "shop/data"}
    await cluster.kube.merge(VirtualVolume, "v1", {"metadata": {"annotations": annotations}})
    for name, labels in (("theirs", {"app": "db"}), ("nobodys", {"app": "web"})):
        scope = Scope(claims=[ClaimScope(namespace="shop", match_labels=labels)])
        await cluster.manual(name, scope=scope, deadline_seconds=60)
    await cluster.settle()
    nobodys, theirs = await cluster.quiescences()
    assert (nobodys.status.phase, nobodys.status.message) == ("Aborted", "refused: no volume is in its scope")
    assert (theirs.status.phase, theirs.status.volumes) == ("Quiesced", ["v1"])
    [word] = theirs.status.acknowledgements
    assert (word.node, word.held) == ("n1", [])
    assert not cluster.master.world.found, "what was found is forgotten once it is used"


async def test_a_spare_that_is_lost_itself_is_given_back_for_another(cluster: Cluster) -> None:
    await attached(cluster, grace=0)
    cluster.nodes.nodes["n1"].restless = True
    cluster.nodes.pull(remote(await cluster.volume()).extents[0].device)
    await cluster.settle()
    [spare] = (await cluster.volume()).status.spares
    cluster.nodes.pull(spare.extents[0].device)
    await cluster.settle()
    volume = await cluster.volume()
    assert {(s.id, s.releasing) for s in volume.status.spares} == {("c", True), ("d", False)}
    cluster.nodes.nodes["n1"].restless = False
    await cluster.later(60)
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    cluster.nodes.plug(spare.extents[0].device)
    await cluster.settle()
    assert (await cluster.volume()).status.spares == []


async def test_a_leg_that_returns_while_its_spare_is_prepared_makes_the_spare_unnecessary(cluster: Cluster) -> None:
    await attached(cluster, grace=0)
    cluster.nodes.nodes["n1"].restless = True
    lost = remote(await cluster.volume()).extents[0].device
    cluster.nodes.pull(lost)
    await cluster.settle()
    cluster.nodes.plug(lost)
    cluster.nodes.nodes["n1"].restless = False
    await cluster.later(60)
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    assert volume.status.spares == []


async def test_a_device_that_is_deleted_is_emptied_first_without_losing_a_copy(cluster: Cluster) -> None:
    await attached(cluster)
    leg = remote(await cluster.volume())
    device = leg.extents[0].device
    cluster.nodes.nodes["n1"].slow_rebuild = True
    await cluster.kube.delete(StorageDevice, device)
    await cluster.settle()
    volume = await cluster.volume()
    assert volume.status.copies == "2/2", "the copy that leaves is there until the new one is in sync"
    assert (await cluster.device(device)).status.phase == "Draining"
    cluster.nodes.nodes["n1"].slow_rebuild = False
    await cluster.settle()
    assert device not in {d.metadata.name for d in await cluster.kube.list(StorageDevice)}
    volume = await cluster.volume()
    assert volume.status.phase == "Ready"
    assert leg.id not in {leg.id for leg in volume.status.mapping.legs}


async def test_an_empty_disk_that_a_policy_wants_is_taken_in(cluster: Cluster) -> None:
    cluster.master.world.adoption = (Policy(pool="fast"),)
    empty, full = ({"path": f"/dev/{n}", "serial": n, "state": s} for n, s in (("E1", "Empty"), ("F1", "Foreign")))
    manager = names.node_manager("n1")
    await cluster.kube.apply_status(StorageNode, "n1", {"unclaimedDisks": [empty, full]}, manager=manager)
    await cluster.settle()
    device = await cluster.device("n1-e1")
    assert (device.spec.node_name, device.spec.pool, device.spec.identity.serial) == ("n1", "fast", "E1")
    assert "n1-f1" not in {one.metadata.name for one in await cluster.kube.list(StorageDevice)}
    assert any(reason == "DiskAdopted" for reason in [event.reason for event in cluster.kube.events])


async def test_a_disk_that_warns_of_its_end_is_emptied_with_all_copies_at_every_step(cluster: Cluster) -> None:
    await attached(cluster)
    leg = remote(await cluster.volume())
    device = leg.extents[0].device
    cluster.nodes.nodes["n1"].slow_rebuild = True
    cluster.nodes.disks[device].warnings = ("TooHot",)
    await cluster.later(30)
    assert (await cluster.device(device)).status.phase == "Online"
    assert "too hot" in (await cluster.device(device)).status.message
    cluster.nodes.disks[device].warnings = ("SpareLow", "TooHot")
    await cluster.later(30)
    failing = (await cluster.device(device)).status
    assert (failing.phase, failing.free) == ("Failing", "-")
    assert "few spare blocks are left" in failing.message
    assert cluster.master.world.unfit(await cluster.device(device)) == "its disk warns: SpareLow"
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.copies) == ("Ready", "2/2")
    [move] = volume.status.operations
    assert (move.kind, move.replaces) == ("Move", leg.id)
    cluster.nodes.nodes["n1"].slow_rebuild = False
    await cluster.later(30)
    failing = (await cluster.device(device)).status
    assert (failing.phase, failing.legs) == ("Failing", 0)
    assert "safe to delete" in failing.message
    assert leg.id not in {one.id for one in (await cluster.volume()).status.mapping.legs}
    cluster.nodes.disks[device].warnings = ()
    await cluster.later(30)
    assert (await cluster.device(device)).status.phase == "Online"


async def test_the_last_copy_keeps_its_device_until_its_loss_is_accepted(cluster: Cluster) -> None:
    await attached(cluster, copies=1)
    [leg] = (await cluster.volume()).status.mapping.legs
    device = leg.extents[0].device
    cluster.nodes.pull(device)
    await cluster.kube.delete(StorageDevice, device)
    await cluster.settle()
    assert (await cluster.volume()).status.phase == "Faulted"
    message = (await cluster.device(device)).status.message
    assert names.ANNOTATION_ACCEPT_DATA_LOSS in message
    accept = {names.ANNOTATION_ACCEPT_DATA_LOSS: leg.extents[0].device_uuid}
    await cluster.kube.merge(StorageDevice, device, {"metadata": {"annotations": accept}})
    await cluster.settle()
    assert device not in {d.metadata.name for d in await cluster.kube.list(StorageDevice)}


async def test_copies_can_be_added_and_taken_away(cluster: Cluster) -> None:
    await attached(cluster, copies=1)
    await cluster.kube.merge(VirtualVolume, "v1", {"spec": {"layout": {"copies": 2}}})
    await cluster.settle()
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.copies) == ("Ready", "2/2")
    await cluster.kube.merge(VirtualVolume, "v1", {"spec": {"layout": {"copies": 1}}})
    await cluster.later(10)
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.copies) == ("Ready", "1/1")
    assert [leg.node for leg in volume.status.mapping.legs] == ["n1"]
    assert leg_on(volume, "n1").state == "InSync"


async def test_only_the_masters_own_old_quiescences_are_pruned(cluster: Cluster) -> None:
    await attached(cluster, grace=3600)
    await cluster.manual("mine", deadline_seconds=1)
    device = remote(await cluster.volume()).extents[0].device
    for _ in range(24):
        cluster.nodes.pull(device)
        await cluster.settle()
        cluster.nodes.plug(device)
        await cluster.later(301, step=301)
    kept = await cluster.quiescences()
    assert len(kept) == 21
    assert "mine" in {q.metadata.name for q in kept}


async def test_an_object_that_cannot_be_read_stops_nobody_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await attached(cluster, grace=0)
    spoilt = Key(StorageDevice, "n3-d2")

    async def get(self: MasterKube, kind: Any, name: str) -> Any:
        if (kind, name) == spoilt:
            raise Invalid("StorageDevice 'n3-d2' cannot be read: Expected `int`")
        return await super(MasterKube, self).get(kind, name)

    monkeypatch.setattr(MasterKube, "get", get, raising=False)
    cluster.master._doubted.add(spoilt)
    cluster.nodes.pull(remote(await cluster.volume()).extents[0].device)
    await cluster.later(20)
    volume = await cluster.volume()
    assert (volume.status.phase, volume.status.copies) == ("Ready", "2/2")
    assert cluster.master.counts["unreadable"] > 0
    assert "'n3-d2' cannot be read: Expected `int`; the others go on" in caplog.text
    monkeypatch.undo()
    await cluster.later(60)
    unreadable = cluster.master.counts["unreadable"]
    await cluster.later(60)
    assert cluster.master.counts["unreadable"] == unreadable, "it is read again, and well"
