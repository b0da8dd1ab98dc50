"""The chart, rendered by the pinned Helm: what an administrator would read with ``helm template``.

What the API server thinks of it is the API tier's business.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import components
from millpond_core import names
from millpond_core.master.adoption import Policy, policies

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "millpond"
NAMESPACE = "millpond-system"
OURS = "millpond.io"

Object = Mapping[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(components.ensure("helm")), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def template(*settings: str) -> list[Object]:
    done = helm("template", "millpond", str(CHART), "--namespace", NAMESPACE, "--include-crds", *settings)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return template()


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for each in objects:
        if each["kind"] in ("Deployment", "DaemonSet"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for name, pod in pods(objects):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{name}/{container['name']}", container


def rules(objects: list[Object], process: str) -> list[Object]:
    name = f"millpond-{process}"
    return [rule for kind in ("ClusterRole", "Role") for rule in of_kind(objects, kind)[name]["rules"]]


def test_lint() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_namespaced_object_lies_in_the_release(objects: list[Object]) -> None:
    kinds = {"Deployment", "DaemonSet", "ServiceAccount", "ConfigMap", "Role", "RoleBinding"}
    elsewhere = [e for e in objects if e["kind"] in kinds and e["metadata"].get("namespace") != NAMESPACE]
    # The kubelets' Leases are to be read where they are.
    assert {(e["kind"], e["metadata"]["namespace"]) for e in elsewhere} == {
        ("Role", "kube-node-lease"),
        ("RoleBinding", "kube-node-lease"),
    }
    (rule,) = next(e["rules"] for e in elsewhere if e["kind"] == "Role")
    assert (rule["resources"], rule["verbs"]) == (["leases"], ["list"])


def test_it_brings_every_kind(objects: list[Object]) -> None:
    plurals = {"storagenodes", "storagedevices", "virtualvolumes", "quiescences"}
    assert set(of_kind(objects, "CustomResourceDefinition")) >= {f"{plural}.{OURS}" for plural in plurals}


def test_the_driver_has_the_name_that_the_code_uses(objects: list[Object]) -> None:
    driver = of_kind(objects, "CSIDriver")[names.DRIVER]
    assert driver["spec"]["attachRequired"] is True
    assert {each["provisioner"] for each in of_kind(objects, "StorageClass").values()} == {names.DRIVER}


def test_storage_classes(objects: list[Object]) -> None:
    classes = of_kind(objects, "StorageClass")
    assert {name: each["parameters"]["copies"] for name, each in classes.items()} == {
        "millpond": "1",
        "millpond-mirrored": "2",
    }
    assert {each["volumeBindingMode"] for each in classes.values()} == {"WaitForFirstConsumer"}
    assert {each["allowVolumeExpansion"] for each in classes.values()} == {True}


def test_every_volume_mount_has_its_volume(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= volumes, f"{name}/{container['name']}"


def test_the_sidecars_start_when_the_driver_answers(objects: list[Object]) -> None:
    """They give their first calls little time and exit, which would be a restart for each slow start of ours."""
    pod = dict(pods(objects))["millpond-controller"]
    [driver] = pod["initContainers"]
    assert (driver["name"], driver["restartPolicy"]) == ("csi", "Always")
    assert driver["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert [each["name"] for each in pod["containers"]] == ["provisioner", "attacher", "resizer"]


def test_the_resizer_may_do_what_it_does_and_no_more(objects: list[Object]) -> None:
    """Read in csi-resizer 2.3: what it watches, what it patches. It must not ask for pods, which it may not list."""
    given = {
        (resource, verb)
        for rule in of_kind(objects, "ClusterRole")["millpond-controller"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    watched = ("persistentvolumes", "persistentvolumeclaims", "volumeattributesclasses")
    assert {(kind, verb) for kind in watched for verb in ("get", "list", "watch")} <= given
    assert {("persistentvolumes", "patch"), ("persistentvolumeclaims/status", "patch"), ("events", "create")} <= given
    assert not {(kind, verb) for kind, verb in given if kind in ("pods", "secrets")}
    arguments = dict(containers(objects))["millpond-controller/resizer"]["args"]
    assert {"--handle-volume-inuse-error=false", "--leader-election", "--timeout=120s"} <= set(arguments)


def test_only_the_node_is_privileged_and_root(objects: list[Object]) -> None:
    for name, container in containers(objects):
        context = container["securityContext"]
        if name.startswith("millpond-node/"):
            assert (context["privileged"], context["runAsUser"]) == (True, 0), name
        else:
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
    for name, pod in pods(objects):
        if name != "millpond-node":
            assert pod["securityContext"]["runAsNonRoot"], name
            assert not pod.get("hostNetwork"), name


def test_the_watchdog_needs_nobody(objects: list[Object]) -> None:
    """It ends holds without API server, state manager or master: it has no way to ask any of them."""
    watchdog = dict(containers(objects))["millpond-node/watchdog"]
    assert {mount["name"] for mount in watchdog["volumeMounts"]} == {"dev", "sys", "run"}


def test_only_those_who_speak_to_the_api_server_have_a_token(objects: list[Object]) -> None:
    """The CSI node service unpublishes, unstages and counts without it."""
    for name, container in containers(objects):
        has = any(mount["name"] == "token" for mount in container["volumeMounts"])
        assert has is (name not in ("millpond-node/watchdog", "millpond-node/csi")), name


def test_what_must_outlive_a_pod_lies_on_the_node(objects: list[Object]) -> None:
    node = dict(pods(objects))["millpond-node"]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in node["volumes"] if "hostPath" in volume}
    assert paths["run"] == "/run/millpond"
    assert (node["hostNetwork"], node["hostPID"]) == (True, True)
    kubelet = next(m for m in dict(containers(objects))["millpond-node/csi"]["volumeMounts"] if m["name"] == "kubelet")
    assert kubelet["mountPropagation"] == "Bidirectional"
    assert kubelet["mountPath"] == paths["kubelet"], "paths that the kubelet names must mean the same in the container"


def test_nobody_may_everything(objects: list[Object]) -> None:
    for process in ("operator", "controller", "node"):
        for rule in rules(objects, process):
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]), (process, rule)


@pytest.mark.parametrize(
    ("process", "resource", "verb"),
    [
        pytest.param("node", "virtualvolumes", "patch", id="a node does not change what people want"),
        pytest.param("node", "storagenodes", "patch", id="a node does not ring its own doorbell"),
        pytest.param("node", "virtualvolumes", "delete", id="a node deletes no volume"),
        pytest.param("node", "quiescences/status", "patch", id="a node does not declare a quiescence over"),
        pytest.param("controller", "virtualvolumes/status", "patch", id="CSI does not touch the mapping"),
        pytest.param("controller", "storagedevices", "patch", id="CSI does not touch devices"),
        pytest.param("operator", "storagedevices", "delete", id="the master deletes no device"),
        pytest.param("operator", "secrets", "get", id="the master reads no secret"),
        pytest.param("operator", "persistentvolumeclaims", "watch", id="the master does not follow all claims"),
        pytest.param("operator", "persistentvolumeclaims", "patch", id="the master changes no claim"),
        pytest.param("operator", "persistentvolumeclaims", "update", id="nor replaces one"),
    ],
)
def test_what_a_process_may_not(objects: list[Object], process: str, resource: str, verb: str) -> None:
    assert not any(resource in rule["resources"] and verb in rule["verbs"] for rule in rules(objects, process))


def failover_rights(objects: list[Object]) -> set[tuple[str, str]]:
    roles = of_kind(objects, "ClusterRole")
    given = roles.get("millpond-failover", {"rules": []})["rules"]
    return {(resource, verb) for rule in given for resource in rule["resources"] for verb in rule["verbs"]}


def test_failover_asks_for_no_more_than_it_needs(objects: list[Object]) -> None:
    assert failover_rights(objects) == {
        ("pods", "list"),
        ("pods", "delete"),
        ("persistentvolumeclaims", "get"),
        ("persistentvolumes", "get"),
        ("volumeattachments", "list"),
        ("volumeattachments", "delete"),
        ("nodes", "patch"),
        ("nodes/status", "patch"),
    }
    (subject,) = of_kind(objects, "ClusterRoleBinding")["millpond-failover"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "millpond-operator", "namespace": NAMESPACE}
    policy = of_kind(objects, "ValidatingAdmissionPolicy")["millpond-failover"]["spec"]
    (condition,) = policy["matchConditions"]
    assert f"'system:serviceaccount:{NAMESPACE}:millpond-operator'" in condition["expression"], "nobody else's writes"
    rules = "".join(each["expression"] for each in policy["validations"])
    assert names.unique_volume("") in rules
    assert f"'{names.TAINT}'" in rules


@pytest.mark.parametrize("wanted", ["Pods", "None"])
def test_failover_can_be_left_to_kubernetes(wanted: str) -> None:
    objects = template("--set", f"failover={wanted}")
    environment = dict(containers(objects))["millpond-operator/operator"]["env"]
    assert {"name": "FAILOVER", "value": wanted} in environment
    assert bool(failover_rights(objects)) is (wanted == "Pods")
    assert ("millpond-failover" in of_kind(objects, "ValidatingAdmissionPolicy")) is (wanted == "Pods")


def test_the_operator_is_told_how_many_rebuilds_may_run_and_how_fast() -> None:
    objects = template("--set", "rebuilds.perNode=7,rebuilds.maxRatePerNode=20000000")
    environment = dict(containers(objects))["millpond-operator/operator"]["env"]
    assert {"name": "REBUILDS_PER_NODE", "value": "7"} in environment
    assert {"name": "REBUILDS_PER_CLUSTER", "value": "0"} in environment
    assert {"name": "REBUILD_RATE_PER_NODE", "value": "20000000"} in environment
    assert {"name": "REBUILD_RATE_PER_CLUSTER", "value": "0"} in environment


def test_disks_are_taken_in_by_policy_only_where_there_is_one(objects: list[Object]) -> None:
    def may_create(there: list[Object]) -> bool:
        rules = of_kind(there, "ClusterRole")["millpond-operator"]["rules"]
        return any("storagedevices" in rule["resources"] and "create" in rule["verbs"] for rule in rules)

    assert not may_create(objects)
    assert {"name": "ADOPTION", "value": "[]"} in dict(containers(objects))["millpond-operator/operator"]["env"]
    policy = template("--set-json", 'adoption=[{"pool":"nvme","minSize":"100Gi"}]')
    assert may_create(policy)
    [said] = [
        e["value"] for e in dict(containers(policy))["millpond-operator/operator"]["env"] if e["name"] == "ADOPTION"
    ]
    assert policies(said) == (Policy(pool="nvme", min_size="100Gi"),)


def test_requests_have_their_own_priority(objects: list[Object]) -> None:
    """Leases another than the record: a burst of writes must not make nodes and the master look dead."""
    schemas = of_kind(objects, "FlowSchema")
    groups = {}
    for name, schema in schemas.items():
        (rule,) = schema["spec"]["rules"]
        assert {subject["serviceAccount"]["name"] for subject in rule["subjects"]} == set(
            of_kind(objects, "ServiceAccount")
        )
        (resources,) = rule["resourceRules"]
        groups[name] = resources["apiGroups"]
        assert schema["spec"]["priorityLevelConfiguration"]["name"] == name
    assert groups == {"millpond": ["millpond.io"], "millpond-leases": ["coordination.k8s.io"]}
    assert set(of_kind(objects, "PriorityLevelConfiguration")) == set(groups)


def test_values_that_make_no_sense_are_refused() -> None:
    for setting in (
        "failover=Nodes",
        "operator.replicas=0",
        "storageClasses[0].copies=9",
        "rebuilds.perNode=-1",
        "rebuilds.maxRatePerNode=100Mi",
        "adoption[0].erase=true",
        "adoption[0].minSize=much",
        "operater.replicas=1",
    ):
        done = helm("template", "millpond", str(CHART), "--set", setting)
        assert done.returncode != 0, setting


def test_the_lab_can_name_its_own_images() -> None:
    sidecars = ",".join(f"controller.{name}.image={name}:1" for name in ("provisioner", "attacher", "resizer"))
    settings = f"image.repository=localhost/mine,image.tag=x,{sidecars}"
    images = {container["image"] for _, container in containers(template("--set", settings))}
    assert images == {"localhost/mine:x", "provisioner:1", "attacher:1", "resizer:1"}


@pytest.mark.parametrize("wanted", [True, False])
def test_the_scheduler_heeds_capacity_only_when_it_is_published(wanted: bool) -> None:
    """A CSIDriver that asks for it without anyone publishing it would keep every pod pending."""
    objects = template("--set", f"controller.storageCapacity={str(wanted).lower()}")
    arguments = dict(containers(objects))["millpond-controller/provisioner"]["args"]
    assert of_kind(objects, "CSIDriver")[names.DRIVER]["spec"]["storageCapacity"] is wanted
    assert ("--enable-capacity" in arguments) is wanted


def test_a_class_with_parameters_of_its_own() -> None:
    value = '[{"name":"fast","copies":3,"fsType":"xfs","default":true,"parameters":{"pool":"nvme"}}]'
    (made,) = of_kind(template("--set-json", f"storageClasses={value}"), "StorageClass").values()
    assert made["parameters"] == {"copies": "3", "csi.storage.k8s.io/fstype": "xfs", "pool": "nvme"}
    assert made["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
