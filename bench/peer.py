"""The driver that ours is compared with, on one node, beside the sidecars that our chart gives ours.

csi-driver-host-path where its images are at hand; else the lab's own ``csi-folders``, which does less than that: it
makes a folder and mounts it, with no state, no child process and hardly a check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from demo.cluster import Cluster, Object
from demo.install import API_VERSION
from demo.install import NAMESPACE as OURS
from demo.workload import namespace

NAME = "peer.bench.millpond.io"
NAMESPACE = "bench-peer"
GROUP = API_VERSION.partition("/")[0]
CONTROLLER = "millpond-controller"
KUBELET = "/var/lib/kubelet"
PLUGIN = f"{KUBELET}/plugins/{NAME}"
REGISTRY = f"{KUBELET}/plugins_registry"
STATE = "/csi-data-dir"
READY_SECONDS = 600.0


@dataclass(frozen=True)
class Peer:
    """``told``: what tables call it. ``registrar``: the image of csi-node-driver-registrar; "": it registers itself."""

    told: str
    image: str
    registrar: str = ""


FOLDERS = Peer("a driver of folders", "localhost/csi-folders:lab")
HOST_PATH = Peer("csi-driver-host-path", "localhost/hostpathplugin:lab", "localhost/csi-node-driver-registrar:lab")


def install(cluster: Cluster, peer: Peer, node: str) -> None:
    """Put it on ``node`` of a cluster with Millpond; returns when that node has it. DemoError when it does not come."""
    deployment = cluster.get("deployment", CONTROLLER, "-n", OURS)
    roles = (cluster.get("clusterrole", CONTROLLER), cluster.get("role", CONTROLLER, "-n", OURS))
    cluster.apply(*objects(peer, node, deployment, *roles))
    argv = ("rollout", "status", "deployment/peer", "-n", NAMESPACE, f"--timeout={READY_SECONDS:.0f}s")
    cluster.kubectl(*argv, seconds=READY_SECONDS + 30)

    def missing() -> str:
        drivers = cluster.get("csinode", node)["spec"].get("drivers") or ()
        return "" if any(each["name"] == NAME for each in drivers) else f"the kubelet of {node} does not know it"

    cluster.wait(missing, f"{peer.told} is registered", seconds=READY_SECONDS)


def objects(peer: Peer, node: str, deployment: Object, cluster_role: Object, role: Object) -> list[Object]:
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
                "template": {"metadata": {"labels": {"app": "peer"}}, "spec": _pod(peer, node, deployment)},
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


def _pod(peer: Peer, node: str, deployment: Object) -> dict[str, Any]:
    ours = deployment["spec"]["template"]["spec"]
    arguments = [f"--drivername={NAME}", "--endpoint=unix:///csi/csi.sock", f"--nodeid={node}", f"--statedir={STATE}"]
    if peer.registrar:
        arguments.append("--enable-attach")  # ours cannot do without
    else:
        arguments += [f"--registration=/registration/{NAME}-reg.sock", f"--registered={PLUGIN}/csi.sock"]
    plugin: Object = {
        "name": "plugin",
        "image": peer.image,
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
        "image": peer.registrar,
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
        "containers": [*sidecars, *([registrar] if peer.registrar else [])],
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
