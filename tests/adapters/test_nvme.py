"""NVMe/TCP's sysfs and configfs as folders of ordinary files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from millpond_adapters.nvme_host import NvmeTcpHost, parse_address
from millpond_adapters.nvmet import NvmeTcpTarget
from millpond_core import names
from millpond_core.errors import Conflict
from millpond_core.observed import Namespace

NQN = names.subsystem_nqn("5f0f6f0e-0000-4000-8000-000000000001", "a", 1, "0123456789ab")


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(value + "\n")
    return folder


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for number, (nqn, state) in enumerate(((NQN, "live"), ("nqn.2014-08.org.example:disk", "live"))):
        address = "traddr=10.0.0.2,trsvcid=4420,src_addr=10.0.0.1"
        put(tmp_path / f"class/nvme/nvme{number}", subsysnqn=nqn, address=address, state=state, hostnqn="host")
    subsystem = put(tmp_path / "class/nvme-subsystem/nvme-subsys0", subsysnqn=NQN)
    (subsystem / "nvme0").mkdir()
    put(subsystem / "nvme0n1", dev="259:7", uuid="the-uuid", size="8192")
    put(tmp_path / "class/nvme/nvme0/nvme0c0n1", dev="", uuid="the-uuid")
    return tmp_path


async def test_only_our_connections_are_seen_with_the_namespace_of_the_subsystem(system: Path) -> None:
    found = await NvmeTcpHost(system).list()
    assert list(found) == [NQN]
    controller = found[NQN]
    assert (controller.name, controller.address, controller.state) == ("nvme0", "10.0.0.2:4420", "live")
    assert controller.namespaces == (Namespace(major_minor="259:7", name="nvme0n1", uuid="the-uuid", sectors=8192),)


async def test_without_native_multipath_the_namespace_belongs_to_the_controller(system: Path) -> None:
    for path in (system / "class/nvme-subsystem/nvme-subsys0/nvme0n1").iterdir():
        path.unlink()
    put(system / "class/nvme/nvme0/nvme0n1", dev="259:8", uuid="the-uuid", size="16")
    controller = (await NvmeTcpHost(system).list())[NQN]
    (namespace,) = controller.namespaces
    assert (namespace.major_minor, namespace.sectors) == ("259:8", 16)


async def test_of_two_connections_to_one_leg_the_live_one_counts(system: Path) -> None:
    put(system / "class/nvme/nvme5", subsysnqn=NQN, address="traddr=10.0.0.2,trsvcid=4420", state="connecting")
    assert (await NvmeTcpHost(system).list())[NQN].name == "nvme0"


def test_addresses() -> None:
    assert parse_address("traddr=10.0.0.2,trsvcid=4420,src_addr=10.0.0.1") == "10.0.0.2:4420"
    assert parse_address("traddr=fd00::2,trsvcid=4420") == "[fd00::2]:4420"


@pytest.fixture
def target(tmp_path: Path) -> NvmeTcpTarget:
    root = tmp_path / "kernel/config/nvmet"
    subsystem = put(root / "subsystems" / NQN, attr_serial="s")
    put(subsystem / "namespaces/1", device_path="/dev/mapper/leg", device_uuid="u", enable="1")
    (subsystem / "allowed_hosts").mkdir()
    (subsystem / "allowed_hosts/host-1").symlink_to(put(root / "hosts/host-1"))
    put(root / "subsystems/nqn.2014-08.org.example:disk")
    (put(root / "ports/3/subsystems") / NQN).symlink_to(subsystem)
    return NvmeTcpTarget(tmp_path)


async def test_an_export_is_seen_whole(target: NvmeTcpTarget) -> None:
    found = await target.list()
    assert list(found) == [NQN]
    export = found[NQN]
    assert (export.device, export.namespace_uuid, export.enabled, export.linked) == ("/dev/mapper/leg", "u", True, True)
    assert export.allowed_hosts == ("host-1",)


@pytest.mark.parametrize(
    ("device", "host"),
    [("/dev/mapper/other", "host-1"), ("/dev/mapper/leg", "host-2")],
)
async def test_what_is_exported_otherwise_is_not_changed_under_a_host(
    target: NvmeTcpTarget, device: str, host: str
) -> None:
    with pytest.raises(Conflict, match="take that back first"):
        await target.export(NQN, device, namespace_uuid="u", serial="s", host_nqn=host, address="10.0.0.1", port=4420)


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1144 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 19 1
   1: 0200A8C0:1144 0300A8C0:B5A4 01 00000000:00000000 00:00000000 00000000     0        0 20 1
   2: 0200A8C0:1144 0300A8C0:B5A6 01 00000000:00000000 00:00000000 00000000     0        0 21 1
   3: 0200A8C0:1144 0400A8C0:B5A8 06 00000000:00000000 00:00000000 00000000     0        0 22 1
   4: 0200A8C0:B5A4 0500A8C0:1144 01 00000000:00000000 00:00000000 00000000     0        0 23 1
   5: 0200A8C0:0016 0600A8C0:C5A4 01 00000000:00000000 00:00000000 00000000     0        0 24 1
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 000080FE000000000000000002000000:1144 000080FE000000000000000007000000:B5A4 01 00000000:00000000 00:0
   1: 0000000000000000FFFF00000200A8C0:1144 0000000000000000FFFF00000800A8C0:B5A4 01 00000000:00000000 00:0
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the tables above are a little-endian machine's")
async def test_who_is_connected_is_read_from_the_established_sockets_of_our_port(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TCP)
    (tmp_path / "net" / "tcp6").write_text(TCP6)
    target = NvmeTcpTarget(processes=tmp_path)
    assert await target.connected(4420) == ["192.168.0.3", "192.168.0.8", "fe80::7"]
    assert await NvmeTcpTarget(processes=tmp_path / "without-ipv6").connected(4420) == []
