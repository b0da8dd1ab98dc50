"""Claims and pods of one driver or another on a cluster, and what each of their moments took.

Everything is asked of the API server directly and seen by watches, so that kubectl's own start is in no figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench import csisamples as samples
from bench.csisamples import NONE, OURS, PEER, Sample
from bench.metrics import requests
from bench.peer import NAME

from demo.cluster import GROUP, Cluster, Object
from demo.errors import DemoError
from demo.workload import class_of, namespace
from lab import images
from lab.api import Api
from millpond_core import names
from millpond_core.units import parse_quantity

NAMESPACE = "bench-csi"
ACCOUNT = "bench"
"""The pods' own: the namespace's default one comes when its controller gets to it."""
SIZE, LARGER = "64Mi", "128Mi"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CLAIMS = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
OWN_VOLUMES = f"{GROUP}/virtualvolumes"
NOW, LATER = "Immediate", "WaitForFirstConsumer"
SECONDS = 600.0
"""After which something is amiss with one of them."""
MANY_SECONDS = 2400.0
QUIET_SECONDS = 5.0
"""After which nobody has anything more to write about what is gone."""

There = dict[str, dict[str, Object]]
"""Objects by plural and name."""


class Seen:
    """What watches have brought: the newest version of each object."""

    def __init__(self) -> None:
        self._there: There = {path.rpartition("/")[2]: {} for path in (PODS, CLAIMS, VOLUMES, OWN_VOLUMES)}
        self._news = threading.Condition()

    def changed(self, plural: str, found: Object) -> None:
        with self._news:
            self._there[plural][found["metadata"]["name"]] = found
            self._news.notify_all()

    def gone(self, plural: str, name: str) -> None:
        with self._news:
            self._there[plural].pop(name, None)
            self._news.notify_all()

    def until(self, missing: Callable[[There], str], what: str, *, seconds: float) -> float:
        """When ``missing`` said nothing more (monotonic); DemoError after ``seconds``, with what it said last."""
        end = time.monotonic() + seconds
        with self._news:
            while said := missing(self._there):
                left = end - time.monotonic()
                if left <= 0:
                    raise DemoError(f"{what}: not after {seconds:.0f} s; {said}")
                self._news.wait(left)
            return time.monotonic()


@dataclass(frozen=True)
class Names:
    """Of one life: pod and claim have one name; ``persistent`` is the PersistentVolume's, ``handle`` the volume's."""

    pod: str
    persistent: str = ""
    handle: str = ""


class Trials:
    """``here``: the node that the peer lives on, ``there`` another one. ``compare`` raises DemoError when the legs of a
    VirtualVolume differ.
    """

    def __init__(self, api: Api, seen: Seen, here: str, there: str, compare: Callable[[Object], None]) -> None:
        self._api, self._seen, self._here, self._elsewhere, self._compare = api, seen, here, there, compare
        self._count = 0

    def bound(self, driver: str) -> list[Sample]:
        """One claim, bound without a pod."""
        name = self._name(driver)
        began = time.monotonic()
        self._api.request("POST", CLAIMS, claim(name, driver, NOW))
        bound = self._bound([name], SECONDS)
        self._end(driver, [self._known(name)])
        return [Sample(driver, samples.BOUND, bound - began)]

    def life(self, driver: str, *, grow: bool = True) -> list[Sample]:
        """A pod with a new claim, which grows under it, and the end of both; without a volume the pod alone."""
        name, found = self._name(driver), []
        began = time.monotonic()
        self._make(driver, name)
        found.append(Sample(driver, samples.START, self._ready([name], SECONDS) - began))
        life = self._known(name) if driver != NONE else Names(name)
        if grow and driver != NONE:
            found.append(self.grow(driver, life))
        return [*found, Sample(driver, samples.DELETE, self._end(driver, [life]))]

    def grow(self, driver: str, life: Names) -> Sample:
        """A claim in use gets its larger size.

        The kubelet is made to look as soon as its part is there to be done: by itself it looks when it has to do with
        the pod for another reason, or after a minute or more, whoever the driver is.
        """
        began = time.monotonic()
        self._api.merge(f"{CLAIMS}/{life.pod}", {"spec": {"resources": {"requests": {"storage": LARGER}}}})
        self._has("persistentvolumes", life.persistent, "spec")
        self._api.merge(f"{PODS}/{life.pod}", {"metadata": {"annotations": {"bench/look": LARGER}}})
        return Sample(driver, samples.EXPAND, self._has("persistentvolumeclaims", life.pod, "status") - began)

    def move(self) -> list[Sample]:
        """A pod of ours is deleted and one on another node takes its volume, both asked for at once."""
        name = self._name(OURS)
        self._make(OURS, name)
        self._ready([name], SECONDS)
        life, other = self._known(name), f"{name}-moved"
        began = time.monotonic()
        self._api.request("DELETE", f"{PODS}/{name}")
        self._api.request("POST", PODS, pod(other, self._elsewhere, claimed=name))
        moved = self._ready([other], SECONDS) - began
        self._api.request("DELETE", f"{PODS}/{other}")
        self._api.request("DELETE", f"{CLAIMS}/{name}")
        self._gone([life, Names(other)], SECONDS)
        return [Sample(OURS, samples.ELSEWHERE, moved)]

    def many(self, driver: str, count: int) -> list[Sample]:
        """So many at once; of ours the legs are compared before they go."""
        called = [self._name(driver) for _ in range(count)]
        found, began = [], time.monotonic()
        for name in called:
            self._make(driver, name)
        if driver != NONE:
            found.append(Sample(driver, samples.ALL_BOUND, self._bound(called, MANY_SECONDS) - began))
        found.append(Sample(driver, samples.ALL_READY, self._ready(called, MANY_SECONDS) - began))
        lives = [self._known(name) if driver != NONE else Names(name) for name in called]
        if driver == OURS:
            for volume in self._whole([life.handle for life in lives]):
                self._compare(volume)
        self._end(driver, lives, MANY_SECONDS)
        return found

    def requests(self, driver: str, lives: int, idle: dict[str, float]) -> dict[str, float]:
        """Requests of one life, the asker's four included, by resource and verb."""
        before, began = self.asked(), time.monotonic()
        for _ in range(lives):
            self.life(driver, grow=False)
        time.sleep(QUIET_SECONDS)
        passed = time.monotonic() - began
        return samples.of_a_life(before, self.asked(), idle, passed=passed, lives=lives)

    def idle(self, seconds: float) -> dict[str, float]:
        """Requests of a second in which nobody wants anything."""
        before, began = self.asked(), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        return samples.rates(before, self.asked(), passed)

    def asked(self) -> dict[str, float]:
        """All requests so far."""
        return requests(self._api.request("GET", "/metrics", seconds=60))

    def _name(self, driver: str) -> str:
        self._count += 1
        return f"{driver}-{self._count}"

    def _make(self, driver: str, name: str) -> None:
        if driver != NONE:
            self._api.request("POST", CLAIMS, claim(name, driver, LATER))
        self._api.request("POST", PODS, pod(name, self._here, claimed=name if driver != NONE else ""))

    def _bound(self, called: Sequence[str], seconds: float) -> float:
        def missing(there: There) -> str:
            claims = there["persistentvolumeclaims"]
            return _named(name for name in called if _phase(claims.get(name)) != "Bound")

        return self._seen.until(missing, "claims are bound", seconds=seconds)

    def _ready(self, called: Sequence[str], seconds: float) -> float:
        def missing(there: There) -> str:
            return _named(name for name in called if not _ready(there["pods"].get(name)))

        return self._seen.until(missing, "pods are ready", seconds=seconds)

    def _whole(self, volumes: Sequence[str]) -> list[Object]:
        """The VirtualVolumes, once all of their copies are in sync."""
        found: list[Object] = []

        def missing(there: There) -> str:
            seen = there["virtualvolumes"]
            found[:] = [seen[name] for name in volumes if name in seen]
            return _named(name for name in volumes if _phase(seen.get(name)) != "Ready")

        self._seen.until(missing, "all copies are in sync", seconds=MANY_SECONDS)
        return found

    def _has(self, plural: str, name: str, part: str) -> float:
        def missing(there: There) -> str:
            found = there[plural].get(name, {}).get(part, {}).get("capacity", {}).get("storage", "0")
            return "" if parse_quantity(found) >= parse_quantity(LARGER) else f"it has {found}"

        return self._seen.until(missing, f"{plural}/{name} has {LARGER}", seconds=SECONDS)

    def _known(self, name: str) -> Names:
        """What stands behind a claim that is bound."""
        found: list[Names] = []

        def missing(there: There) -> str:
            persistent = there["persistentvolumeclaims"].get(name, {}).get("spec", {}).get("volumeName", "")
            if persistent not in there["persistentvolumes"]:
                return f"no PersistentVolume {persistent!r}"
            handle = there["persistentvolumes"][persistent]["spec"]["csi"]["volumeHandle"]
            found[:] = [Names(name, persistent, handle)]
            return ""

        self._seen.until(missing, f"the volume of {name} is seen", seconds=SECONDS)
        return found[0]

    def _end(self, driver: str, lives: Sequence[Names], seconds: float = SECONDS) -> float:
        """Seconds until pods, claims and all that stood behind them are gone."""
        began = time.monotonic()
        for life in lives:
            self._api.request("DELETE", f"{PODS}/{life.pod}", missing={})  # one that was only bound has none
            if driver != NONE:
                self._api.request("DELETE", f"{CLAIMS}/{life.pod}")
        return self._gone(lives, seconds) - began

    def _gone(self, lives: Sequence[Names], seconds: float) -> float:
        wanted = {(plural, life.pod) for life in lives for plural in ("pods", "persistentvolumeclaims")}
        wanted |= {("persistentvolumes", life.persistent) for life in lives}
        wanted |= {("virtualvolumes", life.handle) for life in lives}

        def missing(there: There) -> str:
            return _named(f"{plural}/{name}" for plural, name in sorted(wanted) if name in there[plural])

        return self._seen.until(missing, "pods, claims and volumes are gone", seconds=seconds)


@contextmanager
def trials(cluster: Cluster, api: Api, here: str, there: str, compare: Callable[[Object], None]) -> Iterator[Trials]:
    """With classes, a namespace in which nothing is left of an earlier run, and watches."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}}
    cluster.apply(namespace(NAMESPACE), account, *classes())
    left = ("delete", "pods,pvc", "--all", "-n", NAMESPACE, f"--timeout={SECONDS:.0f}s")
    cluster.kubectl(*left, seconds=SECONDS + 30)
    seen = Seen()
    with cluster.watch(seen.changed, seen.gone, (PODS, CLAIMS, VOLUMES, OWN_VOLUMES)):
        yield Trials(api, seen, here, there, compare)


def classes() -> list[Object]:
    """For each driver one class that waits for a pod, and one that does not."""
    ours = {"copies": "2", "csi.storage.k8s.io/fstype": "ext4"}
    return [
        class_of(called(driver, binding), parameters, binding=binding, provisioner=provisioner)
        for driver, provisioner, parameters in ((OURS, names.DRIVER, ours), (PEER, NAME, {}))
        for binding in (NOW, LATER)
    ]


def called(driver: str, binding: str) -> str:
    """The name of a StorageClass."""
    return f"bench-{driver}-{binding.lower()}"


def claim(name: str, driver: str, binding: str) -> Object:
    """A small one."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": called(driver, binding),
            "resources": {"requests": {"storage": SIZE}},
        },
    }


def pod(name: str, node: str, *, claimed: str) -> Object:
    """One that sleeps on ``node``, with that claim if there is one."""
    volume: Object = {"name": "data", "persistentVolumeClaim": {"claimName": claimed}}
    container: Object = {"name": "main", "image": images.PAUSE, "imagePullPolicy": "Never"}
    if claimed:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,  # it sleeps and heeds no signal
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
            "volumes": [volume] if claimed else [],
        },
    }


def _phase(found: Object | None) -> str:
    return str(found["status"].get("phase", "")) if found else ""


def _ready(found: Object | None) -> bool:
    conditions = found["status"].get("conditions", ()) if found else ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _named(those: Iterator[str]) -> str:
    """The first few of them."""
    found = [*those]
    return f"{', '.join(found[:5])}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"
