"""csi-driver-host-path, which ours is compared with: on one node, beside the sidecars that our chart gives ours.

Its makers publish images, and this project has no registry: it is built from checkouts of its repository and of
node-driver-registrar's, which have all that they need in ``vendor``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from demo.cluster import Cluster, Object
from demo.install import API_VERSION
from demo.install import NAMESPACE as OURS
from demo.workload import namespace
from lab import cache, golang, images, oci
from lab.command import run
from lab.progress import step

NAME = "peer.bench.millpond.io"
NAMESPACE = "bench-peer"
GROUP = API_VERSION.partition("/")[0]
CONTROLLER = "millpond-controller"
KUBELET = "/var/lib/kubelet"
PLUGIN = f"{KUBELET}/plugins/{NAME}"
REGISTRY = f"{KUBELET}/plugins_registry"
STATE = "/csi-data-dir"
READY_SECONDS = 600.0
DRIVER = "csi-driver-host-path"
PLUGIN_IMAGE = "localhost/hostpathplugin:lab"
REGISTRAR_IMAGE = "localhost/csi-node-driver-registrar:lab"
BUILD_SECONDS = 900.0


def version(checkout: Path) -> str:
    """What git calls the state of a checkout, ``v1.18.0``. LabError when it is none."""
    return run(["git", "-C", checkout, "describe", "--tags", "--always"], seconds=30).strip()


def built(plugin: Path, registrar: Path, folder: Path) -> list[Path]:
    """Archives of both images, built from checkouts of their repositories in ``folder``. LabError: one is not built."""
    archives = []
    for checkout, image in ((plugin, PLUGIN_IMAGE), (registrar, REGISTRAR_IMAGE)):
        program = image.removeprefix("localhost/").removesuffix(":lab")
        release, binary = version(checkout), folder / program
        with step(f"Building {program} {release}", usually=90):
            # Without a version the plugin refuses to say who it is.
            flags = ("-mod=vendor", "-trimpath", f"-ldflags=-X main.version={release}")
            argv = ("build", *flags, "-o", binary, f"./cmd/{program}")
            golang.ensure().run(*argv, seconds=BUILD_SECONDS, cwd=checkout, log=folder / f"{program}.log")
        # The plugin calls mount(8), losetup(8) and tar(1).
        archives.append(_image(binary, image, images.base() if image == PLUGIN_IMAGE else None))
    return archives


def _image(binary: Path, called: str, below: Path | None) -> Path:
    """In the cache by content: who unpacks it goes by its path."""

    def build(scratch: Path) -> None:
        layer = scratch / "layer.tar"
        if below:
            oci.layer(below, layer)
        oci.layer_of(layer, {binary.name: binary}, onto=below is not None)
        oci.write(scratch / "image.tar", called, layer, entrypoint=[f"/{binary.name}"])
        layer.unlink()

    key = cache.key(hashlib.sha256(binary.read_bytes()).hexdigest(), called, str(below))
    return cache.entry("images", f"{binary.name}-{key}", build) / "image.tar"


def install(cluster: Cluster, node: str) -> None:
    """Put it on ``node`` of a cluster with Millpond; returns when that node has it. DemoError when it does not come."""
    deployment = cluster.get("deployment", CONTROLLER, "-n", OURS)
    roles = (cluster.get("clusterrole", CONTROLLER), cluster.get("role", CONTROLLER, "-n", OURS))
    cluster.apply(*objects(node, deployment, *roles))
    argv = ("rollout", "status", "deployment/peer", "-n", NAMESPACE, f"--timeout={READY_SECONDS:.0f}s")
    cluster.kubectl(*argv, seconds=READY_SECONDS + 30)

    def missing() -> str:
        drivers = cluster.get("csinode", node)["spec"].get("drivers") or ()
        return "" if any(each["name"] == NAME for each in drivers) else f"the kubelet of {node} does not know it"

    cluster.wait(missing, f"{DRIVER} is registered", seconds=READY_SECONDS)


def objects(node: str, deployment: Object, cluster_role: Object, role: Object) -> list[Object]:
    """Everything it needs, made from our controller's own Deployment and roles, as they are on a cluster."""
    account = {"kind": "ServiceAccount", "name": "peer", "namespace": NAMESPACE}
    return [
        namespace(NAMESPACE),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("peer")},
        *_granted("ClusterRole", {"name": NAMESPACE}, cluster_role, account),
        *_granted("Role", _metadata("peer"), role, account),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": NAME},
            "spec": {"attachRequired": True, "podInfoOnMount": False, "fsGroupPolicy": "File"},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _metadata("peer"),
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},  # there is one socket
                "selector": {"matchLabels": {"app": "peer"}},
                "template": {"metadata": {"labels": {"app": "peer"}}, "spec": _pod(node, deployment)},
            },
        },
    ]


def _metadata(name: str) -> Object:
    return {"name": name, "namespace": NAMESPACE}


def _granted(kind: str, metadata: Object, role: Object, account: Object) -> list[Object]:
    group = "rbac.authorization.k8s.io"
    rules = [rule for rule in role["rules"] if GROUP not in rule["apiGroups"]]
    reference = {"apiGroup": group, "kind": kind, "name": metadata["name"]}
    made = {"apiVersion": f"{group}/v1", "metadata": metadata}
    binding = {**made, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [account]}
    return [{**made, "kind": kind, "rules": rules}, binding]


def _pod(node: str, deployment: Object) -> dict[str, Any]:
    ours = deployment["spec"]["template"]["spec"]
    arguments = [f"--drivername={NAME}", "--endpoint=unix:///csi/csi.sock", f"--nodeid={node}", f"--statedir={STATE}"]
    arguments.append("--enable-attach")  # ours cannot do without
    plugin: Object = {
        "name": "plugin",
        "image": PLUGIN_IMAGE,
        "imagePullPolicy": "Never",
        "restartPolicy": "Always",  # a sidecar in Kubernetes' sense, as ours: the attacher exits when nobody answers
        "args": arguments,
        "securityContext": {"privileged": True},
        "volumeMounts": [
            {"name": "csi", "mountPath": "/csi"},
            {"name": "registration", "mountPath": "/registration"},
            {"name": "state", "mountPath": STATE},
            {"name": "kubelet", "mountPath": KUBELET, "mountPropagation": "Bidirectional"},
            {"name": "dev", "mountPath": "/dev"},
        ],
    }
    registrar: Object = {
        "name": "registrar",
        "image": REGISTRAR_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["--csi-address=/csi/csi.sock", f"--kubelet-registration-path={PLUGIN}/csi.sock"],
        "volumeMounts": plugin["volumeMounts"][:2],
    }
    # Without the pod's own user: the socket is root's, as the plugin is.
    sidecars = json.loads(json.dumps(ours["containers"]).replace(OURS, NAMESPACE))
    return {
        "serviceAccountName": "peer",
        "terminationGracePeriodSeconds": 5,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "initContainers": [plugin],
        "containers": [*sidecars, registrar],
        "volumes": [
            *(volume for volume in ours["volumes"] if volume["name"] != "csi"),
            _host("csi", PLUGIN),
            _host("registration", REGISTRY),
            _host("state", f"/var/lib/{NAMESPACE}"),
            _host("kubelet", KUBELET),
            _host("dev", "/dev"),
        ],
    }


def _host(name: str, path: str) -> Object:
    return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
