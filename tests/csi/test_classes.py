"""StorageClass parameters, sizes, and how much could still be placed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond_core.errors import Invalid
from millpond_core.model import ObjectMeta, StorageDevice, StorageNode
from millpond_core.model.storagedevice import DeviceObservation, StorageDeviceSpec, StorageDeviceStatus
from millpond_core.model.storagenode import StorageNodeStatus
from millpond_core.units import UNIT_BYTES, leg_units, parse_quantity
from millpond_csi.capacity import largest_volume, spaces
from millpond_csi.errors import OutOfRange
from millpond_csi.parameters import PARAMETERS, volume_class
from millpond_csi.sizes import quantity, size_for

MIB = 1 << 20


def test_no_parameters_are_the_defaults_of_the_volume() -> None:
    asked = volume_class({})
    assert (asked.layout.copies, asked.placement.pool, asked.on_failure.grace_period_seconds) == (1, "default", 60)
    assert not asked.leg_nodes_only


def test_parameters_become_the_spec() -> None:
    asked = volume_class(
        {
            "pool": "fast",
            "copies": "2",
            "stripes": "4",
            "stripeSize": "128Ki",
            "access": "LegNodes",
            "nodeSelector": "disk=fast,zone=a",
            "spreadTopology": "topology.kubernetes.io/zone",
            "holdSeconds": "5",
            "gracePeriodSeconds": "0",
            "minInSync": "2",
            "maxRebuildRate": "1000",
            "csi.storage.k8s.io/fstype": "xfs",
            "csi.storage.k8s.io/pvc/name": "db-0",
            "csi.storage.k8s.io/pvc/namespace": "shop",
            "csi.storage.k8s.io/pv/name": "pvc-1",
        }
    )
    assert (asked.layout.copies, asked.layout.stripes, asked.layout.stripe_size) == (2, 4, 131072)
    assert asked.placement.node_selector == {"disk": "fast", "zone": "a"}
    assert (asked.on_failure.hold_seconds, asked.on_failure.grace_period_seconds) == (5, 0)
    assert (asked.rebuild.max_rate, asked.fs_type, asked.claim, asked.leg_nodes_only) == (
        1000,
        "xfs",
        "shop/db-0",
        True,
    )


def test_an_unknown_parameter_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(Invalid, match="'copie'") as refusal:
        volume_class({"copie": "2"})
    assert all(name in str(refusal.value) for name in PARAMETERS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("copies", "0"),
        ("copies", "5"),
        ("copies", "two"),
        ("copies", "٢"),
        ("stripeSize", "5000"),
        ("stripeSize", "8Mi"),
        ("stripeSize", "-1"),
        ("pool", "A"),
        ("pool", "../x"),
        ("access", "any"),
        ("unrecorded", "hold"),
        ("nodeSelector", "a=b c"),
        ("spreadTopology", "a b"),
        ("csi.storage.k8s.io/fstype", "zfs"),
        ("holdSeconds", "601"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(Invalid, match=f"parameter {name} is "):
        volume_class({name: text})


def test_more_legs_in_sync_than_there_are_would_never_be_written() -> None:
    with pytest.raises(Invalid, match="minInSync"):
        volume_class({"minInSync": "2"})


@given(st.integers(0, 1 << 48), st.integers(0, 1 << 48))
def test_a_size_lies_in_its_range_or_is_refused(required: int, limit: int) -> None:
    try:
        size = size_for(required, limit)
    except (Invalid, OutOfRange):
        return
    assert size % UNIT_BYTES == 0
    assert size >= max(required, UNIT_BYTES)
    assert not limit or size <= limit
    assert size - required < UNIT_BYTES or not required
    assert parse_quantity(quantity(size)) == size


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(OutOfRange, match="whole units"):
        size_for(5 * MIB, 7 * MIB)
    with pytest.raises(OutOfRange, match="at least 314572800"):
        size_for(16 * MIB, 64 * MIB, ["xfs"])
    with pytest.raises(OutOfRange, match="at most 256Ti"):
        size_for(1 << 50, 0)
    for required, limit in ((-1, 0), (0, -1), (2, 1)):
        with pytest.raises(Invalid, match="capacity_range"):
            size_for(required, limit)


def test_a_filesystem_has_a_least_size() -> None:
    assert size_for(1, 0, ["xfs"]) == 300 * MIB
    assert size_for(1, 0, ["ext4"]) == 4 * MIB


def device(name: str, node: str, mib: int, *, pool: str = "default") -> StorageDevice:
    seen = DeviceObservation(state="Claimed", device_uuid=f"u-{name}", capacity_bytes=mib * MIB)
    return StorageDevice(
        metadata=ObjectMeta(name=name),
        spec=StorageDeviceSpec(node_name=node, pool=pool),
        status=StorageDeviceStatus(observation=seen, phase="Online"),
    )


def node(name: str, phase: str = "Ready") -> StorageNode:
    return StorageNode(metadata=ObjectMeta(name=name), status=StorageNodeStatus(phase=phase))


NODES = [node("n1"), node("n2"), node("n3")]
DEVICES = [device("a", "n1", 400), device("b", "n2", 200), device("c", "n3", 100)]


@pytest.mark.parametrize(
    ("parameters", "at", "mib"),
    [
        ({}, "", 396),
        ({}, "n3", 396),
        ({"access": "LegNodes"}, "n3", 96),
        ({"access": "LegNodes"}, "n1", 396),
        ({"copies": "2"}, "n3", 196),
        ({"copies": "2", "access": "LegNodes"}, "n1", 196),
        ({"copies": "2", "access": "LegNodes"}, "n3", 96),
        ({"copies": "3"}, "", 96),
        ({"copies": "4"}, "", 0),
        ({"pool": "fast"}, "", 0),
        ({"access": "LegNodes"}, "n9", 0),
    ],
)
def test_the_largest_volume(parameters: dict[str, str], at: str, mib: int) -> None:
    assert largest_volume(spaces(NODES, DEVICES, []), volume_class(parameters), at) == mib * MIB


def test_the_largest_volume_fits_and_the_next_does_not() -> None:
    size = largest_volume(spaces(NODES, DEVICES, []), volume_class({}))
    assert leg_units(size) == 100
    assert leg_units(size + UNIT_BYTES) == 101


def test_a_failed_node_has_no_room() -> None:
    assert largest_volume(spaces([node("n1", "Failed"), *NODES[1:]], DEVICES, []), volume_class({})) == 196 * MIB
