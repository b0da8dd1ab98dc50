"""The parts around the master: the agenda, the election, the heartbeats, what is served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

import aiohttp
import msgspec
import pytest
from harness import Cluster, attached, remote
from scripted import FakeClock

from millpond_core import names
from millpond_core.errors import Unavailable
from millpond_core.model import Quiescence, StorageNode, VirtualVolume
from millpond_core.model.virtualvolume import PathReport
from millpond_core.testing.kube import MemoryKube
from millpond_operator import leader as election
from millpond_operator.agenda import Agenda, Key
from millpond_operator.heartbeats import Heartbeats, Restored
from millpond_operator.leader import Leader
from millpond_operator.master import Master
from millpond_operator.serve import Health, text

A, B = Key(VirtualVolume, "a"), Key(VirtualVolume, "b")


async def test_the_agenda_has_each_object_once_at_the_earliest_time() -> None:
    agenda = Agenda()
    agenda.add(A, 10)
    agenda.add(B, 5)
    agenda.add(A, 3)
    agenda.add(A, 7)
    assert (len(agenda), agenda.next_at()) == (2, 3)
    assert agenda.pop(2) is None
    assert [agenda.pop(20), agenda.pop(20), agenda.pop(20)] == [A, B, None]
    agenda.add(A, 1)
    agenda.drop(A)
    assert agenda.pop(20) is None


def test_quiescences_and_nodes_go_before_what_is_due_as_well_but_not_before_their_time() -> None:
    agenda = Agenda()
    volume, still, node = Key(VirtualVolume, "v1"), Key(Quiescence, "q1"), Key(StorageNode, "n1")
    for key, at in ((volume, 1.0), (still, 3.0), (node, 2.0)):
        agenda.add(key, at)
    assert agenda.next_at() == 1.0
    assert agenda.pop(1.0) == volume
    agenda.add(volume, 1.5)
    assert [agenda.pop(3.0), agenda.pop(3.0), agenda.pop(3.0), agenda.pop(3.0)] == [node, still, volume, None]


async def test_the_agenda_wakes_who_waits() -> None:
    agenda = Agenda()
    waiting = asyncio.create_task(agenda.changed(5.0))
    await asyncio.sleep(0)
    agenda.add(A, 0)
    await asyncio.wait_for(waiting, 1.0)
    await agenda.changed(0.01)


async def test_an_operator_ends_when_the_database_is_older_than_it_was() -> None:
    """Its watches would wait for versions that are still to come, and what it knows is of another time."""
    kube, clock = MemoryKube(), FakeClock()
    hearts = Heartbeats(kube, clock, Master(kube, clock), "millpond-system")
    for lease in ("a", "b", "c"):
        await kube.renew_lease(lease, "one", 10)
        await hearts.look()
    kube._store._version -= 2
    with pytest.raises(Restored, match="restored from a backup"):
        await hearts.look()


class Candidate:
    """Leads by counting how often it was begun and ended."""

    def __init__(self, kube: MemoryKube, clock: FakeClock, name: str) -> None:
        self.leader = Leader(kube, clock, name, "millpond-system")
        self.begun = self.ended = 0
        self.task = asyncio.create_task(self.leader.run(self._lead))

    async def _lead(self) -> None:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def end(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "RENEW_SECONDS", 0.02)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what the candidates' loops bring about; the asserts after it say what else must hold."""
    async with asyncio.timeout(20.0):
        while not holds():
            await asyncio.sleep(0.01)


async def rounds(kube: MemoryKube, count: int = 3) -> None:
    """Wait until the candidates have asked the API server ``count`` times more: nothing else may come of it."""
    asked = len(kube.calls)
    await until(lambda: len(kube.calls) >= asked + count)


@pytest.mark.usefixtures("hasty")
async def test_one_leads_and_hands_over_when_it_is_told_to_end() -> None:
    clock = FakeClock()
    kube = MemoryKube(clock)
    first = Candidate(kube, clock, "first")
    await until(lambda: first.begun == 1)
    second = Candidate(kube, clock, "second")
    await rounds(kube, 6)
    assert (first.begun, second.begun) == (1, 0)
    await first.end()
    assert first.ended == 1
    await until(lambda: second.begun == 1)  # it need not wait for the Lease to run out
    await second.end()


@pytest.mark.usefixtures("hasty")
async def test_a_leader_without_its_lease_stops_before_another_begins() -> None:
    clock = FakeClock()
    kube = MemoryKube(clock)
    first = Candidate(kube, clock, "first")
    await until(lambda: first.begun == 1)
    with kube.outage():
        clock.pass_(election.DEADLINE_SECONDS + 1)
        await until(lambda: first.ended == 1)
        assert not first.leader.leading
        assert election.DEADLINE_SECONDS < election.DURATION_SECONDS
    await until(lambda: first.begun == 2)
    await first.end()


@pytest.mark.usefixtures("hasty")
async def test_a_leader_whose_lease_was_taken_stops() -> None:
    clock = FakeClock()
    kube = MemoryKube(clock)
    first = Candidate(kube, clock, "first")
    await until(lambda: first.begun == 1)
    lease = f"/apis/coordination.k8s.io/v1/namespaces/millpond-system/leases/{names.MASTER}"
    stolen = {"spec": {"holderIdentity": "thief"}}
    await kube.raw("PATCH", lease, stolen, content_type="application/merge-patch+json")
    await until(lambda: first.ended == 1)
    assert not first.leader.leading
    await first.end()


@pytest.mark.usefixtures("hasty")
async def test_a_leader_that_the_api_server_stops_campaigns_again_and_a_fault_is_shown() -> None:
    clock = FakeClock()
    kube = MemoryKube(clock)
    ends: list[Exception] = [Unavailable("gone for a moment"), ValueError("a fault")]

    async def lead() -> None:
        raise ends.pop(0)

    with pytest.raises(ValueError, match="a fault"):
        await asyncio.wait_for(Leader(kube, clock, "first", "millpond-system").run(lead), 5.0)


async def test_an_outage_of_the_api_server_is_no_nodes_silence(cluster: Cluster) -> None:
    await attached(cluster)
    node = remote(await cluster.volume()).node
    await cluster.hearts.look()
    with cluster.kube.outage(), contextlib.suppress(Unavailable):
        await cluster.hearts.look()
    cluster.clock.pass_(500)
    await cluster.hearts.look()
    assert cluster.master.world.state_of(node).state == "Ready"


async def test_a_missed_deletion_is_found_before_anything_is_decided(cluster: Cluster) -> None:
    await attached(cluster)
    world = cluster.master.world
    ghost = StorageNode(metadata=world.nodes["n1"].metadata.__class__(name="ghost", uid="u", resource_version="1"))
    cluster.master.put(ghost)
    await cluster.master.load()
    assert "ghost" in world.nodes
    await cluster.turn()
    assert "ghost" not in world.nodes


async def test_many_looks_leave_turns_for_the_lease(cluster: Cluster) -> None:
    """Nothing is written for what is settled: ten thousand such looks must not be one turn of the event loop."""
    await attached(cluster)
    master = cluster.master
    for number in range(100):
        master.agenda.add(Key(VirtualVolume, f"none-{number}"), 0.0)
    running = asyncio.create_task(master.run())
    turns, looks = 0, master.counts["looks"]
    async with asyncio.timeout(20.0):
        while master.counts["looks"] < looks + 100:
            turns += 1
            await asyncio.sleep(0)
    running.cancel()
    assert turns >= 100


async def test_held_volumes_are_counted_and_named(cluster: Cluster) -> None:
    await attached(cluster)
    world = cluster.master.world
    (volume,) = world.volumes.values()
    path = PathReport(id="b", path="Down", holding_since="2027-01-15T08:00:00.000000Z")
    node = msgspec.structs.replace(volume.status.nodes[0], node=volume.status.attachment.node, paths=[path])
    status = msgspec.structs.replace(volume.status, nodes=[node])
    world.put(msgspec.structs.replace(volume, status=status))
    shown = text(world, Counter(), leading=True, waiting=0)
    assert "millpond_volumes_holding 1" in shown
    assert 'millpond_leaked_holds{node="n1"} 0' in shown
    labels = f'volume="{volume.metadata.name}",node="{node.node}",leg="b"'
    assert f"millpond_leg_holding_since_seconds{{{labels}}} 1800000000" in shown


async def test_what_is_served(cluster: Cluster) -> None:
    await attached(cluster)
    shown = text(cluster.master.world, Counter(looks=3), leading=True, waiting=2)
    assert "millpond_master_leading 1" in shown
    assert 'millpond_objects{kind="VirtualVolume",phase="Ready"} 1' in shown
    assert 'millpond_device_free_bytes{device="n3-d1",pool="default"} 1073741824' in shown
    assert 'millpond_legs{state="InSync"} 2' in shown
    assert "millpond_volumes_holding 0" in shown
    health = Health(0, metrics=lambda: shown, host="127.0.0.1")
    async with health, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{health.port}"
        async with session.get(f"{base}/metrics") as answer:
            assert await answer.text() == shown
        async with session.get(f"{base}/healthz") as answer:
            assert answer.status == 200
