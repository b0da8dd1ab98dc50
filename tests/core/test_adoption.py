"""Disks that a policy hands over: empty ones that fit, once, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from master_world import device as storage_device
from master_world import meta

from millpond_core.errors import Invalid
from millpond_core.master import adoption
from millpond_core.master.adoption import Policy
from millpond_core.master.steps import Act, Create
from millpond_core.model import StorageDevice, StorageNode
from millpond_core.model.storagenode import Disk, Maintenance, StorageNodeSpec, StorageNodeStatus
from millpond_core.units import MIB

ALL = Policy()


def disk(serial: str = "S1", state: Any = "Empty", **fields: Any) -> Disk:
    shown = {
        "path": f"/dev/disk/by-id/nvme-{serial}",
        "size_bytes": 200 * 1024 * MIB,
        "size": "200Gi",
        "model": "Samsung 980",
    }
    return Disk(serial=serial, state=state, **{**shown, **fields})


def node(*disks: Disk, **labels: str) -> StorageNode:
    return StorageNode(metadata=meta("n1", labels=labels), status=StorageNodeStatus(unclaimed_disks=[*disks]))


def made(policies: list[Policy], there: StorageNode, *known: StorageDevice) -> StorageDevice | None:
    act = adoption.next_disk(policies, there, {one.metadata.name: one for one in known})
    if act is None:
        return None
    assert isinstance(act, Act)
    assert isinstance(act.step, Create)
    assert isinstance(act.step.obj, StorageDevice)
    return act.step.obj


def test_without_a_policy_no_disk_is_touched() -> None:
    assert made([], node(disk())) is None


def test_an_empty_disk_is_taken_in_under_its_serial_number() -> None:
    found = made([ALL], node(disk()))
    assert found is not None
    assert (found.metadata.name, found.spec.node_name, found.spec.pool) == ("n1-s1", "n1", "default")
    assert (found.spec.identity.serial, found.spec.erase_signature) == ("S1", "")


@pytest.mark.parametrize("state", ["Foreign", "InUse", "Millpond"])
def test_whatever_is_not_empty_stays_with_people(state: Any) -> None:
    assert made([ALL], node(disk(state=state, contents=["ext4"], fingerprint="f"))) is None


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        pytest.param(Policy(node_selector={"storage": "true"}), True, id="a label"),
        pytest.param(Policy(node_selector={"storage": "false"}), False, id="another value"),
        pytest.param(Policy(node_selector={"disks": "true"}), False, id="another label"),
        pytest.param(Policy(model="Samsung"), True, id="a part of the model"),
        pytest.param(Policy(model="Intel"), False, id="another model"),
        pytest.param(Policy(min_size="200Gi"), True, id="as large"),
        pytest.param(Policy(min_size="201Gi"), False, id="too small"),
    ],
)
def test_what_a_policy_asks_for(policy: Policy, fits: bool) -> None:
    assert (made([policy], node(disk(), storage="true")) is not None) is fits


def test_the_first_policy_that_fits_names_the_pool() -> None:
    found = made([Policy(pool="big", min_size="1Ti"), Policy(pool="fast"), Policy(pool="late")], node(disk()))
    assert found is not None
    assert found.spec.pool == "fast"


def test_one_that_is_handed_over_already_is_passed_over() -> None:
    found = made([ALL], node(disk("S1"), disk("S2")), storage_device("n1-s1", "n1"))
    assert found is not None
    assert found.metadata.name == "n1-s2"


def test_nothing_is_taken_in_while_people_work_on_the_node() -> None:
    there = msgspec.structs.replace(node(disk()), spec=StorageNodeSpec(maintenance=Maintenance(intent="Retire")))
    assert made([ALL], there) is None


def test_two_of_one_serial_number_are_told_apart() -> None:
    found = made([ALL], node(disk(wwn="eui.1"), disk(wwn="eui.2")))
    assert found is not None
    assert found.spec.identity.wwn == "eui.1"


def test_policies_are_read_and_wrong_ones_are_refused() -> None:
    text = '[{"pool": "nvme", "nodeSelector": {"a": "b"}, "model": "X", "minSize": "1Gi"}, {}]'
    assert adoption.policies(text) == (Policy(pool="nvme", node_selector={"a": "b"}, model="X", min_size="1Gi"), ALL)
    assert adoption.policies("") == adoption.policies("[]") == ()
    for wrong in ("{", '[{"pol": "x"}]', '[{"minSize": "much"}]', '{"pool": "x"}'):
        with pytest.raises(Invalid, match="ADOPTION is no list of policies"):
            adoption.policies(wrong)
