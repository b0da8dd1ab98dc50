"""Pure: a volume, who has it, and the legs, extents, devices and nodes that it lies on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from millpond_cli.report import claim, used_by
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.virtualvolume import Extent, Leg, LegState
from millpond_core.units import UNIT_BYTES, format_bytes


class NodeBelow(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """The node that has a device; without a phase the database does not know it."""

    name: str
    phase: str
    message: str


class DeviceBelow(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """The device that has an extent; without a phase the database does not know it."""

    name: str
    uuid: str
    phase: str
    message: str
    node: NodeBelow


class ExtentBelow(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """Where a part of a leg lies, counted from behind the device's label."""

    start_bytes: int
    length_bytes: int
    device: DeviceBelow

    def line(self) -> str:
        device, node = self.device, self.device.node
        where = f"{format_bytes(self.length_bytes)} from {format_bytes(self.start_bytes)}"
        return f"{where} of {_state(device)}  on {_state(node)}"


class LegBelow(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A leg, or a spare, and where its bytes lie, in order."""

    id: str
    state: LegState
    spare: bool
    releasing: bool
    extents: list[ExtentBelow]

    def lines(self) -> Iterator[str]:
        yield f"{'spare' if self.spare else 'leg'} {self.id}, {'being released' if self.releasing else self.state}"
        for extent in self.extents:
            yield f"  {extent.line()}"


class VolumeTree(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A volume, who has it, and what it lies on."""

    name: str
    claim: str
    pods: Sequence[str]
    size: str
    phase: str
    copies: str
    message: str
    attached: str
    """The node; empty: nowhere."""
    legs: list[LegBelow]

    def lines(self) -> list[str]:
        """For a person."""
        where = f"attached on {self.attached}" if self.attached else "attached nowhere"
        about = f"{self.size}, {self.phase}, {self.copies or '-'} copies, {where}{used_by(self.pods)}"
        title = f"{self.claim}  volume {self.name}" if self.claim else f"{self.name}  volume"
        return [f"{title}, {about}", *(f"  {line}" for leg in self.legs for line in leg.lines())]


def of_volume(
    volume: VirtualVolume, devices: Sequence[StorageDevice], nodes: Sequence[StorageNode], pods: Sequence[str]
) -> VolumeTree:
    """Leg by leg: where its extents lie, and how the devices and nodes below are."""
    known = {device.metadata.name: device for device in devices}
    there = {node.metadata.name: node for node in nodes}
    status = volume.status
    return VolumeTree(
        name=volume.metadata.name,
        claim=claim(volume),
        pods=pods,
        size=volume.spec.size,
        phase=status.phase,
        copies=status.copies,
        message=status.message,
        attached=status.attachment.node,
        legs=[
            LegBelow(
                id=leg.id,
                state=leg.state,
                spare=leg in status.spares,
                releasing=leg.releasing,
                extents=[_below(extent, leg, known, there) for extent in leg.extents],
            )
            for leg in (*status.mapping.legs, *status.spares)
        ],
    )


def _below(
    extent: Extent, leg: Leg, devices: Mapping[str, StorageDevice], nodes: Mapping[str, StorageNode]
) -> ExtentBelow:
    device, node = devices.get(extent.device), nodes.get(leg.node)
    return ExtentBelow(
        start_bytes=extent.start * UNIT_BYTES,
        length_bytes=extent.length * UNIT_BYTES,
        device=DeviceBelow(
            name=extent.device,
            uuid=extent.device_uuid,
            phase=device.status.phase if device else "",
            message=device.status.message if device else "there is no such StorageDevice",
            node=NodeBelow(
                name=leg.node,
                phase=node.status.phase if node else "",
                message=node.status.message if node else "there is no such StorageNode",
            ),
        ),
    )


def _state(below: DeviceBelow | NodeBelow) -> str:
    state = ": ".join(filter(None, (below.phase, below.message)))
    return f"{below.name}, {state}" if state else below.name
