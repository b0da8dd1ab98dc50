"""Disks: claimed when named, refused with a reason and untouched, erased once when told exactly, lost, found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from node_cluster import Cluster

from millpond_core.model import StorageDevice
from millpond_core.model.storagedevice import DeviceObservation
from millpond_core.observed import Label
from millpond_core.testing.world import Disk
from millpond_core.units import MIB

SIZE = 256 * MIB


def seen(cluster: Cluster, name: str = "n1-nvme1") -> DeviceObservation:
    found: DeviceObservation = cluster.sdev(name).status.observation
    return found


async def named(cluster: Cluster, disk: Disk, state: str) -> DeviceObservation:
    """Plug a disk in, name it, and wait for what becomes of it."""
    cluster.machine("n1").add_disk("nvme1", disk)
    await cluster.device("n1", "nvme1")
    await cluster.until(lambda: seen(cluster).state == state)
    return seen(cluster)


def changes(cluster: Cluster) -> list[str]:
    """What was done to disks."""
    return [step for step in cluster.world.steps if "label write" in step or "erase" in step or "zero" in step]


async def test_free_disks_are_reported_with_what_is_on_them(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        machine = cluster.machine("n1")
        machine.add_disk("nvme1", Disk("EMPTY", SIZE))
        machine.add_disk("nvme2", Disk("FOREIGN", SIZE, ("ext4",)))
        used = Disk("USED", SIZE, ("xfs",))
        used.holders = ("mounted on /",)
        machine.add_disk("nvme3", used)
        await cluster.until(lambda: len(cluster.snode("n1").status.unclaimed_disks) == 3)
        found = {
            d.serial: (d.state, d.contents, bool(d.fingerprint)) for d in cluster.snode("n1").status.unclaimed_disks
        }
        assert found == {
            "EMPTY": ("Empty", [], False),
            "FOREIGN": ("Foreign", ["ext4"], True),
            "USED": ("InUse", ["xfs", "mounted on /"], False),
        }
        assert changes(cluster) == []


async def test_an_empty_disk_is_claimed_and_no_longer_free(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        observation = await named(cluster, Disk("S1", SIZE), "Claimed")
        label = cluster.machine("n1").slots["nvme1"].labels[-1]
        assert (label.device_uuid, label.device_name, label.attach_count) == (observation.device_uuid, "n1-nvme1", 1)
        assert observation.capacity_bytes == SIZE - 4 * MIB
        await cluster.until(lambda: cluster.snode("n1").status.disks == "1 claimed, 0 unclaimed")


async def test_a_disk_in_use_is_refused_always_and_untouched(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE)
        disk.holders = ("mounted on /data",)
        observation = await named(cluster, disk, "Refused")
        assert "mounted on /data" in observation.message
        assert changes(cluster) == []
        disk.holders = ()
        await cluster.until(lambda: seen(cluster).state == "Claimed")


async def test_a_foreign_signature_is_erased_only_when_named_exactly(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE, ("ext4",))
        observation = await named(cluster, disk, "Refused")
        assert observation.fingerprint in observation.message
        assert observation.contents == ["ext4"]
        await cluster.kube.merge(StorageDevice, "n1-nvme1", {"spec": {"eraseSignature": "another"}})
        await cluster.until(lambda: "another disk or other contents" in seen(cluster).message)
        assert changes(cluster) == []
        await cluster.kube.merge(StorageDevice, "n1-nvme1", {"spec": {"eraseSignature": observation.fingerprint}})
        await cluster.until(lambda: seen(cluster).state == "Claimed")
        assert [step.split()[1:3] for step in changes(cluster)] == [["block", "erase"], ["label", "write"]]


async def test_a_fingerprint_is_for_what_was_on_the_disk_then(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE, ("ext4",))
        observation = await named(cluster, disk, "Refused")
        machine = cluster.machine("n1")
        machine.pull("nvme1")
        await cluster.until(lambda: seen(cluster).state == "Absent")
        disk.signatures = ("LVM2_member",)
        machine.plug("nvme1")
        await cluster.kube.merge(StorageDevice, "n1-nvme1", {"spec": {"eraseSignature": observation.fingerprint}})
        await cluster.until(lambda: "LVM2_member" in seen(cluster).message)
        assert changes(cluster) == []


async def test_permission_to_erase_is_used_once(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE, ("ext4",))
        observation = await named(cluster, disk, "Refused")
        await cluster.kube.merge(StorageDevice, "n1-nvme1", {"spec": {"eraseSignature": observation.fingerprint}})
        await cluster.until(lambda: seen(cluster).state == "Claimed")
        # Somebody takes the disk away, wipes the label and formats it as it was.
        cluster.machine("n1").pull("nvme1")
        disk.labels.clear()
        disk.signatures = ("ext4",)
        done = len(changes(cluster))
        cluster.machine("n1").plug("nvme1")
        await cluster.until(lambda: "no label" in seen(cluster).message)
        assert seen(cluster).state == "Failed"
        assert len(changes(cluster)) == done


@pytest.mark.parametrize(
    ("cluster_uid", "message"),
    [
        ("another-cluster", "belongs to the cluster with uid another-cluster"),
        ("ours", "labelled as StorageDevice other"),
    ],
)
async def test_a_millpond_label_is_never_erased(tmp_path: Path, cluster_uid: str, message: str) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE)
        ours = cluster.managers["n1"].devices
        await cluster.until(lambda: ours.cluster)
        uid = ours.cluster if cluster_uid == "ours" else cluster_uid
        disk.labels.append(Label(cluster=uid, device_uuid="u" * 8, device_name="other", sequence=3))
        observation = await named(cluster, disk, "Refused")
        assert message in observation.message
        assert len(disk.labels) == 1 or cluster_uid == "ours"


async def test_a_damaged_label_is_left_alone(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE)
        disk.label_damaged = True
        observation = await named(cluster, disk, "Refused")
        assert "cannot be read" in observation.message
        assert changes(cluster) == []


async def test_two_disks_with_one_identity_are_refused(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        cluster.machine("n1").add_disk("nvme2", Disk("S1", SIZE))
        observation = await named(cluster, Disk("S1", SIZE), "Refused")
        assert "name one by its path" in observation.message
        assert changes(cluster) == []


async def test_a_vanished_disk_is_failed_at_once_and_a_new_life_when_it_is_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        await named(cluster, Disk("S1", SIZE), "Claimed")
        cluster.machine("n1").pull("nvme1")
        await cluster.until(lambda: seen(cluster).state == "Failed", seconds=2)
        assert seen(cluster).since
        cluster.machine("n1").plug("nvme1")
        await cluster.until(lambda: seen(cluster).state == "Claimed")
        assert seen(cluster).attach_count == 2


async def test_a_restart_is_no_new_life_and_a_reboot_is_one(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        await named(cluster, Disk("S1", SIZE), "Claimed")
        await cluster.restart("n1")
        await cluster.pass_time(5)
        assert seen(cluster).attach_count == 1
        await cluster.power_off("n1")
        await cluster.power_on("n1")
        await cluster.until(lambda: seen(cluster).attach_count == 2)
        assert seen(cluster).state == "Claimed"


async def test_a_disk_that_answers_with_errors_is_failed(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        await named(cluster, Disk("S1", SIZE), "Claimed")
        cluster.machine("n1").slots["nvme1"].failing = True
        await cluster.until(lambda: seen(cluster).state == "Failed", seconds=20)
        cluster.machine("n1").slots["nvme1"].failing = False
        await cluster.until(lambda: seen(cluster).state == "Claimed", seconds=20)
        assert seen(cluster).attach_count == 2, "its cache may be lost"


async def test_a_slow_disk_is_no_dead_disk_and_keeps_its_life(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE)
        before = await named(cluster, disk, "Claimed")
        disk.slow = True
        await cluster.pass_time(25)
        assert seen(cluster).state == "Claimed"
        disk.slow = False
        await cluster.pass_time(10)
        assert seen(cluster).attach_count == before.attach_count
        disk.slow = True
        await cluster.until(lambda: seen(cluster).state == "Failed", seconds=60)


async def test_another_disk_in_its_place_is_not_taken_for_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        await named(cluster, Disk("S1", SIZE), "Claimed")
        machine = cluster.machine("n1")
        machine.pull("nvme1")
        await cluster.until(lambda: seen(cluster).state == "Failed")
        machine.slots["nvme1"] = Disk("S1", SIZE)
        machine.plug("nvme1")
        await cluster.until(lambda: "no label" in seen(cluster).message)
        assert seen(cluster).state == "Failed"
        assert machine.slots["nvme1"].labels == []


async def test_a_disk_that_has_grown_has_more_room(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE)
        before = await named(cluster, disk, "Claimed")
        disk.size_bytes = 2 * SIZE
        await cluster.until(lambda: seen(cluster).capacity_bytes == before.capacity_bytes + SIZE)


async def test_a_disk_that_warns_is_reported_within_a_minute_and_its_last_words_stand(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        disk = Disk("S1", SIZE)
        assert (await named(cluster, disk, "Claimed")).warnings == []
        disk.warnings = ("SpareLow",)
        await cluster.until(lambda: seen(cluster).warnings == ["SpareLow"], seconds=70)
        assert seen(cluster).state == "Claimed"
        disk.slow = True
        await cluster.restart("n1")
        await cluster.pass_time(10)
        assert seen(cluster).warnings == ["SpareLow"], "who does not answer has taken nothing back"
        disk.slow = False
        cluster.machine("n1").pull("nvme1")
        await cluster.until(lambda: seen(cluster).state == "Failed")
        assert seen(cluster).warnings == ["SpareLow"]
        disk.warnings = ()
        cluster.machine("n1").plug("nvme1")
        await cluster.until(lambda: seen(cluster).state == "Claimed" and seen(cluster).warnings == [])


async def test_legs_whose_storagedevice_is_gone_stay_in_use(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2")
        await cluster.attach("v", "n1")
        await cluster.kube.delete(StorageDevice, "n2-nvme1")
        await cluster.pass_time(10)
        await cluster.restart("n2")
        await cluster.pass_time(10)
        write = cluster.write("n1", "v", 1, 11)
        await cluster.until(lambda: write.done)
        assert cluster.states("v") == {"a": "InSync", "b": "InSync"}


async def test_a_leg_is_released_on_a_positive_record_only(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1", "n2") as cluster:
        for node in cluster.nodes:
            await cluster.disk(node, "nvme1")
        await cluster.volume("v", "n1", "n2")
        disk = cluster.machine("n2").slots["nvme1"]
        await cluster.commit("v", lambda leg: None if leg.id == "b" else leg)
        await cluster.pass_time(10)
        assert len(disk.labels[-1].legs) == 1, "absence is never an instruction"
        await cluster.until(lambda: cluster.snode("n2").status.orphaned_legs)
        orphan = cluster.snode("n2").status.orphaned_legs[0]
        assert orphan == f"{cluster.vvol('v').spec.uuid}/b on n2-nvme1"


async def test_extents_of_another_leg_are_never_given_away(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "n1") as cluster:
        await cluster.disk("n1", "nvme1")
        await cluster.volume("v", "n1")
        leg = msgspec.structs.replace(cluster.new_leg("z", "n1", 16), state="Rebuilding")
        await cluster.commit("v", lambda one: one, leg)
        await cluster.until(lambda: "belong to leg a of v" in cluster.report("v", "n1").message)
        assert [entry.leg for entry in cluster.machine("n1").slots["nvme1"].labels[-1].legs] == ["a"]


async def test_a_storagedevice_made_anew_is_told_of_its_disk(tmp_path: Path) -> None:
    """As after ``kubectl millpond vdb import``: what was reported of the object before says nothing of this one."""
    async with Cluster(tmp_path, "n1") as cluster:
        before = await named(cluster, Disk("S1", SIZE), "Claimed")
        await cluster.kube.delete(StorageDevice, "n1-nvme1")
        await cluster.pass_time(3)
        await cluster.device("n1", "nvme1")
        await cluster.until(lambda: seen(cluster).state == "Claimed", seconds=30)
        assert seen(cluster).device_uuid == before.device_uuid
