"""What is written down about a node before it is started."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Any

from lab.ports import free_ports
from lab.qemu import Disk, new_agent


@dataclass(frozen=True)
class NodeRecord:
    """A node's identity, ports and disks; enough to make it, find it and start it again."""

    name: str
    number: int
    machine: str  # UUID: firmware, machine-id, NVMe host id
    agent_port: int
    token: str
    kubelet_port: int
    mib: int
    disks: tuple[Disk, ...]

    @classmethod
    def new(cls, number: int, *, disks: int, disk_mib: int, mib: int) -> NodeRecord:
        """Node ``n<number>`` with that many disks of ``disk_mib`` MiB and ``mib`` MiB of memory."""
        name = f"n{number}"
        agent = new_agent(name)
        return cls(
            name=name,
            number=number,
            machine=str(uuid.uuid4()),
            agent_port=agent.port,
            token=agent.token,
            kubelet_port=free_ports(1)[0],
            mib=mib,
            disks=tuple(Disk(f"disk{n}", f"{name}-disk{n}", disk_mib) for n in range(1, disks + 1)),
        )

    @property
    def address(self) -> str:
        """The node's address on the lab's LAN."""
        return address(self.number)

    @property
    def loopback(self) -> str:
        """Where on this host's loopback the kubelet is reached; no other node of the lab has that address."""
        return f"127.0.0.{10 + self.number}"

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def decode(cls, record: dict[str, Any]) -> NodeRecord:
        return cls(**{**record, "disks": tuple(Disk(**disk) for disk in record["disks"])})


def address(number: int) -> str:
    """Node ``number``'s address on the lab's LAN."""
    return f"192.168.77.{10 + number}"


def pods(number: int) -> str:
    """The addresses of node ``number``'s pods."""
    return f"10.244.{number}.0/24"
