"""A volume that is made larger: nothing is lost, legs stay equal, and whatever is killed goes on from where it was."""

from __future__ import annotations

import pytest
from test_whole import Whole, whole

from millpond_core.errors import Invalid
from millpond_core.master import enlarging, foresight
from millpond_core.master.conditions import find
from millpond_core.master.enlarging import Enlargement
from millpond_core.master.world import KINDS
from millpond_core.model import StorageDevice, VirtualVolume
from millpond_core.testing.world import Disk, Machine
from millpond_core.units import MIB

__all__ = ["whole"]

LARGER = 32 * MIB
LAST = LARGER // 4096 - 1
"""Its last block."""


async def ask(cluster: Whole, size: str = "32Mi", name: str = "v1") -> None:
    await cluster.kube.merge(VirtualVolume, name, {"spec": {"size": size}})


def size(cluster: Whole, name: str = "v1") -> int:
    return cluster.vvol(name).status.size_bytes


def shown(cluster: Whole, node: str = "n1", name: str = "v1") -> int:
    """What a pod on the node sees."""
    return cluster.report(name, node).size_bytes


def resized(cluster: Whole, name: str = "v1") -> str:
    said = find(cluster.vvol(name).status.conditions, "Resized")
    return said.reason if said else ""


def live(cluster: Whole) -> set[str]:
    return {leg.id for leg in cluster.vvol("v1").status.mapping.legs if not leg.releasing}


async def test_it_grows_while_a_pod_writes(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    assert (shown(whole), resized(whole)) == (16 * MIB, "")
    whole.checks.append(whole.scribble)
    await ask(whole)
    await whole.until(lambda: shown(whole) == LARGER)
    whole.checks.clear()
    await whole.pass_time(3)
    status = whole.vvol("v1").status
    assert (status.size_bytes, status.growth, status.mapping.generation) == (LARGER, None, 2)
    assert (status.phase, resized(whole)) == ("Ready", "Done")
    assert all(sum(e.length for e in leg.extents) == 9 for leg in status.mapping.legs)
    end = whole.write("n1", "v1", LAST, 77)
    await whole.until(lambda: end.state == "acknowledged")
    assert whole.read("n1", "v1", LAST) == 77
    whole.verify()
    assert all(whole.data("v1", leg)[LAST] == 77 for leg in whole.in_sync("v1"))
    assert all(leg.state == "InSync" for leg in status.mapping.legs), "what is zeroed on both need not be copied"


async def test_old_bytes_behind_its_end_are_not_shown(whole: Whole) -> None:
    """Extents that another volume has had."""
    await whole.claim("old")
    await whole.use(name="old")
    whole.checks.append(lambda: whole.scribble(name="old"))
    await whole.pass_time(20)
    whole.checks.clear()
    await whole.claim()
    await whole.want("old", "")
    await whole.kube.delete(VirtualVolume, "old")
    await whole.until(lambda: whole.raw("virtualvolumes") == ["v1"])
    await whole.use()
    await ask(whole, "64Mi")
    await whole.until(lambda: shown(whole) == 64 * MIB)
    assert all(not whole.data("v1", leg) for leg in ("a", "b"))


async def test_it_grows_while_it_is_attached_nowhere(whole: Whole) -> None:
    await whole.claim()
    await ask(whole)
    await whole.until(lambda: size(whole) == LARGER)
    await whole.use()
    assert shown(whole) == LARGER
    end = whole.write("n1", "v1", LAST, 1)
    await whole.until(lambda: end.state == "acknowledged")


async def test_twice_in_a_row_and_striped(whole: Whole) -> None:
    await whole.claim(stripes=2)
    await whole.use()
    whole.checks.append(whole.scribble)
    for wanted in (24, 60):
        await ask(whole, f"{wanted}Mi")
        await whole.until(lambda at=wanted: shown(whole) == at * MIB)
    whole.checks.clear()
    await whole.pass_time(3)
    whole.verify()


async def test_without_room_it_says_so_and_less_may_be_asked_for(whole: Whole) -> None:
    await whole.claim()
    await whole.use()
    await ask(whole, "1Gi")
    await whole.until(lambda: resized(whole) == "NoRoom")
    message = whole.vvol("v1").status.message
    assert "leg a on n1 needs 1008Mi more: n1-nvme1 has" in message
    assert whole.vvol("v1").status.phase == "Ready"
    await ask(whole, "20Mi")
    await whole.until(lambda: shown(whole) == 20 * MIB)
    assert resized(whole) == "Done"


async def test_it_grows_as_soon_as_there_is_room(whole: Whole) -> None:
    for name in ("other", "beside", "v1"):  # the first and the last on one disk of each node
        await whole.claim(name)
    await ask(whole, "230Mi")
    await whole.until(lambda: resized(whole) == "NoRoom")
    await whole.kube.delete(VirtualVolume, "other")
    await whole.until(lambda: size(whole) == 232 * MIB)


async def test_it_waits_until_all_copies_are_there(whole: Whole) -> None:
    await whole.claim(grace=20)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)
    whole.machine(leg.node).pull(leg.extents[0].device.partition("-")[2])
    await whole.until(lambda: whole.vvol("v1").status.phase == "Degraded")
    await ask(whole)
    await whole.until(lambda: resized(whole) == "Degraded")
    assert size(whole) == 16 * MIB
    await whole.until(lambda: shown(whole) == LARGER, seconds=300)
    whole.checks.clear()
    await whole.pass_time(3)
    assert live(whole) == {"a", "c"}
    whole.verify()


async def test_a_disk_is_lost_while_it_is_prepared(whole: Whole) -> None:
    await whole.claim(grace=5)
    await whole.use()
    leg = next(leg for leg in whole.vvol("v1").status.mapping.legs if leg.node != "n1")
    whole.checks.append(whole.scribble)

    async def pull(machine: Machine, call: str) -> None:
        if machine.node == leg.node and call.startswith("block zero") and "leg-b from" in call:
            whole.world.hooks.clear()
            machine.pull(leg.extents[0].device.partition("-")[2])

    whole.world.hooks.append(pull)
    await ask(whole)
    await whole.until(lambda: whole.vvol("v1").status.phase == "Degraded")
    assert whole.vvol("v1").status.growth is not None
    assert size(whole) == 16 * MIB
    await whole.until(lambda: shown(whole) == LARGER, seconds=300)
    whole.checks.clear()
    await whole.pass_time(3)
    assert live(whole) == {"a", "c"}
    whole.verify()
    # What the lost leg was being given is its own to give back.
    await whole.kube.delete(StorageDevice, leg.extents[0].device)
    await whole.until(lambda: {one.id for one in whole.vvol("v1").status.mapping.legs} == {"a", "c"})


@pytest.mark.parametrize("node", ["n1", "n2"])
@pytest.mark.parametrize("calls", range(24))
async def test_a_state_manager_dies_at_any_step(whole: Whole, node: str, calls: int) -> None:
    """n1 is the attach node and has a leg; n2 has the other."""
    await whole.claim()
    await whole.use()
    assert {leg.node for leg in whole.vvol("v1").status.mapping.legs} == {"n1", "n2"}
    whole.checks.append(whole.scribble)
    await whole.pass_time(2)
    whole.lives[node].calls.clear()
    whole.lives[node].die_before = calls
    whole.revive(node)
    await ask(whole)
    await whole.until(lambda: shown(whole) == LARGER, seconds=300)
    whole.checks.clear()
    await whole.pass_time(3)
    whole.verify()
    assert all(leg.state == "InSync" for leg in whole.vvol("v1").status.mapping.legs)


@pytest.mark.parametrize("seconds", range(8))
@pytest.mark.parametrize("node", ["n1", "n2"])
async def test_a_node_loses_power(whole: Whole, node: str, seconds: int) -> None:
    await whole.claim(grace=600)
    await whole.use()
    whole.checks.append(whole.scribble)
    await whole.pass_time(2)
    await ask(whole)
    await whole.pass_time(seconds)
    whole.checks.clear()
    whole.note()
    whole.pending.clear()
    await whole.power_off(node)
    await whole.pass_time(2)
    await whole.power_on(node)
    if node == "n1":
        await whole.until(lambda: whole.vvol("v1").status.attachment.epoch == 2)
        await whole.until(lambda: whole.report("v1", "n1").epoch == 2)
    await whole.until(lambda: len(whole.in_sync("v1")) == 2 and shown(whole) == LARGER, seconds=400)
    assert whole.report("v1", "n1").front == "Active"
    end = whole.write("n1", "v1", LAST, 77)
    await whole.until(lambda: end.state == "acknowledged")
    whole.verify()


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_the_master_is_killed_again_and_again(whole: Whole, every: int) -> None:
    await whole.claim()
    await whole.use()
    whole.checks.append(whole.scribble)
    await ask(whole)
    for _ in range(60):
        await whole.pass_time(every)
        await whole.end_master()
        await whole.begin_master()
        if shown(whole) == LARGER:
            break
    whole.checks.clear()
    await whole.pass_time(3)
    assert shown(whole) == LARGER
    whole.verify()


async def test_a_bitmap_that_would_have_to_change_is_refused(whole: Whole) -> None:
    for node in ("n1", "n2"):
        whole.machine(node).add_disk("nvme9", Disk(f"{node}BIG", 1 << 44))
        await whole.device(node, "nvme9")
    await whole.until(lambda: whole.sdev("n2-nvme9").status.phase == "Online")
    await whole.claim()
    await ask(whole, "9Ti")
    await whole.until(lambda: resized(whole) == "Invalid")
    assert "make a new volume and copy" in whole.vvol("v1").status.message


async def foreseen(cluster: Whole, size: str) -> Enlargement:
    """As a person with a kubeconfig plans."""
    world = foresight.as_recorded([obj for kind in KINDS for obj in await cluster.kube.list(kind)])
    return enlarging.plan(world, "v1", size, cluster.world.time, rate=MIB)


@pytest.mark.parametrize("attached", [True, False])
async def test_a_plan_and_what_is_done_are_the_same(whole: Whole, attached: bool) -> None:
    await whole.claim()
    if attached:
        await whole.use()
    plan = await foreseen(whole, "32Mi")
    assert (plan.from_bytes, plan.to_bytes, plan.copies, plan.obstacle) == (16 * MIB, LARGER, 2, "")
    assert (plan.ends, plan.bytes, plan.seconds) == ("Done", 2 * 16 * MIB, 16.0)
    before = {leg.id: leg.extents for leg in whole.vvol("v1").status.mapping.legs}
    await ask(whole)
    await whole.until(lambda: size(whole) == LARGER)
    done = [
        (leg.id, leg.node, [e.device for e in leg.extents[len(before[leg.id]) :]])
        for leg in whole.vvol("v1").status.mapping.legs
    ]
    assert [(part.leg, part.node, part.devices) for part in plan.parts] == done


async def test_a_plan_tells_what_is_in_the_way(whole: Whole) -> None:
    await whole.claim()
    plan = await foreseen(whole, "1Gi")
    assert (plan.ends, plan.parts) == ("NoRoom", [])
    assert "leg b on n2 needs 1008Mi more" in plan.obstacle
    with pytest.raises(Invalid, match="never made smaller"):
        await foreseen(whole, "8Mi")
