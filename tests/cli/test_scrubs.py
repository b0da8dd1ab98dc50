"""``kubectl millpond scrub``: asked for, followed, and told what to do next."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from millpond_cli import main, scrubs
from millpond_core import names
from millpond_core.errors import DeadlineExceeded, Invalid, NotFound
from millpond_core.model import Condition, ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import (
    Layout,
    Leg,
    Mapping,
    Place,
    ScrubResult,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.testing.kube import MemoryKube

AT = 1_800_000_000.0
BEFORE, SINCE = "2027-01-15T07:59:00Z", "2027-01-15T08:00:01Z"


def volume(copies: int = 2, **status: Any) -> VirtualVolume:
    legs = [Leg(id=one, node=f"n-{one}", state="InSync") for one in "abc"[:copies]]
    return VirtualVolume(
        metadata=ObjectMeta(name="v1", annotations={names.ANNOTATION_CLAIM: "shop/db-0"}),
        spec=VirtualVolumeSpec(uuid="4f1c0000-0000-4000-8000-000000000001", size="16Mi", layout=Layout(copies=copies)),
        status=VirtualVolumeStatus(mapping=Mapping(generation=1, record_seq=1, legs=legs), **status),
    )


def result(begun_at: str, *places: Place, more: bool = False) -> ScrubResult:
    return ScrubResult(number=1, reason="Request", begun_at=begun_at, ended_at=begun_at, places=list(places), more=more)


@pytest.fixture
async def kube() -> MemoryKube:
    made = MemoryKube()
    await made.create(volume())
    return made


async def asked(kube: MemoryKube) -> VirtualVolume:
    return await kube.merge(VirtualVolume, "v1", scrubs.request(await kube.get(VirtualVolume, "v1"), AT))


async def ended(kube: MemoryKube, last: ScrubResult) -> None:
    operation = {"op": "add", "path": "/status/lastScrub", "value": msgspec.to_builtins(last)}
    await kube.patch(VirtualVolume, "v1", [operation], status=True)


async def test_a_volume_is_found_by_its_name_and_its_claims(kube: MemoryKube) -> None:
    assert (await scrubs.find(kube, "v1")).metadata.name == "v1"
    assert (await scrubs.find(kube, "shop/db-0")).metadata.name == "v1"
    with pytest.raises(NotFound, match="no volume serves claim shop/db-1"):
        await scrubs.find(kube, "shop/db-1")


@pytest.mark.parametrize(
    ("places", "status"), [((), 0), ((Place(start_bytes=9 << 20, length_bytes=1 << 20),), 3)], ids=["equal", "differ"]
)
async def test_it_is_followed_to_its_end(kube: MemoryKube, places: tuple[Place, ...], status: int) -> None:
    made = await asked(kube)
    said: list[str] = []
    following = asyncio.create_task(scrubs.follow(kube, made, said.append))
    await ended(kube, result(BEFORE))
    await asyncio.sleep(0.05)
    assert not following.done(), "what was found before it was asked for is no answer"
    await ended(kube, result(SINCE, *places))
    outcome = await asyncio.wait_for(following, 5)
    assert outcome.status == status
    told = "\n".join(scrubs.found(outcome.volume))
    assert ("1048576 bytes from 9437184" in told) == bool(places)
    assert ("--keep LEG" in told) == bool(places)


async def test_silence_is_not_waited_out_for_ever(kube: MemoryKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubs, "SILENCE_SECONDS", 0.1)
    with pytest.raises(DeadlineExceeded, match="nothing was heard of volume v1"):
        await scrubs.follow(kube, await asked(kube), lambda _: None)


async def test_a_volume_that_was_deleted_before_it_is_followed_is_told_at_once(kube: MemoryKube) -> None:
    made = await asked(kube)
    await kube.delete(VirtualVolume, "v1")
    async with asyncio.timeout(20):
        with pytest.raises(NotFound, match="volume v1 was deleted"):
            await scrubs.follow(kube, made, lambda _: None)


def test_the_verdict_is_of_the_last_comparison_whatever_the_condition_still_says() -> None:
    """The master writes what was found first, and the condition with the rest of the status afterwards."""
    before = Condition(
        type="LegsEqual", status="True", reason="Compared", message="all copies are equal", last_transition_time=BEFORE
    )
    there = volume(last_scrub=result(SINCE, Place(start_bytes=0, length_bytes=4)), conditions=[before])
    assert "copies differ in 1 place(s)" in scrubs.found(there)[0]


def test_there_are_more_places_than_are_told() -> None:
    told = scrubs.found(volume(last_scrub=result(SINCE, Place(start_bytes=0, length_bytes=4), more=True)))
    assert "  and more, which were not looked for" in told


def test_the_leg_that_is_right_is_kept_and_no_other() -> None:
    patch = scrubs.trusting(volume(copies=3), "b")
    assert patch == {"spec": {"scrub": {"distrusted": ["a", "c"]}}}


@pytest.mark.parametrize(
    ("made", "keep", "why"),
    [
        (volume(), "x", "v1 has no leg 'x' in sync: it has a (InSync), b (InSync)"),
        (volume(copies=1), "a", "v1 has one copy"),
    ],
)
def test_what_cannot_be_kept_is_refused(made: VirtualVolume, keep: str, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        scrubs.trusting(made, keep)
    assert why in str(refused.value)
    assert made.spec.scrub.distrusted == []


def test_one_copy_is_not_compared() -> None:
    with pytest.raises(Invalid, match="nothing to compare it with"):
        scrubs.request(volume(copies=1), AT)


def test_the_command_says_how_it_ends() -> None:
    said = CliRunner().invoke(main.cli, ["scrub", "--help"]).output
    assert "Exit status 3: copies differ" in said
    assert "--keep LEG" in said
