"""A comparison of legs, from its request to what it found, as a person at a terminal follows it."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import click

from millpond_cli import terminal
from millpond_cli.claims import find
from millpond_cli.follow import versions
from millpond_cli.shown import Format, formatted
from millpond_cli.stillness import Tell
from millpond_core.errors import DeadlineExceeded, Invalid, NotFound
from millpond_core.instants import parse, stamp
from millpond_core.master.scrub import told
from millpond_core.model import VirtualVolume
from millpond_core.ports import Kube

EQUAL, DIFFER = 0, 3
"""Exit statuses."""

SILENCE_SECONDS = 120.0
"""For so long nothing may be heard of what is to be compared."""


@dataclass(frozen=True)
class Compared:
    """What was found, and the exit status that says so."""

    volume: VirtualVolume
    status: int


def request(volume: VirtualVolume, now: float) -> dict[str, Any]:
    """The merge patch that asks for it. Raises Invalid where there is nothing to compare."""
    _comparable(volume)
    return {"spec": {"scrub": {"requestedAt": stamp(now)}}}


def trusting(volume: VirtualVolume, keep: str) -> dict[str, Any]:
    """The merge patch by which every leg but ``keep`` is made anew from it. Raises Invalid."""
    _comparable(volume)
    legs = {leg.id: leg.state for leg in volume.status.mapping.legs if not leg.releasing}
    if legs.get(keep) != "InSync":
        there = ", ".join(f"{leg} ({state})" for leg, state in sorted(legs.items()))
        raise Invalid(f"{volume.metadata.name} has no leg {keep!r} in sync: it has {there}")
    return {"spec": {"scrub": {"distrusted": sorted({*volume.spec.scrub.distrusted, *legs} - {keep})}}}


async def follow(kube: Kube, volume: VirtualVolume, tell: Tell) -> Compared:
    """Until the comparison that ``volume`` asks for has ended. Raises NotFound when it is deleted, and DeadlineExceeded
    when nothing is heard of it.
    """
    asked = parse(volume.spec.scrub.requested_at) or 0.0
    name, now, said = volume.metadata.name, volume, ""
    try:
        async with aclosing(versions(kube, VirtualVolume, name, lambda _: SILENCE_SECONDS)) as seen:
            async for now in seen:
                last = now.status.last_scrub
                if last is not None and (parse(last.begun_at) or 0.0) >= asked:
                    return Compared(now, DIFFER if last.places else EQUAL)
                if now.status.message not in ("", said):
                    said = now.status.message
                    tell(f"{name}: {said}")
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing was heard of volume {name} in {SILENCE_SECONDS:.0f} s, it is: "
            f"{now.status.message or now.status.phase}. What was asked for stands, and begins when it can"
        ) from None
    raise NotFound(f"volume {name} was deleted")


def found(volume: VirtualVolume) -> list[str]:
    """Lines for a person: the verdict, and each place where the legs differ."""
    last = volume.status.last_scrub
    assert last is not None
    lines = [f"{volume.metadata.name}: {told(last)}"]
    lines += [f"  {place.length_bytes} bytes from {place.start_bytes}" for place in last.places]
    if last.more:
        lines.append("  and more, which were not looked for")
    if last.places:
        lines.append(f"  once you know which leg is right: kubectl millpond scrub {volume.metadata.name} --keep LEG")
    return lines


def _comparable(volume: VirtualVolume) -> None:
    if volume.spec.layout.copies == 1:
        raise Invalid(f"{volume.metadata.name} has one copy: there is nothing to compare it with")


@click.command()
@click.argument("names_", metavar="NAME…", nargs=-1, required=True)
@click.option("--keep", default="", metavar="LEG", help="The leg that is right: the others are made anew from it.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it has ended.")
@terminal.form
@click.pass_obj
def scrub(kubeconfig: str, /, *, names_: tuple[str, ...], keep: str, wait: bool, form: Format) -> None:
    """Compare the copies of volumes, given by their names or their claims' as NAMESPACE/NAME.

    Exit status 3: copies differ. Nothing is written; docs/scrubbing.md says how to find out which is right.

    \b
    kubectl millpond scrub shop/db-0
    kubectl millpond scrub pvc-4f1c --keep a
    """

    async def compare(kube: Kube) -> int:
        volumes = [await find(kube, name) for name in names_]
        patches = [trusting(one, keep) if keep else request(one, time.time()) for one in volumes]
        asked = [
            await kube.merge(VirtualVolume, one.metadata.name, patch)
            for one, patch in zip(volumes, patches, strict=True)
        ]
        if keep or not wait:
            what = f"every leg but {keep} is made anew from it" if keep else "its legs are to be compared"
            for one in asked:
                terminal.answer(formatted(one, form) or f"{one.metadata.name}: {what}")
            return EQUAL
        outcomes = []
        for one in asked:
            outcome = await follow(kube, one, terminal.told)
            terminal.answer(formatted(outcome.volume, form) or "\n".join(found(outcome.volume)))
            outcomes.append(outcome)
        return max(outcome.status for outcome in outcomes)

    terminal.run(kubeconfig, compare)
