"""``make bench-csi`` without a cluster: whose turn it is, what its samples say, and what the peer is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench import csi, csisamples, metrics, peer, trials
from bench.csisamples import BOUND, DELETE, DRIVERS, ELSEWHERE, NONE, OURS, PEER, START, Run, Sample
from bench.trials import Seen

from demo.errors import DemoError
from demo.install import NAMESPACE


def run(*samples: Sample, at_once: int = 50, **more: Any) -> Run:
    return Run(
        kernel="6.1",
        release="6.1.0",
        kubernetes="v1",
        machine="2 cores",
        date="2026-11-28",
        command="make bench-csi",
        peer="the peer",
        at_once=at_once,
        samples=[*samples],
        **more,
    )


def times(driver: str, what: str, *seconds: float) -> list[Sample]:
    return [Sample(driver, what, each) for each in seconds]


# --- goals ---


@pytest.mark.parametrize(("ours", "verdict"), [(1.5, "yes"), (1.6, "no")])
def test_a_goal_is_kept_up_to_one_and_a_half_times_the_peer(ours: float, verdict: str) -> None:
    told = csisamples.goals(run(*times(OURS, DELETE, ours), *times(PEER, DELETE, 1.0)))
    assert f"| {DELETE}, p50 ≤ 1.5 times the peer's | {ours:.2f} | {verdict} |" in told


def test_the_worst_claim_counts_as_well() -> None:
    told = csisamples.goals(run(*times(OURS, BOUND, 1, 1, 9), *times(PEER, BOUND, 1, 1, 2)))
    assert f"| {BOUND}, p50 ≤ 1.5 times the peer's | 1.00 | yes |" in told
    assert f"| {BOUND}, p99 ≤ 1.5 times the peer's | 4.50 | no |" in told


@pytest.mark.parametrize(("ours", "verdict"), [(5.0, "yes"), (5.1, "no")])
def test_what_a_volume_adds_to_a_start_is_judged_against_none(ours: float, verdict: str) -> None:
    told = csisamples.goals(run(*times(OURS, START, ours), *times(NONE, START, 2.0, 3.0, 9.0)))
    assert f"| ≤ 2 s added to a pod's start | {ours - 3:.2f} s | {verdict} |" in told


def test_what_was_not_measured_is_not_kept() -> None:
    lines = csisamples.goals(run()).splitlines()[2:]
    assert lines
    assert all(line.endswith("| - | not measured |") for line in lines)
    assert not any(ELSEWHERE in line for line in lines), "a folder cannot be had elsewhere"


# --- tables ---


def test_a_row_has_percentiles_spread_and_what_part_of_the_peer_it_is() -> None:
    told = csisamples.table(run(*times(OURS, BOUND, 3, 1, 2), *times(PEER, BOUND, 1), *times(OURS, ELSEWHERE, 4)))
    assert f"| {BOUND} | Millpond, two copies | 2.00 s | 3.00 s | 1.00 to 3.00 s | 2.00 | 3 |" in told
    assert f"| {BOUND} | the peer | 1.00 s | 1.00 s | 1.00 to 1.00 s |  | 1 |" in told
    assert f"| {ELSEWHERE} | Millpond, two copies | 4.00 s | 4.00 s | 4.00 to 4.00 s |  | 1 |" in told
    assert "50 pods and claims at once" in csisamples.table(run(*times(NONE, csisamples.ALL_READY, 4)))


def test_requests_are_those_of_one_life_beyond_an_idle_cluster() -> None:
    before, after = {"pods GET": 10.0}, {"pods GET": 50.0, "events POST": 4.0}
    assert csisamples.rates(before, after, 20.0) == {"pods GET": 2.0, "events POST": 0.2}
    assert csisamples.of_a_life(before, after, {"pods GET": 1.0}, passed=20, lives=4) == {
        "pods GET": 5.0,
        "events POST": 1.0,
    }


def test_the_table_of_requests_begins_with_what_a_volume_adds_and_sums_all() -> None:
    requests = {OURS: {"a GET": 2.0, "b PATCH": 9.0, "c GET": 0.2}, NONE: {"a GET": 2.0, "c GET": -0.01}}
    lines = csisamples.requests_table(run(requests=requests)).splitlines()
    assert lines[0] == "| requests of one life | Millpond, two copies | no volume |"
    assert lines[2:] == ["| b PATCH | 9.0 | 0.0 |", "| a GET | 2.0 | 2.0 |", "| all | 11.2 | 2.0 |"]
    assert csisamples.requests_table(run()) == "Requests were not counted."


def test_requests_are_read_by_resource_and_verb() -> None:
    text = """\
apiserver_request_total{code="200",resource="pods",subresource="status",verb="PATCH",version="v1"} 3
apiserver_request_total{code="409",resource="pods",subresource="status",verb="PATCH",version="v1"} 1
apiserver_request_total{code="0",resource="pods",subresource="",verb="WATCH",version="v1"} 7
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT",version="v1"} 7
apiserver_request_total{code="200",resource="",subresource="/healthz",verb="GET",version=""} 7
apiserver_request_total{code="200",resource="virtualvolumes",subresource="",verb="GET",version="v1alpha1"} 2
"""
    assert metrics.requests(text) == {"pods/status PATCH": 4.0, "virtualvolumes GET": 2.0}


def test_a_broken_off_run_can_still_be_told(tmp_path: Path) -> None:
    kept = tmp_path / "csi.json"
    csi._keep(run(*times(OURS, BOUND, 3)), kept)
    told = csi.report(msgspec.json.decode(kept.read_bytes(), type=Run))
    assert told.startswith("## Claims and pods, kernel 6.1")
    assert max(map(len, told.splitlines()[:20])) <= 120


def test_without_the_peers_sources_it_says_where_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert csi.main([]) == 2
    assert "csi-driver-host-path v1." in capsys.readouterr().err


# --- turns ---


def test_each_driver_is_first_in_turn() -> None:
    orders = [csi.turned(DRIVERS, turn) for turn in range(3)]
    assert {order[0] for order in orders} == {*DRIVERS}
    assert all({*order} == {*DRIVERS} for order in orders)


class Counted:
    """Trials that take no time."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def idle(self, seconds: float) -> dict[str, float]:
        return {}

    def bound(self, driver: str) -> list[Sample]:
        return self._one(driver, BOUND)

    def life(self, driver: str) -> list[Sample]:
        return self._one(driver, START)

    def move(self) -> list[Sample]:
        return self._one(OURS, ELSEWHERE)

    def many(self, driver: str, count: int) -> list[Sample]:
        return self._one(driver, f"{count}")

    def requests(self, driver: str, lives: int, idle: dict[str, float]) -> dict[str, float]:
        return {"pods GET": float(lives)}

    def _one(self, driver: str, what: str) -> list[Sample]:
        self.calls.append((driver, what))
        return [Sample(driver, what, 1.0)]


def test_first_turns_are_not_counted_and_everything_is_kept() -> None:
    trial, found, kept = Counted(), run(), []
    csi.rounds(trial, found, 100, lambda: kept.append(len(found.samples)))  # type: ignore[arg-type]
    assert [len(found.seconds(driver, BOUND)) for driver in DRIVERS] == [100, 100, 0]
    assert [len(found.seconds(driver, START)) for driver in DRIVERS] == [5, 5, 5]
    assert [len(found.seconds(driver, ELSEWHERE)) for driver in DRIVERS] == [3, 0, 0]
    assert [len(found.seconds(driver, "50")) for driver in DRIVERS] == [1, 1, 1]
    assert trial.calls.count((OURS, BOUND)) == 101
    assert found.requests == {driver: {"pods GET": 2.0} for driver in DRIVERS}
    assert kept[-1] == len(found.samples)


# --- what is seen, and what is made ---


def test_what_is_missing_is_said_when_time_is_up() -> None:
    seen = Seen()
    seen.changed("pods", {"metadata": {"name": "a"}})
    assert seen.until(lambda there: "" if "a" in there["pods"] else "no", "a is there", seconds=1) > 0
    seen.gone("pods", "a")
    with pytest.raises(DemoError, match=r"a is there: not after 0 s; it is gone"):
        seen.until(lambda there: "" if there["pods"] else "it is gone", "a is there", seconds=0)


class Obliging:
    """An API server in which everything that is asked for is there at once."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.asked = seen, list[str]()

    def request(self, verb: str, path: str, body: Any = None, **options: Any) -> None:
        self.asked.append(verb)
        _, _, plural = path.rpartition("/")
        if verb == "DELETE":
            folder, _, name = path.rpartition("/")
            for plural in (folder.rpartition("/")[2], "persistentvolumes", "virtualvolumes"):
                self.seen.gone(plural, name)
            return
        meta = {"name": body["metadata"]["name"]}
        if plural == "pods":
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            self.seen.changed("pods", {"metadata": meta, "status": ready})
            return
        csi_source = {"csi": {"volumeHandle": meta["name"]}}
        self.seen.changed("persistentvolumes", {"metadata": meta, "spec": csi_source})
        self.seen.changed("virtualvolumes", {"metadata": meta, "status": {"phase": "Ready"}})
        bound = {"metadata": meta, "spec": {"volumeName": meta["name"]}, "status": {"phase": "Bound"}}
        self.seen.changed("persistentvolumeclaims", bound)


def test_the_legs_of_many_at_once_are_compared_before_they_go() -> None:
    seen = Seen()
    api = Obliging(seen)
    compared: list[tuple[str, int]] = []
    trial = trials.Trials(
        api,  # type: ignore[arg-type]
        seen,
        "n1",
        "n2",
        lambda volume: compared.append((volume["metadata"]["name"], api.asked.count("DELETE"))),
    )
    trial.many(OURS, 2)
    assert compared == [("millpond-1", 0), ("millpond-2", 0)]
    trial.many(PEER, 2)
    assert len(compared) == 2
    assert api.asked.count("DELETE") == 8


DEPLOYMENT = {
    "spec": {
        "template": {
            "spec": {
                "securityContext": {"runAsUser": 65532},
                "containers": [{"name": "attacher", "args": [f"--leader-election-namespace={NAMESPACE}", "--x"]}],
                "volumes": [{"name": "csi", "emptyDir": {}}, {"name": "token"}],
            }
        }
    }
}
ROLE = {"rules": [{"apiGroups": ["millpond.io"], "verbs": ["*"]}, {"apiGroups": [""], "verbs": ["get"]}]}


def test_the_peer_has_our_sidecars_and_rights_but_for_our_own_kinds() -> None:
    made = peer.objects("n1", DEPLOYMENT, ROLE, ROLE)
    (pod,) = [each["spec"]["template"]["spec"] for each in made if each["kind"] == "Deployment"]
    assert pod["nodeSelector"] == {"kubernetes.io/hostname": "n1"}
    assert pod["containers"][0] == {
        "name": "attacher",
        "args": [f"--leader-election-namespace={peer.NAMESPACE}", "--x"],
    }
    assert [each["name"] for each in pod["containers"][1:]] == ["registrar"]
    assert [each["name"] for each in pod["volumes"]].count("csi") == 1
    assert {tuple(each["rules"][0]["apiGroups"]) for each in made if "rules" in each} == {("",)}
    assert NAMESPACE not in json.dumps(made)


def test_both_drivers_have_a_class_of_each_kind() -> None:
    found = {each["metadata"]["name"]: each for each in trials.classes()}
    for driver in (OURS, PEER):
        for binding in (trials.NOW, trials.LATER):
            name = trials.claim("c", driver, binding)["spec"]["storageClassName"]
            assert found[name]["volumeBindingMode"] == binding
            assert found[name]["allowVolumeExpansion"]
