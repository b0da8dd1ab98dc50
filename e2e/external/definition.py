"""What the tests are told of the driver: a DriverDefinition (``test/e2e/storage/external`` of k8s.io/kubernetes).

The file is read without a look for unknown fields: a typo would silently leave tests out. So ``tests/conformance``
holds its names against those of the module, and ``tests/external`` what it says against what the driver advertises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demo.cluster import Object
from demo.workload import class_of
from millpond_core import names

CLASS = "millpond-mirrored"
"""The chart's own: two copies, bound when a pod is scheduled."""
LEGS_CLASS = "external-legs"
IMMEDIATE_CLASS = "external-immediate"
ATTRIBUTES_CLASS = "external-attributes"

SMALLEST = "300Mi"
"""What xfs needs; there is one size for all tests. Those of growth begin with 1Gi."""
STEP = "128Mi"
"""By which a volume grows."""
LARGEST_FILE = 100 << 20
"""Bytes of the largest file that is written and read back; the next size of the suite is 1 GiB."""

CAPABILITIES: Mapping[str, bool] = {
    "persistence": True,
    "block": True,
    "fsGroup": True,
    "exec": True,
    "multipods": True,
    "controllerExpansion": True,
    "nodeExpansion": True,
    "offlineExpansion": True,
    "onlineExpansion": True,
    "readWriteOncePod": True,
    "multiplePVsSameID": True,
    # With `access: Any`, the default, a volume is reached from every node; nor is there a capacity of a node's own.
    "topology": False,
    "capacity": False,
    # Every node can have every volume, but one at a time.
    "singleNodeVolume": False,
    "RWX": False,
    "capReadOnlyMany": False,
    # The node service does not advertise VOLUME_MOUNT_GROUP: the kubelet gives files to a group.
    "volumeMountGroup": False,
    # There is a bound where whoever installs Millpond sets one; the chart sets none.
    "volumeLimits": False,
    "snapshotDataSource": False,
    "snapshotMetadata": False,
    "groupSnapshot": False,
    "pvcDataSource": False,
    "seLinuxMount": False,
}
LEGS_CAPABILITIES: Mapping[str, bool] = {**CAPABILITIES, "topology": True, "capacity": True}
"""Of a class whose volumes are reached where their legs lie, on a chart that publishes capacity."""

TIMEOUTS: Mapping[str, str] = {
    # The defaults are three to five minutes; guests without KVM are seven to ten times slower than a machine.
    "PodStart": "15m",
    "PodStartShort": "5m",
    "PodStartSlow": "25m",
    "PodDelete": "15m",
    "ClaimProvision": "15m",
    "ClaimProvisionShort": "5m",
    "DataSourceProvision": "15m",
    "ClaimBound": "15m",
    "PVReclaim": "15m",
    "PVBound": "15m",
    "PVCreate": "15m",
    "PVDelete": "15m",
    "PVDeleteSlow": "25m",
}


def definition(of_class: str = CLASS, timeouts: Mapping[str, str] = TIMEOUTS) -> Object:
    """The definition, to be written as JSON; its volumes are of that StorageClass."""
    legs = of_class == LEGS_CLASS
    driver: dict[str, Any] = {
        "Name": names.DRIVER,
        "SupportedSizeRange": {"Min": SMALLEST, "Step": STEP},
        # A set is a map to empty structs; "": whatever the class says.
        "SupportedFsType": {"": {}, "ext4": {}, "xfs": {}},
        "SupportedMountOption": {"noatime": {}},
        "RequiredAccessModes": ["ReadWriteOnce"],
        "MaxFileSize": LARGEST_FILE,
        "Capabilities": dict(LEGS_CAPABILITIES if legs else CAPABILITIES),
        "StressTestOptions": {"NumPods": 3, "NumRestarts": 2},
        "VolumeModifyStressTestOptions": {"NumPods": 3},
    }
    if legs:
        driver["TopologyKeys"] = [names.TOPOLOGY_KEY]
    return {
        "DriverInfo": driver,
        "StorageClass": {"FromExistingClassName": of_class},
        "VolumeAttributesClass": {"FromExistingClassName": ATTRIBUTES_CLASS},
        "Timeouts": dict(timeouts),
    }


def objects() -> list[Object]:
    """The classes that a definition names and the chart does not have."""
    legs = class_of(LEGS_CLASS, {"copies": "1", "access": "LegNodes"})
    attributes = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttributesClass",
        "metadata": {"name": ATTRIBUTES_CLASS},
        "driverName": names.DRIVER,
        "parameters": {"holdSeconds": "20", "maxRebuildRate": "100000"},
    }
    return [legs, class_of(IMMEDIATE_CLASS, binding="Immediate"), attributes]
