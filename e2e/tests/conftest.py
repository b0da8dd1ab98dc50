"""The end-to-end tier: three nodes, kubelets, the chart, and faults below all of it.

One cluster serves all tests of a session (and tests/conformance, when both are run together); the order is chosen so
that it can: what only looks comes first, what pulls disks puts them back. Every test has a namespace of its own and
leaves no volume behind. After a failure, logs and each node's kernel are in ``build/e2e/<test>``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from demo import diagnostics, install
from demo.cluster import Cluster
from demo.faults import Faults
from demo.session import MakeWorkload, Session, build_folder, shared
from demo.workload import Workload

ORDER = (
    "test_install",
    "test_bad_input",
    "test_main_job",
    "test_kubernetes",
    "test_volumes",
    "test_return",
    "test_blink",
    "test_cut_off",
    "test_quiesce",
    "test_drain",
    "test_balance",
    "test_expand",
    "test_modify",
    "test_replace",
    "test_vdb",
    "test_staged",
    "test_restarts",
    "test_maintenance",
    "test_rolling",
    "test_shutdown",
    "test_failover",
)
DELETE_SECONDS = 600.0
TEST_SECONDS = 900.0

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """As in ``ORDER``; whatever else is collected comes after, in its own order."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=place)
    for item in items:
        # The first test also boots the cluster and the last takes it down; both have bounds of their own.
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else TEST_SECONDS
        item.add_marker(pytest.mark.timeout(seconds, func_only=True), append=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Collect what an engineer wants to see, while the failure is fresh."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    session = getattr(item, "funcargs", {}).get("session")
    if report.when == "call" and report.failed and isinstance(session, Session):
        folder = build_folder(item.name)
        diagnostics.collect(session.cluster, session.faults, folder)
        report.sections.append(("cluster", f"logs and each node's state are in {folder}"))


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    return shared(pytestconfig.add_cleanup)


@pytest.fixture
def cluster(session: Session) -> Cluster:
    return session.cluster


@pytest.fixture
def faults(session: Session) -> Faults:
    return session.faults


@pytest.fixture
def workload(session: Session) -> Iterator[MakeWorkload]:
    """Makes workloads, each in a namespace of its own; afterwards their volumes are deleted, and must really go."""
    made: list[Workload] = []

    def make(**options: Any) -> Workload:
        work = Workload(session.cluster, session.image, namespace=f"e2e-{next(_numbers)}", **options)
        made.append(work)
        return work

    yield make
    for work in made:
        session.cluster.kubectl("delete", "namespace", work.namespace, "--wait=false", "--ignore-not-found")
    session.cluster.wait(
        lambda: "; ".join(filter(None, (_left(session.cluster, work) for work in made))),
        "what the test made is gone",
        seconds=DELETE_SECONDS,
    )


def _left(cluster: Cluster, work: Workload) -> str:
    claim = f"{work.namespace}/{work.claim}"
    volumes = [
        f"{each['metadata']['name']} is {each['status'].get('phase')}: {each['status'].get('message', '')}"
        for each in cluster.items("virtualvolumes")
        if each["metadata"].get("annotations", {}).get("millpond.io/claim") == claim
    ]
    if volumes:
        return "; ".join(volumes)
    namespaces = {each["metadata"]["name"] for each in cluster.items("namespaces")}
    return f"namespace {work.namespace} is still there" if work.namespace in namespaces else ""


@pytest.fixture
def all_disks(session: Session, workload: MakeWorkload) -> Iterator[None]:
    """Begins and ends with every StorageDevice Online: what a test has pulled is put back.

    Before its volumes are deleted: a leg on a disk that is away cannot be given back.
    """
    _plug_back(session)
    yield
    _plug_back(session)


def _plug_back(session: Session) -> None:
    for node in session.lab.nodes:
        for disk in node.disks:
            if not node.machine.plugged(disk):
                node.plug(disk.name)

    def missing() -> str:
        devices = session.cluster.items("storagedevices")
        away = [each for each in devices if each["status"].get("phase") != "Online"]
        return "; ".join(
            f"{each['metadata']['name']} is {each['status'].get('phase')}: {each['status'].get('message', '')}"
            for each in away
        )

    session.cluster.wait(missing, "every disk is back", seconds=install.DISK_SECONDS)
