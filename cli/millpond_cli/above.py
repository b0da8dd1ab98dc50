"""Pure: devices, the legs on them, and the claims and pods whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from millpond_cli.report import claim, title, used_by
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.model.meta import Wire
from millpond_core.model.virtualvolume import LegState
from millpond_core.units import UNIT_BYTES, format_bytes


class LegThere(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A leg, or a spare, as far as it lies on one device."""

    id: str
    state: LegState
    spare: bool
    releasing: bool
    bytes: int
    """On this device."""
    volume: str
    claim: str
    pods: Sequence[str] | None = None
    """None: they were not asked for."""

    def line(self) -> str:
        what = "being released" if self.releasing else self.state
        return f"{self.claim or self.volume}  leg {self.id}, {format_bytes(self.bytes)}, {what}{used_by(self.pods)}"


class DeviceBranch(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A device and what lies on it."""

    name: str
    node: str
    phase: str
    size: str
    free: str
    message: str
    legs: list[LegThere]

    def lines(self) -> Iterator[str]:
        yield f"{self.name}  on {self.node}, {self.phase}, {self.free or '-'} free of {self.size or '?'}"
        for leg in self.legs:
            yield f"  {leg.line()}"


class DeviceTree(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """Devices, the legs on them, and whose they are."""

    devices: list[DeviceBranch]

    def lines(self) -> list[str]:
        """For a person."""
        return [line for device in self.devices for line in device.lines()]


def of_devices(
    devices: Sequence[StorageDevice], volumes: Sequence[VirtualVolume], pods: Mapping[str, Sequence[str]] | None = None
) -> DeviceTree:
    """Device by device: which claims lie on it, and what the record says of that leg.

    ``pods``: by claim, both as namespace/name; None: they were not asked for.
    """
    above = sorted(volumes, key=title)
    return DeviceTree(
        devices=[
            DeviceBranch(
                name=device.metadata.name,
                node=device.spec.node_name,
                phase=device.status.phase,
                size=device.status.size,
                free=device.status.free,
                message=device.status.message,
                legs=[leg for volume in above for leg in on(device.metadata.name, volume, pods)],
            )
            for device in sorted(devices, key=lambda d: (d.spec.node_name, d.metadata.name))
        ]
    )


def on(device: str, volume: VirtualVolume, pods: Mapping[str, Sequence[str]] | None = None) -> Iterator[LegThere]:
    """The legs of one volume that lie on one device."""
    whose = claim(volume)
    for leg in (*volume.status.mapping.legs, *volume.status.spares):
        length = sum(extent.length for extent in leg.extents if extent.device == device)
        if length:
            yield LegThere(
                id=leg.id,
                state=leg.state,
                spare=leg in volume.status.spares,
                releasing=leg.releasing,
                bytes=length * UNIT_BYTES,
                volume=volume.metadata.name,
                claim=whose,
                pods=None if pods is None else pods.get(whose, ()),
            )
