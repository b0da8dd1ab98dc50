"""What people may get wrong in a manifest: refused by the API server with a message that names the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from millpond_adapters.kube import ApiKube
from millpond_core.model import API_VERSION

Kubectl = Callable[..., str]

VOLUME = {"size": "1Gi"}
DEVICE = {"nodeName": "n1", "identity": {"serial": "s1"}}
SCOPE = {"scope": {"volumes": ["v"]}}

WRONG = [
    ("VirtualVolume", {}, "spec.size: Required value"),
    *(
        ("VirtualVolume", {"size": size}, "spec.size: Invalid value")
        for size in (
            "",
            "0",
            "-1Gi",
            "1e9",
            "10 GB",
            "10Gb",
            "5m",
            "1Gi ",
            "1,5Gi",
            "300Ti",
            "99999999999999999999",
            "big",
        )
    ),
    ("VirtualVolume", {"size": 10}, "spec.size: Invalid value"),
    ("VirtualVolume", {**VOLUME, "uuid": "42"}, "spec.uuid: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"copies": 0}}, "spec.layout.copies: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"copies": 5}}, "spec.layout.copies: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"copies": "two"}}, "spec.layout.copies: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"stripes": 17}}, "spec.layout.stripes: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"stripeSize": 65535}}, "spec.layout.stripeSize: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"stripeSize": 8388608}}, "spec.layout.stripeSize: Invalid value"),
    ("VirtualVolume", {**VOLUME, "layout": {"mirrors": 2}}, 'unknown field "spec.layout.mirrors"'),
    ("VirtualVolume", {**VOLUME, "placement": {"pool": "Fast!"}}, "spec.placement.pool: Invalid value"),
    (
        "VirtualVolume",
        {**VOLUME, "placement": {"nodeSelector": {"zone": "a b"}}},
        "spec.placement.nodeSelector.zone: Invalid value",
    ),
    (
        "VirtualVolume",
        {**VOLUME, "placement": {"nodeSelector": {"../zone": "a"}}},
        "spec.placement.nodeSelector: Invalid value",
    ),
    (
        "VirtualVolume",
        {**VOLUME, "placement": {"nodeSelector": {"k" * 400: "a"}}},
        "spec.placement.nodeSelector: Invalid value",
    ),
    (
        "VirtualVolume",
        {**VOLUME, "placement": {"spreadTopology": "no label"}},
        "spec.placement.spreadTopology: Invalid value",
    ),
    ("VirtualVolume", {**VOLUME, "placement": {"preferredNode": "N1"}}, "spec.placement.preferredNode: Invalid value"),
    ("VirtualVolume", {**VOLUME, "attachment": {"node": "../n1"}}, "spec.attachment.node: Invalid value"),
    ("VirtualVolume", {**VOLUME, "scrub": {"schedule": "every day"}}, "spec.scrub.schedule: Invalid value"),
    ("VirtualVolume", {**VOLUME, "rebuild": {"maxRate": -1}}, "spec.rebuild.maxRate: Invalid value"),
    ("VirtualVolume", {**VOLUME, "onFailure": {"holdSeconds": 601}}, "spec.onFailure.holdSeconds: Invalid value"),
    ("VirtualVolume", {**VOLUME, "onFailure": {"unrecorded": "Panic"}}, "spec.onFailure.unrecorded: Unsupported value"),
    ("StorageDevice", {"identity": {"serial": "s"}}, "spec.nodeName: Required value"),
    ("StorageDevice", {"nodeName": "n1"}, "spec.identity: Required value"),
    *(
        ("StorageDevice", {"nodeName": "n1", "identity": {"path": path}}, "spec.identity.path: ")
        for path in (
            "/dev/sda",
            "/dev/disk/by-uuid/x",
            "/dev/disk/by-id/..",
            "/dev/disk/by-id/../../sda",
            "/dev/disk/by-id/",
            "/dev/disk/by-id/a\0b",
            "/dev/disk/by-id/" + "x" * 5000,
        )
    ),
    ("StorageDevice", {"nodeName": "", "identity": {"serial": "s"}}, "spec.nodeName: Invalid value"),
    ("StorageDevice", {"nodeName": "n1", "identity": {"serial": ""}}, "spec.identity.serial: Invalid value"),
    ("StorageDevice", {**DEVICE, "desiredState": "Gone"}, "spec.desiredState: Unsupported value"),
    ("StorageDevice", {**DEVICE, "pool": ""}, "spec.pool: Invalid value"),
    ("Quiescence", {}, "spec.scope: Required value"),
    ("Quiescence", {**SCOPE, "reason": "Because"}, "spec.reason: Unsupported value"),
    ("Quiescence", {**SCOPE, "deadlineSeconds": 0}, "spec.deadlineSeconds: Invalid value"),
    ("Quiescence", {**SCOPE, "deadlineSeconds": 601}, "spec.deadlineSeconds: Invalid value"),
    ("Quiescence", {"scope": {"nodes": ["n1", "n1"]}}, "spec.scope.nodes[1]: Duplicate value"),
    ("StorageNode", {"maintenance": {"intent": "Sometimes"}}, "spec.maintenance.intent: Unsupported value"),
    ("StorageNode", {"maintenance": {"until": "tomorrow"}}, "spec.maintenance.until: Invalid value"),
    ("StorageNode", {"maintenance": {"intent": "Reboot"}}, "spec.maintenance.until says when the node is back"),
]


@pytest.mark.parametrize(("kind", "spec", "says"), WRONG, ids=[f"{k}-{str(s)[:60]}" for k, s, _ in WRONG])
async def test_it_is_refused_by_name(kube: ApiKube, kubectl: Kubectl, kind: str, spec: Any, says: str) -> None:
    manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "wrong"}, "spec": spec}
    with pytest.raises(RuntimeError) as refused:
        kubectl("create", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert says in str(refused.value)


async def test_the_smallest_manifests_are_taken(kube: ApiKube, kubectl: Kubectl) -> None:
    smallest = [("VirtualVolume", VOLUME), ("StorageDevice", DEVICE), ("Quiescence", SCOPE), ("StorageNode", {})]
    for kind, spec in smallest:
        manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "right"}, "spec": spec}
        kubectl("create", "-f", "-", stdin=yaml.safe_dump(manifest))
