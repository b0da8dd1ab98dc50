"""One volume from claim to pod and back."""

from __future__ import annotations

from typing import Any

import pytest

from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.model import VirtualVolume


async def test_a_volume_is_made_attached_mounted_and_taken_down_again(driver: Any) -> None:
    claim = {"csi.storage.k8s.io/pvc/name": "db-0", "csi.storage.k8s.io/pvc/namespace": "shop"}
    volume = await driver.create("pvc-1", parameters={"copies": "2", **claim})
    stored = await driver.kube.get(VirtualVolume, "pvc-1")
    assert (stored.spec.size, stored.spec.layout.copies) == ("64Mi", 2)
    annotations = {key: text for key, text in stored.metadata.annotations.items() if key != names.ANNOTATION_ALLOCATED}
    assert annotations == {"millpond.io/claim": "shop/db-0"}
    assert volume.capacity_bytes == 64 << 20
    assert dict(volume.volume_context) == {"uuid": stored.spec.uuid}

    context = await driver.attach(volume)
    assert dict(context) == {"uuid": stored.spec.uuid, "epoch": "1"}
    await driver.stage(volume, context)
    await driver.publish(volume, context)
    assert ("format", "/dev/dm-0", "ext4") in driver.mounts.calls
    assert [mount.target for mount in driver.mounts.mounts] == [driver.staging(), driver.target()]

    stats = await driver.call("node_get_volume_stats", volume_id="pvc-1", volume_path=driver.target())
    assert [usage.unit for usage in stats.usage] == [1, 2]

    await driver.call("node_unpublish_volume", volume_id="pvc-1", target_path=driver.target())
    await driver.call("node_unstage_volume", volume_id="pvc-1", staging_target_path=driver.staging())
    assert driver.mounts.mounts == []
    assert driver.target() not in driver.mounts.folders
    await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id="n1")
    assert driver.mounts.devices == {}
    await driver.call("delete_volume", volume_id="pvc-1")
    with pytest.raises(NotFound):
        await driver.kube.get(VirtualVolume, "pvc-1")
