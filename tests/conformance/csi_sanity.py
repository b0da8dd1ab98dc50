"""csi-sanity: how it is started, and what may be skipped.

A group of its specs may be skipped only because the driver does not advertise what it tests; ``SKIPS`` says which
capability that is, by the reason that csi-sanity gives.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field

from millpond_csi import controller, node

SKIPS = {
    "ControllerPublishVolume.readonly field not supported": "controller PUBLISH_READONLY",
    "Snapshot not supported": "controller CREATE_DELETE_SNAPSHOT",
    "CreateSnapshot not supported": "controller CREATE_DELETE_SNAPSHOT",
    "DeleteSnapshot not supported": "controller CREATE_DELETE_SNAPSHOT",
    "ListSnapshots not supported": "controller LIST_SNAPSHOTS",
    "GetSnapshot not supported": "controller GET_SNAPSHOT",
    "Volume Cloning not supported": "controller CLONE_VOLUME",
    "Modify volume not supported": "controller MODIFY_VOLUME",
    "Modify Volume not supported": "controller MODIFY_VOLUME",
    "ControllerModifyVolume not supported": "controller MODIFY_VOLUME",
    "ControllerExpandVolume not supported": "controller EXPAND_VOLUME",
    "ControllerGetVolumeHealth not supported": "controller GET_VOLUME_HEALTH",
    "ControllerListVolumeHealth not supported": "controller LIST_VOLUME_HEALTH",
    "NodeExpandVolume not supported": "node EXPAND_VOLUME",
    "NodeGetVolumeHealth not supported": "node GET_VOLUME_HEALTH",
    "NodeGetStorageHealth not supported": "node GET_STORAGE_HEALTH",
    "GroupControllerService not supported": "plugin GROUP_CONTROLLER_SERVICE",
    "No MaxVolumesPerNode": "node max_volumes_per_node",
    # Written with XIt: csi-sanity's own authors have it switched off.
    "pending": "",
}


MUTABLE = 'holdSeconds: "20"\nmaxRebuildRate: "100000"\n'
"""What the specs of ControllerModifyVolume change, as csi-sanity reads it."""


@dataclass
class Outcome:
    """What a run of csi-sanity found, by names of specs."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def arguments(
    *,
    node_socket: str,
    controller_socket: str,
    folder: str,
    junit: str,
    size: int,
    mutable: str,
    access: str = "mount",
) -> list[str]:
    """The command line after the program's name. ``folder`` is inside the kubelet's; csi-sanity makes its own in it.

    ``size``: bytes of a volume; it is made twice as large. ``mutable``: path of a file with ``MUTABLE``.
    """
    return [
        f"--csi.endpoint={node_socket}",
        f"--csi.controllerendpoint={controller_socket}",
        f"--csi.mountdir={folder}/mount",
        f"--csi.stagingdir={folder}/staging",
        f"--csi.testvolumesize={size}",
        f"--csi.testvolumeexpandsize={2 * size}",
        f"--csi.testvolumemutableparameters={mutable}",
        f"--csi.testvolumeaccesstype={access}",
        "--csi.testnodevolumeattachlimit",
        f"--ginkgo.junit-report={junit}",
        "--ginkgo.no-color",
        "--ginkgo.v",
        "--ginkgo.silence-skips",
        "--ginkgo.timeout=40m",
    ]


def read(junit: bytes) -> Outcome:
    """A JUnit file that Ginkgo wrote."""
    outcome = Outcome()
    for case in ET.fromstring(junit).iter("testcase"):
        name, status = case.get("name", ""), case.get("status", "")
        if not name.startswith("[It]"):
            continue
        skipped = case.find("skipped")
        if skipped is not None or status in ("skipped", "pending"):
            message = (skipped.get("message") if skipped is not None else "") or status
            outcome.skipped[name] = message.removeprefix("skipped - ")
        elif status == "passed":
            outcome.passed.append(name)
        else:
            outcome.failed[name] = f"{status}: {''.join(case.itertext())[-3000:]}"
    return outcome


def advertised(*, max_volumes: int = 0) -> set[str]:
    """What the driver says that it can do, in the words of ``SKIPS``."""
    said = {f"controller {controller._Rpc.Type.Name(each)}" for each in controller.CAPABILITIES}
    said |= {f"node {node._Rpc.Type.Name(each)}" for each in node.CAPABILITIES}
    return said | ({"node max_volumes_per_node"} if max_volumes else set())


def check(outcome: Outcome, said: Iterable[str]) -> None:
    """AssertionError that names what failed, and what was skipped although the driver says that it can do it."""
    assert not outcome.failed, "\n\n".join(f"{name}\n{why}" for name, why in outcome.failed.items())
    assert outcome.passed, "csi-sanity ran nothing"
    said = set(said)
    wrong = {name: reason for name, reason in outcome.skipped.items() if reason not in SKIPS or SKIPS[reason] in said}
    assert not wrong, "skipped, although advertised or for an unknown reason: " + "; ".join(
        f"{name}: {reason}" for name, reason in wrong.items()
    )
