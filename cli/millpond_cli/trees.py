"""What lies on what, of whatever people name."""

from __future__ import annotations

from millpond_cli import above, below, claims
from millpond_cli.report import claim
from millpond_core.errors import NotFound
from millpond_core.model import StorageDevice, StorageNode, VirtualVolume
from millpond_core.ports import Kube


async def grow(kube: Kube, name: str = "") -> above.DeviceTree | below.VolumeTree:
    """Of a device, a volume, or a claim as namespace/name; of all devices, without their pods, where none is named.

    Raises NotFound.
    """
    devices = await kube.list(StorageDevice)
    if not name:
        return above.of_devices(devices, await kube.list(VirtualVolume))
    if mine := [device for device in devices if device.metadata.name == name]:
        volumes = [volume for volume in await kube.list(VirtualVolume) if [*above.on(name, volume)]]
        return above.of_devices(mine, volumes, await claims.pods(kube, map(claim, volumes)))
    try:
        volume = await claims.find(kube, name)
    except NotFound as error:
        if "/" in name:
            raise
        said = (
            f"no device and no volume is called {name}: `kubectl millpond tree` lists them, claims are NAMESPACE/NAME"
        )
        raise NotFound(said) from error
    pods = await claims.pods(kube, [claim(volume)])
    return below.of_volume(volume, devices, await kube.list(StorageNode), pods.get(claim(volume), ()))
