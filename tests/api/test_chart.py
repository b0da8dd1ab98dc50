"""The chart, as the API server takes it: every object validated strictly, and what each account may then do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lab import components

ROOT = Path(__file__).parents[2]
NAMESPACE = "millpond-chart"

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def rendered() -> str:
    argv = [str(components.ensure("helm")), "template", "millpond", str(ROOT / "charts/millpond"), "-n", NAMESPACE]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl, rendered: str) -> Iterator[None]:
    """The accounts and their rights alone: there is nobody to run the pods, and other tests have their own policies."""
    kubectl("create", "namespace", NAMESPACE)
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    rights = yaml.safe_dump_all(each for each in yaml.safe_load_all(rendered) if each and each["kind"] in kinds)
    kubectl("apply", "-f", "-", stdin=rights)
    yield
    kubectl("delete", "--wait=false", "-f", "-", stdin=rights)
    kubectl("delete", "--wait=false", "namespace", NAMESPACE)


def test_every_object_is_taken_as_written(kubectl: Kubectl, installed: None, rendered: str) -> None:
    """No unknown field, no value out of range: the server's own strict validation, without keeping anything."""
    out = kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    assert len(out.splitlines()) == len(objects)
    assert "Warning" not in out


@pytest.mark.parametrize(
    ("account", "verb", "resource"),
    [
        pytest.param("operator", "patch", "virtualvolumes/status", id="the master commits mappings"),
        pytest.param("operator", "create", "quiescences", id="the master makes quiescences"),
        pytest.param("operator", "patch", "storagenodes", id="the master rings the doorbell"),
        pytest.param("operator", "list", "nodes", id="the master has a second witness"),
        pytest.param("operator", "get", "persistentvolumeclaims", id="the master finds a volume's claim"),
        pytest.param("operator", "patch", "persistentvolumeclaims/status", id="the master tells it how its volume is"),
        pytest.param("operator", "create", "events", id="in Events, too, in every namespace"),
        pytest.param("node", "patch", "virtualvolumes/status", id="a node reports its part"),
        pytest.param("node", "get", "quiescences", id="a node reads what the doorbell names"),
        pytest.param("node", "create", "storagenodes", id="a node makes its own object"),
        pytest.param("node", "get", "namespaces", id="a node knows the cluster's identity"),
        pytest.param("controller", "create", "virtualvolumes", id="CSI makes volumes"),
        pytest.param("controller", "create", "persistentvolumes", id="the provisioner makes volumes known"),
        pytest.param("controller", "patch", "volumeattachments/status", id="the attacher says that it is done"),
        pytest.param("controller", "patch", "persistentvolumeclaims/status", id="the resizer says how far it is"),
        pytest.param("controller", "watch", "volumeattributesclasses", id="the resizer knows what is to be changed"),
    ],
)
def test_what_a_process_must(kubectl: Kubectl, installed: None, account: str, verb: str, resource: str) -> None:
    user = f"--as=system:serviceaccount:{NAMESPACE}:millpond-{account}"
    name, _, subresource = resource.partition("/")
    assert kubectl("auth", "can-i", verb, name, f"--subresource={subresource}", user).strip() == "yes"


@pytest.mark.parametrize("account", ["operator", "node", "controller"])
def test_heartbeats_and_elections(kubectl: Kubectl, installed: None, account: str) -> None:
    user = f"--as=system:serviceaccount:{NAMESPACE}:millpond-{account}"
    for verb in ("get", "create", "update", "patch"):
        assert kubectl("auth", "can-i", verb, "leases", "-n", NAMESPACE, user).strip() == "yes"
