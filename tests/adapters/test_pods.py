"""Pods and their processes, from files in the places of mountinfo, sysfs and cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from millpond_adapters import sysfs
from millpond_adapters.pods import PodProcesses
from millpond_core.errors import NotFound

ONE, TWO, RAW, OTHER, NAMED = (f"{n}{n}{n}{n}{n}{n}{n}{n}-0000-4000-8000-00000000000{n}" for n in (1, 2, 3, 4, 5))
CSI = "/var/lib/kubelet/plugins/kubernetes.io/csi"

# As the host of a node shows them: staged, published twice (one as a subpath), raw block, and what is another's.
MOUNTS = f"""\
30 1 253:7 / {CSI}/csi.millpond.io/abc/globalmount rw - ext4 /dev/dm-7 rw
31 1 253:7 / /var/lib/kubelet/pods/{ONE}/volumes/kubernetes.io~csi/pvc-9/mount rw - ext4 /dev/dm-7 rw
32 1 253:7 /sub /var/lib/kubelet/pods/{TWO}/volume-subpaths/pvc-9/main/0 rw - ext4 /dev/dm-7 rw
33 1 0:5 /dm-8 {CSI}/volumeDevices/publish/pvc-8/{RAW} rw - devtmpfs udev rw
34 1 0:5 /dm-8 {CSI}/volumeDevices/pvc-8/dev/{RAW} rw - devtmpfs udev rw
35 1 253:9 / /var/lib/kubelet/pods/{OTHER}/volumes/kubernetes.io~csi/pvc-7/mount rw - ext4 /dev/dm-9 rw
36 1 0:5 / /dev rw - devtmpfs udev rw
37 1 0:5 /mapper/millpond-x {CSI}/volumeDevices/publish/pvc-6/{NAMED} rw - devtmpfs udev rw
"""


class Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proc/1").mkdir(parents=True)
        (folder / "proc/1/mountinfo").write_text(MOUNTS)
        for minor in (7, 8, 9):
            (folder / f"sys/devices/virtual/block/dm-{minor}").mkdir(parents=True)
            (folder / "sys/dev/block").mkdir(parents=True, exist_ok=True)
            (folder / f"sys/dev/block/253:{minor}").symlink_to(f"../../devices/virtual/block/dm-{minor}")
        (folder / "sys/devices/virtual/block/dm-9/dm").mkdir()
        (folder / "sys/devices/virtual/block/dm-9/dm/name").write_text("millpond-x\n")
        self.pods = PodProcesses(folder / "proc", folder / "sys")

    def cgroup(self, path: str, *pids: int) -> None:
        folder = self.folder / "sys/fs/cgroup" / path
        folder.mkdir(parents=True)
        (folder / "cgroup.kill").write_text("0")
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def process(self, pid: int, *, mounts: str = "", opened: str = "") -> None:
        """With those mounts (of a pod's own), and that file open."""
        folder = self.folder / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "mountinfo").write_text(mounts)
        if opened:
            (folder / "fd/3").symlink_to(opened)

    def killed(self) -> list[str]:
        found = (self.folder / "sys/fs/cgroup").rglob("cgroup.kill")
        return sorted(str(file.parent.name) for file in found if file.read_text() == "1")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.cgroup("system.slice/kubelet.service")
    made.cgroup(f"kubepods/burstable/pod{ONE}")
    made.cgroup(f"kubepods/burstable/pod{ONE}/0123456789abcdef")
    slice_of = f"kubepods-besteffort-pod{TWO.replace('-', '_')}.slice"
    made.cgroup(f"kubepods.slice/kubepods-besteffort.slice/{slice_of}")
    made.cgroup(f"kubepods/pod{RAW}")
    made.cgroup(f"kubepods/pod{OTHER}")
    made.cgroup(f"kubepods/pod{NAMED}")
    return made


async def test_every_pod_that_has_it_mounted_is_killed_and_no_other(node: Node) -> None:
    assert await node.pods.kill("253:7") == [ONE, TWO]
    assert node.killed() == [f"kubepods-besteffort-pod{TWO.replace('-', '_')}.slice", f"pod{ONE}"]


async def test_a_pod_with_the_raw_device_is_killed(node: Node) -> None:
    assert await node.pods.kill("253:8") == [RAW]
    assert node.killed() == [f"pod{RAW}"]


async def test_a_pod_that_has_the_node_of_that_name_is_killed(node: Node) -> None:
    assert await node.pods.kill("253:9") == [OTHER, NAMED]


async def test_a_device_that_no_pod_has_costs_nobody_anything(node: Node) -> None:
    assert await node.pods.kill("253:6") == []
    assert node.killed() == []


async def test_a_pod_that_still_has_it_when_the_host_has_unmounted_it_is_killed(node: Node) -> None:
    (node.folder / "proc/1/mountinfo").write_text("30 1 0:5 / /dev rw - devtmpfs udev rw\n")
    node.cgroup(f"kubepods/burstable/pod{ONE}/main", 71)
    node.cgroup(f"kubepods/pod{OTHER}/main", 72)
    node.process(71, mounts="91 80 253:7 /sub /data rw - ext4 /dev/dm-7 rw\n")
    node.process(72, mounts="92 81 253:9 / /data rw - ext4 /dev/dm-9 rw\n")
    assert await node.pods.kill("253:7") == [ONE]


async def test_a_pod_that_has_the_raw_device_open_is_killed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    (node.folder / "proc/1/mountinfo").write_text("30 1 0:5 / /dev rw - devtmpfs udev rw\n")
    node.cgroup(f"kubepods/pod{RAW}/main", 71)
    node.cgroup(f"kubepods/pod{OTHER}/main", 72)
    node.process(71, opened="/dev/data")
    node.process(72, opened="/mnt/data")
    monkeypatch.setattr(sysfs, "number_of", lambda handle: "253:8")
    assert await node.pods.kill("253:8") == [RAW]


async def test_who_only_sees_the_hosts_mounts_is_left_alone(node: Node) -> None:
    """Drivers, and whoever measures filesystems, have all of the kubelet's folder."""
    node.cgroup(f"kubepods/pod{OTHER}/driver", 72)
    node.process(72, mounts=MOUNTS.replace(" /var/lib", " /host/var/lib"))
    assert await node.pods.kill("253:7") == [ONE, TWO]


async def test_our_own_pod_is_never_killed(node: Node) -> None:
    node.cgroup(f"kubepods/pod{OTHER}/csi", os.getpid(), 73)
    node.process(73, mounts="92 81 253:7 / /mnt rw - ext4 /dev/dm-7 rw\n")
    assert await node.pods.kill("253:7") == [ONE, TWO]


async def test_a_process_that_is_just_ending_is_passed_over(node: Node) -> None:
    node.cgroup(f"kubepods/pod{OTHER}/main", 74)
    assert await node.pods.kill("253:7") == [ONE, TWO]


async def test_a_pod_whose_cgroup_is_gone_has_no_process_left(node: Node) -> None:
    for file in (node.folder / f"sys/fs/cgroup/kubepods/pod{RAW}").iterdir():
        file.unlink()
    assert await node.pods.kill("253:8") == []


async def test_pods_without_cgroups_of_their_own_are_not_guessed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.cgroup("k8s.io/0123456789abcdef")
    with pytest.raises(NotFound, match=f"{ONE}.*held; reboot"):
        await node.pods.kill("253:7")
    assert node.killed() == []
