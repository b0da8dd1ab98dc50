"""Bad input, and what it gets: a sentence that names what is wrong, and nothing touched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import install
from demo.cluster import Cluster, Object
from demo.errors import DemoError
from demo.faults import Faults
from demo.session import MakeWorkload, Session
from demo.workload import Workload, storage_class

NODE = "n1"
SERIAL = "n1-disk3"
"""A disk that no StorageDevice names (``session.DISKS`` is more than ``session.ADOPTED``)."""


def by_serial(serial: str) -> str:
    """A shell word for the disk's path on its node."""
    look = f"grep -qs {serial} $d/device/serial || continue; echo /dev/${{d##*/}}"
    return f"$(for d in /sys/block/nvme*; do {look}; done)"


def checksum(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refusal(cluster: Cluster, name: str, expected: str, *, seconds: float = 300) -> Object:
    """Wait until the device is Pending with a message that has ``expected``."""
    found: list[Object] = []

    def missing() -> str:
        found[:] = [cluster.get("sdev", name)]
        status = found[0].get("status", {})
        said = f"{status.get('message', '')} {status.get('observation', {}).get('message', '')}"
        return "" if status.get("phase") == "Pending" and expected in said else f"{status.get('phase')}: {said}"

    cluster.wait(missing, f"{name} is refused because of {expected!r}", seconds=seconds)
    return found[0]


@pytest.fixture
def foreign(cluster: Cluster, faults: Faults) -> str:
    """A disk with somebody's file system and a file in it; its StorageDevice is named, and left, by the test."""
    script = f"disk={by_serial(SERIAL)}; wipefs -qa $disk; mkfs.ext4 -qF -L precious $disk"
    faults.run(NODE, "sh", "-ec", f"{script}; mount $disk /mnt; echo data > /mnt/file; umount /mnt; sync")
    return SERIAL


def test_foreign_data_and_mounted_disks_are_untouched(cluster: Cluster, faults: Faults, foreign: str) -> None:
    """Refused with what is on it; refused while mounted, even with the right eraseSignature; then erased as allowed."""
    before = checksum(faults.image(NODE, foreign))
    claimed = install.device(NODE, foreign)
    name = claimed["metadata"]["name"]
    cluster.apply(claimed)
    try:
        device = refusal(cluster, name, "ext4")
        fingerprint = device["status"]["observation"]["fingerprint"]
        assert checksum(faults.image(NODE, foreign)) == before

        cluster.apply(install.device(NODE, foreign, eraseSignature="something else"))
        refusal(cluster, name, "ext4")
        assert checksum(faults.image(NODE, foreign)) == before

        faults.run(NODE, "sh", "-ec", f"mount -o ro,noload {by_serial(foreign)} /mnt")
        try:
            cluster.apply(install.device(NODE, foreign, eraseSignature=fingerprint))
            refusal(cluster, name, "/mnt")
            assert checksum(faults.image(NODE, foreign)) == before
        finally:
            faults.run(NODE, "umount", "/mnt")
        cluster.kubectl("wait", "--for=condition=Ready", f"sdev/{name}", "--timeout=300s", seconds=310)
        assert checksum(faults.image(NODE, foreign)) != before
    finally:
        cluster.kubectl("delete", "sdev", name, "--timeout=300s", seconds=310)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"size": "-5Gi"}, "spec.size", id="size below nothing"),
        pytest.param({"size": "a lot"}, "spec.size", id="size that is none"),
        pytest.param({"layout": {"copies": 9}}, "spec.layout.copies", id="more copies than can be"),
        pytest.param({"layout": {"stripeSize": 5000}}, "stripeSize", id="odd stripes"),
        pytest.param({"placement": {"pool": "Not A Pool"}}, "spec.placement.pool", id="no name of a pool"),
        pytest.param({"placement": {"nodeSelector": {"a b": "c"}}}, "nodeSelector", id="no label"),
        pytest.param({"colour": "blue"}, "colour", id="a field that is not there"),
    ],
)
def test_impossible_volumes_are_refused_by_name(cluster: Cluster, change: Object, field: str) -> None:
    spec = {"size": "64Mi", **change}
    made = {"apiVersion": install.API_VERSION, "kind": "VirtualVolume", "metadata": {"name": "bad"}, "spec": spec}
    with pytest.raises(DemoError) as refused:
        cluster.apply(made)
    assert field in str(refused.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/disk/by-id/../../sda", "nvme0n1"])
def test_impossible_paths_are_refused_by_name(cluster: Cluster, path: str) -> None:
    spec = {"nodeName": NODE, "identity": {"path": path}}
    made = {"apiVersion": install.API_VERSION, "kind": "StorageDevice", "metadata": {"name": "bad"}, "spec": spec}
    with pytest.raises(DemoError, match=r"spec\.identity\.path"):
        cluster.apply(made)


def pending(cluster: Cluster, work: Workload, says: Callable[[str], bool]) -> str:
    """Start a pod with the claim; wait until an Event of the claim satisfies ``says``. It must not be bound."""
    cluster.apply(*work.claim_objects())
    work.idle("hopeful")
    heard: list[str] = []

    def missing() -> str:
        found = cluster.items("events", "-n", work.namespace)
        heard[:] = [event["message"] for event in found if says(event["message"])]
        return "" if heard else "; ".join(event["message"] for event in found[-3:])

    cluster.wait(missing, "an Event says why", seconds=400)
    assert cluster.get("pvc", work.claim, "-n", work.namespace)["status"]["phase"] == "Pending"
    return heard[0]


def test_unknown_parameters_are_named_and_so_are_the_known(cluster: Cluster, workload: MakeWorkload) -> None:
    cluster.apply(storage_class("e2e-unknown", parameters={"repliccas": "3"}))
    message = pending(cluster, workload(storage_class="e2e-unknown"), lambda text: "repliccas" in text)
    assert "copies" in message
    assert "gracePeriodSeconds" in message


def test_a_claim_that_does_not_fit_says_how_much_is_missing_and_where(
    session: Session, cluster: Cluster, workload: MakeWorkload
) -> None:
    """Three nodes, two disks of 2 GiB each: 5 GiB on one node fit nowhere."""
    work = workload(storage_class="millpond-mirrored", size="5Gi")
    message = pending(cluster, work, lambda text: "n1" in text and "Gi" in text)
    assert all(node.name in message for node in session.lab.nodes), message


def test_a_wrong_mount_option_is_named_and_what_to_do_about_it_works(cluster: Cluster, workload: MakeWorkload) -> None:
    cluster.apply(storage_class("e2e-option", copies=1) | {"mountOptions": ["noatime", "nosuch"]})
    work = workload(storage_class="e2e-option")
    cluster.apply(*work.claim_objects())
    work.idle("hopeful")

    def unsaid() -> str:
        said = work.events("hopeful")
        return "" if "Unknown parameter 'nosuch'" in said and "mountOptions of the PersistentVolume" in said else said

    cluster.wait(unsaid, "an Event of the pod names the option", seconds=400)
    cluster.kubectl("patch", "pv", work.bound()["metadata"]["name"], "-p", '{"spec": {"mountOptions": ["noatime"]}}')
    work.delete_pod("hopeful")
    work.idle("sure")
    assert work.running("sure")
