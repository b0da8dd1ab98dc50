"""What Kubernetes' tests are told of the driver, held against what the driver says of itself."""

from __future__ import annotations

import pytest

from external import definition
from external.parts import WHOLE
from millpond_core import names
from millpond_core.units import parse_quantity
from millpond_csi import attributes, controller, node, sizes, validation
from millpond_csi.parameters import volume_class

CONTROLLER = {controller._Rpc.Type.Name(each) for each in controller.CAPABILITIES}
NODE = {node._Rpc.Type.Name(each) for each in node.CAPABILITIES}
MODES = set(validation.MODES.values())

ADVERTISED = {
    "block": True,  # any volume can be had raw: validation.capability
    "controllerExpansion": "EXPAND_VOLUME" in CONTROLLER,
    "nodeExpansion": "EXPAND_VOLUME" in NODE,
    "readWriteOncePod": "SINGLE_NODE_SINGLE_WRITER" in MODES and "SINGLE_NODE_MULTI_WRITER" in CONTROLLER & NODE,
    "RWX": any(mode.startswith("MULTI_NODE") for mode in MODES),
    "capReadOnlyMany": "MULTI_NODE_READER_ONLY" in MODES,
    "volumeMountGroup": "VOLUME_MOUNT_GROUP" in NODE,
    "snapshotDataSource": "CREATE_DELETE_SNAPSHOT" in CONTROLLER,
    "pvcDataSource": "CLONE_VOLUME" in CONTROLLER,
}


@pytest.mark.parametrize("capability", ADVERTISED)
@pytest.mark.parametrize("capabilities", [definition.CAPABILITIES, definition.LEGS_CAPABILITIES])
def test_the_definition_says_what_the_driver_says(capability: str, capabilities: dict[str, bool]) -> None:
    assert capabilities[capability] == ADVERTISED[capability]


def test_capacity_and_topology_are_told_of_the_class_that_has_them() -> None:
    assert "GET_CAPACITY" in CONTROLLER
    for of_class in (definition.CLASS, definition.IMMEDIATE_CLASS, definition.LEGS_CLASS):
        legs, told = of_class == definition.LEGS_CLASS, definition.definition(of_class)
        assert told["DriverInfo"]["Capabilities"]["topology"] == legs
        assert told["DriverInfo"]["Capabilities"]["capacity"] == legs
        assert told["DriverInfo"].get("TopologyKeys", []) == ([names.TOPOLOGY_KEY] if legs else [])


def test_every_filesystem_is_told_and_every_volume_can_have_it() -> None:
    driver = definition.definition()["DriverInfo"]
    assert set(driver["SupportedFsType"]) == {"", *validation.FS_TYPES}
    smallest = parse_quantity(driver["SupportedSizeRange"]["Min"])
    assert sizes.size_for(smallest, smallest, validation.FS_TYPES) == smallest
    assert parse_quantity(driver["SupportedSizeRange"]["Step"]) % sizes.size_for(1, 0, ["ext4"]) == 0


def test_the_driver_takes_the_classes() -> None:
    legs, immediate, changes = definition.objects()
    assert legs["provisioner"] == immediate["provisioner"] == changes["driverName"] == names.DRIVER
    assert volume_class(legs["parameters"]).leg_nodes_only
    assert attributes.known(changes["parameters"]) == changes["parameters"]
    assert {each["metadata"]["name"] for each in (legs, immediate, changes)} == {
        *(part.of_class for part in WHOLE if part.of_class != definition.CLASS),
        definition.definition()["VolumeAttributesClass"]["FromExistingClassName"],
    }
