"""A machine's command line, its seed, its disks, and the conversation with QEMU."""

from __future__ import annotations

import json
import platform
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import accel, counter, kernels, nodeimage, oci, qmp, seed
from lab.agent import Agent
from lab.errors import LabError
from lab.node import Node
from lab.noderecord import NodeRecord
from lab.qemu import Disk, Machine, Spec

DISKS = (Disk("disk1", "n1-disk1", 64), Disk("disk2", "n1-disk2", 64))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("MILLPOND_ACCEL", "tcg")
    return Machine(tmp_path, "n1", Agent("n1", 7701, "t"))


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return Spec("lab-n1", tmp_path, tmp_path / "root,1.img", tmp_path / "seed.tar", "/init", DISKS, lan="230.1.2.3:99")


def test_each_disk_has_a_port_of_its_own_and_can_be_pulled(machine: Machine, spec: Spec) -> None:
    devices = [word for word in machine._argv(spec) if word.startswith(("nvme", "driver=nvme", "pcie-root-port"))]
    assert devices == [
        "pcie-root-port,id=port-disk1,chassis=1,slot=1",
        "driver=nvme,id=disk1,bus=port-disk1,drive=disk1-data,serial=n1-disk1",
        "pcie-root-port,id=port-disk2,chassis=2,slot=2",
        "driver=nvme,id=disk2,bus=port-disk2,drive=disk2-data,serial=n1-disk2",
    ]


def test_an_emulated_guest_is_told_how_fast_its_clock_counts(
    machine: Machine, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counter, "khz", lambda: 2596130)
    accel.flags.cache_clear()
    assert " tsc_early_khz=2596130 " in " ".join(machine._argv(spec))
    monkeypatch.setattr(counter, "khz", lambda: 0)
    assert "tsc_early_khz" not in " ".join(machine._argv(spec)), "it has to find out by itself"
    monkeypatch.setenv("MILLPOND_ACCEL", "kvm")
    monkeypatch.setattr(counter, "khz", lambda: 2596130)
    accel.flags.cache_clear()
    assert "tsc_early_khz" not in " ".join(machine._argv(spec)), "KVM may scale it"
    accel.flags.cache_clear()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the counter is x86's")
def test_the_counter_is_measured_to_a_thousandth_at_least() -> None:
    counter.khz.cache_clear()
    first = counter.khz()
    counter.khz.cache_clear()
    assert first > 100_000
    assert abs(counter.khz() - first) < first / 1000


def test_a_pulled_disk_stays_pulled_when_the_power_comes_back(machine: Machine, spec: Spec) -> None:
    (machine.folder / "disk2.pulled").touch()
    assert not machine.plugged(DISKS[1])
    argv = " ".join(machine._argv(spec))
    assert "serial=n1-disk1" in argv
    assert "serial=n1-disk2" not in argv
    assert "node-name=disk2-data" in argv  # its content is there, to be plugged again


def test_the_guest_is_reached_over_the_loopback_only(machine: Machine, spec: Spec) -> None:
    (net,) = (word for word in machine._argv(spec) if word.startswith("user,"))
    assert net == "user,id=wan,hostfwd=tcp:127.0.0.1:7701-:7700"
    assert "socket,id=lan,mcast=230.1.2.3:99,localaddr=127.0.0.1" in machine._argv(spec)


class Booting(Machine):
    """One whose boots end as it is told."""

    def __init__(self, folder: Path, *consoles: str) -> None:
        super().__init__(folder, "n1", Agent("n1", 7701, "t"))
        self.consoles, self.started = [*consoles], 0
        self.log.write_text("")

    def start(self, spec: Spec) -> None:
        self.started += 1
        self.console.write_text(self.consoles.pop(0))

    def alive(self) -> bool:
        return self.console.read_text() == "login:"

    def power_off(self) -> None:
        """It has ended."""


@pytest.mark.parametrize(
    ("consoles", "error"),
    [
        pytest.param(("login:",), "", id="it-boots"),
        pytest.param(("Oops: int3: 0000 [#1]", "login:"), "", id="broken-by-the-emulator"),
        pytest.param(("Oops: int3: 0000 [#1]", "Oops: int3: 0000 [#2]"), r"\[#2\]", id="twice"),
        pytest.param(("BUG: ours",), "BUG: ours", id="broken-by-anything-else"),
    ],
)
def test_a_boot_that_the_emulator_broke_is_begun_once_more(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch, consoles: tuple[str, ...], error: str
) -> None:
    machine = Booting(tmp_path, *consoles)

    def answers(_: Agent, *, seconds: float, alive: Callable[[], bool]) -> None:
        if not alive():
            raise LabError("it has ended")

    monkeypatch.setattr(Agent, "wait", answers)
    machine.start(spec)
    if error:
        with pytest.raises(LabError, match=error):
            machine.wait(spec, seconds=1)
    else:
        machine.wait(spec, seconds=1)
    assert machine.started == len(consoles)


def test_a_comma_in_a_path_is_not_an_option(machine: Machine, spec: Spec) -> None:
    odd = Spec("x", spec.boot, spec.root, Path("/a,b/seed.tar"), "/init")
    assert any("file.filename=/a,,b/seed.tar," in word for word in machine._argv(odd))


def test_a_record_survives_writing_down() -> None:
    record = NodeRecord.new(2, disks=3, disk_mib=64, mib=512)
    assert NodeRecord.decode(json.loads(json.dumps(record.encode()))) == record
    assert [disk.serial for disk in record.disks] == ["n2-disk1", "n2-disk2", "n2-disk3"]
    assert record.address == "192.168.77.12"


def test_disks_are_found_by_name_or_serial_and_others_refused(tmp_path: Path, spec: Spec) -> None:
    node = Node(tmp_path, NodeRecord.new(1, disks=2, disk_mib=64, mib=512), spec)
    assert node.disk("disk2") == node.disk("n1-disk2")
    with pytest.raises(LabError, match="n1 has no disk 'disk9': it has disk1, disk2"):
        node.disk("disk9")


def test_kernels_that_the_lab_has_not_are_refused_by_name() -> None:
    with pytest.raises(LabError, match=r"no kernel '5.10' in the lab\n  next: choose one of 6.1, 6.12"):
        kernels.check("5.10")


def test_a_node_s_seed_holds_what_it_needs_and_only_root_reads_its_secrets(tmp_path: Path) -> None:
    record = NodeRecord.new(1, disks=1, disk_mib=64, mib=512)
    (tmp_path / "k").write_text("private")
    nodeimage.write_seed(tmp_path / "seed.tar", record, secrets={"kubelet.key": tmp_path / "k"}, others=[2, 3])
    assert (tmp_path / "seed.tar").stat().st_size % 512 == 0
    with tarfile.open(tmp_path / "seed.tar") as archive:
        modes = {member.name: member.mode for member in archive}
        assert modes["etc/kubernetes/kubelet.key"] == modes["etc/lab/token"] == 0o600
        assert modes["usr/local/sbin/lab-setup"] == 0o755
        assert archive.getmember("etc/systemd/system/multi-user.target.wants/kubelet.service").issym()
        env = archive.extractfile("etc/kubernetes/node.env")
        assert env is not None
        assert 'ROUTES="10.244.2.0/24@192.168.77.12 10.244.3.0/24@192.168.77.13"' in env.read().decode()
        assert json.load(archive.extractfile("etc/kubernetes/kubelet.yaml"))["port"] == record.kubelet_port  # type: ignore[arg-type]


def test_the_work_tree_without_what_git_ignores(tmp_path: Path) -> None:
    names = seed.work_tree(Path(__file__).parents[2])
    assert "e2e/lab/seed.py" in names
    assert not any("__pycache__" in name or name.startswith("build/") for name in names)


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
    (tmp_path / "modules.dep").write_text(
        "kernel/crc16.ko:\nkernel/jbd2.ko:\nkernel/ext4.ko: kernel/jbd2.ko kernel/crc16.ko\n"
        "kernel/virtio_blk.ko.xz: kernel/crc16.ko\nkernel/crc32c-generic.ko:\n"
    )
    order = kernels._load_order(tmp_path)
    assert order == [
        "kernel/crc16.ko",
        "kernel/virtio_blk.ko.xz",
        "kernel/crc32c-generic.ko",
        "kernel/jbd2.ko",
        "kernel/ext4.ko",
    ]


def test_an_initramfs_is_what_the_kernel_unpacks() -> None:
    archive = kernels._cpio({"init": (0o100755, b"12345")})
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert archive.index(b"12345") % 4 == 0
    assert int(archive[54:62], 16) == 5  # the file's size


def test_an_image_archive_names_its_image_and_its_layer(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!")
    oci.layer_of(tmp_path / "layer.tar", {"bin/x": tmp_path / "program"}, {"bin/y": "x"})
    oci.write(tmp_path / "image.tar", "localhost/x:lab", tmp_path / "layer.tar", entrypoint=["/bin/y"])
    with tarfile.open(tmp_path / "image.tar") as archive:

        def blob(digest: str) -> Any:
            return json.load(archive.extractfile("blobs/sha256/" + digest.removeprefix("sha256:")))  # type: ignore[arg-type]

        (manifest,) = json.load(archive.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
        assert manifest["annotations"]["io.containerd.image.name"] == "localhost/x:lab"
        described = blob(manifest["digest"])
        assert blob(described["config"]["digest"])["config"]["Entrypoint"] == ["/bin/y"]
        layer = archive.extractfile("blobs/sha256/" + described["layers"][0]["digest"].removeprefix("sha256:"))
        assert layer is not None
        assert layer.read() == (tmp_path / "layer.tar").read_bytes()


# -- QEMU's monitor

Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture
def monitor_of(tmp_path: Path) -> Iterator[Callable[[Answer], Path]]:
    """A socket at which one conversation is answered by a function of the command."""
    server = socket.socket(socket.AF_UNIX)
    path = tmp_path / ("a-folder-with-a-long-name-" * 4) / "monitor.sock"
    path.parent.mkdir()
    threads = []

    def serve(answer: Answer) -> None:
        link, _ = server.accept()
        with link, link.makefile("rw") as stream:
            print(json.dumps({"QMP": {}}), file=stream, flush=True)
            for line in stream:
                for message in answer(json.loads(line)):
                    print(json.dumps(message), file=stream, flush=True)

    def start(answer: Answer) -> Path:
        (tmp_path / "s").symlink_to(path.parent)
        server.bind(str(tmp_path / "s" / "monitor.sock"))
        server.listen(1)
        server.settimeout(10)
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
    server.close()


def test_unplugging_waits_for_the_guest_to_let_go(monitor_of: Callable[[Answer], Path]) -> None:
    def answer(message: dict[str, Any]) -> list[dict[str, Any]]:
        done: dict[str, Any] = {"return": {}}
        if message["execute"] != "device_del":
            return [done]
        other = {"event": "DEVICE_DELETED", "data": {"path": "/x"}}
        return [other, {"event": "DEVICE_DELETED", "data": {"device": "disk1"}}, done]

    with qmp.connect(monitor_of(answer)) as monitor:
        qmp.unplug(monitor, "disk1")


def test_a_refusal_says_why(monitor_of: Callable[[Answer], Path]) -> None:
    def answer(message: dict[str, Any]) -> list[dict[str, Any]]:
        refused = {"error": {"class": "DeviceNotFound", "desc": "Device 'disk1' not found"}}
        return [refused if message["execute"] == "device_del" else {"return": {}}]

    path = monitor_of(answer)
    with (
        pytest.raises(LabError, match="QEMU refused device_del: Device 'disk1' not found"),
        qmp.connect(path) as monitor,
    ):
        qmp.unplug(monitor, "disk1")


def test_silence_has_an_end(monitor_of: Callable[[Answer], Path]) -> None:
    def answer(message: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"return": {}}] if message["execute"] == "qmp_capabilities" else []

    path = monitor_of(answer)
    with pytest.raises(LabError, match="QEMU did not answer 'stop'"), qmp.connect(path) as monitor:
        monitor.command("stop", seconds=0.2)


def test_a_machine_that_is_off_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no machine answers"), qmp.connect(tmp_path / "monitor.sock"):
        pass
