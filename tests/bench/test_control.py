"""``make bench-control`` without a cluster: where its volumes stand, what it counts, and what its samples say."""

from __future__ import annotations

import msgspec
import pytest
from bench import control, fleet, metrics, samples
from bench.fleet import Size
from bench.metrics import Traffic
from bench.samples import Failure, Series, Stillness
from bench.stillness import answered, whole

from millpond_core import allocator
from millpond_core.model import Quiescence
from millpond_core.model.quiescence import Acknowledgement, QuiescenceStatus, TimelineEntry
from millpond_core.units import LABEL_BYTES, UNIT_BYTES

SIZES = [Size(1, 3), Size(100, 3), Size(100, 50), Size(300, 52)]


# --- where things stand ---


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_two_legs_share_a_unit_and_none_leaves_its_device(size: Size) -> None:
    used: dict[str, list[tuple[int, int]]] = {}
    for volume in fleet.volume_objects(size, {}):
        for leg in volume.status.mapping.legs:
            for extent in leg.extents:
                used.setdefault(extent.device, []).append((extent.start, extent.length))
    units = (fleet.DISK_BYTES - LABEL_BYTES) // UNIT_BYTES
    assert {*used} <= {device.metadata.name for device in fleet.device_objects(size)}
    for runs in used.values():
        taken = sum(length for _, length in runs)
        free = sum(length for _, length in allocator.free_runs(units, runs))
        assert taken + free == units


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_legs_of_a_volume_are_on_two_nodes_that_see_each_other(size: Size) -> None:
    for number in range(size.volumes):
        place = fleet.place(size, number)
        (here, _), (there, _) = place.legs
        assert place.attach == here != there
        pools = {fleet.pool(size, int(node[1:]) - 1) for node in (here, there)}
        assert pools == {place.pool}
        assert (place.pool == fleet.OBJECTS) == (number >= size.still)


def test_no_node_is_alone_in_its_world() -> None:
    for count in range(3, 60):
        groups = fleet.groups(count)
        assert min(map(len, groups)) >= 2
        assert [node for group in groups for node in group] == [*range(count)]


def test_the_first_ten_volumes_stand_alike_in_every_cluster() -> None:
    first, *others = [[fleet.place(Size(n, m), i) for i in range(10)] for n, m in ((10, 3), (100, 50), (10_000, 1000))]
    assert all(other == first for other in others)
    assert {place.attach for place in first} == {"n1", "n2", "n3"}


def test_how_many_can_go_still_at_once() -> None:
    assert Size(100, 3).counts() == [1, 10, 100]
    assert Size(1000, 50).counts() == Size(10_000, 1000).counts() == [1, 10, 100, 1000]
    with pytest.raises(ValueError, match="one volume and 3 nodes"):
        Size.parse("10x2")


def test_a_volume_whose_nodes_are_objects_is_attached_and_whole() -> None:
    size = Size(1001, 60)
    there = [*fleet.volume_objects(size, {})]
    settled = msgspec.structs.replace(there[-1].status, phase="Ready")  # what the master adds
    assert whole(msgspec.structs.replace(there[-1], status=settled))
    assert not whole(there[0]), "one on real nodes is attached by those whose work it is"


# --- what is counted ---

TEXT = """\
# HELP apiserver_request_total Counter of apiserver requests.
apiserver_request_total{code="200",group="millpond.io",resource="quiescences",verb="APPLY"} 7
apiserver_request_total{code="0",group="millpond.io",resource="quiescences",verb="WATCH"} 3
apiserver_request_total{code="201",group="",resource="events",verb="POST"} 2
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",verb="PUT"} 900
apiserver_request_total_more{group="millpond.io"} 5
apiserver_request_body_size_bytes_sum{group="millpond.io",resource="quiescences",verb="patch"} 1024
apiserver_response_sizes_sum{group="millpond.io",resource="quiescences",verb="GET"} 2048
apiserver_response_sizes_sum{group="coordination.k8s.io",resource="leases",verb="GET"} 4096
apiserver_watch_events_sizes_sum{group="millpond.io",resource="quiescences"} 512
"""


def test_requests_of_our_kinds_and_events_count_heartbeats_and_watches_do_not() -> None:
    assert metrics.traffic(TEXT) == Traffic(9, 3.5)


def test_a_metric_is_summed_over_the_labels_that_are_not_asked_for() -> None:
    assert metrics.total(TEXT, "apiserver_request_total", resource="quiescences") == 10
    assert metrics.total("m_leading 1\n", "m_leading") == 1
    assert metrics.total("m_leading 1\n", "m") == 0


def test_the_last_acknowledgement_ends_it() -> None:
    status = QuiescenceStatus(
        timeline=[
            TimelineEntry(phase="Instructed", at="2026-01-01T00:00:01.000000Z"),
            TimelineEntry(phase="Quiesced", at="2026-01-01T00:00:09.000000Z"),
        ],
        acknowledgements=[
            Acknowledgement(node="n1", at="2026-01-01T00:00:01.750000Z"),
            Acknowledgement(node="n2", at="2026-01-01T00:00:01.250000Z"),
        ],
    )
    assert answered(Quiescence(status=status)) == pytest.approx(0.75)


# --- what the samples say ---


def test_of_few_samples_the_99th_percentile_is_the_worst() -> None:
    assert samples.percentile([3, 1, 2], 0.5) == 2
    assert samples.percentile([3, 1, 2], 0.99) == 3
    assert samples.percentile(range(1, 201), 0.99) == 198


def series(volumes: int, nodes: int, *still: Stillness, peak: float = 100, looked: float = 20) -> Series:
    return Series(
        size=f"{volumes}x{nodes}",
        volumes=volumes,
        nodes=nodes,
        date="2026-01-01",
        machine="2 cores",
        command="make bench-control",
        started=2.0,
        looked=looked,
        resident_mib=90,
        peak_mib=peak,
        idle_requests=0.1,
        idle_kib=1.0,
        stillness=[*still],
        failures=[Failure(failed=0.5, quiescence=1.5, volumes=3), Failure(failed=0.7, quiescence=1.25, volumes=3)],
    )


def still(volumes: int, answered: float, requests: float = 20, *, hold_io: bool = False) -> Stillness:
    return Stillness(
        volumes=volumes,
        hold_io=hold_io,
        participants=3,
        answered=answered,
        seen=answered + 1,
        requests=requests,
        kib=150,
    )


def verdicts(*there: Series) -> list[str]:
    """The last cell of each goal's row."""
    return [line.split("|")[-2].strip() for line in samples.goals(there).splitlines()[2:]]


def test_each_goal_is_judged_by_what_was_measured() -> None:
    fast = (still(100, 0.9), still(100, 0.5, hold_io=True), still(10, 0.1))
    assert verdicts() == ["not measured"] * 4
    assert verdicts(series(100, 3, *fast)) == ["yes", *["not measured"] * 3]
    assert verdicts(series(100, 3, *fast, still(100, 1.1, hold_io=True)))[0] == "no", "held I/O counts as well"
    assert verdicts(series(100, 50, *fast))[0] == "not measured", "on 50 nodes it is another goal"


def test_the_cost_is_compared_between_the_smallest_and_the_largest_cluster() -> None:
    small, larger = series(100, 3, still(1, 0.1, 20)), series(100, 50, still(1, 0.1, 22))
    assert verdicts(larger, small)[1] == "yes"
    assert verdicts(series(1000, 100, still(1, 0.1, 23)), small, larger)[1] == "no"


def test_the_operator_is_judged_at_ten_thousand_volumes() -> None:
    assert verdicts(series(10_000, 1000))[2:] == ["yes", "yes"]
    assert verdicts(series(10_000, 1000, peak=151, looked=31))[2:] == ["no", "no"]


def test_the_report_has_a_row_for_each_kind_of_quiescence_and_for_each_cluster() -> None:
    told = control.report([series(100, 50, still(10, 0.2)), series(100, 3, still(10, 0.1), still(10, 0.3))])
    rows = [line for line in told.splitlines() if line.startswith("| 100 on ")]
    assert rows == [
        "| 100 on 3 | 10 | 3 | go on | 0.10 s | 0.30 s | 1.10 s | 1.30 s | 20 | 150 | 2 |",
        "| 100 on 50 | 10 | 3 | go on | 0.20 s | 0.20 s | 1.20 s | 1.20 s | 20 | 150 | 1 |",
        "| 100 on 3 | 2.0 s | 20.0 s | 90 MiB | 100 MiB | 0.1 | 0.60 s (0.50 to 0.70) | 1.38 s (1.25 to 1.50) | 2 |",
        "| 100 on 50 | 2.0 s | 20.0 s | 90 MiB | 100 MiB | 0.1 | 0.60 s (0.50 to 0.70) | 1.38 s (1.25 to 1.50) | 2 |",
    ]
